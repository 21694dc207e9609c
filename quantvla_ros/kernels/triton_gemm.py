# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The GPU kernel of the fused products, in Triton: one product with what follows it.

Knows pointers and sizes; knows nothing of tensors, devices or tile choice (see
`triton_gemm_launch`, the only importer: this module needs triton). `fused_reference` defines what
it computes. A program makes a tile of rows x outputs (`triton_places`): its sums
(`triton_products`), then what follows them (`triton_epilogue`).

With few rows or packed weights the weights are the left operand (LEFT): the matrix instruction's
long side then goes along the outputs, and packed weights go from registers into it.

With SPLIT > 1 several programs share the columns of a tile; each leaves its sums in a workspace,
and `triton_gemm_reduce` or the norm that follows adds them.
"""
import triton
import triton.language as tl

from quantvla_ros.kernels.triton_epilogue import _factors, _finish, _row_scales, _turns
from quantvla_ros.kernels.triton_places import (
    _along_outputs,
    _along_rows,
    _outputs,
    _tails_last,
)
from quantvla_ros.kernels.triton_products import (
    _at_once,
    _bulk_products,
    _early_weights,
    _fetch,
    _packed_products,
    _products,
)
from quantvla_ros.kernels.triton_start import release, wait


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
    descriptor of such tiles, and their programs come last (see `triton_places`).
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
