# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The GPU kernels of the fused products, in Triton: one product with what follows it.

Knows pointers and sizes; knows nothing of tensors, devices or tile choice (see
`triton_gemm_launch`, the only importer: this module needs triton). `fused_reference` defines what
they compute.

A program makes a tile of rows x outputs. Where two rows of the weight make one output (gate and up,
or the two halves of a head that rotary embedding mixes), the first ones fill the first half of the
tile and the second ones the other: one product, whose sums are then taken apart. With few rows or
packed weights the weights are the left operand (LEFT): the matrix instruction's long side then goes
along the outputs, and packed weights go from registers into it.

With SPLIT > 1 several programs share the columns of a tile; each leaves its sums in a workspace and
`reduce_kernel` adds them in a fixed order, so the result does not depend on who came first.
"""
import triton
import triton.language as tl

from quantvla_ros.kernels.triton_kernels import _halves, _scaled_halves
from quantvla_ros.kernels.triton_start import release, wait


@triton.jit
def _outputs(tile, PAIR: tl.constexpr, BLOCK_N: tl.constexpr):
    """The outputs of a tile, for each row of the weight in it, and those rows.

    PAIR is the distance of the two rows that make an output; 0: one row does.
    """
    places = tl.arange(0, BLOCK_N)
    if PAIR == 0:
        outputs = tile * BLOCK_N + places
        return outputs, outputs
    else:
        HALF: tl.constexpr = BLOCK_N // 2
        outputs = tile * HALF + places % HALF
        return outputs, _first(outputs, PAIR) + (places // HALF) * PAIR


@triton.jit
def _first(outputs, PAIR: tl.constexpr):
    """The first of the two rows of the weight that make an output."""
    return (outputs // PAIR) * (2 * PAIR) + outputs % PAIR


@triton.jit
def _tails_last(tile, tiles_m, tiles_n, TAIL: tl.constexpr):
    """The tile of rows and that of outputs of a program, if the last tile of rows is less work.

    Long programs before short ones, so that all end together; but only for the last TAIL tiles of
    outputs, whose weights are still in the L2 when the short ones come.
    """
    early = tiles_n - tl.minimum(TAIL, tiles_n)
    late = tile - early * tiles_m
    longer = (tiles_n - early) * (tiles_m - 1)
    if late < 0:
        row_tile, output_tile = tile % tiles_m, tile // tiles_m
    elif late < longer:
        row_tile, output_tile = late % (tiles_m - 1), early + late // (tiles_m - 1)
    else:
        row_tile, output_tile = tiles_m - 1, early + late - longer
    return row_tile, output_tile


@triton.jit
def _parted(sums, LEFT: tl.constexpr):
    """Both halves of a tile along its outputs."""
    if LEFT:
        sums = tl.reshape(sums, (2, sums.shape[0] // 2, sums.shape[1]))
        return tl.split(tl.permute(sums, (1, 2, 0)))
    else:
        sums = tl.reshape(sums, (sums.shape[0], 2, sums.shape[1] // 2))
        return tl.split(tl.permute(sums, (0, 2, 1)))


@triton.jit
def _along_rows(x, LEFT: tl.constexpr):
    """A vector over the rows of a tile, to be spread over its outputs."""
    if LEFT:
        return x[None, :]
    else:
        return x[:, None]


@triton.jit
def _along_outputs(x, LEFT: tl.constexpr):
    """A vector over the outputs of a tile, to be spread over its rows."""
    if LEFT:
        return x[:, None]
    else:
        return x[None, :]


@triton.jit
def _products(
    x_ptr,
    weight_ptr,
    x_rows,
    w_rows,
    start,
    stop,
    K,
    INTEGER: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
    EVEN_K: tl.constexpr,
    LEFT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Sums over columns start to stop of x [M, K] by rows of weight [N, K]."""
    SUM: tl.constexpr = tl.int32 if INTEGER else tl.float32
    columns = tl.arange(0, BLOCK_K)
    # The columns lie across a left operand and down a right one.
    x_columns, w_columns = _along_outputs(columns, LEFT), _along_rows(columns, LEFT)
    x_at = x_ptr + _along_rows(x_rows * K, LEFT) + (x_columns + start)
    w_at = weight_ptr + _along_outputs(w_rows * K, LEFT) + (w_columns + start)
    if LEFT:
        sums = tl.zeros((BLOCK_N, BLOCK_M), dtype=SUM)
    else:
        sums = tl.zeros((BLOCK_M, BLOCK_N), dtype=SUM)
    for at in range(start, stop, BLOCK_K):
        if EVEN_K:
            x = tl.load(x_at)
            w = tl.load(w_at)
        else:
            x = tl.load(x_at, mask=x_columns < K - at, other=0)
            w = tl.load(w_at, mask=w_columns < K - at, other=0)
        sums = _dot(x, w, sums, LEFT, SUM, PRECISION, WIDEN)
        x_at += BLOCK_K
        w_at += BLOCK_K
    return sums


@triton.jit
def _bulk_products(
    x_tiles,
    w_tiles,
    row,
    tile,
    start,
    stop,
    INTEGER: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
    PAIR: tl.constexpr,
    LEFT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """The same through descriptors: one instruction asks for a tile, and zeros lie beyond the edge.

    Where two rows of the weight make an output, its descriptor is [2, rows, K]: the first ones, and
    those PAIR rows on. Only with PAIR 1 are there as many of them as outputs.
    """
    SUM: tl.constexpr = tl.int32 if INTEGER else tl.float32
    if LEFT:
        sums = tl.zeros((BLOCK_N, BLOCK_M), dtype=SUM)
    else:
        sums = tl.zeros((BLOCK_M, BLOCK_N), dtype=SUM)
    for at in range(start, stop, BLOCK_K):
        x = x_tiles.load([row, at])
        w = _bulk_weights(w_tiles, tile, at, PAIR, BLOCK_N, BLOCK_K)
        if LEFT:
            sums = _dot(x.T, w, sums, LEFT, SUM, PRECISION, WIDEN)
        else:
            sums = _dot(x, w.T, sums, LEFT, SUM, PRECISION, WIDEN)
    return sums


@triton.jit
def _bulk_weights(
    w_tiles, tile, at, PAIR: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr
):
    """A tile of weights [BLOCK_N, BLOCK_K] through its descriptor."""
    if PAIR == 0:
        return w_tiles.load([tile * BLOCK_N, at])
    else:
        output = tile * (BLOCK_N // 2)
        if PAIR == 1:
            w = w_tiles.load([0, output, at])
        else:
            w = w_tiles.load([0, _first(output, PAIR), at])
        return tl.reshape(w, (BLOCK_N, BLOCK_K))


@triton.jit
def _early_weights(
    weight_ptr,
    w_rows,
    tile,
    start,
    K,
    PAIR: tl.constexpr,
    EVEN_K: tl.constexpr,
    BULK: tl.constexpr,
    LEFT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """All weights of a program that has one step, as its product takes them."""
    if BULK:
        w = _bulk_weights(weight_ptr, tile, start, PAIR, BLOCK_N, BLOCK_K)
        if LEFT:
            return w
        else:
            return w.T
    else:
        columns = _along_rows(start + tl.arange(0, BLOCK_K), LEFT)
        at = weight_ptr + _along_outputs(w_rows * K, LEFT) + columns
        if EVEN_K:
            return tl.load(at)
        else:
            return tl.load(at, mask=columns < K, other=0)


@triton.jit
def _at_once(
    x_ptr,
    w,
    x_rows,
    row,
    start,
    K,
    INTEGER: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
    EVEN_K: tl.constexpr,
    BULK: tl.constexpr,
    LEFT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Sums over BLOCK_K columns of x from start on, by the weights of `_early_weights`."""
    SUM: tl.constexpr = tl.int32 if INTEGER else tl.float32
    if LEFT:
        sums = tl.zeros((BLOCK_N, BLOCK_M), dtype=SUM)
    else:
        sums = tl.zeros((BLOCK_M, BLOCK_N), dtype=SUM)
    if BULK:
        x = x_ptr.load([row, start])
        if LEFT:
            x = x.T
    else:
        columns = _along_outputs(start + tl.arange(0, BLOCK_K), LEFT)
        at = x_ptr + _along_rows(x_rows * K, LEFT) + columns
        if EVEN_K:
            x = tl.load(at)
        else:
            x = tl.load(at, mask=columns < K, other=0)
    return _dot(x, w, sums, LEFT, SUM, PRECISION, WIDEN)


@triton.jit
def _dot(
    x,
    w,
    sums,
    LEFT: tl.constexpr,
    SUM: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    if WIDEN:  # the interpreter multiplies the bits of bfloat16 as integers
        x, w = x.to(tl.float32), w.to(tl.float32)
    if LEFT:
        return tl.dot(w, x, sums, out_dtype=SUM, input_precision=PRECISION)
    else:
        return tl.dot(x, w, sums, out_dtype=SUM, input_precision=PRECISION)


@triton.jit
def _packed_products(
    x_ptr,
    weight_ptr,
    group_scale_ptr,
    x_rows,
    w_rows,
    start,
    stop,
    K,
    GROUP: tl.constexpr,
    SCALE_SUMS: tl.constexpr,
    PTX: tl.constexpr,
    EVEN_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """The same with packed weights as `halves` orders them, the weights being the left operand.

    A step stays within a group: its scale multiplies the step's sums, where those are fewer than
    the weights (SCALE_SUMS), or the weights. Without groups the sums are 16 times what they are.
    """
    width = tl.cdiv(K, 64) * 32
    bytes_ = tl.arange(0, BLOCK_K // 2)
    low_columns = (bytes_ // 32) * 64 + bytes_ % 32
    low_at = x_ptr + x_rows[None, :] * K + (low_columns + start)[:, None]
    w_at = weight_ptr + w_rows[:, None] * width + (bytes_ + start // 2)[None, :]
    sums = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.int32)
    if GROUP > 0:
        group_at = group_scale_ptr + w_rows * tl.cdiv(K, GROUP)
    for at in range(start, stop, BLOCK_K):
        if EVEN_K:
            low_x = tl.load(low_at)
            high_x = tl.load(low_at + 32)
            w = tl.load(w_at)
        else:
            # Weights beyond the edge are whatever they are: they meet zeros.
            low_x = tl.load(low_at, mask=low_columns[:, None] < K - at, other=0)
            high_x = tl.load(low_at + 32, mask=low_columns[:, None] + 32 < K - at, other=0)
            w = tl.load(w_at, mask=bytes_[None, :] < width - at // 2, other=0)
        if GROUP == 0:
            low, high = _halves(w, PTX)
            sums = tl.dot(low, low_x, sums, out_dtype=tl.int32)
            sums = tl.dot(high, high_x, sums, out_dtype=tl.int32)
        else:
            scale = tl.load(group_at + at // GROUP)
            if SCALE_SUMS:
                low, high = _halves(w, PTX)
                part = tl.dot(low, low_x, out_dtype=tl.int32)
                part = tl.dot(high, high_x, part, out_dtype=tl.int32)
                sums += (part >> 4) * scale.to(tl.int32)[:, None]
            else:
                low, high = _scaled_halves(w, tl.broadcast_to(scale[:, None], w.shape), PTX)
                sums = tl.dot(low, low_x, sums, out_dtype=tl.int32)
                sums = tl.dot(high, high_x, sums, out_dtype=tl.int32)
        low_at += BLOCK_K
        w_at += BLOCK_K // 2
    return sums


@triton.jit
def _fetch(
    weight_ptr,
    w_rows,
    width,
    start,
    stop,
    BYTES: tl.constexpr,
):
    """Ask for a tile's weights in the L2: bytes start to stop of rows of `width` elements.

    Weights depend on nothing that runs, so they are on their way before the kernel's turn comes.
    """
    at = weight_ptr.to(tl.pointer_type(tl.int8)) + (w_rows * width * BYTES)[:, None]
    lines = tl.arange(0, 8) * 128
    for begin_at in range(start * BYTES, stop * BYTES, 8 * 128):
        # What lies beyond the end asks for the last byte again.
        line = at + tl.minimum(begin_at + lines, stop * BYTES - 1)[None, :]
        tl.inline_asm_elementwise(
            'prefetch.global.L2 [$1]; mov.b32 $0, 0;',
            '=r,l',
            [line],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )


@triton.jit
def _factors(
    w_rows, scale_ptr, bias_ptr, N, KIND: tl.constexpr, HAS_BIAS: tl.constexpr
):
    """What belongs to the outputs of a tile: scales and bias, one and zero where there is none."""
    scale, bias = 1.0, 0.0
    if KIND != 'float':
        scale = tl.load(scale_ptr + w_rows, mask=w_rows < N, other=0.0)
    if HAS_BIAS:
        bias = tl.load(bias_ptr + w_rows, mask=w_rows < N, other=0.0).to(tl.float32)
    return scale, bias


@triton.jit
def _row_scales(rows, row_scale_ptr, M, KIND: tl.constexpr):
    """The scales of a tile's rows; one where rows have none."""
    row_scale = 1.0
    if KIND != 'float':
        row_scale = tl.load(row_scale_ptr + rows, mask=rows < M, other=0.0)
    return row_scale


@triton.jit
def _turns(
    rows,
    tile,
    cos_ptr,
    sin_ptr,
    M,
    N,
    PAIR: tl.constexpr,
    HEADS: tl.constexpr,
    LEFT: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Cosines and sines that mix the pairs of a tile of heads."""
    outputs = tile * (BLOCK_N // 2) + tl.arange(0, BLOCK_N // 2)
    turned = (outputs < N // 2) & (outputs // PAIR < HEADS)
    mixed = _along_rows(rows < M, LEFT) & _along_outputs(turned, LEFT)
    at = _along_rows(rows.to(tl.int64) * PAIR, LEFT) + _along_outputs(outputs % PAIR, LEFT)
    cos = tl.load(cos_ptr + at, mask=mixed, other=1.0)
    sin = tl.load(sin_ptr + at, mask=mixed, other=0.0)
    return cos, sin


@triton.jit
def _scaled(
    sums,
    row_scale,
    scale,
    bias,
    KIND: tl.constexpr,
    GROUP: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    LEFT: tl.constexpr,
):
    """Sums to float32 products: times the scales of row and output, plus the bias."""
    y = sums.to(tl.float32)
    if KIND != 'float':
        if KIND == 'int4' and GROUP == 0:
            y *= 0.0625  # the 16 of `_halves`; exact
        y = y * _along_rows(row_scale, LEFT) * _along_outputs(scale, LEFT)
    if HAS_BIAS:
        y += _along_outputs(bias, LEFT)
    return y


@triton.jit
def _activated(x, ACTIVATION: tl.constexpr):
    if ACTIVATION == 'gelu_tanh':
        # (1 + tanh u) / 2 is the sigmoid of 2 u, without a cancellation; 2 u in powers of two
        x = x / (1.0 + tl.exp2(x * (-2.3022081981 - 0.102943239580 * x * x)))
    elif ACTIVATION == 'silu':
        x = x * tl.sigmoid(x)
    elif ACTIVATION == 'relu':
        x = tl.where(x < 0.0, 0.0, x)  # a maximum would drop NaN
    return x


@triton.jit
def _finish(
    sums,
    rows,
    tile,
    row_scale,
    scale,
    bias,
    cos,
    sin,
    residual_ptr,
    gate_ptr,
    q_norm_ptr,
    k_norm_ptr,
    keys_ptr,
    values_ptr,
    start_ptr,
    y_ptr,
    M,
    N,
    start,
    eps,
    KIND: tl.constexpr,
    EPILOGUE: tl.constexpr,
    PAIR: tl.constexpr,
    GROUP: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    HAS_GATE: tl.constexpr,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    ROTARY: tl.constexpr,
    NORMED: tl.constexpr,
    START_ON_DEVICE: tl.constexpr,
    EARLY: tl.constexpr,
    LEFT: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """From the sums of a tile to what is stored, in float32 up to the store.

    `cos` and `sin` point to their tables; EARLY, they are what `_turns` has loaded.
    """
    _, w_rows = _outputs(tile, PAIR, BLOCK_N)
    y = _scaled(sums, row_scale, scale, bias, KIND, GROUP, HAS_BIAS, LEFT)
    places = _along_rows(rows.to(tl.int64), LEFT)
    if EPILOGUE == 'linear':
        y = _activated(y, ACTIVATION)
        at = places * N + _along_outputs(w_rows, LEFT)
        inside = _along_rows(rows < M, LEFT) & _along_outputs(w_rows < N, LEFT)
        if HAS_GATE:
            gate = tl.load(gate_ptr + w_rows, mask=w_rows < N, other=0.0).to(tl.float32)
            y *= _along_outputs(gate, LEFT)
        if HAS_RESIDUAL:
            y += tl.load(residual_ptr + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=inside)
    else:
        HALF: tl.constexpr = BLOCK_N // 2
        outputs = tile * HALF + tl.arange(0, HALF)
        inside = _along_rows(rows < M, LEFT) & _along_outputs(outputs < N // 2, LEFT)
        a, b = _parted(y, LEFT)
        if EPILOGUE == 'gated':
            y = _activated(a, ACTIVATION) * b
            at = places * (N // 2) + _along_outputs(outputs, LEFT)
            tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=inside)
        else:
            head, inner = outputs // PAIR, outputs % PAIR
            first_rows = _first(outputs, PAIR)
            turned = head < HEADS + KV_HEADS
            if NORMED:  # the tile's outputs are one head
                mean = tl.sum(a * a + b * b, axis=0 if LEFT else 1) / (2 * PAIR)
                inverse = tl.rsqrt(mean + eps)
                query, key = head < HEADS, turned & (head >= HEADS)
                gain = tl.load(q_norm_ptr + inner, mask=query, other=1.0).to(tl.float32)
                gain *= tl.load(k_norm_ptr + inner, mask=key, other=1.0).to(tl.float32)
                other = tl.load(q_norm_ptr + inner + PAIR, mask=query, other=1.0).to(tl.float32)
                other *= tl.load(k_norm_ptr + inner + PAIR, mask=key, other=1.0).to(tl.float32)
                inverse = tl.where(_along_outputs(turned, LEFT), _along_rows(inverse, LEFT), 1.0)
                a *= inverse * _along_outputs(gain, LEFT)
                b *= inverse * _along_outputs(other, LEFT)
            if ROTARY:
                if not EARLY:
                    cos, sin = _turns(
                        rows, tile, cos, sin, M, N, PAIR, HEADS + KV_HEADS, LEFT, BLOCK_N
                    )
                a, b = a * cos - b * sin, b * cos + a * sin
            if HEADS > 0:
                at = y_ptr + places * (HEADS * 2 * PAIR) + _along_outputs(first_rows, LEFT)
                mine = inside & _along_outputs(head < HEADS, LEFT)
                tl.store(at, a.to(y_ptr.dtype.element_ty), mask=mine)
                tl.store(at + PAIR, b.to(y_ptr.dtype.element_ty), mask=mine)
            if START_ON_DEVICE:
                places += tl.load(start_ptr)
            else:
                places += start
            at = places * (KV_HEADS * 2 * PAIR) + _along_outputs(first_rows, LEFT)
            at -= HEADS * 2 * PAIR
            mine = inside & _along_outputs(turned & (head >= HEADS), LEFT)
            tl.store(keys_ptr + at, a.to(keys_ptr.dtype.element_ty), mask=mine)
            tl.store(keys_ptr + at + PAIR, b.to(keys_ptr.dtype.element_ty), mask=mine)
            at -= KV_HEADS * 2 * PAIR
            mine = inside & _along_outputs(head >= HEADS + KV_HEADS, LEFT)
            tl.store(values_ptr + at, a.to(values_ptr.dtype.element_ty), mask=mine)
            tl.store(values_ptr + at + PAIR, b.to(values_ptr.dtype.element_ty), mask=mine)


@triton.jit(do_not_specialize=['M', 'start', 'eps'])
def gemm_kernel(
    x_ptr,
    weight_ptr,
    group_scale_ptr,
    sums_ptr,
    row_scale_ptr,
    scale_ptr,
    bias_ptr,
    residual_ptr,
    gate_ptr,
    cos_ptr,
    sin_ptr,
    q_norm_ptr,
    k_norm_ptr,
    keys_ptr,
    values_ptr,
    start_ptr,
    y_ptr,
    M,
    N,
    K,
    start,
    eps,
    tail_ptr,
    KIND: tl.constexpr,
    EPILOGUE: tl.constexpr,
    PAIR: tl.constexpr,
    GROUP: tl.constexpr,
    SCALE_SUMS: tl.constexpr,
    PTX: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    HAS_GATE: tl.constexpr,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    ROTARY: tl.constexpr,
    NORMED: tl.constexpr,
    START_ON_DEVICE: tl.constexpr,
    EVEN_K: tl.constexpr,
    SPLIT: tl.constexpr,
    UNFINISHED: tl.constexpr,
    AHEAD: tl.constexpr,
    BYTES: tl.constexpr,
    BULK: tl.constexpr,
    AT_ONCE: tl.constexpr,
    TAIL: tl.constexpr,
    LEFT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One program per tile (axis 0) and part of the columns (axis 1) of x [M, K] @ weight [N, K].T.

    Programs that share a block of weights run side by side, so the weights come from memory once.
    UNFINISHED, the sums are stored as they are: [SPLIT, M, N] int32 or float32. BULK: `x_ptr` and
    `weight_ptr` are descriptors of tiles (see `_bulk_products`). AHEAD, this kernel may start
    before the one it follows ends: it asks for its weights, of BYTES each, meanwhile. AT_ONCE, a
    program's columns are one step: then all that the kernel before has no part in is here by then.
    TAIL, the last tile of rows is half as high, as at most half of its rows exist: `tail_ptr` is a
    descriptor of such tiles, and their programs come last (see `_tails_last`).
    """
    EARLY: tl.constexpr = AT_ONCE and not UNFINISHED
    tiles_m = tl.cdiv(M, BLOCK_M)
    tile = tl.program_id(0)
    if TAIL > 0:
        row_tile, output_tile = _tails_last(tile, tiles_m, tl.cdiv(N, BLOCK_N), TAIL)
    else:
        row_tile, output_tile = tile % tiles_m, tile // tiles_m
    rows = row_tile * BLOCK_M + tl.arange(0, BLOCK_M)
    _, outputs = _outputs(output_tile, PAIR, BLOCK_N)
    # What lies beyond the edge reads row 0 instead of a mask per load; it is never stored.
    x_rows = tl.where(rows < M, rows, 0).to(tl.int64)
    w_rows = tl.where(outputs < N, outputs, 0).to(tl.int64)
    part = tl.program_id(1)
    length = tl.cdiv(tl.cdiv(K, BLOCK_K), SPLIT) * BLOCK_K
    first = part * length
    stop = tl.minimum(first + length, K)
    if AT_ONCE:
        w = _early_weights(
            weight_ptr,
            w_rows,
            output_tile,
            first,
            K,
            PAIR,
            EVEN_K,
            BULK,
            LEFT,
            BLOCK_N,
            BLOCK_K,
        )
    elif AHEAD and not BULK:
        if KIND == 'int4':
            _fetch(weight_ptr, w_rows, tl.cdiv(K, 64) * 32, first // 2, tl.cdiv(stop, 64) * 32, 1)
        else:
            _fetch(weight_ptr, w_rows, K, first, stop, BYTES)
    if EARLY:
        scale, bias = _factors(outputs, scale_ptr, bias_ptr, N, KIND, HAS_BIAS)
        cos, sin = cos_ptr, sin_ptr
        if ROTARY:
            cos, sin = _turns(
                rows, output_tile, cos, sin, M, N, PAIR, HEADS + KV_HEADS, LEFT, BLOCK_N
            )
    wait(AHEAD)
    release(AHEAD)
    if TAIL > 0:  # noqa: SIM102 (the second is asked at run time)
        if row_tile == tiles_m - 1:
            HALF: tl.constexpr = BLOCK_M // 2
            half_rows = row_tile * BLOCK_M + tl.arange(0, HALF)
            half = _bulk_products(
                tail_ptr,
                weight_ptr,
                row_tile * BLOCK_M,
                output_tile,
                first,
                stop,
                KIND == 'int8',
                PRECISION,
                WIDEN,
                PAIR,
                LEFT,
                HALF,
                BLOCK_N,
                BLOCK_K,
            )
            if not UNFINISHED:
                scale, bias = _factors(outputs, scale_ptr, bias_ptr, N, KIND, HAS_BIAS)
                _finish(
                    half,
                    half_rows,
                    output_tile,
                    _row_scales(half_rows, row_scale_ptr, M, KIND),
                    scale,
                    bias,
                    cos_ptr,
                    sin_ptr,
                    residual_ptr,
                    gate_ptr,
                    q_norm_ptr,
                    k_norm_ptr,
                    keys_ptr,
                    values_ptr,
                    start_ptr,
                    y_ptr,
                    M,
                    N,
                    start,
                    eps,
                    KIND,
                    EPILOGUE,
                    PAIR,
                    GROUP,
                    HAS_BIAS,
                    ACTIVATION,
                    HAS_RESIDUAL,
                    HAS_GATE,
                    HEADS,
                    KV_HEADS,
                    ROTARY,
                    NORMED,
                    START_ON_DEVICE,
                    False,
                    LEFT,
                    BLOCK_N,
                )
            else:
                inside = _along_rows(half_rows < M, LEFT) & _along_outputs(outputs < N, LEFT)
                at = (part * (M * N)).to(tl.int64) + _along_rows(half_rows * N, LEFT)
                tl.store(sums_ptr + at + _along_outputs(outputs, LEFT), half, mask=inside)
            return
    if EARLY:
        row_scale = _row_scales(rows, row_scale_ptr, M, KIND)
    if AT_ONCE:
        sums = _at_once(
            x_ptr,
            w,
            x_rows,
            row_tile * BLOCK_M,
            first,
            K,
            KIND == 'int8',
            PRECISION,
            WIDEN,
            EVEN_K,
            BULK,
            LEFT,
            BLOCK_M,
            BLOCK_N,
            BLOCK_K,
        )
    elif KIND == 'int4':
        sums = _packed_products(
            x_ptr,
            weight_ptr,
            group_scale_ptr,
            x_rows,
            w_rows,
            first,
            stop,
            K,
            GROUP,
            SCALE_SUMS,
            PTX,
            EVEN_K,
            BLOCK_M,
            BLOCK_N,
            BLOCK_K,
        )
    elif BULK:
        sums = _bulk_products(
            x_ptr,
            weight_ptr,
            row_tile * BLOCK_M,
            output_tile,
            first,
            stop,
            KIND == 'int8',
            PRECISION,
            WIDEN,
            PAIR,
            LEFT,
            BLOCK_M,
            BLOCK_N,
            BLOCK_K,
        )
    else:
        sums = _products(
            x_ptr,
            weight_ptr,
            x_rows,
            w_rows,
            first,
            stop,
            K,
            KIND == 'int8',
            PRECISION,
            WIDEN,
            EVEN_K,
            LEFT,
            BLOCK_M,
            BLOCK_N,
            BLOCK_K,
        )
    if not UNFINISHED:
        if not EARLY:
            scale, bias = _factors(outputs, scale_ptr, bias_ptr, N, KIND, HAS_BIAS)
            row_scale = _row_scales(rows, row_scale_ptr, M, KIND)
            cos, sin = cos_ptr, sin_ptr
        _finish(
            sums,
            rows,
            output_tile,
            row_scale,
            scale,
            bias,
            cos,
            sin,
            residual_ptr,
            gate_ptr,
            q_norm_ptr,
            k_norm_ptr,
            keys_ptr,
            values_ptr,
            start_ptr,
            y_ptr,
            M,
            N,
            start,
            eps,
            KIND,
            EPILOGUE,
            PAIR,
            GROUP,
            HAS_BIAS,
            ACTIVATION,
            HAS_RESIDUAL,
            HAS_GATE,
            HEADS,
            KV_HEADS,
            ROTARY,
            NORMED,
            START_ON_DEVICE,
            EARLY,
            LEFT,
            BLOCK_N,
        )
    else:
        inside = _along_rows(rows < M, LEFT) & _along_outputs(outputs < N, LEFT)
        at = (part * (M * N)).to(tl.int64) + _along_rows(rows * N, LEFT)
        tl.store(sums_ptr + at + _along_outputs(outputs, LEFT), sums, mask=inside)


@triton.jit(do_not_specialize=['M', 'start', 'eps'])
def reduce_kernel(
    sums_ptr,
    row_scale_ptr,
    scale_ptr,
    bias_ptr,
    residual_ptr,
    gate_ptr,
    cos_ptr,
    sin_ptr,
    q_norm_ptr,
    k_norm_ptr,
    keys_ptr,
    values_ptr,
    start_ptr,
    y_ptr,
    M,
    N,
    start,
    eps,
    KIND: tl.constexpr,
    EPILOGUE: tl.constexpr,
    PAIR: tl.constexpr,
    GROUP: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    HAS_GATE: tl.constexpr,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    ROTARY: tl.constexpr,
    NORMED: tl.constexpr,
    START_ON_DEVICE: tl.constexpr,
    SPLIT: tl.constexpr,
    AHEAD: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One program per tile of outputs: adds the parts that `gemm_kernel` has left, and finishes."""
    tiles_m = tl.cdiv(M, BLOCK_M)
    tile = tl.program_id(0)
    rows = (tile % tiles_m) * BLOCK_M + tl.arange(0, BLOCK_M)
    _, w_rows = _outputs(tile // tiles_m, PAIR, BLOCK_N)
    scale, bias = _factors(w_rows, scale_ptr, bias_ptr, N, KIND, HAS_BIAS)
    wait(AHEAD)
    inside = (rows < M)[:, None] & (w_rows < N)[None, :]
    at = sums_ptr + (rows * N)[:, None] + w_rows[None, :]
    sums = tl.load(at, mask=inside, other=0)
    for _ in tl.static_range(SPLIT - 1):
        at += M * N
        sums += tl.load(at, mask=inside, other=0)
    release(AHEAD)
    _finish(
        sums,
        rows,
        tile // tiles_m,
        _row_scales(rows, row_scale_ptr, M, KIND),
        scale,
        bias,
        cos_ptr,
        sin_ptr,
        residual_ptr,
        gate_ptr,
        q_norm_ptr,
        k_norm_ptr,
        keys_ptr,
        values_ptr,
        start_ptr,
        y_ptr,
        M,
        N,
        start,
        eps,
        KIND,
        EPILOGUE,
        PAIR,
        GROUP,
        HAS_BIAS,
        ACTIVATION,
        HAS_RESIDUAL,
        HAS_GATE,
        HEADS,
        KV_HEADS,
        ROTARY,
        NORMED,
        START_ON_DEVICE,
        False,
        False,
        BLOCK_N,
    )
