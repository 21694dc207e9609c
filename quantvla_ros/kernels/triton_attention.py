# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Softmax attention of grouped heads on a GPU, over exact numbers of keys.

Knows tensors and sizes; knows nothing of models or recipes. Needs triton, so it is imported where
attention is launched. `fused_reference` defines the result.

The softmax is computed block by block of keys (FlashAttention, arXiv 2205.14135). The query heads
that share a key head are rows of one product, so 50 queries of 8 heads on one key head are 400 rows
and the keys are read once for them. Where there are few rows the keys are split among programs
(Flash-Decoding). The last program to finish joins the parts, so that it stays one kernel, through
`counters` that each launch leaves at zero. Or, as the tile says, a second kernel joins them, with
more programs than one.

A row that sees no key, or only values that are not numbers, is NaN.
"""
from __future__ import annotations

import functools

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from quantvla_ros.errors import BackendError
from quantvla_ros.kernels.attention_tiles import (
    COUNTERS,
    KINDS,
    Attention,
    AttentionTile,
    choose_attention_tile,
    head_parts,
)
from quantvla_ros.kernels.counters import counters
from quantvla_ros.kernels.gpu import gpu_of, launch_options
from quantvla_ros.kernels.tile_table import best_attention_tile
from quantvla_ros.kernels.triton_attention_kernels import attention_kernel, join_kernel
from quantvla_ros.kernels.triton_int8 import _gpu

_LOG2_E = 1.4426950408889634


def attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    count: int | Tensor | None = None,
    causal: bool = False,
    own: int = 0,
    scale: float,
    segment: int | None = None,
    out: Tensor | None = None,
    tile: AttentionTile | None = None,
) -> Tensor:
    """`fused_reference.attention` in one kernel, or two.

    Args:
        queries, keys, values: rows may lie further apart than they are long (parts of one product);
            heads side by side.
        tile: instead of the chosen one (for tuning).
    Raises:
        BackendError: shapes, strides or dtypes that do not fit, or a scale that is not above 0.
    """
    rows, heads, size = queries.shape
    total, kv_heads = keys.shape[:2]
    _check(queries, keys, values, count, causal, own, scale, segment, out)
    segments = 1
    if segment is not None:
        segments, rows, total = rows // segment, segment, segment
    group = heads // kv_heads
    device = queries.device
    if out is None:
        out = torch.empty(
            (queries.shape[0], heads * size), dtype=queries.dtype, device=device
        )
    counted = isinstance(count, Tensor)
    if isinstance(count, int):
        total = min(total, count)
    element = queries.element_size()
    kind = str(queries.dtype).removeprefix('torch.')
    shape = Attention(kind, rows, total, heads, kv_heads, size, segments, causal)
    tile = tile or _tile_on(shape, device)
    wide, rest = head_parts(size)
    whole = tile.whole and not own  # of its own keys no query sees all
    described = whole and tile.described and _can_be_described(keys, values)
    tiles = triton.cdiv(rows * group, tile.rows)
    part, counting = queries, queries
    if tile.splits > 1:
        if not tile.after:
            counting = _counters(device)
        if not tile.after and tiles * kv_heads * segments > COUNTERS:
            raise BackendError(
                f'attention: expected at most {COUNTERS} tiles to join, found '
                f'{tiles * kv_heads * segments}'
            )
        part = torch.empty(
            tile.splits * tiles * kv_heads * segments * tile.rows * (wide + rest + 2),
            dtype=torch.float32,
            device=device,
        )
    with torch.cuda.device(device if device.type == 'cuda' else -1):
        attention_kernel[(tiles, kv_heads * segments, tile.splits)](
            queries,
            keys,
            values,
            out,
            count if counted else queries,
            part,
            counting,
            _blocks(keys, tile.keys) if described else None,
            _blocks(values, tile.keys) if described else None,
            rows,
            total,
            queries.stride(0),
            keys.stride(0),
            values.stride(0),
            scale * _LOG2_E,
            KV=kv_heads,
            GROUP=group,
            D=size,
            WIDE=wide,
            REST=rest,
            COUNTED=counted,
            CAUSAL=causal,
            OWN=own,
            # The interpreter multiplies the bits of 16-bit numbers.
            UPCAST=device.type == 'cpu' and element == 2,
            PRECISION='tf32x3' if element == 4 else 'tf32',
            SPLITS=tile.splits,
            AFTER=tile.after,
            WHOLE=whole,
            DESCRIBED=described,
            # A second loop of one stage loads through registers, one of two needs more memory.
            LAST_STAGES=min(2, tile.stages) if whole else None,
            ROWS=tile.rows,
            KEYS=tile.keys,
            num_warps=tile.warps,
            num_stages=tile.stages,
            enable_fp_fusion=True,  # from Triton 3.10 on it must be asked for
            **launch_options(device, queries.shape[0]),
        )
        if tile.splits > 1 and tile.after:
            join_kernel[(rows * group, kv_heads * segments)](
                out,
                part,
                rows,
                KV=kv_heads,
                GROUP=group,
                D=size,
                WIDE=wide,
                REST=rest,
                SPLITS=tile.splits,
                ROWS=tile.rows,
                num_warps=max(1, wide // 128),  # four columns a thread
                **launch_options(device, queries.shape[0]),
            )
    return out


def _can_be_described(keys: Tensor, values: Tensor) -> bool:
    """Whether the unit that reads descriptors can: of the GPU, and by where the rows lie."""
    size, device = keys.shape[2], keys.device
    if device.type == 'cuda' and gpu_of(device).capability < (9, 0):
        return False
    if size & (size - 1) or size < 16:
        return False
    return all(
        t.data_ptr() % 16 == 0 and t.stride(0) * t.element_size() % 16 == 0
        for t in (keys, values)
    )


def _blocks(x: Tensor, rows: int) -> TensorDescriptor:
    """Blocks of rows of one head."""
    total, heads, size = x.shape
    return TensorDescriptor(x, [total, heads * size], [x.stride(0), 1], [rows, size])


def _check(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    count: int | Tensor | None,
    causal: bool,
    own: int,
    scale: float,
    segment: int | None,
    out: Tensor | None,
) -> None:
    """Raise BackendError for what the kernel would misread."""
    rows, heads, size = queries.shape
    total, kv_heads = keys.shape[:2]
    if keys.shape[2] != size or values.shape != keys.shape or heads % kv_heads or size > 256:
        raise BackendError(
            f'attention: expected queries [M, heads, D], keys and values [T, kv_heads, D], D up to '
            f'256, found {list(queries.shape)}, {list(keys.shape)}, {list(values.shape)}'
        )
    if rows == 0 or total == 0:
        raise BackendError(f'attention: expected queries and keys, found {rows} and {total}')
    for name, tensor in (('queries', queries), ('keys', keys), ('values', values)):
        if tensor.stride(2) != 1 or (tensor.shape[1] > 1 and tensor.stride(1) != size):
            raise BackendError(
                f'attention: expected the heads of {name} side by side, found strides '
                f'{tensor.stride()}'
            )
        if tensor.dtype != queries.dtype:
            raise BackendError(
                f'attention: expected {name} {queries.dtype} as the queries, found {tensor.dtype}'
            )
    if isinstance(count, Tensor) and (count.dtype != torch.int32 or count.numel() != 1):
        raise BackendError(
            f'attention: expected count int32 [] or [1], found {count.dtype} {list(count.shape)}'
        )
    if isinstance(count, int) and not 0 < count <= total:
        raise BackendError(f'attention: expected count 1 to {total}, found {count}')
    if not scale > 0:
        raise BackendError(f'attention: expected a scale above 0, found {scale}')
    if own and causal:
        raise BackendError('attention: expected causal or keys of its own, found both')
    limited = count is not None or causal or own
    if segment is not None and (limited or rows != total or rows % segment):
        raise BackendError(
            f'attention: expected as many queries as keys in segments of {segment}, without '
            f'count or causal; found {rows} and {total}, count {count}, causal {causal}'
        )
    if out is not None and (out.shape != (rows, heads * size) or not out.is_contiguous()):
        raise BackendError(
            f'attention: expected out [{rows}, {heads * size}], contiguous, found '
            f'{list(out.shape)} with strides {out.stride()}'
        )


@functools.lru_cache(maxsize=1024)
def _tile_on(shape: Attention, device: torch.device) -> AttentionTile:
    if device.type == 'cuda':
        return best_attention_tile(shape, gpu_of(device))
    processors, shared = _gpu(device)
    return choose_attention_tile(
        shape.rows, shape.keys, shape.groups, shape.size, KINDS[shape.kind],
        processors=processors, shared=shared,
    )  # fmt: skip


def _counters(device: torch.device) -> Tensor:
    """[COUNTERS] int32 zeros that outlive the launch."""
    return counters(COUNTERS, device)
