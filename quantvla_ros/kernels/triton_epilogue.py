# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What follows the sums of a fused product, in Triton: from sums in registers to what is stored.

Knows a tile and pointers; knows nothing of how the sums came about (`triton_products`). Scales,
bias, activation, gate and residual; gated halves; queries, keys and values with norms of heads and
rotary embedding. `fused_reference` defines the results.
"""
import triton
import triton.language as tl

from quantvla_ros.kernels.triton_places import (
    _along_outputs,
    _along_rows,
    _first,
    _outputs,
    _parted,
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
