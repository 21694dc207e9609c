# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""SigLIP vision tower: a pre-norm ViT without class token or pooling; SmolVLM's connector to it.

Knows pictures as tensors; knows nothing of what reads its features.
Source: SigLIP (arXiv 2303.15343): So400m/14 in PaliGemma and GR00T, a smaller one in SmolVLM.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from quantvla_ros.models.layers import Container


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of a vision tower; the defaults are So400m/14 at 224."""

    width: int = 1152
    depth: int = 27
    heads: int = 16
    mlp: int = 4304
    patch: int = 14
    image: int = 224
    eps: float = 1e-6

    @property
    def tokens(self) -> int:
        """Patches per picture."""
        return (self.image // self.patch) ** 2


class VisionAttention(nn.Module):
    """Bidirectional attention over the patches, with biases."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            nn.Linear(config.width, config.width) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, width] to [B, T, width]."""
        q, k, v = (
            projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class VisionMLP(nn.Module):
    """Two linears around tanh-GELU."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.mlp)
        self.fc2 = nn.Linear(config.mlp, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] to [..., width]."""
        return self.fc2(F.gelu(self.fc1(x), approximate='tanh'))


class VisionLayer(nn.Module):
    """One pre-norm block."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.width, eps=config.eps)
        self.self_attn = VisionAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.width, eps=config.eps)
        self.mlp = VisionMLP(config)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, width] to [B, T, width]."""
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class VisionEmbeddings(nn.Module):
    """Patches, row-major, plus learned positions."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv2d(3, config.width, config.patch, stride=config.patch)
        self.position_embedding = nn.Embedding(config.tokens, config.width)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] to [B, T, width]."""
        patches = self.patch_embedding(images).flatten(2).transpose(1, 2)
        return patches + self.position_embedding.weight


class VisionEncoder(nn.Module):
    """The stack of blocks."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(VisionLayer(config) for _ in range(config.depth))


class VisionTower(nn.Module):
    """Pictures to features of their patches."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.embeddings = VisionEmbeddings(config)
        self.encoder = VisionEncoder(config)
        self.post_layernorm = nn.LayerNorm(config.width, eps=config.eps)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, image, image] in [-1, 1] to [B, tokens, width]."""
        x = self.embeddings(images.to(self.embeddings.patch_embedding.weight.dtype))
        for layer in self.encoder.layers:
            x = layer(x)
        return self.post_layernorm(x)


class ShuffleConnector(nn.Module):
    """Features of each square of patches, side by side, to one token of a language model."""

    def __init__(self, config: VisionConfig, side: int, outputs: int) -> None:
        super().__init__()
        self.side = side
        inputs = config.width * side**2
        self.modality_projection = Container(proj=nn.Linear(inputs, outputs, bias=False))

    def forward(self, features: Tensor) -> Tensor:
        """[B, rows * columns, width] to [B, tokens, outputs]."""
        blocks = round(features.shape[1] ** 0.5) // self.side
        grid = features.unflatten(1, (blocks, self.side, blocks, self.side))
        # a square's patches follow each other row by row
        squares = grid.transpose(2, 3).flatten(1, 2).flatten(2)
        return self.modality_projection.proj(squares)  # type: ignore[operator]
