# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""INT8 linears on the CPU: int8 x int8 -> int32 by oneDNN through torch._int_mm.

Knows tensors; knows nothing of models or recipes. The trap here: on a CPU without VNNI (AVX2, early
AVX-512) oneDNN adds pairs of products in 16 bits and saturates without a word, so `unavailable`
asks this very CPU for the worst case before the backend is offered. `blocked` serves the others.
"""
from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from quantvla_ros.kernels.reference import SMALLEST
from quantvla_ros.kernels.rows import Rows, turn


def unavailable(device: torch.device) -> str | None:
    """Why this backend cannot run on `device`; None: it can."""
    if device.type != 'cpu':
        return f'it runs on the CPU only, not on {device.type}'
    if not _exact():
        return 'this CPU has no exact int8 dot product (VNNI): oneDNN saturates on it'
    return None


@functools.cache
def _exact() -> bool:
    """Whether torch._int_mm returns exact sums here, tried at the extremes of int8."""
    generator = torch.Generator().manual_seed(0)
    for rows, columns, outputs in ((1, 64, 64), (5, 1024, 48), (17, 33, 65)):
        random = torch.randint(-127, 128, (rows, columns), dtype=torch.int8, generator=generator)
        for q in (random, torch.full_like(random, 127), torch.full_like(random, -127)):
            weight = torch.full((outputs, columns), -128, dtype=torch.int8)
            weight[::2] = 127
            expected = (q.double() @ weight.double().t()).to(torch.int32)
            if not torch.equal(torch._int_mm(q, weight.t()), expected):
                return False
    return True


def quantize_rows(x: Tensor, rows: Rows | None = None) -> tuple[Tensor, Tensor]:
    """Permute, rotate and quantize each row: [M, K] -> [M, K] int8, [M] float32.

    None: each row to 8 bits by its own largest magnitude.
    """
    rows = rows or Rows()
    x = turn(x, rows, torch.float32)
    # One pass without a temporary of |x|; the maximum norm of an empty row is zero.
    largest = torch.linalg.vector_norm(x, float('inf'), dim=-1, keepdim=True)
    # Few small operations: on a small layer they cost more than the product.
    if rows.scale is None:
        scale = largest.clamp_min(SMALLEST).div_(rows.largest)
        q = torch.mul(x, scale.reciprocal()).round_()
        sound = True
    else:
        step = rows.scale.item()
        sound = SMALLEST <= step < math.inf
        scale = torch.full_like(largest, step if sound else math.nan)
        q = torch.mul(x, rows.scale.reciprocal()).round_()
        q.clamp_(-rows.largest, rows.largest)
    if not sound or not math.isfinite(largest.sum().item()):
        # Perhaps none: the sum can overflow alone.
        broken = ~(torch.isfinite(largest) & torch.isfinite(scale))
        q.masked_fill_(broken, 0.0)  # NaN to int8 is undefined
        scale.masked_fill_(broken, math.nan)
    return q.to(torch.int8), scale.squeeze(-1)


def scaled_matmul(
    q: Tensor,
    scale: Tensor,
    weight_q: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """Multiply quantized rows by quantized weights and scale back: [M, N] of `dtype`."""
    if q.shape[1] == 1:
        # torch._int_mm reads past a single column: its strides look like a row's (torch 2.13)
        sums = q.int() * weight_q.int().t()
    else:
        sums = torch._int_mm(q, weight_q.t())
    return scale_back(sums, scale, weight_scale, bias, dtype)


def scale_back(
    sums: Tensor, scale: Tensor, weight_scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """Scale integer sums [M, N] by row and column, add the bias; [M, N] of `dtype`."""
    y = sums.float().mul_(scale[:, None]).mul_(weight_scale)
    if bias is not None:
        y.add_(bias)
    return y.to(dtype)
