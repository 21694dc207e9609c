# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The sums of a tile of a fused product, in Triton: rows by weights, however both are brought.

Knows a tile's rows, outputs and columns; knows nothing of what follows (`triton_epilogue`). There
are four ways: by addresses, in bulk by Hopper's tensor memory accelerator, packed 4-bit weights,
and all columns in one step, whose weights are loaded before the kernel's turn comes.
"""
import triton
import triton.language as tl

from quantvla_ros.kernels.triton_kernels import _halves, _scaled_halves
from quantvla_ros.kernels.triton_places import _along_outputs, _along_rows, _first


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
