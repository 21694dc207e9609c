# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""4-bit weights, two to a byte, and the int8 numbers they stand for.

Knows tensors on any device; knows nothing of scales in floating point, models or recipes. Byte j of
a row holds column 2j in its low half and column 2j + 1 in its high half, each as its value plus 8.
With groups a row's columns are multiplied by small integers, one per group:

    w8[n, k] = (nibble[n, k] - 8) group_scale[n, k // group]     in -120..105

so a product with them is a product of int8 numbers whatever the scheme.
"""
from __future__ import annotations

import torch
from torch import Tensor

from quantvla_ros.errors import BackendError

LARGEST_GROUP_SCALE = 15  # -8 * 15 = -120 still is an int8


def pack_int4(q: Tensor) -> Tensor:
    """Pack 4-bit integers: [N, K] int8 in -8..7, K even -> [N, K / 2] uint8.

    Raises:
        BackendError: another dtype or shape, or a value outside of the range.
    """
    if q.dtype != torch.int8 or q.dim() != 2 or q.shape[1] % 2:
        raise BackendError(f'q: expected int8 [N, even K], found {q.dtype} {list(q.shape)}')
    if q.numel() and (q.min() < -8 or q.max() > 7):
        raise BackendError(
            f'q: expected values in -8..7, found {int(q.min())}..{int(q.max())}'
        )
    nibbles = (q + 8).to(torch.uint8)
    return nibbles[:, 0::2] | (nibbles[:, 1::2] << 4)


def unpack_int4(packed: Tensor) -> Tensor:
    """Undo `pack_int4`: [N, K / 2] uint8 -> [N, K] int8 in -8..7."""
    nibbles = torch.stack([packed & 15, packed >> 4], dim=-1)
    return nibbles.reshape(packed.shape[0], -1).to(torch.int8) - 8


def expand(packed: Tensor, group_scale: Tensor | None = None, group: int = 0) -> Tensor:
    """The int8 numbers that packed weights stand for.

    Args:
        packed: [N, K / 2] uint8.
        group_scale: [N, ceil(K / group)] uint8 in 1..15, or None: no groups.
        group: columns that share a group scale; 0: no groups.
    Returns:
        [N, K] int8, contiguous.
    """
    q = unpack_int4(packed)
    if group_scale is None:
        return q
    outputs, columns = q.shape
    whole = columns // group
    factors = group_scale.to(torch.int8)[:, :, None]
    q[:, : whole * group].view(outputs, whole, group).mul_(factors[:, :whole])
    if whole * group < columns:
        q[:, whole * group :].mul_(factors[:, whole])
    return q
