# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""INT8 linears for CPUs without an exact int8 dot product: exact sums carried in float32.

Knows tensors; knows nothing of models or recipes. A float32 product of int8 values is exact as long
as a sum stays below 2**24: 1024 columns of |q| <= 127 times |w| <= 128 do. Blocks of that many
columns are multiplied in float32 and added in int32, so the result is bit for bit that of `onednn`.
It saves memory, not time.
"""
from __future__ import annotations

import torch
from torch import Tensor

from quantvla_ros.kernels.onednn import quantize_rows, scale_back

__all__ = ['quantize_rows', 'scaled_matmul', 'unavailable']

_BLOCK = 1024  # 1024 * 127 * 128 < 2**24


def unavailable(device: torch.device) -> str | None:
    """Why this backend cannot run on `device`; None: it can."""
    return None if device.type == 'cpu' else f'it runs on the CPU only, not on {device.type}'


def scaled_matmul(
    q: Tensor,
    scale: Tensor,
    weight_q: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """Multiply quantized rows by quantized weights and scale back: [M, N] of `dtype`."""
    sums = torch.zeros(q.shape[0], weight_q.shape[0], dtype=torch.int32)
    for start in range(0, q.shape[1], _BLOCK):
        columns = slice(start, start + _BLOCK)
        sums += (q[:, columns].float() @ weight_q[:, columns].float().t()).to(torch.int32)
    return scale_back(sums, scale, weight_scale, bias, dtype)
