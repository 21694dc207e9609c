# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Packed 4-bit weights as int8, on NVIDIA GPUs: for products of many rows on Hopper.

Knows weights in the order of `halves`; knows nothing of products. A weight of 4 bits times its
group's scale of 1 to 15 is an int8, so the product of many rows may read those instead: where the
matrix units wait for the unpacking, writing the weights out once costs less. The int8 copy lives
from one kernel to the next, so the network's memory stays that of packed weights.
"""
from __future__ import annotations

import torch
import triton
import triton.language as tl

from quantvla_ros.kernels import triton_int8
from quantvla_ros.kernels.fused_types import Int8Weight
from quantvla_ros.kernels.halves import RUN, SPAN, HalvedWeight

_ROWS, _BYTES = 8, 1024  # of the packed weights that a program takes


@triton.jit
def expand_kernel(
    halves_ptr,
    group_scale_ptr,
    q_ptr,
    N,
    K,
    width,
    GROUP: tl.constexpr,
    RUN: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program per block of halves [N, width]: q [N, K] int8, times their group's scale."""
    rows = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = (rows < N)[:, None] & (places < width)[None, :]
    rows = tl.where(rows < N, rows, 0).to(tl.int64)
    w = tl.load(halves_ptr + rows[:, None] * width + places[None, :], mask=inside, other=0)
    columns = (places // RUN) * (2 * RUN) + places % RUN
    low, high = (w & 0xF).to(tl.int16) - 8, (w >> 4).to(tl.int16) - 8
    if GROUP > 0:  # both halves of a byte are of one group
        groups = rows[:, None] * tl.cdiv(K, GROUP) + (columns // GROUP)[None, :]
        scale = tl.load(group_scale_ptr + groups, mask=inside, other=1).to(tl.int16)
        low, high = low * scale, high * scale
    at = q_ptr + rows[:, None] * K + columns[None, :]
    tl.store(at, low.to(tl.int8), mask=inside & (columns < K)[None, :])
    tl.store(at + RUN, high.to(tl.int8), mask=inside & (columns + RUN < K)[None, :])


def expanded(weight: HalvedWeight) -> Int8Weight:
    """The same weight in int8: equal to the packed one, in the same order of columns."""
    outputs, width = weight.halves.shape
    q = torch.empty((outputs, weight.columns), dtype=torch.int8, device=weight.halves.device)
    grid = (-(-width // _BYTES), -(-outputs // _ROWS))
    with triton_int8._on(q.device):
        expand_kernel[grid](
            weight.halves,
            weight.halves if weight.group_scale is None else weight.group_scale,
            q,
            outputs,
            weight.columns,
            width,
            GROUP=weight.group,
            RUN=RUN,
            BLOCK_N=_ROWS,
            BLOCK=min(_BYTES, max(SPAN, triton.next_power_of_2(width))),
            num_warps=4,
        )
    return Int8Weight(q, weight.scale, weight.bias, weight.rows, weight.turn)
