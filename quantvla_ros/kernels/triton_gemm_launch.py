# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The fused products on NVIDIA GPUs: the launches, with the signatures of `fused_reference`.

Knows sizes, tiles and GPUs; knows nothing of models or recipes. The kernels are in `triton_gemm`
and `triton_gemm_reduce`, imported at the first launch, so that this module loads where triton is
not; what they read is in `triton_gemm_operands`. With TRITON_INTERPRET=1 the kernels run on CPU
tensors, slowly: for tests.

A product with integer weights takes rows in integers, and packed weights come as `halves` orders
them: `fused` sees to both, and to what no one kernel does (outputs that are turned, weights that
cannot be one matrix).
"""
from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from quantvla_ros.errors import BackendError
from quantvla_ros.kernels import triton_int8
from quantvla_ros.kernels.fused_types import FloatWeight, Norm, Quantized
from quantvla_ros.kernels.gemm_tiles import (
    FEW_ROWS,
    GemmTile,
    Product,
    choose_gemm_tile,
    expands,
    fitted,
)
from quantvla_ros.kernels.gpu import gpu_of, launch_options
from quantvla_ros.kernels.halves import HalvedWeight
from quantvla_ros.kernels.tile_table import best_tile
from quantvla_ros.kernels.triton_gemm_operands import (
    Epilogue,
    MatrixWeight,
    descriptor_of_rows,
    descriptors,
    operand,
    product_of,
    result,
    row_count,
)

ACTIVATIONS = ('gelu_tanh', 'silu', 'relu')
_LATE = 48  # tiles of outputs whose short programs come last (see `triton_places._tails_last`)
_REDUCED = (8, 128)  # rows and outputs of a tile of the reduction


def linear(
    x: Tensor | Quantized,
    weight: MatrixWeight,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
    gate: Tensor | None = None,
    out: Tensor | None = None,
    tile: GemmTile | None = None,
) -> Tensor:
    """As `fused_reference.linear`. `tile`: instead of the chosen one (for tuning)."""
    if gate is not None and residual is None:
        raise BackendError('linear: expected a residual with the gate, found none')
    _check_activation(activation)
    rows, outputs = row_count(x), weight.outputs
    dtype = x.dtype if residual is None else residual.dtype
    y = result(out, (rows, outputs), dtype, x)
    if residual is not None and (residual.shape != y.shape or not residual.is_contiguous()):
        raise BackendError(
            f'residual: expected contiguous {list(y.shape)}, found {list(residual.shape)}'
        )
    if gate is not None and gate.shape != (outputs,):
        raise BackendError(f'gate: expected [{outputs}], found {list(gate.shape)}')
    if tile is None and residual is None and _by_library(x, weight, y, activation):
        return y
    return _launch(x, weight, y, Epilogue('linear', 0, activation, residual, gate), tile)


def linear_norm(
    x: Tensor | Quantized,
    weight: MatrixWeight,
    norm: Norm,
    *,
    residual: Tensor,
    gate: Tensor | None = None,
    out: Tensor | None = None,
    tile: GemmTile | None = None,
) -> tuple[Tensor, Tensor | Quantized]:
    """As `fused_reference.linear_norm`. `tile`: instead of the chosen one (for tuning).

    Where the norm comes after a reduction anyway (few rows, split columns) it does that too.
    """
    from quantvla_ros.kernels import triton_norms

    outputs = weight.outputs
    product = replace(product_of(x, weight), joined=row_count(x) <= FEW_ROWS)
    if not product.joined or not triton_norms.joins(outputs, norm.rows):
        y = linear(x, weight, residual=residual, gate=gate, out=out, tile=tile)
        return y, triton_norms.normed(y, norm)
    y = result(out, (row_count(x), outputs), residual.dtype, x)
    if residual.shape != y.shape or not residual.is_contiguous():
        raise BackendError(
            f'residual: expected contiguous {list(y.shape)}, found {list(residual.shape)}'
        )
    tile = _tile(product, y.device, tile)
    integer = not isinstance(weight, FloatWeight)
    dtype = torch.int32 if integer else torch.float32
    sums = torch.empty((tile.split, *y.shape), dtype=dtype, device=y.device)
    _launch(x, weight, y, Epilogue(), tile, sums)
    left = triton_norms.Unfinished(
        sums=sums,
        row_scale=x.scale if isinstance(x, Quantized) else None,
        scale=weight.scale if not isinstance(weight, FloatWeight) else None,
        sixteenths=isinstance(weight, HalvedWeight) and product.group == 0,
        bias=weight.bias,
        gate=gate,
        residual=residual,
    )
    return y, triton_norms.finish(left, y, norm)


def gated_linear(
    x: Tensor | Quantized,
    weight: MatrixWeight,
    *,
    activation: str,
    out: Tensor | None = None,
    tile: GemmTile | None = None,
) -> Tensor:
    """As `fused_reference.gated_linear`. `tile`: instead of the chosen one (for tuning)."""
    _check_activation(activation)
    outputs = weight.outputs
    if outputs % 2:
        raise BackendError(
            f'gated_linear: expected as many rows of up as of gate, found {outputs}'
        )
    y = result(out, (row_count(x), outputs // 2), x.dtype, x)
    return _launch(x, weight, y, Epilogue('gated', 1, activation), tile)


def attention_inputs(
    x: Tensor | Quantized,
    weight: MatrixWeight,
    rotary: tuple[Tensor, Tensor] | None,
    heads: int,
    kv_heads: int,
    head_dim: int,
    keys: Tensor,
    values: Tensor,
    first: int | Tensor,
    *,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    eps: float = 1e-6,
    tile: GemmTile | None = None,
) -> Tensor:
    """As `fused_reference.attention_inputs`. `tile`: instead of the chosen one (for tuning).

    `first` may be an int32 [] or [1] on the device: then nothing says that the rows fit.
    """
    rows, outputs = row_count(x), (heads + 2 * kv_heads) * head_dim
    if head_dim % 2 or weight.outputs != outputs:
        raise BackendError(
            f'attention_inputs: expected {heads} + 2 x {kv_heads} heads of an even size '
            f'{head_dim}, found {weight.outputs} rows of the weight'
        )
    if (q_norm is None) != (k_norm is None):
        raise BackendError('attention_inputs: expected norms of queries and keys, or none')
    for name, cache in (('keys', keys), ('values', values)):
        if cache.shape[1:] != (kv_heads, head_dim) or not cache.is_contiguous():
            raise BackendError(
                f'{name}: expected contiguous [T, {kv_heads}, {head_dim}], found '
                f'{list(cache.shape)}'
            )
        if isinstance(first, int) and not 0 <= first <= cache.shape[0] - rows:
            raise BackendError(
                f'first: expected {rows} rows from {first} within the {cache.shape[0]} of {name}'
            )
    if rotary is not None:
        for table in rotary:
            if table.shape != (rows, head_dim // 2) or table.dtype != torch.float32:
                raise BackendError(
                    f'rotary: expected float32 [{rows}, {head_dim // 2}], found {table.dtype} '
                    f'{list(table.shape)}'
                )
    y = result(None, (rows, heads * head_dim), x.dtype, x)
    norms = None if q_norm is None or k_norm is None else (q_norm, k_norm)
    epilogue = Epilogue(
        kind='attention',
        pair=head_dim // 2,
        rotary=rotary,
        heads=heads,
        kv_heads=kv_heads,
        norms=norms,
        keys=keys,
        values=values,
        first=first,
        eps=eps,
    )
    return _launch(x, weight, y, epilogue, tile).view(rows, heads, head_dim)


def _by_library(
    x: Tensor | Quantized, weight: MatrixWeight, y: Tensor, activation: str | None
) -> bool:
    """Have cuBLAS write y, where it has all of the product and is faster: rows are many.

    Its GELU may be of a product that is already rounded to 16 bits, or take tanh less exactly, as
    in the network itself: beside the last rounding y has an error as of one before GELU.

    Returns:
        Whether it did.
    """
    if not isinstance(weight, FloatWeight) or not isinstance(x, Tensor) or weight.bias is None:
        return False
    matrix, bias = weight.weight.t(), weight.bias
    kinds = {x.dtype, matrix.dtype, bias.dtype, y.dtype}
    if x.device.type != 'cuda' or x.shape[0] <= FEW_ROWS or len(kinds) > 1:
        return False
    if x.dtype not in (torch.bfloat16, torch.float16):
        return False
    if activation is None:
        torch.addmm(bias, x, matrix, out=y)
    elif activation == 'gelu_tanh':  # what `use_gelu` means
        torch.ops.aten._addmm_activation.out(bias, x, matrix, use_gelu=True, out=y)
    else:
        return False
    return True


def _launch(
    x: Tensor | Quantized,
    weight: MatrixWeight,
    y: Tensor,
    epilogue: Epilogue,
    tile: GemmTile | None,
    left: Tensor | None = None,
) -> Tensor:
    """Run the product and, where its columns are split, the reduction; y is written.

    With `left` [split, M, N] the sums are left there instead, with the tile that is given.
    """
    from quantvla_ros.kernels import triton_gemm, triton_gemm_reduce

    values, row_scale = operand(x, weight)
    rows, outputs, columns = values.shape[0], weight.outputs, weight.columns
    if rows == 0 or outputs == 0:
        return y
    if isinstance(weight, HalvedWeight) and tile is None and _expands(rows, y.device):
        from quantvla_ros.kernels.triton_expand import expanded

        weight = expanded(weight)
    matrix = weight.halves if isinstance(weight, HalvedWeight) else weight.weight
    if not matrix.is_contiguous():
        raise BackendError(f'weight: expected a contiguous tensor, found {list(matrix.shape)}')
    head = epilogue.pair if epilogue.norms is not None else 0
    product = product_of(x, weight, pair=epilogue.pair, head=head)
    if left is None or tile is None:
        tile = _tile(product, y.device, tile)
    if tile.bulk and epilogue.pair > 1 and epilogue.pair % (tile.outputs // 2):
        tile = replace(tile, bulk=False)  # a tile of several heads: its rows are not one block
    group_scale = weight.group_scale if isinstance(weight, HalvedWeight) else None
    kind = 'float' if isinstance(weight, FloatWeight) else product.kind
    sums = y if left is None else left
    if tile.split > 1 and left is None:
        dtype = torch.float32 if kind == 'float' else torch.int32
        sums = torch.empty((tile.split, rows, outputs), dtype=dtype, device=y.device)
    after = epilogue.tensors(weight, row_scale, y)
    sizes = (0 if isinstance(epilogue.first, Tensor) else epilogue.first, epilogue.eps)
    options: dict[str, Any] = {
        'KIND': kind,
        'GROUP': product.group,
        'HAS_BIAS': weight.bias is not None,
        'SPLIT': tile.split,
        **epilogue.settings(),
        **launch_options(y.device, rows),
    }
    operands, tail = (values, matrix), None
    if tile.bulk:
        operands = descriptors(values, matrix, tile, epilogue.pair)
        if tile.has_tail(rows):
            tail = descriptor_of_rows(values, tile.rows // 2, tile.columns)
    with triton_int8._on(y.device):
        grid = (-(-rows // tile.rows) * -(-outputs // tile.outputs), tile.split)
        triton_gemm.gemm_kernel[grid](
            *operands,
            matrix if group_scale is None else group_scale,
            sums,
            *after,
            y,
            rows,
            outputs,
            columns,
            *sizes,
            tail,
            SCALE_SUMS=tile.rows <= 64,
            PTX=y.device.type == 'cuda',
            # Three products of TF32 are as exact as one of float32, on the matrix units.
            PRECISION='tf32x3' if y.device.type == 'cuda' else 'ieee',
            WIDEN=y.device.type == 'cpu' and values.dtype == torch.bfloat16,
            EVEN_K=columns % tile.columns == 0,
            UNFINISHED=tile.split > 1 or left is not None,
            BYTES=matrix.element_size(),
            BULK=tile.bulk,
            AT_ONCE=tile.at_once,
            TAIL=0 if tail is None else _LATE,
            LEFT=tile.left,
            BLOCK_M=tile.rows,
            BLOCK_N=tile.outputs,
            BLOCK_K=tile.columns,
            num_warps=tile.warps,
            num_stages=tile.stages,
            **options,
        )
        if tile.split > 1 and left is None:
            height, width = _REDUCED
            width = 2 * head or width
            tiles = -(-rows // height) * -(-outputs // width)
            triton_gemm_reduce.reduce_kernel[(tiles,)](
                sums,
                *after,
                y,
                rows,
                outputs,
                *sizes,
                BLOCK_M=height,
                BLOCK_N=width,
                num_warps=4,
                **options,
            )
    return y


def _check_activation(name: str | None) -> None:
    if name is not None and name not in ACTIVATIONS:
        raise BackendError(f'activation: expected one of {", ".join(ACTIVATIONS)}, found {name!r}')


def _tile(product: Product, device: torch.device, wanted: GemmTile | None) -> GemmTile:
    if wanted is None:
        return _chosen(product, device)
    limits = _limits(device)
    tile = fitted(wanted, product, **limits)
    if tile is None:
        raise BackendError(f'tile: {wanted} does not fit {product} on a GPU of {limits}')
    return tile


def _expands(rows: int, device: torch.device) -> bool:
    return device.type == 'cuda' and expands(rows, gpu_of(device).capability)


@functools.lru_cache(maxsize=4096)
def _chosen(product: Product, device: torch.device) -> GemmTile:
    if device.type == 'cuda':
        return best_tile(product, gpu_of(device))
    processors, _ = triton_int8._gpu(device)
    return choose_gemm_tile(product, processors=processors, **_limits(device))


def _limits(device: torch.device) -> dict[str, Any]:
    """What a tile has to keep to."""
    if device.type == 'cuda':
        gpu = gpu_of(device)
        return {'shared': gpu.shared, 'capability': gpu.capability}
    return {'shared': triton_int8._gpu(device)[1]}
