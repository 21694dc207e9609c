# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A SigLIP vision tower on the fused operations: the pictures of one observation to their features.

Knows the tower's parts and the operations; knows nothing of what reads the features. It means what
`models.siglip` means. Queries, keys and values are parts of one product and are read where it
leaves them; pictures are segments of the attention, so that a tower runs once for all of them.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quantvla_ros.engine.norms import load_norm, normed
from quantvla_ros.engine.weights import WeightLoader
from quantvla_ros.errors import BackendError
from quantvla_ros.kernels import fused
from quantvla_ros.kernels.fused_types import Norm, Weight
from quantvla_ros.models.siglip import VisionConfig, VisionTower

_COLUMNS = 32  # a product's rows begin where wide loads may: columns are filled up to as many


@dataclass(frozen=True, eq=False)
class Block:
    """A pre-norm block of attention with biases and two linears around tanh-GELU."""

    before_attention: Norm
    qkv: Weight
    output: Weight
    before_mlp: Norm
    first: Weight
    second: Weight

    def mlp(self, x: Tensor) -> Tensor:
        """X [M, W] with what the MLP adds, in place."""
        y = normed(x, self.before_mlp, self.first)
        y = fused.linear(y, self.first, activation='gelu_tanh')
        return fused.linear(y, self.second, residual=x, out=x)


def heads_of(y: Tensor, parts: int, heads: int) -> Sequence[Tensor]:
    """Parts of a product [M, parts W] as heads: [M, heads, W / heads] each, where they lie."""
    return [part.unflatten(-1, (heads, -1)) for part in y.chunk(parts, dim=-1)]


class SiglipWeights:
    """A tower's weights as the forward pass reads them, but for its last norm.

    Attributes:
        config: sizes of the tower.
    """

    def __init__(self, load: WeightLoader, tower: VisionTower, config: VisionConfig) -> None:
        self.config, self.device, self.dtype = config, load.device, load.dtype
        patch = tower.embeddings.patch_embedding
        matrix = patch.weight.flatten(1)
        self.patch_columns = -(-matrix.shape[1] // _COLUMNS) * _COLUMNS
        padding = (0, self.patch_columns - matrix.shape[1])
        self.patch = load.float_weight(nn.functional.pad(matrix, padding), patch.bias)
        self.positions = load.tensor(tower.embeddings.position_embedding.weight, load.dtype)
        self.layers = tuple(_layer(load, layer) for layer in tower.encoder.layers)


class SiglipForward:
    """The tower for so many pictures.

    Attributes:
        images: [views, 3, image, image] float32 in [-1, 1].
    """

    def __init__(
        self, weights: SiglipWeights, views: int, images: Tensor | None = None
    ) -> None:
        """`images`: where the pictures will lie, that forward passes may share; None: made here."""
        self.weights, self.views = weights, views
        config, device = weights.config, weights.device
        shape = (views, 3, config.image, config.image)
        self.images = torch.zeros(shape, device=device) if images is None else images
        if self.images.shape != shape or self.images.dtype != torch.float32:
            raise BackendError(
                f'engine: expected a place for pictures of float32 {list(shape)}, found '
                f'{self.images.dtype} {list(self.images.shape)}'
            )
        self._patches = torch.zeros(
            (views * config.tokens, weights.patch_columns), dtype=weights.dtype, device=device
        )
        self._positions = weights.positions.repeat(views, 1)

    def run(self) -> Tensor:
        """Features of `images` before the tower's last norm: [views tokens, width]."""
        config = self.weights.config
        scale = (config.width // config.heads) ** -0.5
        segment = config.tokens if self.views > 1 else None
        x = fused.linear(self._cut(), self.weights.patch, residual=self._positions)
        for layer in self.weights.layers:
            y = fused.linear(normed(x, layer.before_attention, layer.qkv), layer.qkv)
            query, keys, values = heads_of(y, 3, config.heads)
            y = fused.attention(query, keys, values, scale=scale, segment=segment)
            x = fused.linear(y, layer.output, residual=x, out=x)
            x = layer.mlp(x)
        return x

    def _cut(self) -> Tensor:
        """Patches as rows, in the order of the patch embedding's weight."""
        config = self.weights.config
        side, patch = config.image // config.patch, config.patch
        rows = self._patches.unflatten(0, (self.views, side, side))
        rows = rows[..., : 3 * patch**2].unflatten(-1, (3, patch, patch))
        cut = self.images.unflatten(3, (side, patch)).unflatten(2, (side, patch))
        rows.copy_(cut.permute(0, 2, 4, 1, 3, 5))
        return self._patches


def _layer(load: WeightLoader, layer: Any) -> Block:
    attention = layer.self_attn
    return Block(
        load_norm(load, layer.layer_norm1),
        load.weight(attention.q_proj, attention.k_proj, attention.v_proj),
        load.weight(attention.out_proj),
        load_norm(load, layer.layer_norm2),
        load.weight(layer.mlp.fc1),
        load.weight(layer.mlp.fc2),
    )
