# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Gemma as pi0.5 uses it: a backbone that turns a prefix into keys and values, and an expert.

Knows tensors; knows nothing of checkpoints, pictures or of what the expert's tokens mean.
Source: pi0.5 (arXiv 2504.16054) and its public PyTorch checkpoints, whose key names the module tree
repeats. The backbone's last layer runs only to its keys and values: nothing reads the rest.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from quantvla_ros.models.layers import (
    AdaptiveRMSNorm,
    GatedMLP,
    GroupedAttention,
    RMSNorm,
    rotary_table,
)

ROTARY_THETA = 10_000.0


@dataclass(frozen=True)
class GemmaConfig:
    """Sizes of one Gemma stack."""

    width: int
    depth: int
    mlp: int
    heads: int
    kv_heads: int
    head_dim: int


GEMMA_2B = GemmaConfig(width=2048, depth=18, mlp=16384, heads=8, kv_heads=1, head_dim=256)
GEMMA_300M = GemmaConfig(width=1024, depth=18, mlp=4096, heads=8, kv_heads=1, head_dim=256)


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
class Modulation:
    """adaRMS modulation of one instant of the flow.

    Attributes:
        layers: per layer, for the two norms, [B, 3, width] float32.
        final: [B, 3, width] float32.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    final: Tensor


@dataclass(frozen=True)
class PrefixState:
    """The language backbone between two layers.

    Attributes:
        x: [B, T, width] hidden state.
        valid: [B, T] bool.
        rotary: table of the positions.
        keys, values: of the layers that have run, as in `Prefix`.
    """

    x: Tensor
    valid: Tensor
    rotary: tuple[Tensor, Tensor]
    keys: tuple[Tensor, ...] = ()
    values: tuple[Tensor, ...] = ()


class PrefixLayer(nn.Module):
    """One block of the language backbone.

    Attributes:
        last: nothing reads the output of the last block, only its keys and values.
    """

    def __init__(self, config: GemmaConfig, *, last: bool) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.width)
        self.self_attn = GroupedAttention(
            config.width, config.heads, config.kv_heads, config.head_dim
        )
        self.post_attention_layernorm = RMSNorm(config.width)
        self.mlp = GatedMLP(config.width, config.mlp)
        self.last = last

    def forward(self, state: PrefixState) -> PrefixState:
        """The state after this block."""
        x, attention = state.x, self.self_attn
        normed = self.input_layernorm(x)
        key, value = attention.key_value(normed, state.rotary)
        if not self.last:
            query = attention.query(normed, state.rotary)
            x = x + attention.attend(query, key, value, state.valid[:, None, None, :])
            x = x + self.mlp(self.post_attention_layernorm(x))
        return replace(state, x=x, keys=(*state.keys, key), values=(*state.values, value))


class PrefixStack(nn.Module):
    """The language backbone: prefix tokens to keys and values of every layer."""

    layers: Sequence[PrefixLayer]

    def __init__(self, config: GemmaConfig, vocabulary: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary, config.width)
        layers = nn.ModuleList(
            PrefixLayer(config, last=index + 1 == config.depth) for index in range(config.depth)
        )
        self.layers = layers  # type: ignore[assignment]
        self.norm = RMSNorm(config.width)  # in the checkpoints; nothing reads its output

    def start(self, x: Tensor, valid: Tensor) -> PrefixState:
        """[B, T, width] embeddings and [B, T] bool to the state before the first layer.

        Bidirectional over the valid tokens; padding does not advance the position.
        """
        head_dim = self.layers[0].self_attn.head_dim
        return PrefixState(x, valid, rotary_table(positions(valid), head_dim, ROTARY_THETA))

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


class ExpertLayer(nn.Module):
    """One block of the action expert."""

    def __init__(self, config: GemmaConfig) -> None:
        super().__init__()
        self.input_layernorm = AdaptiveRMSNorm(config.width)
        self.self_attn = GroupedAttention(
            config.width, config.heads, config.kv_heads, config.head_dim
        )
        self.post_attention_layernorm = AdaptiveRMSNorm(config.width)
        self.mlp = GatedMLP(config.width, config.mlp)


class ExpertStack(nn.Module):
    """The action expert: its tokens see each other and the whole valid prefix."""

    layers: Sequence[ExpertLayer]

    def __init__(self, config: GemmaConfig) -> None:
        super().__init__()
        layers = nn.ModuleList(ExpertLayer(config) for _ in range(config.depth))
        self.layers = layers  # type: ignore[assignment]
        self.norm = AdaptiveRMSNorm(config.width)

    def modulation(self, condition: Tensor) -> Modulation:
        """[B, width] condition of one instant to the modulation of every norm."""
        layers = tuple(
            (
                layer.input_layernorm.modulation(condition),
                layer.post_attention_layernorm.modulation(condition),
            )
            for layer in self.layers
        )
        return Modulation(layers, self.norm.modulation(condition))

    def forward(self, x: Tensor, prefix: Prefix, modulation: Modulation) -> Tensor:
        """[B, S, width] action tokens to [B, S, width] features."""
        batch, length = x.shape[:2]
        start = prefix.valid.sum(-1, keepdim=True)
        place = start + torch.arange(length, device=x.device)
        rotary = rotary_table(place, self.layers[0].self_attn.head_dim, ROTARY_THETA)
        own = prefix.valid.new_ones(batch, length)
        mask = torch.cat((prefix.valid, own), dim=1)[:, None, None, :]
        for index, layer in enumerate(self.layers):
            before_attention, before_mlp = modulation.layers[index]
            normed = layer.input_layernorm(x, before_attention)
            key, value = layer.self_attn.key_value(normed, rotary)
            key = torch.cat((prefix.keys[index], key), dim=2)
            value = torch.cat((prefix.values[index], value), dim=2)
            query = layer.self_attn.query(normed, rotary)
            mixed = layer.self_attn.attend(query, key, value, mask)
            x = x + (before_attention[:, 2, None] * mixed).to(x.dtype)
            mixed = layer.mlp(layer.post_attention_layernorm(x, before_mlp))
            x = x + (before_mlp[:, 2, None] * mixed).to(x.dtype)
        return self.norm(x, modulation.final)


def positions(valid: Tensor) -> Tensor:
    """[B, T] bool to [B, T] positions that padding does not advance."""
    return valid.long().cumsum(-1) - 1
