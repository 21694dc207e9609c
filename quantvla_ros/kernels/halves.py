# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Packed 4-bit weights in the order in which the fused products read them.

Knows tensors on any device; knows nothing of kernels or models. `packing` puts neighbours into one
byte, so that a product with the low halves reads every other column of its input. Here byte j of
each 64 columns holds column j in its low half and column j + 32 in its high half: both read whole
runs of an input whose columns are in order. The last 64 columns are filled up with zeros.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quantvla_ros.errors import BackendError
from quantvla_ros.kernels.fused_types import Int4Weight
from quantvla_ros.kernels.packing import pack_int4, unpack_int4
from quantvla_ros.kernels.rows import Rows

RUN = 32  # bytes, and columns read as one run; an integer matrix instruction takes as many
SPAN = 2 * RUN  # columns


@dataclass(frozen=True, eq=False)
class HalvedWeight:
    """An `Int4Weight` in this order.

    Attributes:
        halves: [N, ceil(K / 64) 32] uint8, contiguous.
        columns: K.
        group_scale: [N, ceil(K / group)] uint8 in 1..15, contiguous, or None.
        group: columns that share a group scale, a multiple of 64; 0 without group_scale.
        scale, bias, rows, turn: as in `Int4Weight`.
    """

    halves: Tensor
    columns: int
    group_scale: Tensor | None
    group: int
    scale: Tensor
    bias: Tensor | None
    rows: Rows
    turn: Tensor | None = None

    @property
    def outputs(self) -> int:
        """N."""
        return self.halves.shape[0]


def halved(weight: Int4Weight) -> HalvedWeight:
    """The same weight in the order of halves: done once, where a network is loaded.

    Raises:
        BackendError: its groups are not whole spans of 64 columns.
    """
    if weight.group % SPAN:
        raise BackendError(
            f'group: expected a multiple of {SPAN} columns on a GPU, found {weight.group}'
        )
    return HalvedWeight(
        to_halves(weight.packed),
        weight.columns,
        weight.group_scale,
        weight.group,
        weight.scale,
        weight.bias,
        weight.rows,
        weight.turn,
    )


def to_halves(packed: Tensor) -> Tensor:
    """[N, K / 2] uint8 as `packing` has them to [N, ceil(K / 64) 32] uint8."""
    outputs, columns = packed.shape[0], 2 * packed.shape[1]
    q = torch.zeros(
        outputs, -(-columns // SPAN) * SPAN, dtype=torch.int8, device=packed.device
    )
    q[:, :columns] = unpack_int4(packed)
    low, high = q.view(outputs, -1, 2, RUN).unbind(2)
    return pack_int4(torch.stack((low, high), dim=-1).reshape(outputs, -1))


def from_halves(halves: Tensor, columns: int) -> Tensor:
    """Undo `to_halves`: [N, columns / 2] uint8 as `packing` has them."""
    outputs = halves.shape[0]
    q = unpack_int4(halves).view(outputs, -1, RUN, 2).transpose(2, 3)
    return pack_int4(q.reshape(outputs, -1)[:, :columns].contiguous())
