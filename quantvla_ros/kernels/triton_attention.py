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
import triton.language as tl
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
from quantvla_ros.kernels.triton_int8 import _gpu
from quantvla_ros.kernels.triton_start import release, wait

_LOG2_E = 1.4426950408889634


@triton.jit
def _loaded(at, columns, D: tl.constexpr, WHOLE: tl.constexpr, UPCAST: tl.constexpr):
    """Numbers of a head's columns, those beyond its size zero."""
    if WHOLE:
        x = tl.load(at)
    else:
        x = tl.load(at, mask=columns < D, other=0.0)
    if UPCAST:
        return x.to(tl.float32)
    else:
        return x


@triton.jit
def _described(descriptor, row, column, UPCAST: tl.constexpr):
    """A block of rows of one head, fetched by the unit that reads descriptors."""
    x = descriptor.load([row, column])
    if UPCAST:
        return x.to(tl.float32)
    else:
        return x


@triton.jit
def _weighed(logits, largest, total, scale):
    """Weights of a block, what remains of the sums before it, and the new largest and total."""
    larger = tl.maximum(largest, tl.max(logits, axis=1))
    base = tl.where(larger == float('-inf'), 0.0, larger * scale)
    # As one multiplication and addition; the scale is above 0, so the order of logits stays.
    weights = tl.exp2(logits * scale - base[:, None])
    shrunk = tl.exp2(largest * scale - base)
    return weights, shrunk, larger, total * shrunk + tl.sum(weights, axis=1)


@triton.jit
def _ratio(sums, total):
    """Sums over the sum of weights; NaN where there was nothing to sum."""
    return sums / tl.where(total > 0.0, total, float('nan'))[:, None]


@triton.jit
def attention_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    count_ptr,
    part_ptr,
    counter_ptr,
    k_desc,
    v_desc,
    M,
    T,
    q_stride,
    k_stride,
    v_stride,
    scale,
    KV: tl.constexpr,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    WIDE: tl.constexpr,
    REST: tl.constexpr,
    COUNTED: tl.constexpr,
    CAUSAL: tl.constexpr,
    OWN: tl.constexpr,
    UPCAST: tl.constexpr,
    PRECISION: tl.constexpr,
    SPLITS: tl.constexpr,
    AFTER: tl.constexpr,
    WHOLE: tl.constexpr,
    DESCRIBED: tl.constexpr,
    LAST_STAGES: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    AHEAD: tl.constexpr,
):
    """One program per ROWS rows of queries, key head and segment, and split of the keys.

    q [segments M, KV GROUP, D], k and v [segments T, KV, D], rows a stride apart, heads side by
    side; out [segments M, KV GROUP D]. Of the first `count` keys, at count_ptr if COUNTED, else T.

    A part is SPLITS times rows of sums (WIDE + REST columns), largest logit and sum of weights.
    Where WHOLE, blocks of keys that every row sees come first, in a loop of their own, DESCRIBED
    by k_desc and v_desc; the few others go through LAST_STAGES.
    """
    wait(AHEAD)
    tile = tl.program_id(0)
    group = tl.program_id(1)
    split = tl.program_id(2)
    head = group % KV
    segment = group // KV
    row = tile * ROWS + tl.arange(0, ROWS)
    query = row // GROUP
    there = query < M
    # Rows beyond the edge read query 0; they are never stored.
    query = tl.where(there, query, 0)
    lane = (head * GROUP + row % GROUP) * D
    wide = tl.arange(0, WIDE)
    q_at = q_ptr + ((segment * M + query) * q_stride + lane)[:, None]
    q = _loaded(q_at + wide[None, :], wide[None, :], D, WIDE <= D, UPCAST)
    k_head = k_ptr + segment * T * k_stride + head * D
    v_head = v_ptr + segment * T * v_stride + head * D
    sums = tl.zeros((ROWS, WIDE), dtype=tl.float32)
    if REST > 0:
        rest = WIDE + tl.arange(0, REST)
        q_rest = _loaded(q_at + rest[None, :], rest[None, :], D, WIDE + REST == D, UPCAST)
        sums_rest = tl.zeros((ROWS, REST), dtype=tl.float32)

    count = T
    if COUNTED:
        count = tl.minimum(tl.load(count_ptr), T)
    if CAUSAL:
        count = tl.minimum(count, (tile * ROWS + ROWS - 1) // GROUP + 1)
    start = 0
    end = count
    if SPLITS > 1:
        share = tl.cdiv(tl.cdiv(count, KEYS), SPLITS) * KEYS
        start = split * share
        end = tl.minimum(start + share, count)

    largest = tl.full((ROWS,), float('-inf'), dtype=tl.float32)
    total = tl.zeros((ROWS,), dtype=tl.float32)
    whole = start
    if WHOLE:
        # Blocks of keys that every row sees need no masks.
        common = end
        if CAUSAL:
            common = tl.minimum(end, tile * ROWS // GROUP + 1)
        whole = start + tl.maximum(common - start, 0) // KEYS * KEYS
        for block in range(start, whole, KEYS):
            if DESCRIBED:
                place = segment * T + block
                k = tl.trans(_described(k_desc, place, head * D, UPCAST))
                v = _described(v_desc, place, head * D, UPCAST)
            else:
                at = block + tl.arange(0, KEYS)
                k_at = k_head + (at * k_stride)[None, :]
                v_at = v_head + (at * v_stride)[:, None]
                k = _loaded(k_at + wide[:, None], wide[:, None], D, WIDE <= D, UPCAST)
            logits = tl.dot(q, k, input_precision=PRECISION)
            if REST > 0:
                k = _loaded(k_at + rest[:, None], rest[:, None], D, WIDE + REST == D, UPCAST)
                logits = tl.dot(q_rest, k, logits, input_precision=PRECISION)
            weights, shrunk, largest, total = _weighed(logits, largest, total, scale)
            if not DESCRIBED:
                v = _loaded(v_at + wide[None, :], wide[None, :], D, WIDE <= D, UPCAST)
            weights = weights.to(v.dtype)
            sums = tl.dot(weights, v, sums * shrunk[:, None], input_precision=PRECISION)
            if REST > 0:
                v = _loaded(v_at + rest[None, :], rest[None, :], D, WIDE + REST == D, UPCAST)
                sums_rest = tl.dot(
                    weights, v, sums_rest * shrunk[:, None], input_precision=PRECISION
                )
    for block in tl.range(whole, end, KEYS, num_stages=LAST_STAGES):
        key = block + tl.arange(0, KEYS)
        inside = key < end
        # Keys beyond the edge read key 0, which every row sees, and weigh nothing.
        at = tl.where(inside, key, 0)
        k_at = k_head + (at * k_stride)[None, :]
        k = _loaded(k_at + wide[:, None], wide[:, None], D, WIDE <= D, UPCAST)
        logits = tl.dot(q, k, input_precision=PRECISION)
        if REST > 0:
            k = _loaded(k_at + rest[:, None], rest[:, None], D, WIDE + REST == D, UPCAST)
            logits = tl.dot(q_rest, k, logits, input_precision=PRECISION)
        visible = inside[None, :]
        if CAUSAL:
            visible = visible & (key[None, :] <= query[:, None])
        if OWN > 0:
            visible = visible & ((key[None, :] >= OWN) | (key[None, :] <= query[:, None]))
        logits = tl.where(visible, logits, float('-inf'))
        weights, shrunk, largest, total = _weighed(logits, largest, total, scale)
        v_at = v_head + (at * v_stride)[:, None]
        v = _loaded(v_at + wide[None, :], wide[None, :], D, WIDE <= D, UPCAST)
        weights = weights.to(v.dtype)
        sums = tl.dot(weights, v, sums * shrunk[:, None], input_precision=PRECISION)
        if REST > 0:
            v = _loaded(v_at + rest[None, :], rest[None, :], D, WIDE + REST == D, UPCAST)
            sums_rest = tl.dot(
                weights, v, sums_rest * shrunk[:, None], input_precision=PRECISION
            )

    release(AHEAD)
    out_at = out_ptr + ((segment * M + query) * (KV * GROUP * D) + lane)[:, None]
    kind = out_ptr.dtype.element_ty
    if SPLITS == 1:
        mask = there[:, None] & (wide[None, :] < D)
        tl.store(out_at + wide[None, :], _ratio(sums, total).to(kind), mask=mask)
        if REST > 0:
            mask = there[:, None] & (rest[None, :] < D)
            tl.store(out_at + rest[None, :], _ratio(sums_rest, total).to(kind), mask=mask)
    else:
        tiles = tl.num_programs(0) * tl.num_programs(1)
        corner = group * tl.num_programs(0) + tile
        part = part_ptr + corner * ROWS * (WIDE + REST + 2)
        stride = tiles * ROWS * (WIDE + REST + 2)
        lanes = tl.arange(0, ROWS)
        mine = part + split * stride
        heads = ROWS * (WIDE + REST) + lanes
        sums_at = lanes[:, None] * WIDE + wide[None, :]
        tl.store(mine + sums_at, sums)
        if REST > 0:
            rest_at = ROWS * WIDE + lanes[:, None] * REST + tl.arange(0, REST)[None, :]
            tl.store(mine + rest_at, sums_rest)
        tl.store(mine + heads, largest * scale)
        tl.store(mine + heads + ROWS, total)
        if not AFTER:
            # All threads have written before one of them says so.
            tl.debug_barrier()
            before = tl.atomic_add(counter_ptr + corner, 1, sem='acq_rel')
            if before == SPLITS - 1:
                tl.store(counter_ptr + corner, 0)
                largest = tl.full((ROWS,), float('-inf'), dtype=tl.float32)
                for other in tl.static_range(SPLITS):
                    found = tl.load(part + other * stride + heads, cache_modifier='.cg')
                    # A maximum drops NaN; the sum of the weights keeps it.
                    largest = tl.maximum(largest, found)
                base = tl.where(largest == float('-inf'), 0.0, largest)
                total = tl.zeros((ROWS,), dtype=tl.float32)
                sums = tl.zeros((ROWS, WIDE), dtype=tl.float32)
                if REST > 0:
                    sums_rest = tl.zeros((ROWS, REST), dtype=tl.float32)
                for other in tl.static_range(SPLITS):
                    theirs = part + other * stride
                    shrunk = tl.exp2(tl.load(theirs + heads, cache_modifier='.cg') - base)
                    total += shrunk * tl.load(theirs + heads + ROWS, cache_modifier='.cg')
                    sums += shrunk[:, None] * tl.load(theirs + sums_at, cache_modifier='.cg')
                    if REST > 0:
                        found = tl.load(theirs + rest_at, cache_modifier='.cg')
                        sums_rest += shrunk[:, None] * found
                mask = there[:, None] & (wide[None, :] < D)
                tl.store(out_at + wide[None, :], _ratio(sums, total).to(kind), mask=mask)
                if REST > 0:
                    mask = there[:, None] & (rest[None, :] < D)
                    tl.store(out_at + rest[None, :], _ratio(sums_rest, total).to(kind), mask=mask)


@triton.jit
def join_kernel(
    out_ptr,
    part_ptr,
    M,
    KV: tl.constexpr,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    WIDE: tl.constexpr,
    REST: tl.constexpr,
    SPLITS: tl.constexpr,
    PLACES: tl.constexpr,
    ROWS: tl.constexpr,
    AHEAD: tl.constexpr,
):
    """One program per row of queries, key head and segment: joins the parts that were left AFTER.

    PLACES is a power of two from SPLITS up.
    """
    release(AHEAD)
    wait(AHEAD)
    row = tl.program_id(0)
    group = tl.program_id(1)
    tiles = tl.cdiv(tl.num_programs(0), ROWS)
    lane = row % ROWS
    split = tl.arange(0, PLACES)
    there = split < SPLITS
    length = ROWS * (WIDE + REST + 2)
    mine = part_ptr + (group * tiles + row // ROWS) * length
    theirs = mine + split * (tiles * tl.num_programs(1) * length)
    heads = theirs + ROWS * (WIDE + REST) + lane
    largest = tl.load(heads, mask=there, other=float('-inf'))
    total = tl.load(heads + ROWS, mask=there, other=0.0)
    wide = tl.arange(0, WIDE)
    at = theirs[:, None] + lane * WIDE + wide[None, :]
    sums = tl.load(at, mask=there[:, None], other=0.0)
    # A maximum drops NaN; the sum of the weights keeps it.
    base = tl.max(largest, axis=0)
    base = tl.where(base == float('-inf'), 0.0, base)
    shrunk = tl.exp2(largest - base)
    total = tl.sum(shrunk * total, axis=0)
    total = tl.where(total > 0.0, total, float('nan'))
    head, segment = group % KV, group // KV
    out_at = out_ptr + (segment * M + row // GROUP) * (KV * GROUP * D)
    out_at += (head * GROUP + row % GROUP) * D
    kind = out_ptr.dtype.element_ty
    y = tl.sum(shrunk[:, None] * sums, axis=0) / total
    tl.store(out_at + wide, y.to(kind), mask=wide < D)
    if REST > 0:
        rest = tl.arange(0, REST)
        at = theirs[:, None] + ROWS * WIDE + lane * REST + rest[None, :]
        sums = tl.load(at, mask=there[:, None], other=0.0)
        y = tl.sum(shrunk[:, None] * sums, axis=0) / total
        tl.store(out_at + WIDE + rest, y.to(kind), mask=WIDE + rest < D)


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
                PLACES=triton.next_power_of_2(tile.splits),
                ROWS=tile.rows,
                num_warps=4,
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
