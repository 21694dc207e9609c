# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""INT8 linears on NVIDIA GPUs: the launches.

Knows tensors, sizes and GPUs; knows nothing of models or recipes. The kernels are in `triton_rows`
and `triton_kernels`, imported at the first launch, so that this module loads where triton is not.
With TRITON_INTERPRET=1 the kernels run on CPU tensors, slowly: for tests.
"""
from __future__ import annotations

import functools
import importlib.util
import math
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from quantvla_ros.errors import BackendError
from quantvla_ros.kernels.reference import SMALLEST
from quantvla_ros.kernels.rows import Rows
from quantvla_ros.kernels.tiles import Tile, choose_tile, within

_OLDEST = (8, 0)  # int8 matrix instructions with 32 columns a step (Ampere)
_ROW_BLOCK = 16384  # a row up to this length is quantized in registers in one pass
_SMALLEST_GROUP = 64  # columns: each of the two products of a step takes at least 32
_LARGEST_BLOCK = 128  # of a rotation: larger ones do not fit into the shared memory



def unavailable(device: torch.device) -> str | None:
    """Why this backend cannot run on `device`; None: it can."""
    if importlib.util.find_spec('triton') is None:
        return 'triton is not installed'
    if device.type == 'cpu' and _interpreted():
        return None
    if device.type != 'cuda' or torch.version.cuda is None:
        return f'it runs on NVIDIA GPUs only, not on {device.type}'
    capability = torch.cuda.get_device_capability(device)
    if capability < _OLDEST:
        return f'it needs compute capability 8.0 or newer, this GPU has {capability}'
    return None


def quantize_rows(
    x: Tensor, rows: Rows | None = None, *, split: bool = False
) -> tuple[Tensor, Tensor]:
    """Permute, rotate and quantize each row: [M, K] -> [M, K] int8, [M] float32.

    Args:
        x, rows: as in `reference.quantize_rows`.
        split: write the even columns first, then the odd ones, as `packed_matmul` reads them.
    Raises:
        BackendError: the blocks of the rotation are larger than the kernels take.
    """
    from quantvla_ros.kernels import triton_rows

    rows = rows or Rows()
    x = x.contiguous()
    count, columns = x.shape
    q = torch.empty((count, columns), dtype=torch.int8, device=x.device)
    scale = torch.empty(count, dtype=torch.float32, device=x.device)
    order = scale if rows.permutation is None else rows.permutation.contiguous()
    step = scale if rows.scale is None else rows.scale
    options: dict[str, Any] = {
        'PERMUTED': rows.permutation is not None,
        'STATIC': rows.scale is not None,
        'SPLIT': split,
        'LARGEST': float(rows.largest),
        'SMALLEST': SMALLEST,
        'enable_fp_fusion': False,  # a fused multiply-add would round ties unlike the CPU
    }
    with _on(x.device):
        if rows.rotation is not None:
            _rotate(x, rows, order, step, q, scale, options)
            return q, scale
        block = min(1 << (columns - 1).bit_length(), _ROW_BLOCK)
        triton_rows.quantize_rows_kernel[(count,)](
            x,
            order,
            step,
            q,
            scale,
            columns,
            BLOCK=block,
            ONE_PASS=columns <= block,
            num_warps=4 if block <= 2048 else 8,
            **options,
        )
    return q, scale


def _rotate(
    x: Tensor,
    rows: Rows,
    order: Tensor,
    step: Tensor,
    q: Tensor,
    scale: Tensor,
    options: Mapping[str, Any],
) -> None:
    """Launch the kernels that rotate: one where a row with one R fits into a program, else two."""
    from quantvla_ros.kernels import triton_rows

    assert rows.rotation is not None
    rotation, block = rows.rotation.contiguous(), rows.block
    if block > _LARGEST_BLOCK:
        raise BackendError(
            f'rows.rotation: expected blocks of at most {_LARGEST_BLOCK} columns on a GPU, '
            f'found {block}'
        )
    count, columns = x.shape
    width, blocks = _matrix_size(block), columns // block
    # 16-bit numbers are TF32 numbers: their products are exact without further terms.
    exact = x.element_size() == 2 and rotation.element_size() == 2
    precision = 'tf32' if exact else 'tf32x3'
    shared = rotation.dim() == 2
    size = _matrix_size(blocks) * width
    if shared and size <= _ROW_BLOCK:
        triton_rows.rotate_rows_kernel[(count,)](
            x,
            order,
            rotation,
            step,
            q,
            scale,
            columns,
            B=block,
            PRECISION=precision,
            BLOCKS=_matrix_size(blocks),
            BLOCK=width,
            num_warps=4 if size <= 4096 else 8,
            **options,
        )
        return
    largest = torch.zeros(count, dtype=torch.int32, device=x.device)
    tile = min(64, _matrix_size(count))
    for quantize in (False, True):
        triton_rows.rotate_blocks_kernel[(-(-count // tile), blocks)](
            x,
            order,
            rotation,
            step,
            largest,
            q,
            scale,
            count,
            columns,
            0 if shared else block * block,
            B=block,
            QUANTIZE=quantize,
            PRECISION=precision,
            ROWS=tile,
            BLOCK=width,
            num_warps=4 if width <= 64 else 8,
            **options,
        )


def _matrix_size(size: int) -> int:
    """The power of two from 16 up that a matrix instruction of `size` rows or columns takes."""
    return max(16, 1 << (size - 1).bit_length())


def scaled_matmul(
    q: Tensor,
    scale: Tensor,
    weight_q: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    *,
    tile: Tile | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Multiply quantized rows by quantized weights and scale back: [M, N] of `dtype`.

    Args:
        q, scale, weight_q, weight_scale, bias, dtype: as in `reference.scaled_matmul`, contiguous.
        tile: instead of the chosen one (for tuning).
        out: [M, N] contiguous, written instead of a new tensor.
    """
    from quantvla_ros.kernels.triton_kernels import scaled_matmul_kernel

    rows, columns = q.shape
    outputs = weight_q.shape[0]
    y = torch.empty((rows, outputs), dtype=dtype, device=q.device) if out is None else out
    tile = tile or _tile_on(rows, outputs, q.device)
    vectors = [v if v is None else v.contiguous() for v in (weight_scale, bias)]
    grid = (-(-rows // tile.rows) * -(-outputs // tile.outputs),)
    with _on(q.device):
        scaled_matmul_kernel[grid](
            q,
            weight_q,
            scale,
            vectors[0],
            vectors[0] if bias is None else vectors[1],
            y,
            rows,
            outputs,
            columns,
            HAS_BIAS=bias is not None,
            EVEN_K=columns % tile.columns == 0,
            BLOCK_M=tile.rows,
            BLOCK_N=tile.outputs,
            BLOCK_K=tile.columns,
            num_warps=tile.warps,
            num_stages=tile.stages,
        )
    return y


def packed_linear(
    x: Tensor,
    weight_packed: Tensor,
    group_scale: Tensor | None,
    group: int,
    weight_scale: Tensor,
    bias: Tensor | None,
    rows: Rows,
) -> Tensor:
    """Quantize the rows of x [M, K] and multiply by packed weights: [M, N] of x's dtype.

    Args:
        As for `linear.int4_linear`; group a multiple of 64, or 0.
    """
    q, scale = quantize_rows(x, rows, split=True)
    return packed_matmul(q, scale, weight_packed, group_scale, group, weight_scale, bias, x.dtype)


def packed_matmul(
    q: Tensor,
    scale: Tensor,
    weight_packed: Tensor,
    group_scale: Tensor | None,
    group: int,
    weight_scale: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    *,
    tile: Tile | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Multiply quantized rows by packed weights and scale back: [M, N] of `dtype`.

    Args:
        q: [M, K] int8, even columns first (`quantize_rows` with split).
        scale, weight_scale, bias, dtype, tile, out: as for `scaled_matmul`.
        weight_packed, group_scale, group: as for `linear.int4_linear`; group a multiple of 64.
    Raises:
        BackendError: the group is no multiple of 32.
    """
    from quantvla_ros.kernels.triton_kernels import packed_matmul_kernel

    if group % _SMALLEST_GROUP:
        raise BackendError(
            f'group: expected a multiple of {_SMALLEST_GROUP} columns on a GPU, found {group}'
        )
    count, columns = q.shape
    outputs, half = weight_packed.shape
    y = torch.empty((count, outputs), dtype=dtype, device=q.device) if out is None else out
    tile = within(tile, group) if tile else _tile_on(count, outputs, q.device, True, group)
    vectors = [v if v is None else v.contiguous() for v in (weight_scale, bias)]
    # A row of packed weights may start at half of what 16-byte loads ask for.
    unit = math.gcd(half, 16)
    grid = (-(-count // tile.rows) * -(-outputs // tile.outputs),)
    with _on(q.device):
        packed_matmul_kernel[grid](
            q,
            weight_packed,
            weight_packed if group_scale is None else group_scale,
            scale,
            vectors[0],
            vectors[0] if bias is None else vectors[1],
            y,
            count,
            outputs,
            half // unit,
            UNIT=unit,
            GROUP=group,
            SCALE_SUMS=tile.rows <= 64,
            HAS_BIAS=bias is not None,
            EVEN_K=columns % tile.columns == 0,
            PTX=q.device.type == 'cuda',
            BLOCK_M=tile.rows,
            BLOCK_N=tile.outputs,
            BLOCK_J=tile.columns // 2,
            num_warps=tile.warps,
            num_stages=tile.stages,
        )
    return y


@functools.lru_cache(maxsize=4096)
def _tile_on(
    rows: int, outputs: int, device: torch.device, packed: bool = False, group: int = 0
) -> Tile:
    processors, shared = _gpu(device)
    return choose_tile(
        rows, outputs, processors=processors, shared=shared, packed=packed, group=group
    )


@functools.cache
def _gpu(device: torch.device) -> tuple[int, int]:
    """Multiprocessors, and bytes of shared memory that one program may use."""
    if device.type == 'cpu':
        return 8, 99 * 1024
    properties = torch.cuda.get_device_properties(device)
    shared = properties.shared_memory_per_block_optin  # type: ignore[attr-defined]
    return properties.multi_processor_count, shared


def _on(device: torch.device) -> torch.cuda.device:
    """Context with `device` current, as a launch needs it."""
    return torch.cuda.device(device if device.type == 'cuda' else -1)


def _interpreted() -> bool:
    return os.environ.get('TRITON_INTERPRET', '0') in ('1', 'true', 'on')
