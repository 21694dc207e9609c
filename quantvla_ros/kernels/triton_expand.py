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
from quantvla_ros.kernels.halves import RUN, HalvedWeight

_ROWS, _SPANS = 4, 32  # of the packed weights that a program takes


@triton.jit
def expand_kernel(
    halves_ptr,
    group_scale_ptr,
    q_ptr,
    N,
    K,
    spans,
    GROUP: tl.constexpr,
    RUN: tl.constexpr,
    ROWS: tl.constexpr,
    SPANS: tl.constexpr,
):
    """One program per block of halves [N, spans, RUN]: q [N, K] int8, times their group's scale."""
    rows = (tl.program_id(1) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    span = tl.program_id(0) * SPANS + tl.arange(0, SPANS)
    inside = (rows < N)[:, None] & (span < spans)[None, :]
    inner = tl.arange(0, RUN)[None, None, :]
    at = (rows[:, None] * spans + span[None, :])[:, :, None] * RUN + inner
    w = tl.load(halves_ptr + at, mask=inside[:, :, None], other=0)
    low, high = (w & 0xF).to(tl.int16) - 8, (w >> 4).to(tl.int16) - 8
    if GROUP > 0:  # a span is of one group
        groups = rows[:, None] * tl.cdiv(K, GROUP) + (span * (2 * RUN) // GROUP)[None, :]
        scale = tl.load(group_scale_ptr + groups, mask=inside, other=1).to(tl.int16)
        low, high = low * scale[:, :, None], high * scale[:, :, None]
    columns = (span * (2 * RUN))[None, :, None] + inner
    at = q_ptr + (rows * K)[:, None, None] + columns
    tl.store(at, low.to(tl.int8), mask=inside[:, :, None] & (columns < K))
    tl.store(at + RUN, high.to(tl.int8), mask=inside[:, :, None] & (columns + RUN < K))


def expanded(weight: HalvedWeight) -> Int8Weight:
    """The same weight in int8: equal to the packed one, in the same order of columns."""
    outputs, spans = weight.outputs, weight.halves.shape[1] // RUN
    q = torch.empty((outputs, weight.columns), dtype=torch.int8, device=weight.halves.device)
    with triton_int8._on(q.device):
        expand_kernel[-(-spans // _SPANS), -(-outputs // _ROWS)](
            weight.halves,
            weight.halves if weight.group_scale is None else weight.group_scale,
            q,
            outputs,
            weight.columns,
            spans,
            GROUP=weight.group,
            RUN=RUN,
            ROWS=_ROWS,
            SPANS=_SPANS,
            num_warps=4,
        )
    return Int8Weight(q, weight.scale, weight.bias, weight.rows, weight.turn)
