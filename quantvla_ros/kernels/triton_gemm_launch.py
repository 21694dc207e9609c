# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The fused products on NVIDIA GPUs: the launches, with the signatures of `fused_reference`.

Knows tensors, sizes and GPUs; knows nothing of models or recipes. The kernels are in `triton_gemm`,
imported at the first launch, so that this module loads where triton is not. With TRITON_INTERPRET=1
the kernels run on CPU tensors, slowly: for tests.

A product with integer weights takes rows in integers, and packed weights come as `halves` orders
them: `fused` sees to both, and to what no one kernel does (outputs that are turned, weights that
cannot be one matrix).
"""
from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from quantvla_ros.errors import BackendError
from quantvla_ros.kernels import triton_int8
from quantvla_ros.kernels.fused_types import FloatWeight, Int8Weight, Norm, Quantized
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

ACTIVATIONS = ('gelu_tanh', 'silu', 'relu')
_LATE = 48  # tiles of outputs whose short programs come last (see `triton_places._tails_last`)
_REDUCED = (8, 128)  # rows and outputs of a tile of the reduction
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)

MatrixWeight = FloatWeight | Int8Weight | HalvedWeight


@dataclass(frozen=True)
class _Epilogue:
    """What follows a product; the defaults: nothing."""

    kind: str = 'linear'
    pair: int = 0
    activation: str | None = None
    residual: Tensor | None = None
    gate: Tensor | None = None
    rotary: tuple[Tensor, Tensor] | None = None
    heads: int = 0
    kv_heads: int = 0
    norms: tuple[Tensor, Tensor] | None = None
    keys: Tensor | None = None
    values: Tensor | None = None
    first: int | Tensor = 0
    eps: float = 0.0


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
    rows, outputs = _rows(x), weight.outputs
    dtype = x.dtype if residual is None else residual.dtype
    y = _output(out, (rows, outputs), dtype, x)
    if residual is not None and (residual.shape != y.shape or not residual.is_contiguous()):
        raise BackendError(
            f'residual: expected contiguous {list(y.shape)}, found {list(residual.shape)}'
        )
    if gate is not None and gate.shape != (outputs,):
        raise BackendError(f'gate: expected [{outputs}], found {list(gate.shape)}')
    if tile is None and residual is None and _by_library(x, weight, y, activation):
        return y
    return _launch(x, weight, y, _Epilogue('linear', 0, activation, residual, gate), tile)


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
    product = replace(product_of(x, weight), joined=_rows(x) <= FEW_ROWS)
    if not product.joined or not triton_norms.joins(outputs, norm.rows):
        y = linear(x, weight, residual=residual, gate=gate, out=out, tile=tile)
        return y, triton_norms.normed(y, norm)
    y = _output(out, (_rows(x), outputs), residual.dtype, x)
    if residual.shape != y.shape or not residual.is_contiguous():
        raise BackendError(
            f'residual: expected contiguous {list(y.shape)}, found {list(residual.shape)}'
        )
    tile = _tile(product, y.device, tile)
    integer = not isinstance(weight, FloatWeight)
    dtype = torch.int32 if integer else torch.float32
    sums = torch.empty((tile.split, *y.shape), dtype=dtype, device=y.device)
    _launch(x, weight, y, _Epilogue(), tile, sums)
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
    y = _output(out, (_rows(x), outputs // 2), x.dtype, x)
    return _launch(x, weight, y, _Epilogue('gated', 1, activation), tile)


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
    rows, outputs = _rows(x), (heads + 2 * kv_heads) * head_dim
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
    y = _output(None, (rows, heads * head_dim), x.dtype, x)
    norms = None if q_norm is None or k_norm is None else (q_norm, k_norm)
    epilogue = _Epilogue(
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


def product_of(
    x: Tensor | Quantized, weight: MatrixWeight, *, pair: int = 0, head: int = 0
) -> Product:
    """What the choice of a tile depends on."""
    kind = {Int8Weight: 'int8', HalvedWeight: 'int4'}.get(type(weight))
    return Product(
        kind=kind or str(x.dtype).removeprefix('torch.'),
        rows=_rows(x),
        outputs=weight.outputs,
        columns=weight.columns,
        pairs=pair > 0,
        head=head,
        group=weight.group if isinstance(weight, HalvedWeight) else 0,
        heads=pair > 1,
    )


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
    epilogue: _Epilogue,
    tile: GemmTile | None,
    left: Tensor | None = None,
) -> Tensor:
    """Run the product and, where its columns are split, the reduction; y is written.

    With `left` [split, M, N] the sums are left there instead, with the tile that is given.
    """
    from quantvla_ros.kernels import triton_gemm

    values, row_scale = _operand(x, weight)
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
    group = product.group
    group_scale = weight.group_scale if isinstance(weight, HalvedWeight) else None
    kind = 'float' if isinstance(weight, FloatWeight) else product.kind
    sums = y if left is None else left
    if tile.split > 1 and left is None:
        dtype = torch.float32 if kind == 'float' else torch.int32
        sums = torch.empty((tile.split, rows, outputs), dtype=dtype, device=y.device)
    norms = epilogue.norms or (None, None)
    rotary = epilogue.rotary or (None, None)
    on_device = isinstance(epilogue.first, Tensor)
    tensors = [
        row_scale,
        None if isinstance(weight, FloatWeight) else weight.scale,
        weight.bias,
        epilogue.residual,
        epilogue.gate,
        *rotary,
        *norms,
        epilogue.keys,
        epilogue.values,
        epilogue.first if isinstance(epilogue.first, Tensor) else None,
    ]
    # An absent one is never read; the kernel only wants something in its place.
    after = [y if t is None else t.contiguous() for t in tensors]
    sizes = (0 if on_device else epilogue.first, epilogue.eps)
    options: dict[str, Any] = {
        'KIND': kind,
        'EPILOGUE': epilogue.kind,
        'PAIR': epilogue.pair,
        'GROUP': group,
        'HAS_BIAS': weight.bias is not None,
        'ACTIVATION': epilogue.activation,
        'HAS_RESIDUAL': epilogue.residual is not None,
        'HAS_GATE': epilogue.gate is not None,
        'HEADS': epilogue.heads,
        'KV_HEADS': epilogue.kv_heads,
        'ROTARY': epilogue.rotary is not None,
        'NORMED': epilogue.norms is not None,
        'START_ON_DEVICE': on_device,
        'SPLIT': tile.split,
        **launch_options(y.device, rows),
    }
    operands, tail = (values, matrix), None
    if tile.bulk:
        operands = _descriptors(values, matrix, tile, epilogue.pair)
        if tile.has_tail(rows):
            tail = _descriptor_of_rows(values, tile.rows // 2, tile.columns)
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
            triton_gemm.reduce_kernel[(tiles,)](
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


def _descriptors(x: Tensor, matrix: Tensor, tile: GemmTile, pair: int) -> tuple[Any, Any]:
    """What `triton_products._bulk_products` loads tiles of rows and of weights through."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    columns, outputs = x.shape[1], matrix.shape[0]
    rows_of_x = _descriptor_of_rows(x, tile.rows, tile.columns)
    if pair == 0:
        block = [tile.outputs, tile.columns]
        return rows_of_x, TensorDescriptor(matrix, [outputs, columns], [columns, 1], block)
    # Of the rows that make an output the first lie side by side, or with a second after each.
    firsts, step = (outputs // 2, 2) if pair == 1 else (outputs - pair, 1)
    return rows_of_x, TensorDescriptor(
        matrix,
        [2, firsts, columns],
        [pair * columns, step * columns, 1],
        [2, tile.outputs // 2, tile.columns],
    )


def _descriptor_of_rows(x: Tensor, height: int, width: int) -> Any:
    from triton.tools.tensor_descriptor import TensorDescriptor

    return TensorDescriptor(x, list(x.shape), [x.shape[1], 1], [height, width])


def _operand(x: Tensor | Quantized, weight: MatrixWeight) -> tuple[Tensor, Tensor | None]:
    """The left side of the product as the kernel reads it, and the scales of its rows."""
    if isinstance(weight, FloatWeight):
        if isinstance(x, Quantized):
            raise BackendError('x: expected a tensor before a weight in floating point')
        if x.dtype not in _FLOATS or weight.weight.dtype != x.dtype:
            raise BackendError(
                f'x: expected the dtype of the weight, {weight.weight.dtype}, found {x.dtype}'
            )
        values, scale = x.contiguous(), None
    elif isinstance(x, Quantized):
        if not isinstance(weight, (Int8Weight, HalvedWeight)) or weight.turn is not None:
            raise BackendError(
                'weight: expected one matrix as `fused.prepared` gives it, without a turn, found '
                f'{type(weight).__name__}'
            )
        values, scale = x.values.contiguous(), x.scale
    else:
        raise BackendError('x: expected rows in integers before a weight in integers')
    if values.dim() != 2 or values.shape[1] != weight.columns:
        raise BackendError(
            f'x: expected [M, {weight.columns}], found {list(values.shape)}'
        )
    return values, scale


def _rows(x: Tensor | Quantized) -> int:
    return (x.values if isinstance(x, Quantized) else x).shape[0]


def _device(x: Tensor | Quantized) -> torch.device:
    return (x.values if isinstance(x, Quantized) else x).device


def _output(
    out: Tensor | None, shape: tuple[int, int], dtype: torch.dtype, x: Tensor | Quantized
) -> Tensor:
    if out is None:
        return torch.empty(shape, dtype=dtype, device=_device(x))
    if out.shape != shape or not out.is_contiguous():
        raise BackendError(f'out: expected contiguous {list(shape)}, found {list(out.shape)}')
    return out


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
