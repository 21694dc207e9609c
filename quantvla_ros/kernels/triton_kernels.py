# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The GPU kernels of the INT8 linears' products, in Triton, each with its epilogue fused.

Knows pointers and sizes; knows nothing of tensors, devices or tile choice (see `triton_int8`, the
only importer: this module needs triton). `reference` defines what they compute.

Packed 4-bit weights stay packed up to the registers. There the low halves of four bytes are four
int8 weights of even columns, the high halves four of odd ones, so a product is two: with the even
columns of q, which `triton_rows` has written first, and with the odd ones. The weights are the left
operand, since that is the one a matrix instruction of every generation takes from registers.
"""
import triton
import triton.language as tl


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


@triton.jit
def _halves(w, PTX: tl.constexpr):
    """Both halves of each byte as int8 weights times 16: low, high."""
    # A half n stands for n - 8; moved to the top of the byte with the top bit turned it reads
    # 16 (n - 8), so no subtraction is left.
    if PTX:  # four bytes at a time: the compiler would take them apart
        return tl.inline_asm_elementwise(
            """{
            .reg .b32 t;
            shl.b32 t, $2, 4;
            lop3.b32 $0, t, 0xF0F0F0F0, 0x80808080, 0x6A;
            lop3.b32 $1, $2, 0xF0F0F0F0, 0x80808080, 0x6A;
            }""",
            constraints='=&r,=r,r',  # the first is written while the input is still needed
            args=[w],
            dtype=(tl.int8, tl.int8),
            is_pure=True,
            pack=4,
        )
    else:
        low = ((w << 4) ^ 0x80).to(tl.int8, bitcast=True)
        high = ((w & 0xF0) ^ 0x80).to(tl.int8, bitcast=True)
        return low, high


@triton.jit
def _scaled_halves(w, group_scale, PTX: tl.constexpr):
    """Both halves of each byte as int8 weights times their group scale: low, high."""
    if PTX:
        # Bytes side by side: n s is at most 225, so it stays in its byte; 8 s is taken away with
        # the top bit held up, so that no byte borrows from the next.
        return tl.inline_asm_elementwise(
            """{
            .reg .b32 s, o, a, t;
            and.b32 s, $3, 0xFF;
            shl.b32 o, $3, 3;
            and.b32 a, $2, 0x0F0F0F0F;
            mul.lo.u32 a, a, s;
            or.b32 t, a, 0x80808080;
            sub.u32 t, t, o;
            lop3.b32 $0, t, a, 0x80808080, 0xD2;
            shr.u32 a, $2, 4;
            and.b32 a, a, 0x0F0F0F0F;
            mul.lo.u32 a, a, s;
            or.b32 t, a, 0x80808080;
            sub.u32 t, t, o;
            lop3.b32 $1, t, a, 0x80808080, 0xD2;
            }""",
            constraints='=&r,=r,r,r',
            args=[w, group_scale],
            dtype=(tl.int8, tl.int8),
            is_pure=True,
            pack=4,
        )
    else:
        low = ((w & 15) - 8) * group_scale  # wraps around, as unsigned bytes do
        high = ((w >> 4) - 8) * group_scale
        return low.to(tl.int8, bitcast=True), high.to(tl.int8, bitcast=True)


@triton.jit
def packed_matmul_kernel(
    q_ptr,
    weight_ptr,
    group_scale_ptr,
    scale_ptr,
    weight_scale_ptr,
    bias_ptr,
    y_ptr,
    M,
    N,
    units,
    UNIT: tl.constexpr,
    GROUP: tl.constexpr,
    SCALE_SUMS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    EVEN_K: tl.constexpr,
    PTX: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_J: tl.constexpr,
):
    """One program per tile of y [M, N] = (q [M, K] @ w8 [N, K].T) * row * column + bias.

    K / 2 = units * UNIT bytes make a row of weights. A step takes BLOCK_J of them, all of one group
    (GROUP is in columns; 0: no groups). The group's scale multiplies either the sums of the step,
    where those are fewer than the weights (SCALE_SUMS), or the weights.
    """
    half = units * UNIT
    tiles_m = tl.cdiv(M, BLOCK_M)
    tile = tl.program_id(0)
    rows = (tile % tiles_m) * BLOCK_M + tl.arange(0, BLOCK_M)
    outputs = (tile // tiles_m) * BLOCK_N + tl.arange(0, BLOCK_N)
    bytes_ = tl.arange(0, BLOCK_J)
    # Rows beyond the edge read row 0 instead of a mask per load; they are never stored.
    q_rows = tl.where(rows < M, rows, 0).to(tl.int64)
    w_rows = tl.where(outputs < N, outputs, 0).to(tl.int64)
    w_at = weight_ptr + w_rows[:, None] * half + bytes_[None, :]
    even_at = q_ptr + q_rows[None, :] * half * 2 + bytes_[:, None]
    odd_at = even_at + half
    sums = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.int32)
    if GROUP > 0:
        groups = tl.cdiv(half * 2, GROUP)
        group_at = group_scale_ptr + w_rows * groups
        group_scale = tl.load(group_at)
    for start in range(0, half, BLOCK_J):
        if EVEN_K:
            w = tl.load(w_at)
            even = tl.load(even_at)
            odd = tl.load(odd_at)
        else:
            # Weights beyond the edge are whatever they are: they meet zeros.
            left = half - start
            w = tl.load(w_at, mask=bytes_[None, :] < left, other=0)
            even = tl.load(even_at, mask=bytes_[:, None] < left, other=0)
            odd = tl.load(odd_at, mask=bytes_[:, None] < left, other=0)
        if GROUP == 0:
            low, high = _halves(w, PTX)
            sums = tl.dot(low, even, sums, out_dtype=tl.int32)
            sums = tl.dot(high, odd, sums, out_dtype=tl.int32)
        elif SCALE_SUMS:
            # Asked for one step ahead: too narrow for the pipeline, and slow to come.
            group = (start + BLOCK_J) * 2 // GROUP
            there = w_rows < tl.where(group < groups, N, 0)
            next_scale = tl.load(group_at + group, mask=there, other=0)
            low, high = _halves(w, PTX)
            part = tl.dot(low, even, out_dtype=tl.int32)
            part = tl.dot(high, odd, part, out_dtype=tl.int32)
            sums += (part >> 4) * group_scale.to(tl.int32)[:, None]
            group_scale = next_scale
        else:
            # A scale from the step before would keep the unpacked weights out of the registers that
            # the matrix instruction reads.
            group_scale = tl.load(group_at + start * 2 // GROUP)
            spread = tl.broadcast_to(group_scale[:, None], (BLOCK_N, BLOCK_J))
            low, high = _scaled_halves(w, spread, PTX)
            sums = tl.dot(low, even, sums, out_dtype=tl.int32)
            sums = tl.dot(high, odd, sums, out_dtype=tl.int32)
        w_at += BLOCK_J
        even_at += BLOCK_J
        odd_at += BLOCK_J
    y = sums.to(tl.float32)
    if GROUP == 0:
        y *= 0.0625  # the 16 of `_halves`; exact
    scale = tl.load(scale_ptr + rows, mask=rows < M, other=0.0)
    weight_scale = tl.load(weight_scale_ptr + outputs, mask=outputs < N, other=0.0)
    y = y * scale[None, :] * weight_scale[:, None]
    if HAS_BIAS:
        y += tl.load(bias_ptr + outputs, mask=outputs < N, other=0.0).to(tl.float32)[:, None]
    y_at = y_ptr + rows.to(tl.int64)[None, :] * N + outputs[:, None]
    inside = (rows[None, :] < M) & (outputs[:, None] < N)
    tl.store(y_at, y.to(y_ptr.dtype.element_ty), mask=inside)
