# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Building blocks that vision-language-action networks share.

Knows tensors; knows nothing of any one architecture, of checkpoints or of quantization.
Parameter names are those of the public checkpoints, so that a state dict loads without a table.
"""
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# called with (logits [B, heads, Q, K] float32, scaled and before the mask;
#              valid [B, 1, 1 or Q, K] bool; output [B, Q, width], after o_proj)
Probe = Callable[[Tensor, Tensor, Tensor], None]

gelu_tanh = partial(F.gelu, approximate='tanh')

_Value = TypeVar('_Value')


class Container(nn.Module):
    """A node of the checkpoint's key tree without behaviour of its own."""

    def __init__(self, **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


class PreparingModule(nn.Module):
    """A module that keeps what it has computed from its weights alone, while they cannot change."""

    def __init__(self) -> None:
        super().__init__()
        self._prepared: tuple[Any, Any] | None = None

    def prepared(self, setting: Any, make: Callable[[], _Value]) -> _Value:
        """What `make` gives for this setting, made once."""
        if self._prepared is None or self._prepared[0] != setting:
            self._prepared = (setting, make())
        return self._prepared[1]

    def train(self, mode: bool = True) -> PreparingModule:
        """As nn.Module; weights may change from here on, so prepared values are dropped."""
        self._prepared = None
        return super().train(mode)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> PreparingModule:
        self._prepared = None  # device or dtype changes
        return super()._apply(fn, recurse)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As nn.Module; prepared values are dropped."""
        self._prepared = None
        return super().load_state_dict(*args, **kwargs)


class RMSNorm(nn.Module):
    """Gemma's root-mean-square norm: `x / rms(x) * (1 + weight)`, computed in float32."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] to the same shape and dtype."""
        return (rms_normalize(x, self.eps) * (1.0 + self.weight.float())).to(x.dtype)


class AdaptiveRMSNorm(nn.Module):
    """RMS norm whose scale, shift and gate come from a condition (adaRMS, pi0.5).

    The modulation depends on the denoising step alone, so it is computed apart from the norm and
    can be prepared once for all steps.
    """

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.dense = nn.Linear(width, 3 * width)
        self.eps = eps

    def modulation(self, condition: Tensor) -> Tensor:
        """[..., width] condition to [..., 3, width]: scale, shift, gate; float32."""
        weight, bias = self.dense.weight.float(), self.dense.bias.float()
        return F.linear(condition.float(), weight, bias).unflatten(-1, (3, -1))

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """[B, T, width] modulated by [B or 1, 3, width]; the gate is the caller's."""
        scale, shift = modulation[:, 0, None], modulation[:, 1, None]
        return (rms_normalize(x, self.eps) * (1.0 + scale) + shift).to(x.dtype)


def rms_normalize(x: Tensor, eps: float) -> Tensor:
    """`x / sqrt(mean(x^2) + eps)` over the last dimension, float32."""
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def rotary_table(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary position embedding.

    Args:
        positions: [B, T] integer positions.
    Returns:
        cos, sin: [B, 1, T, head_dim / 2] float32. The frequencies are taken as `1 / theta**x` in
        float32, as the references do: `theta**-x` differs by 2e-4 at position 900.
    """
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device) / head_dim
    angle = positions[:, None, :, None].float() * (1.0 / theta**exponent)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Apply rotary embedding in the half-split layout to [B, heads, T, head_dim]."""
    cos, sin = table
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


class GatedMLP(nn.Module):
    """`down(activation(gate(x)) * up(x))`, no biases: tanh-GELU in Gemma, SiLU in Qwen."""

    def __init__(
        self, width: int, hidden: int, activation: Callable[[Tensor], Tensor] = gelu_tanh
    ) -> None:
        super().__init__()
        self.activation = activation
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    @property
    def output_projection(self) -> nn.Module:
        """The last linear layer, float or quantized."""
        return self.down_proj

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] to [..., width]."""
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


class GroupedAttention(nn.Module):
    """Attention projections with fewer key/value heads than query heads.

    Attributes:
        probe: while set, called once for each `attend`; calibration reads logits and outputs so.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        context_width: int | None = None,
    ) -> None:
        """Keys and values are made of tokens of `context_width`; of the queries' own if None."""
        super().__init__()
        context_width = context_width or width
        self.num_heads, self.num_kv_heads, self.head_dim = heads, kv_heads, head_dim
        self.q_proj = nn.Linear(width, heads * head_dim, bias=False)
        self.k_proj = nn.Linear(context_width, kv_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(context_width, kv_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(heads * head_dim, width, bias=False)
        self.probe: Probe | None = None

    @property
    def query_projection(self) -> nn.Module:
        """The linear layer that makes the queries, float or quantized."""
        return self.q_proj

    @property
    def output_projection(self) -> nn.Module:
        """The linear layer after the mixing, float or quantized."""
        return self.o_proj

    def query(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """[B, T, width] to rotated queries [B, heads, T, head_dim]."""
        return rotate(self._heads(self.q_proj(x)), rotary)

    def key_value(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """[B, T, width] to rotated keys and values [B, kv_heads, T, head_dim]."""
        return rotate(self._heads(self.k_proj(x)), rotary), self._heads(self.v_proj(x))

    def reproject(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Another attention's keys and values, as `key_value` has them, to its own, unrotated."""
        key, value = (x.transpose(1, 2).flatten(2) for x in (key, value))
        return self._heads(self.k_proj(key)), self._heads(self.v_proj(value))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, valid: Tensor) -> Tensor:
        """Weighted values through the output projection.

        Args:
            query: [B, heads, Q, head_dim]; key, value: [B, kv_heads, K, head_dim].
            valid: [B, 1, 1 or Q, K] bool, the keys that a query may see.
        Returns:
            [B, Q, width]
        """
        group = self.num_heads // self.num_kv_heads
        key = _share(key, group)
        value = _share(value, group)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=valid)
        output = self.o_proj(mixed.transpose(1, 2).flatten(2))
        if self.probe is not None:
            logits = query.float() @ key.float().transpose(-1, -2) * self.head_dim**-0.5
            self.probe(logits, valid, output)
        return output

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


def _share(x: Tensor, group: int) -> Tensor:
    """Give each group of query heads its key/value head: [B, kv, K, D] to [B, kv * group, K, D]."""
    if group == 1:
        return x
    return x[:, :, None].expand(-1, -1, group, -1, -1).flatten(1, 2)


def time_embedding(time: Tensor, width: int, min_period: float, max_period: float) -> Tensor:
    """Sines and cosines of the flow time over logarithmic periods (pi0, pi0.5, SmolVLA).

    Args:
        time: [B] flow time in [0, 1].
    Returns:
        [B, width] float32; computed in float64, where float32 would lose the short periods.
    """
    fraction = torch.linspace(0.0, 1.0, width // 2, dtype=torch.float64, device=time.device)
    period = min_period * (max_period / min_period) ** fraction
    angle = time.double()[:, None] * (2.0 * torch.pi / period)
    return torch.cat((angle.sin(), angle.cos()), dim=-1).float()
