# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Qwen3 as GR00T N1.5 uses it: the first layers of a causal language model, to features of tokens.

Knows tensors; knows nothing of checkpoints, pictures or of what reads the features.
Source: Qwen3 (arXiv 2505.09388) and the public GR00T N1.5 checkpoint, whose key names the module
tree repeats. The features are those after the final norm.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantvla_ros.models.layers import GatedMLP, GroupedAttention, rotary_table, rotate

ROTARY_THETA = 1_000_000.0
EPS = 1e-6


@dataclass(frozen=True)
class Qwen3Config:
    """Sizes of a stack of Qwen3 layers; the defaults are those of GR00T N1.5."""

    width: int = 2048
    depth: int = 12
    heads: int = 16
    kv_heads: int = 8
    head_dim: int = 128
    mlp: int = 6144


@dataclass(frozen=True)
class Qwen3State:
    """The language backbone between two layers.

    Attributes:
        x: [B, T, width] hidden state.
        mask: [B, 1, T, T] bool, the keys that a query may see.
        rotary: table of the positions.
    """

    x: Tensor
    mask: Tensor
    rotary: tuple[Tensor, Tensor]


class Qwen3Attention(GroupedAttention):
    """Attention whose queries and keys are normed head by head before the rotary embedding."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__(config.width, config.heads, config.kv_heads, config.head_dim)
        self.q_norm = nn.RMSNorm(config.head_dim, eps=EPS)
        self.k_norm = nn.RMSNorm(config.head_dim, eps=EPS)

    def query(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """[B, T, width] to rotated queries [B, heads, T, head_dim]."""
        return rotate(self.q_norm(self._heads(self.q_proj(x))), rotary)

    def key_value(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """[B, T, width] to rotated keys and values [B, kv_heads, T, head_dim]."""
        key = rotate(self.k_norm(self._heads(self.k_proj(x))), rotary)
        return key, self._heads(self.v_proj(x))


class Qwen3Layer(nn.Module):
    """One pre-norm block."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.width, eps=EPS)
        self.self_attn = Qwen3Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.width, eps=EPS)
        self.mlp = GatedMLP(config.width, config.mlp, F.silu)

    def forward(self, state: Qwen3State) -> Qwen3State:
        """The state after this block."""
        x, attention = state.x, self.self_attn
        normed = self.input_layernorm(x)
        query = attention.query(normed, state.rotary)
        key, value = attention.key_value(normed, state.rotary)
        x = x + attention.attend(query, key, value, state.mask)
        x = x + self.mlp(self.post_attention_layernorm(x))
        return replace(state, x=x)


class Qwen3Stack(nn.Module):
    """The language backbone: embeddings to features of the same tokens."""

    layers: Sequence[Qwen3Layer]

    def __init__(self, config: Qwen3Config, vocabulary: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary, config.width)
        layers = nn.ModuleList(Qwen3Layer(config) for _ in range(config.depth))
        self.layers = layers  # type: ignore[assignment]
        self.norm = nn.RMSNorm(config.width, eps=EPS)

    def start(self, x: Tensor, valid: Tensor) -> Qwen3State:
        """[B, T, width] embeddings and [B, T] bool to the state before the first layer.

        Causal over the valid tokens; padding advances the position. Before left padding ends, a
        query sees no key at all: its attention is then zero, as in the reference, and the token
        lives on, because the action head has no mask.
        """
        length = x.shape[1]
        before = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        place = torch.arange(length, device=x.device)[None]
        rotary = rotary_table(place, self.layers[0].self_attn.head_dim, ROTARY_THETA)
        return Qwen3State(x, before & valid[:, None, None, :], rotary)

    def step(self, index: int, state: Qwen3State) -> Qwen3State:
        """The state after a layer."""
        return self.layers[index](state)

    def finish(self, state: Qwen3State) -> Tensor:
        """The state after the last layer to [B, T, width] features."""
        return self.norm(state.x)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """All of it: `start`, every `step`, `finish`."""
        state = self.start(x, valid)
        for layer in self.layers:
            state = layer(state)
        return self.finish(state)
