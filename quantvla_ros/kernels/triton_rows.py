# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The GPU kernels that make rows of activations int8, in Triton: permute, rotate, quantize at once.

Knows pointers and sizes; knows nothing of tensors, devices or launches (see `triton_int8`, the only
importer: this module needs triton). `reference` defines what they compute.

A rotation runs on the tensor cores. Where x and R both have 16 bits, their values are TF32 numbers
already and the products are exact; otherwise three TF32 products stand for a float32 one.

With SPLIT the even columns are written first, then the odd ones, as the product with packed 4-bit
weights reads them.
"""
import triton
import triton.language as tl

# Adding 1.5 * 2**23 rounds a float32 below 2**22 half to even, everywhere alike, and leaves the
# integer in the lowest bits: a conversion is an instruction of a quarter of the others' rate.
_ROUND = tl.constexpr(12582912.0)


@triton.jit
def _magnitudes(x):
    """Magnitudes of float32 read as int32: the order is the same, and NaN is the largest of all.

    A maximum of floats would drop NaN silently, and takes five exchanges in a warp instead of one.
    """
    return x.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def _static(step_ptr, STATIC: tl.constexpr):
    """The step of all rows, if there is one."""
    step = 0.0
    if STATIC:
        step = tl.load(step_ptr)
    return step


@triton.jit
def _step(largest, step, LARGEST: tl.constexpr, SMALLEST: tl.constexpr, STATIC: tl.constexpr):
    """Scale of a row by its largest of `_magnitudes`, its inverse, and whether the row has one."""
    largest = largest.to(tl.float32, bitcast=True)
    if STATIC:
        scale = step + tl.zeros_like(largest)
        usable = (largest < float('inf')) & (scale >= SMALLEST) & (scale < float('inf'))
        scale = tl.where(usable, scale, 1.0)
    else:
        usable = largest < float('inf')
        scale = tl.where(usable, tl.maximum(largest, SMALLEST), 1.0)
        # Divisions rounded as IEEE asks, as on the CPU: the same row gives the same integers.
        scale = tl.div_rn(scale, tl.zeros_like(scale) + LARGEST)
    return scale, tl.div_rn(tl.zeros_like(scale) + 1.0, scale), usable


@triton.jit
def _integers(x, inverse, usable, LARGEST: tl.constexpr, STATIC: tl.constexpr):
    """Values over their scale, rounded half to even and clamped; zero where there is no scale.

    Over a scale of their own largest there is nothing to clamp: 127 (1 + 2**-22) rounds to 127.
    """
    q = x * inverse
    if STATIC:
        q = tl.minimum(tl.maximum(q, -LARGEST), LARGEST)
    bits = (q + _ROUND).to(tl.int32, bitcast=True)
    return tl.where(usable, bits, 0).to(tl.int8)


@triton.jit
def _places(columns, HALF, SPLIT: tl.constexpr):
    """Where the columns of a row are written."""
    if SPLIT:
        return (columns % 2) * HALF + columns // 2
    return columns


@triton.jit
def _row(x_row, order_ptr, columns, inside, PERMUTED: tl.constexpr):
    """The columns of a row after the permutation, float32, zero outside."""
    if PERMUTED:
        columns = tl.load(order_ptr + columns, mask=inside, other=0)
    return tl.load(x_row + columns, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def quantize_rows_kernel(
    x_ptr,
    order_ptr,
    step_ptr,
    q_ptr,
    scale_ptr,
    K,
    PERMUTED: tl.constexpr,
    STATIC: tl.constexpr,
    SPLIT: tl.constexpr,
    LARGEST: tl.constexpr,
    SMALLEST: tl.constexpr,
    BLOCK: tl.constexpr,
    ONE_PASS: tl.constexpr,
):
    """One program per row of x [M, K]: q [M, K] int8, scale [M] float32 (NaN: row not finite)."""
    row = tl.program_id(0).to(tl.int64)
    x_row = x_ptr + row * K
    q_row = q_ptr + row * K
    columns = tl.arange(0, BLOCK)
    x = _row(x_row, order_ptr, columns, columns < K, PERMUTED)
    largest = tl.max(_magnitudes(x), axis=0)
    if not ONE_PASS:
        for start in range(BLOCK, K, BLOCK):
            at = start + columns
            x = _row(x_row, order_ptr, at, at < K, PERMUTED)
            largest = tl.maximum(largest, tl.max(_magnitudes(x), axis=0))
    step = _static(step_ptr, STATIC)
    scale, inverse, usable = _step(largest, step, LARGEST, SMALLEST, STATIC)
    tl.store(scale_ptr + row, tl.where(usable, scale, float('nan')))
    if ONE_PASS:
        q = _integers(x, inverse, usable, LARGEST, STATIC)
        tl.store(q_row + _places(columns, K // 2, SPLIT), q, mask=columns < K)
    else:
        for start in range(0, K, BLOCK):
            at = start + columns
            x = _row(x_row, order_ptr, at, at < K, PERMUTED)
            q = _integers(x, inverse, usable, LARGEST, STATIC)
            tl.store(q_row + _places(at, K // 2, SPLIT), q, mask=at < K)


@triton.jit
def rotate_rows_kernel(
    x_ptr,
    order_ptr,
    rotation_ptr,
    step_ptr,
    q_ptr,
    scale_ptr,
    K,
    B: tl.constexpr,
    PERMUTED: tl.constexpr,
    STATIC: tl.constexpr,
    SPLIT: tl.constexpr,
    LARGEST: tl.constexpr,
    SMALLEST: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program per row of x [M, K], its K / B blocks being the rows of a product with R [B, B].

    BLOCKS and BLOCK are K / B and B, rounded up to what a matrix instruction takes.
    """
    row = tl.program_id(0).to(tl.int64)
    inner = tl.arange(0, BLOCK)
    columns = tl.arange(0, BLOCKS)[:, None] * B + inner[None, :]
    inside = (columns < K) & (inner[None, :] < B)
    x = _row(x_ptr + row * K, order_ptr, columns, inside, PERMUTED)
    corner = (inner[:, None] < B) & (inner[None, :] < B)
    rotation_at = rotation_ptr + inner[:, None] * B + inner[None, :]
    rotation = tl.load(rotation_at, mask=corner, other=0.0).to(tl.float32)
    x = tl.dot(x, rotation, input_precision=PRECISION)
    largest = tl.max(tl.max(_magnitudes(x), axis=1), axis=0)
    step = _static(step_ptr, STATIC)
    scale, inverse, usable = _step(largest, step, LARGEST, SMALLEST, STATIC)
    tl.store(scale_ptr + row, tl.where(usable, scale, float('nan')))
    q = _integers(x, inverse, usable, LARGEST, STATIC)
    tl.store(q_ptr + row * K + _places(columns, K // 2, SPLIT), q, mask=inside)


@triton.jit
def rotate_blocks_kernel(
    x_ptr,
    order_ptr,
    rotation_ptr,
    step_ptr,
    largest_ptr,
    q_ptr,
    scale_ptr,
    M,
    K,
    rotation_stride,
    B: tl.constexpr,
    QUANTIZE: tl.constexpr,
    PERMUTED: tl.constexpr,
    STATIC: tl.constexpr,
    SPLIT: tl.constexpr,
    LARGEST: tl.constexpr,
    SMALLEST: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program per some rows of one block of columns, run twice: the maxima, then the integers.

    The rotated block is computed again, which is cheaper than its way through the memory. The
    maxima [M] are of `_magnitudes`, zero at first.
    """
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    block = tl.program_id(1)
    inner = tl.arange(0, BLOCK)
    columns = block * B + inner
    there = rows < M
    inside = there[:, None] & (inner[None, :] < B)
    starts = tl.where(there, rows, 0).to(tl.int64) * K
    if PERMUTED:
        sources = tl.load(order_ptr + columns, mask=inner < B, other=0)
    else:
        sources = columns
    x_at = x_ptr + starts[:, None] + sources[None, :]
    x = tl.load(x_at, mask=inside, other=0.0).to(tl.float32)
    corner = (inner[:, None] < B) & (inner[None, :] < B)
    rotation_at = rotation_ptr + block.to(tl.int64) * rotation_stride
    rotation_at += inner[:, None] * B + inner[None, :]
    rotation = tl.load(rotation_at, mask=corner, other=0.0).to(tl.float32)
    x = tl.dot(x, rotation, input_precision=PRECISION)
    if QUANTIZE:
        largest = tl.load(largest_ptr + rows, mask=there, other=0)
        step = _static(step_ptr, STATIC)
        scale, inverse, usable = _step(largest, step, LARGEST, SMALLEST, STATIC)
        # By the program of the first block.
        mine = rows < tl.where(block == 0, M, 0)
        tl.store(scale_ptr + rows, tl.where(usable, scale, float('nan')), mask=mine)
        q = _integers(x, inverse[:, None], usable[:, None], LARGEST, STATIC)
        q_at = q_ptr + starts[:, None] + _places(columns, K // 2, SPLIT)[None, :]
        tl.store(q_at, q, mask=inside)
    else:
        largest = tl.max(_magnitudes(x), axis=1)
        tl.atomic_max(largest_ptr + rows, largest, mask=there, sem='relaxed')
