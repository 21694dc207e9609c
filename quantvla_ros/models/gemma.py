# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Gemma as pi0.5 uses it: the sizes of its stacks, and the action expert that reads a prefix.

Knows tensors; knows nothing of checkpoints, pictures or of what the expert's tokens mean.
Source: pi0.5 (arXiv 2504.16054) and its public PyTorch checkpoints, whose key names the module tree
repeats.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from quantvla_ros.models.layers import (
    AdaptiveRMSNorm,
    GatedMLP,
    GroupedAttention,
    rotary_table,
)
from quantvla_ros.models.prefix import ROTARY_THETA, Prefix, StackConfig


class GemmaConfig(StackConfig):
    """Sizes of one Gemma stack."""


GEMMA_2B = GemmaConfig(width=2048, depth=18, mlp=16384, heads=8, kv_heads=1, head_dim=256)
GEMMA_300M = GemmaConfig(width=1024, depth=18, mlp=4096, heads=8, kv_heads=1, head_dim=256)


@dataclass(frozen=True)
class Modulation:
    """adaRMS modulation of one instant of the flow.

    Attributes:
        layers: per layer, for the two norms, [B, 3, width] float32.
        final: [B, 3, width] float32.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    final: Tensor


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
