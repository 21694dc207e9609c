# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The GPU kernel, in Triton, that ends a fused product whose columns several programs shared.

Knows the sums that `triton_gemm` left in a workspace; knows nothing of how they were made, nor of
tensors, devices or tile choice (see `triton_gemm_launch`, the only importer: this module needs
triton). The parts are added in a fixed order, so the result does not depend on who came first.
"""
import triton
import triton.language as tl

from quantvla_ros.kernels.triton_epilogue import _factors, _finish, _row_scales
from quantvla_ros.kernels.triton_places import _outputs
from quantvla_ros.kernels.triton_start import release, wait


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
