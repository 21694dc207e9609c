# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The kernels of `triton_norms`: a row of a norm, or of integers, at a time.

Knows rows and pointers; knows nothing of tensors or sizes. A norm that follows a product finishes
it first: it adds the parts of the sums, scales, bias, gate and residual.

Beside the end of the kernel before (see `triton_start`) a norm loads all that does not change: its
weights or modulation, permutation and rotation; where it finishes a product, also scales, bias,
gate and residual. These were written before that product, which has waited for what is before it
when it lets a norm come. The sums, and x where nothing is finished, are all that is waited for.
"""
import triton
import triton.language as tl

from quantvla_ros.kernels.triton_rows import _integers, _magnitudes, _static, _step
from quantvla_ros.kernels.triton_start import release, wait


@triton.jit
def _inverse_deviation(squares, WIDTH, eps):
    """1 / sqrt(mean of squares + eps); NaN where the squares have overflowed."""
    inverse = 1.0 / tl.sqrt_rn(squares / WIDTH + eps)
    return tl.where(squares < float('inf'), inverse, float('nan'))


@triton.jit
def _vectors(
    weight_ptr,
    bias_ptr,
    scale_ptr,
    shift_ptr,
    sources,
    inside,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    MODULATED: tl.constexpr,
):
    """What a norm multiplies by and adds, in turn, as stored; nothing where it does not."""
    weight, bias, scale, shift = 1.0, 0.0, 0.0, 0.0
    if HAS_WEIGHT:
        weight = tl.load(weight_ptr + sources, mask=inside, other=0.0)
    if HAS_BIAS:
        bias = tl.load(bias_ptr + sources, mask=inside, other=0.0)
    if MODULATED:
        scale = tl.load(scale_ptr + sources, mask=inside, other=0.0)
        shift = tl.load(shift_ptr + sources, mask=inside, other=0.0)
    return weight, bias, scale, shift


@triton.jit
def _stretched(
    y,
    weight,
    bias,
    scale,
    shift,
    offset,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    MODULATED: tl.constexpr,
):
    """A row by what `_vectors` gives; float32."""
    if HAS_WEIGHT:
        y = y * (offset + weight.to(tl.float32))
    if HAS_BIAS:
        y = y + bias.to(tl.float32)
    if MODULATED:
        y = y * (1.0 + scale.to(tl.float32)) + shift.to(tl.float32)
    return y


@triton.jit
def _rotation_tile(rotation_ptr, B: tl.constexpr, BLOCK: tl.constexpr):
    """A rotation [B, B], zeros around it."""
    inner = tl.arange(0, BLOCK)
    corner = (inner[:, None] < B) & (inner[None, :] < B)
    return tl.load(rotation_ptr + inner[:, None] * B + inner[None, :], mask=corner, other=0.0)


@triton.jit
def _turned(y, rotation, PRECISION: tl.constexpr):
    """Blocks [.., BLOCK] in x's type times the rotation; float32."""
    if PRECISION == 'own':
        return tl.dot(y, rotation)
    else:
        return tl.dot(y.to(tl.float32), rotation.to(tl.float32), input_precision=PRECISION)


@triton.jit
def _rounded(y, kind: tl.constexpr, PTX: tl.constexpr):
    """Float32 rounded to `kind`."""
    # Two at a time: one alone is a conversion of a quarter rate, and all that a row of one has.
    if PTX and kind == tl.bfloat16 and y.numel > 1:
        return tl.inline_asm_elementwise(
            'cvt.rn.bf16x2.f32 $0, $2, $1;',
            constraints='=r,r,r',
            args=[y],
            dtype=tl.bfloat16,
            is_pure=True,
            pack=2,
        )
    else:
        return y.to(kind)


@triton.jit
def _finish_with(
    row_scale_ptr,
    w_scale_ptr,
    w_bias_ptr,
    residual_ptr,
    gate_ptr,
    row,
    sources,
    inside,
    WIDTH,
    INTEGER: tl.constexpr,
    PLUS_BIAS: tl.constexpr,
    GATED: tl.constexpr,
):
    """What finishes a row of a product, as stored: scales, bias, gate and residual."""
    row_scale, w_scale, w_bias, gate = 1.0, 1.0, 0.0, 1.0
    if INTEGER:
        row_scale = tl.load(row_scale_ptr + row, cache_modifier='.cg')
        w_scale = tl.load(w_scale_ptr + sources, mask=inside, other=0.0)
    if PLUS_BIAS:
        w_bias = tl.load(w_bias_ptr + sources, mask=inside, other=0.0)
    if GATED:
        gate = tl.load(gate_ptr + sources, mask=inside, other=0.0)
    # From the L2: whatever the caches of this multiprocessor hold of it may be older.
    at = residual_ptr + row * WIDTH + sources
    residual = tl.load(at, mask=inside, other=0.0, cache_modifier='.cg')
    return row_scale, w_scale, w_bias, gate, residual


@triton.jit
def _joined(
    sums_ptr,
    row_scale,
    w_scale,
    w_bias,
    gate,
    residual,
    row,
    sources,
    inside,
    M,
    WIDTH,
    PARTS: tl.constexpr,
    INTEGER: tl.constexpr,
    SIXTEENTHS: tl.constexpr,
    PLUS_BIAS: tl.constexpr,
    GATED: tl.constexpr,
):
    """A row of what `gemm_kernel` has left unfinished, finished as a product with a residual is."""
    at = sums_ptr + row * WIDTH + sources
    sums = tl.load(at, mask=inside, other=0)
    for _ in tl.static_range(PARTS - 1):
        at += M.to(tl.int64) * WIDTH
        sums += tl.load(at, mask=inside, other=0)
    y = sums.to(tl.float32)
    if INTEGER:
        if SIXTEENTHS:
            y *= 0.0625  # the 16 of `_halves`; exact
        y = y * row_scale
        y = y * w_scale
    if PLUS_BIAS:
        y += w_bias.to(tl.float32)
    if GATED:
        y *= gate.to(tl.float32)
    return y + residual.to(tl.float32)


@triton.jit
def _largest(y):
    """The largest of `_magnitudes` in a row [blocks, block]."""
    if y.dtype == tl.bfloat16:  # they are as ordered by the half of float32 that they are
        magnitudes = (y.to(tl.int16, bitcast=True) & 0x7FFF).to(tl.int32)
        return tl.max(tl.max(magnitudes, axis=1), axis=0) << 16
    else:
        return tl.max(tl.max(_magnitudes(y.to(tl.float32)), axis=1), axis=0)


@triton.jit(do_not_specialize=['M'])
def norm_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    modulation_scale_ptr,
    modulation_shift_ptr,
    order_ptr,
    rotation_ptr,
    step_ptr,
    y_ptr,
    scale_ptr,
    sums_ptr,
    row_scale_ptr,
    w_scale_ptr,
    w_bias_ptr,
    residual_ptr,
    gate_ptr,
    x_stride,
    M,
    WIDTH: tl.constexpr,
    eps,
    offset,
    PARTS: tl.constexpr,
    INTEGER: tl.constexpr,
    SIXTEENTHS: tl.constexpr,
    PLUS_BIAS: tl.constexpr,
    GATED: tl.constexpr,
    NORMED: tl.constexpr,
    CENTERED: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    MODULATED: tl.constexpr,
    QUANTIZED: tl.constexpr,
    PERMUTED: tl.constexpr,
    ROTATED: tl.constexpr,
    STATIC: tl.constexpr,
    LARGEST: tl.constexpr,
    SMALLEST: tl.constexpr,
    PRECISION: tl.constexpr,
    B: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    PTX: tl.constexpr,
    AHEAD: tl.constexpr,
):
    """One program per row of x [M, WIDTH]: y [M, WIDTH] of its own type, or int8 with scale [M].

    The row is a tile of its blocks, [BLOCKS, BLOCK], which a rotation [B, B] multiplies at once;
    without a rotation it is one block of LONGEST columns at most. Not NORMED, the row is quantized
    as it is. With PARTS the row is first made, and stored in x, of the unfinished sums of a product
    [PARTS, M, WIDTH] and a residual.
    """
    release(AHEAD)
    row = tl.program_id(0).to(tl.int64)
    inner = tl.arange(0, BLOCK)
    columns = tl.arange(0, BLOCKS)[:, None] * B + inner[None, :]
    if B == BLOCK and BLOCKS * B == WIDTH:
        inside = tl.full((BLOCKS, BLOCK), True, dtype=tl.int1)  # no masks remain
    else:
        inside = (columns < WIDTH) & (inner[None, :] < B)
    # Before the wait only what the kernel before does not write, see above.
    if PERMUTED:
        sources = tl.load(order_ptr + columns, mask=inside, other=0)
    else:
        sources = columns
    weight, bias, modulation_scale, modulation_shift = _vectors(
        weight_ptr, bias_ptr, modulation_scale_ptr, modulation_shift_ptr, sources, inside,
        HAS_WEIGHT, HAS_BIAS, MODULATED,
    )  # fmt: skip
    step = _static(step_ptr, STATIC)
    if ROTATED:
        rotation = _rotation_tile(rotation_ptr, B, BLOCK)
    if PARTS > 0:
        row_scale, w_scale, w_bias, gate, residual = _finish_with(
            row_scale_ptr, w_scale_ptr, w_bias_ptr, residual_ptr, gate_ptr, row, sources, inside,
            WIDTH, INTEGER, PLUS_BIAS, GATED,
        )  # fmt: skip
    wait(AHEAD)
    if PARTS > 0:
        x = _joined(
            sums_ptr, row_scale, w_scale, w_bias, gate, residual, row, sources, inside, M, WIDTH,
            PARTS, INTEGER, SIXTEENTHS, PLUS_BIAS, GATED,
        )  # fmt: skip
        stored = _rounded(x, x_ptr.dtype.element_ty, PTX)
        tl.store(x_ptr + row * x_stride + sources, stored, mask=inside)
        x = tl.where(inside, stored.to(tl.float32), 0.0)
    else:
        stored = tl.load(x_ptr + row * x_stride + sources, mask=inside, other=0.0)
        x = stored.to(tl.float32)
    if CENTERED:
        mean = tl.sum(tl.sum(x, axis=1), axis=0) / WIDTH
        x = tl.where(inside, x - mean, 0.0)
    if NORMED:
        x *= _inverse_deviation(tl.sum(tl.sum(x * x, axis=1), axis=0), WIDTH, eps)
    y = _stretched(
        x, weight, bias, modulation_scale, modulation_shift, offset, HAS_WEIGHT, HAS_BIAS, MODULATED
    )
    if NORMED or not QUANTIZED:
        y = _rounded(y, x_ptr.dtype.element_ty, PTX)
    else:
        y = stored  # a long row need not lie in the registers as float32
    if QUANTIZED:
        if ROTATED:
            y = _turned(y, rotation, PRECISION)
        # A shift or a NaN beyond the edge must not decide about the scale.
        y = tl.where(inside, y, 0.0)
        largest = _largest(y)
        y = y.to(tl.float32)
        scale, inverse, usable = _step(largest, step, LARGEST, SMALLEST, STATIC)
        tl.store(scale_ptr + row, tl.where(usable, scale, float('nan')))
        y = _integers(y, inverse, usable, LARGEST, STATIC)
    tl.store(y_ptr + row * WIDTH + columns, y, mask=inside)


@triton.jit
def norm_blocks_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    modulation_scale_ptr,
    modulation_shift_ptr,
    order_ptr,
    rotation_ptr,
    step_ptr,
    y_ptr,
    scale_ptr,
    x_stride,
    M,
    WIDTH,
    eps,
    offset,
    CENTERED: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    MODULATED: tl.constexpr,
    PERMUTED: tl.constexpr,
    STATIC: tl.constexpr,
    LARGEST: tl.constexpr,
    SMALLEST: tl.constexpr,
    PRECISION: tl.constexpr,
    B: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    AHEAD: tl.constexpr,
):
    """`norm_kernel` with a rotation for each block, [WIDTH / B, B, B]; a program has ROWS rows.

    The rows are read from the cache again for each pass: mean, squares, maxima, integers.
    """
    release(AHEAD)
    step = _static(step_ptr, STATIC)
    wait(AHEAD)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = rows < M
    inner = tl.arange(0, BLOCK)
    within = inner < B
    # Rows beyond the edge read row 0; they are never stored.
    x_rows = x_ptr + tl.where(there, rows, 0).to(tl.int64)[:, None] * x_stride
    y_rows = y_ptr + tl.where(there, rows, 0).to(tl.int64)[:, None] * WIDTH
    mean = tl.zeros((ROWS,), dtype=tl.float32)
    if CENTERED:
        for start in range(0, WIDTH, B):
            x = tl.load(x_rows + (start + inner)[None, :], mask=within[None, :], other=0.0)
            mean += tl.sum(x.to(tl.float32), axis=1)
        mean = mean / WIDTH
    squares = tl.zeros((ROWS,), dtype=tl.float32)
    for start in range(0, WIDTH, B):
        x = tl.load(x_rows + (start + inner)[None, :], mask=within[None, :], other=0.0)
        x = tl.where(within[None, :], x.to(tl.float32) - mean[:, None], 0.0)
        squares += tl.sum(x * x, axis=1)
    deviation = _inverse_deviation(squares, WIDTH, eps)
    largest = tl.zeros((ROWS,), dtype=tl.int32)
    scale, inverse, usable = _step(largest, step, LARGEST, SMALLEST, STATIC)
    for turn in tl.static_range(2):
        if turn == 1:
            scale, inverse, usable = _step(largest, step, LARGEST, SMALLEST, STATIC)
            tl.store(scale_ptr + rows, tl.where(usable, scale, float('nan')), mask=there)
        for start in range(0, WIDTH, B):
            columns = start + inner
            if PERMUTED:
                sources = tl.load(order_ptr + columns, mask=within, other=0)
            else:
                sources = columns
            x = tl.load(x_rows + sources[None, :], mask=within[None, :], other=0.0).to(tl.float32)
            y = (x - mean[:, None]) * deviation[:, None]
            weight, bias, modulation_scale, modulation_shift = _vectors(
                weight_ptr, bias_ptr, modulation_scale_ptr, modulation_shift_ptr,
                sources[None, :], within[None, :], HAS_WEIGHT, HAS_BIAS, MODULATED,
            )  # fmt: skip
            y = _stretched(
                y, weight, bias, modulation_scale, modulation_shift, offset,
                HAS_WEIGHT, HAS_BIAS, MODULATED,
            )  # fmt: skip
            # What lies beyond the block meets zeros of the rotation, and zero times NaN is NaN.
            y = tl.where(within[None, :], y, 0.0).to(x_ptr.dtype.element_ty)
            y = _turned(y, _rotation_tile(rotation_ptr + start * B, B, BLOCK), PRECISION)
            if turn == 0:
                largest = tl.maximum(largest, tl.max(_magnitudes(y), axis=1))
            else:
                q = _integers(y, inverse[:, None], usable[:, None], LARGEST, STATIC)
                tl.store(y_rows + columns[None, :], q, mask=there[:, None] & within[None, :])
