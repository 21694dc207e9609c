# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the kernels of the fused products read: operands, what follows a product, descriptors.

Knows tensors and weights, and checks them; knows nothing of GPUs, of the choice of a tile, or of
launches (see `triton_gemm_launch`). Loads where triton is not.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quantvla_ros.errors import BackendError
from quantvla_ros.kernels.fused_types import FloatWeight, Int8Weight, Quantized
from quantvla_ros.kernels.gemm_tiles import GemmTile, Product
from quantvla_ros.kernels.halves import HalvedWeight

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)

MatrixWeight = FloatWeight | Int8Weight | HalvedWeight


@dataclass(frozen=True)
class Epilogue:
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

    def tensors(
        self, weight: MatrixWeight, row_scale: Tensor | None, y: Tensor
    ) -> list[Tensor]:
        """What the kernels read after a product, in their order."""
        tensors = [
            row_scale,
            None if isinstance(weight, FloatWeight) else weight.scale,
            weight.bias,
            self.residual,
            self.gate,
            *(self.rotary or (None, None)),
            *(self.norms or (None, None)),
            self.keys,
            self.values,
            self.first if isinstance(self.first, Tensor) else None,
        ]
        # An absent one is never read; the kernel only wants something in its place.
        return [y if t is None else t.contiguous() for t in tensors]

    def settings(self) -> dict[str, Any]:
        """What the kernels are compiled for, as far as it is the epilogue's."""
        return {
            'EPILOGUE': self.kind,
            'PAIR': self.pair,
            'ACTIVATION': self.activation,
            'HAS_RESIDUAL': self.residual is not None,
            'HAS_GATE': self.gate is not None,
            'HEADS': self.heads,
            'KV_HEADS': self.kv_heads,
            'ROTARY': self.rotary is not None,
            'NORMED': self.norms is not None,
            'START_ON_DEVICE': isinstance(self.first, Tensor),
        }


def product_of(
    x: Tensor | Quantized, weight: MatrixWeight, *, pair: int = 0, head: int = 0
) -> Product:
    """What the choice of a tile depends on."""
    kind = {Int8Weight: 'int8', HalvedWeight: 'int4'}.get(type(weight))
    return Product(
        kind=kind or str(x.dtype).removeprefix('torch.'),
        rows=row_count(x),
        outputs=weight.outputs,
        columns=weight.columns,
        pairs=pair > 0,
        head=head,
        group=weight.group if isinstance(weight, HalvedWeight) else 0,
        heads=pair > 1,
    )


def operand(x: Tensor | Quantized, weight: MatrixWeight) -> tuple[Tensor, Tensor | None]:
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


def row_count(x: Tensor | Quantized) -> int:
    """M."""
    return (x.values if isinstance(x, Quantized) else x).shape[0]


def result(
    out: Tensor | None, shape: tuple[int, int], dtype: torch.dtype, x: Tensor | Quantized
) -> Tensor:
    """What the kernels write: `out`, checked, or something new on x's device."""
    if out is None:
        return torch.empty(shape, dtype=dtype, device=_device(x))
    if out.shape != shape or not out.is_contiguous():
        raise BackendError(f'out: expected contiguous {list(shape)}, found {list(out.shape)}')
    return out


def descriptors(x: Tensor, matrix: Tensor, tile: GemmTile, pair: int) -> tuple[Any, Any]:
    """What `triton_products._bulk_products` loads tiles of rows and of weights through."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    columns, outputs = x.shape[1], matrix.shape[0]
    rows_of_x = descriptor_of_rows(x, tile.rows, tile.columns)
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


def descriptor_of_rows(x: Tensor, height: int, width: int) -> Any:
    """What tiles of `height` rows and `width` columns of x are loaded through."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    return TensorDescriptor(x, list(x.shape), [x.shape[1], 1], [height, width])


def _device(x: Tensor | Quantized) -> torch.device:
    return (x.values if isinstance(x, Quantized) else x).device
