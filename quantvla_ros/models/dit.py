# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The diffusion transformer of GR00T N1.5, and the transformer that refines what it reads.

Knows tensors; knows nothing of checkpoints, robots or of how the backbone made the features.
Source: DiT (arXiv 2212.09748) as in GR00T N1 (arXiv 2503.14734) and the public N1.5 checkpoint,
whose key names the module tree repeats. Blocks take turns: even ones attend to the backbone's
features, odd ones to their own tokens; no mask anywhere. Keys and values of the features are the
same in every denoising step, and the modulation is the same for every observation: both are
prepared apart.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantvla_ros.models.layers import Container, Probe, gelu_tanh

EXPANSION = 4  # of the MLPs
BLOCK_EPS = 1e-5
OUTPUT_EPS = 1e-6
SINUSOIDS = 256


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of a stack of blocks."""

    heads: int
    head_dim: int
    depth: int

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.heads * self.head_dim


KeyValue = tuple[Tensor, Tensor]  # each [B, heads, K, head_dim]


class Attention(nn.Module):
    """Attention with biases, to the queries' own tokens or to others.

    Attributes:
        probe: while set, called once for each `attend`; calibration reads logits and outputs so.
    """

    def __init__(self, config: TransformerConfig, context_width: int | None = None) -> None:
        super().__init__()
        width = config.width
        self.num_heads, self.head_dim = config.heads, config.head_dim
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(context_width or width, width)
        self.to_v = nn.Linear(context_width or width, width)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])
        self.probe: Probe | None = None

    @property
    def query_projection(self) -> nn.Module:
        """The linear layer that makes the queries, float or quantized."""
        return self.to_q

    @property
    def output_projection(self) -> nn.Module:
        """The linear layer after the mixing, float or quantized."""
        return self.to_out[0]

    def key_value(self, context: Tensor) -> KeyValue:
        """[B, K, context width] tokens to what queries read of them."""
        return self._heads(self.to_k(context)), self._heads(self.to_v(context))

    def attend(self, x: Tensor, keys: KeyValue) -> Tensor:
        """[B, Q, width] tokens, attending to all keys, to [B, Q, width]."""
        key, value = keys
        query = self._heads(self.to_q(x))
        mixed = F.scaled_dot_product_attention(query, key, value)
        output = self.output_projection(mixed.transpose(1, 2).flatten(2))
        if self.probe is not None:
            logits = query.float() @ key.float().transpose(-1, -2) * self.head_dim**-0.5
            valid = logits.new_ones(len(x), 1, 1, key.shape[2], dtype=torch.bool)
            self.probe(logits, valid, output)
        return output

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)


class FeedForward(nn.Module):
    """Two linears around tanh-GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = EXPANSION * width
        # the checkpoints count dropout as 1
        self.net = nn.ModuleList(
            [Container(proj=nn.Linear(width, hidden)), nn.Identity(), nn.Linear(hidden, width)]
        )

    @property
    def output_projection(self) -> nn.Module:
        """The last linear layer, float or quantized."""
        return self.net[2]

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] to [..., width]."""
        return self.net[2](gelu_tanh(self.net[0].proj(x)))  # type: ignore[operator]


class FeatureBlock(nn.Module):
    """A pre-norm block with self-attention."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=BLOCK_EPS)
        self.attn1 = Attention(config)
        self.norm3 = nn.LayerNorm(config.width, eps=BLOCK_EPS)
        self.ff = FeedForward(config.width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, width] to [B, T, width]."""
        normed = self.norm1(x)
        x = x + self.attn1.attend(normed, self.attn1.key_value(normed))
        return x + self.ff(self.norm3(x))


class FeatureTransformer(nn.Module):
    """Refines the backbone's features; no final norm."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.transformer_blocks = nn.ModuleList(FeatureBlock(config) for _ in range(config.depth))

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, width] to [B, T, width]."""
        for block in self.transformer_blocks:
            x = block(x)
        return x


class AdaptiveLayerNorm(nn.Module):
    """Layer norm without weights of its own, whose scale and shift come from a condition."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2 * width)

    def modulation(self, condition: Tensor) -> Tensor:
        """[B, width] condition to [B, 2, width]: scale, shift; float32."""
        return float_linear(self.linear, F.silu(condition)).unflatten(-1, (2, -1))

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """[B, T, width] modulated by [B or 1, 2, width]."""
        scale, shift = modulation[:, :1], modulation[:, 1:]
        return (plain_norm(x, BLOCK_EPS) * (1.0 + scale) + shift).to(x.dtype)


class DiTBlock(nn.Module):
    """One block; its attention reads `context_width` features, or its own tokens (None)."""

    def __init__(self, config: TransformerConfig, context_width: int | None) -> None:
        super().__init__()
        self.norm1 = AdaptiveLayerNorm(config.width)
        self.attn1 = Attention(config, context_width)
        self.ff = FeedForward(config.width)
        self.crosses = context_width is not None

    def forward(self, x: Tensor, context: KeyValue | None, modulation: Tensor) -> Tensor:
        """[B, T, width] to [B, T, width].

        Args:
            context: keys and values of the features, for a block that reads them.
            modulation: [B or 1, 2, width] of its norm.
        """
        normed = self.norm1(x, modulation)
        keys = self.attn1.key_value(normed) if context is None else context
        x = x + self.attn1.attend(normed, keys)
        return x + self.ff(plain_norm(x, BLOCK_EPS).to(x.dtype))


class _TimestepEmbedder(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(SINUSOIDS, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, times: Tensor) -> Tensor:
        x = F.silu(float_linear(self.linear_1, timestep_sinusoids(times)))
        return float_linear(self.linear_2, x)


@dataclass(frozen=True)
class Modulation:
    """The modulation of one denoising step.

    Attributes:
        blocks: [1, 2, width] float32 per block: scale, shift.
        final: [1, 2, width] float32: shift, scale, in this order.
    """

    blocks: tuple[Tensor, ...]
    final: Tensor


class DiT(nn.Module):
    """Tokens of state, future and noisy actions to features of the velocity."""

    transformer_blocks: Sequence[DiTBlock]

    def __init__(self, config: TransformerConfig, context_width: int, outputs: int) -> None:
        super().__init__()
        width = config.width
        self.timestep_encoder = Container(timestep_embedder=_TimestepEmbedder(width))
        blocks = nn.ModuleList(
            DiTBlock(config, context_width if index % 2 == 0 else None)
            for index in range(config.depth)
        )
        self.transformer_blocks = blocks  # type: ignore[assignment]
        self.proj_out_1 = nn.Linear(width, 2 * width)
        self.proj_out_2 = nn.Linear(width, outputs)

    def condition(self, times: Tensor) -> Tensor:
        """[N] instants to [N, width] float32 condition of the norms."""
        return self.timestep_encoder.timestep_embedder(times)  # type: ignore[operator]

    def modulations(self, times: Tensor) -> tuple[Modulation, ...]:
        """The modulation at each of [N] instants."""
        found = []
        for condition in self.condition(times).split(1):
            blocks = tuple(block.norm1.modulation(condition) for block in self.transformer_blocks)
            final = float_linear(self.proj_out_1, F.silu(condition)).unflatten(-1, (2, -1))
            found.append(Modulation(blocks, final))
        return tuple(found)

    def context(self, features: Tensor) -> tuple[KeyValue | None, ...]:
        """[B, K, context width] features to the keys and values of each block that reads them."""
        return tuple(
            block.attn1.key_value(features) if block.crosses else None
            for block in self.transformer_blocks
        )

    def forward(
        self, x: Tensor, context: Sequence[KeyValue | None], modulation: Modulation
    ) -> Tensor:
        """[B, T, width] tokens to [B, T, outputs]."""
        for block, keys, of_block in zip(
            self.transformer_blocks, context, modulation.blocks, strict=True
        ):
            x = block(x, keys, of_block)
        shift, scale = modulation.final[:, :1], modulation.final[:, 1:]
        x = plain_norm(x, OUTPUT_EPS) * (1.0 + scale) + shift
        return self.proj_out_2(x.to(self.proj_out_2.weight.dtype))


def plain_norm(x: Tensor, eps: float) -> Tensor:
    """Layer norm without weights over the last dimension, float32."""
    return F.layer_norm(x.float(), x.shape[-1:], eps=eps)


def float_linear(linear: nn.Linear, x: Tensor) -> Tensor:
    """A linear layer in float32, however its weights are stored."""
    return F.linear(x.float(), linear.weight.float(), linear.bias.float())


def timestep_sinusoids(times: Tensor) -> Tensor:
    """[N] instants to [N, 256] float32: cosines, then sines; the last period is 1e4 * 2 pi."""
    half = SINUSOIDS // 2
    exponent = torch.arange(half, dtype=torch.float32, device=times.device) / (half - 1)
    angle = times.float()[:, None] * torch.exp(-math.log(10_000.0) * exponent)
    return torch.cat((angle.cos(), angle.sin()), dim=-1)
