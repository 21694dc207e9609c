# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A language backbone that turns a prefix of pictures and words into keys and values.

An action expert beside it reads those of every layer (pi0.5, SmolVLA). Knows tensors; knows nothing
of checkpoints, pictures or of what reads the prefix. The module tree repeats the key names of the
public checkpoints. The last layer runs only to its keys and values: nothing reads the rest.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from quantvla_ros.models.layers import (
    GatedMLP,
    GroupedAttention,
    RMSNorm,
    gelu_tanh,
    rotary_table,
)

ROTARY_THETA = 10_000.0

Norm = Callable[[int], nn.Module]  # width to a norm


@dataclass(frozen=True)
class StackConfig:
    """Sizes of one stack of layers with grouped heads and gated MLPs."""

    width: int
    depth: int
    mlp: int
    heads: int
    kv_heads: int
    head_dim: int


@dataclass(frozen=True)
class Prefix:
    """What the action expert reads of pictures and prompt.

    Attributes:
        keys, values: per layer [B, kv_heads, T, head_dim], keys after rotary embedding.
        valid: [B, T] bool, False at padding and absent cameras.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    valid: Tensor


@dataclass(frozen=True)
class PrefixState:
    """The language backbone between two layers.

    Attributes:
        x: [B, T, width] hidden state.
        valid: [B, T] bool.
        mask: [B, 1, 1 or T, T] bool, the keys that a query may see.
        rotary: table of the positions.
        keys, values: of the layers that have run, as in `Prefix`.
    """

    x: Tensor
    valid: Tensor
    mask: Tensor
    rotary: tuple[Tensor, Tensor]
    keys: tuple[Tensor, ...] = ()
    values: tuple[Tensor, ...] = ()


class PrefixLayer(nn.Module):
    """One block of the language backbone.

    Attributes:
        last: nothing reads the output of the last block, only its keys and values.
    """

    def __init__(
        self,
        config: StackConfig,
        *,
        last: bool,
        norm: Norm = RMSNorm,
        activation: Callable[[Tensor], Tensor] = gelu_tanh,
    ) -> None:
        super().__init__()
        self.input_layernorm = norm(config.width)
        self.self_attn = GroupedAttention(
            config.width, config.heads, config.kv_heads, config.head_dim
        )
        self.post_attention_layernorm = norm(config.width)
        self.mlp = GatedMLP(config.width, config.mlp, activation)
        self.last = last

    def forward(self, state: PrefixState) -> PrefixState:
        """The state after this block."""
        x, attention = state.x, self.self_attn
        normed = self.input_layernorm(x)
        key, value = attention.key_value(normed, state.rotary)
        if not self.last:
            query = attention.query(normed, state.rotary)
            x = x + attention.attend(query, key, value, state.mask)
            x = x + self.mlp(self.post_attention_layernorm(x))
        return replace(state, x=x, keys=(*state.keys, key), values=(*state.values, value))


class PrefixStack(nn.Module):
    """The language backbone: prefix tokens to keys and values of every layer."""

    layers: Sequence[PrefixLayer]

    def __init__(
        self,
        config: StackConfig,
        vocabulary: int,
        *,
        norm: Norm = RMSNorm,
        activation: Callable[[Tensor], Tensor] = gelu_tanh,
    ) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary, config.width)
        layers = nn.ModuleList(
            PrefixLayer(config, last=index + 1 == config.depth, norm=norm, activation=activation)
            for index in range(config.depth)
        )
        self.layers = layers  # type: ignore[assignment]
        self.norm = norm(config.width)  # in the checkpoints; nothing reads its output

    def start(self, x: Tensor, valid: Tensor) -> PrefixState:
        """[B, T, width] embeddings and [B, T] bool to the state before the first layer.

        Padding does not advance the position.
        """
        head_dim = self.layers[0].self_attn.head_dim
        rotary = rotary_table(positions(valid), head_dim, ROTARY_THETA)
        return PrefixState(x, valid, self.visible(valid), rotary)

    def visible(self, valid: Tensor) -> Tensor:
        """[B, T] bool to the mask: bidirectional over the valid tokens."""
        return valid[:, None, None, :]

    def step(self, index: int, state: PrefixState) -> PrefixState:
        """The state after a layer."""
        return self.layers[index](state)

    def finish(self, state: PrefixState) -> Prefix:
        """The state after the last layer to the prefix that the expert reads."""
        return Prefix(state.keys, state.values, state.valid)

    def forward(self, x: Tensor, valid: Tensor) -> Prefix:
        """All of it: `start`, every `step`, `finish`."""
        state = self.start(x, valid)
        for layer in self.layers:
            state = layer(state)
        return self.finish(state)


def positions(valid: Tensor) -> Tensor:
    """[B, T] bool to [B, T] positions that padding does not advance."""
    return valid.long().cumsum(-1) - 1
