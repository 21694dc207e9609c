# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What an INT8 linear means: the definition in float64 that every backend is held to.

Knows tensors; knows nothing of devices, models or recipes. Slow on purpose and exact: int8 values
up to 2**7 over at most 2**17 columns stay far below float64's 2**53.

    x'    = x[permutation] R                             see `rows`; both may be left out
    s_i   = max(max_k |x'_ik|, SMALLEST) / L             one scale per row (token), dynamic,
            or a given s, the same for all rows          L: 127 at 8 bits, 7 at 4 bits
    q_ik  = clamp(round_half_even(x'_ik / s_i), -L, L)   zero stays zero
    y_ij  = (sum_k q_ik w_jk) s_i t_j + b_j              t_j: the weight's scale per output channel

where w is int8: as stored, or what the packed 4-bit weights stand for (`packing.expand`).
A row with a NaN or an infinity has no scale: all its outputs are NaN, the other rows are untouched.
So are all rows under a static scale that is not a positive number.
A wrong number thus reaches the guard as what it is instead of as a plausible motion.
"""
from __future__ import annotations

import torch
from torch import Tensor

from quantvla_ros.kernels.rows import LARGEST, Rows, turn

SMALLEST = 1e-30  # a row below this magnitude is zero for all purposes; 1 / SMALLEST is finite
MAX_COLUMNS = (2**31 - 1) // (LARGEST[8] * 128)  # beyond, an int32 sum could wrap


def unavailable(device: torch.device) -> str | None:
    """Why this backend cannot run on `device`; None: it can."""
    return None


def quantize_rows(x: Tensor, rows: Rows | None = None) -> tuple[Tensor, Tensor]:
    """Permute, rotate and quantize each row.

    Args:
        x: [M, K] floating point.
        rows: how; None: each row to 8 bits by its own largest magnitude.
    Returns:
        [M, K] int8 and [M] float64 scales, NaN for a row that is not finite.
    """
    rows = rows or Rows()
    x = turn(x, rows, torch.float64)
    largest = x.abs().amax(dim=-1) if x.shape[-1] else x.new_zeros(x.shape[0])
    usable = torch.isfinite(largest)
    if rows.scale is None:
        scale = largest.clamp_min(SMALLEST) / rows.largest
    else:
        scale = rows.scale.double().expand_as(largest)
        usable = usable & (scale >= SMALLEST) & torch.isfinite(scale)
    scale = torch.where(usable, scale, torch.nan)
    q = torch.where(usable[:, None], x / scale[:, None], 0.0)
    return q.round().clamp(-rows.largest, rows.largest).to(torch.int8), scale


def scaled_matmul(
    q: Tensor,
    scale: Tensor,
    weight_q: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """Multiply quantized rows by quantized weights and scale back.

    Args:
        q: [M, K] int8; scale: [M].
        weight_q: [N, K] int8; weight_scale: [N]; bias: [N] or None.
        dtype: of the result.
    Returns:
        [M, N] of `dtype`.
    """
    y = (q.double() @ weight_q.double().t()) * scale.double()[:, None] * weight_scale.double()
    if bias is not None:
        y = y + bias.double()
    return y.to(dtype)
