# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The GPU kernels of the INT8 linear, in Triton: quantize rows, and multiply with a fused epilogue.

Knows pointers and sizes; knows nothing of tensors, devices or tile choice (see `triton_int8`, the
only importer: this module needs triton). `reference` defines what they compute.
"""
import triton
import triton.language as tl

# Adding and taking away 1.5 * 2**23 rounds a float32 below 2**22 half to even, everywhere alike.
_ROUND = tl.constexpr(12582912.0)


@triton.jit
def quantize_rows_kernel(
    x_ptr, q_ptr, scale_ptr, K, SMALLEST: tl.constexpr, BLOCK: tl.constexpr, ONE_PASS: tl.constexpr
):
    """One program per row of x [M, K]: q [M, K] int8, scale [M] float32 (NaN: row not finite)."""
    row = tl.program_id(0).to(tl.int64)
    x_row = x_ptr + row * K
    q_row = q_ptr + row * K
    columns = tl.arange(0, BLOCK)
    infinity = float('inf')
    x = tl.load(x_row + columns, mask=columns < K, other=0.0).to(tl.float32)
    magnitude = tl.abs(x)
    # A maximum drops NaN silently, so NaN is turned into infinity first.
    largest = tl.max(tl.where(magnitude == magnitude, magnitude, infinity), axis=0)
    if not ONE_PASS:
        for start in range(BLOCK, K, BLOCK):
            at = start + columns
            x = tl.load(x_row + at, mask=at < K, other=0.0).to(tl.float32)
            magnitude = tl.abs(x)
            magnitude = tl.where(magnitude == magnitude, magnitude, infinity)
            largest = tl.maximum(largest, tl.max(magnitude, axis=0))
    finite = largest < infinity
    bounded = tl.where(finite, tl.maximum(largest, SMALLEST), 1.0)
    # Divisions rounded as IEEE asks, as on the CPU: the same row gives the same integers.
    scale = tl.div_rn(bounded, tl.full([], 127.0, tl.float32))
    inverse = tl.div_rn(tl.full([], 1.0, tl.float32), scale)
    tl.store(scale_ptr + row, tl.where(finite, scale, float('nan')))
    if ONE_PASS:
        q = tl.where(finite, (x * inverse + _ROUND) - _ROUND, 0.0)
        tl.store(q_row + columns, q.to(tl.int8), mask=columns < K)
    else:
        for start in range(0, K, BLOCK):
            at = start + columns
            x = tl.load(x_row + at, mask=at < K, other=0.0).to(tl.float32)
            q = tl.where(finite, (x * inverse + _ROUND) - _ROUND, 0.0)
            tl.store(q_row + at, q.to(tl.int8), mask=at < K)


@triton.jit
def scaled_matmul_kernel(
    q_ptr,
    weight_ptr,
    scale_ptr,
    weight_scale_ptr,
    bias_ptr,
    y_ptr,
    M,
    N,
    K,
    HAS_BIAS: tl.constexpr,
    EVEN_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One program per tile of y [M, N] = (q [M, K] @ weight [N, K].T) * row * column + bias.

    Programs that share a block of weights run side by side, so the weights come from memory once.
    """
    tiles_m = tl.cdiv(M, BLOCK_M)
    tile = tl.program_id(0)
    rows = (tile % tiles_m) * BLOCK_M + tl.arange(0, BLOCK_M)
    outputs = (tile // tiles_m) * BLOCK_N + tl.arange(0, BLOCK_N)
    columns = tl.arange(0, BLOCK_K)
    # Rows beyond the edge read row 0 instead of a mask per load; they are never stored.
    q_rows = tl.where(rows < M, rows, 0).to(tl.int64)
    w_rows = tl.where(outputs < N, outputs, 0).to(tl.int64)
    q_at = q_ptr + q_rows[:, None] * K + columns[None, :]
    w_at = weight_ptr + w_rows[None, :] * K + columns[:, None]
    sums = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.int32)
    for start in range(0, K, BLOCK_K):
        if EVEN_K:
            q = tl.load(q_at)
            weight = tl.load(w_at)
        else:
            left = K - start
            q = tl.load(q_at, mask=columns[None, :] < left, other=0)
            weight = tl.load(w_at, mask=columns[:, None] < left, other=0)
        sums = tl.dot(q, weight, sums, out_dtype=tl.int32)
        q_at += BLOCK_K
        w_at += BLOCK_K
    scale = tl.load(scale_ptr + rows, mask=rows < M, other=0.0)
    weight_scale = tl.load(weight_scale_ptr + outputs, mask=outputs < N, other=0.0)
    y = sums.to(tl.float32) * scale[:, None] * weight_scale[None, :]
    if HAS_BIAS:
        y += tl.load(bias_ptr + outputs, mask=outputs < N, other=0.0).to(tl.float32)[None, :]
    y_at = y_ptr + rows.to(tl.int64)[:, None] * N + outputs[None, :]
    inside = (rows[:, None] < M) & (outputs[None, :] < N)
    tl.store(y_at, y.to(y_ptr.dtype.element_ty), mask=inside)
