# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How the rows of activations become integers, and the turns before it in plain torch.

Knows tensors; knows nothing of weights, backends, models or recipes. The settings belong to one
layer and are made once; that they fit an input is checked at the call (`linear`).
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quantvla_ros.errors import BackendError

LARGEST = {8: 127, 4: 7}  # by bits; symmetric: -128 and -8 are never used for an activation


@dataclass(frozen=True, eq=False)
class Rows:
    """How activations become integers: x[permutation], times the rotation, over the scale, rounded.

    Attributes:
        bits: 8 or 4; the largest integer is 127 or 7.
        scale: [] float32, the static step of all rows, positive; larger values are clamped to the
            range. None: each row has its own step, of its largest magnitude.
        rotation: [B, B], one block for all, or [K / B, B, B], floating point, by which each B
            columns are multiplied from the right: x' = x R. None: no rotation.
        permutation: [K] int32 or int64, a permutation of the columns that comes first:
            x'[k] = x[permutation[k]]. None: the order is kept.
    Raises:
        BackendError: a setting is none of these.
    """

    bits: int = 8
    scale: Tensor | None = None
    rotation: Tensor | None = None
    permutation: Tensor | None = None

    def __post_init__(self) -> None:
        if self.bits not in LARGEST:
            raise BackendError(f'rows.bits: expected 8 or 4, found {self.bits}')
        scale, rotation, permutation = self.scale, self.rotation, self.permutation
        if scale is not None and (scale.dtype != torch.float32 or scale.dim() != 0):
            raise BackendError(
                f'rows.scale: expected float32 [], found {scale.dtype} {list(scale.shape)}'
            )
        if rotation is not None and (
            not rotation.is_floating_point()
            or rotation.dim() not in (2, 3)
            or rotation.shape[-1] != rotation.shape[-2]
            or rotation.numel() == 0
        ):
            raise BackendError(
                'rows.rotation: expected floating point [B, B] or [K / B, B, B], found '
                f'{rotation.dtype} {list(rotation.shape)}'
            )
        if permutation is not None and (
            permutation.dtype not in (torch.int32, torch.int64) or permutation.dim() != 1
        ):
            raise BackendError(
                'rows.permutation: expected int32 or int64 [K], found '
                f'{permutation.dtype} {list(permutation.shape)}'
            )

    @property
    def largest(self) -> int:
        """The largest integer that a value becomes."""
        return LARGEST[self.bits]

    @property
    def block(self) -> int:
        """Columns that a rotation mixes; 0: there is no rotation."""
        return 0 if self.rotation is None else self.rotation.shape[-1]


def turn(x: Tensor, rows: Rows, dtype: torch.dtype) -> Tensor:
    """Permute and rotate the columns of x [M, K] in arithmetic of `dtype`: [M, K] of `dtype`.

    A NaN or an infinity stays one, at least in its block.
    """
    if rows.permutation is not None:
        x = x.index_select(1, rows.permutation)
    x = x.to(dtype)
    if rows.rotation is None:
        return x
    rotation = rows.rotation.to(dtype)
    blocks = x.reshape(x.shape[0], -1, rows.block)
    if rotation.dim() == 2:
        return (blocks @ rotation).reshape(x.shape)
    return torch.bmm(blocks.transpose(0, 1), rotation).transpose(0, 1).reshape(x.shape)
