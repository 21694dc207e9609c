# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One product on a GPU with any tile: is it right, and how long does it take?

Knows tensors, the fused products and their definition; knows nothing of files or models. A tile is
timed as a network runs it: one product after the other, each with other weights than the one
before, more of them than the L2 holds. One of few rows follows a norm, as it may begin meanwhile;
the time is that of both.
"""
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from quantvla_ros.kernels import fused, fused_reference
from quantvla_ros.kernels import triton_gemm_launch as launch
from quantvla_ros.kernels.attention_tiles import Attention
from quantvla_ros.kernels.attention_trial import AttentionTrial
from quantvla_ros.kernels.fused_types import (
    FloatWeight,
    Int4Weight,
    Int8Weight,
    Norm,
    Quantized,
)
from quantvla_ros.kernels.gemm_tiles import FEW_ROWS, GemmTile, Product
from quantvla_ros.kernels.halves import halved
from quantvla_ros.kernels.packing import pack_int4
from quantvla_ros.kernels.rows import Rows
from quantvla_ros.kernels.trial_timing import CALLS, TimedTrial, cold_copies, fault_of, unlike

_MOST_COPIES = 64
_WIDEST_NORM = 4096


class GpuTrial(TimedTrial):
    """A `tile_search.Trial`: random operands of one product's sizes, with the epilogue it implies.

    Products of heads give queries, keys and values, of normed heads where the product says so;
    other pairs are gated ones; the rest adds to a residual, and a joined one is normed then.
    """

    def __init__(
        self, product: Product, device: torch.device, *, copies: int | None = None
    ) -> None:
        """`copies`: of the weights; None: more than the L2 holds."""
        super().__init__(device)
        self.product = product
        self._generator = torch.Generator(device).manual_seed(0)
        self._float = getattr(torch, product.kind) if 'float' in product.kind else None
        self._dtype = self._float or torch.bfloat16
        self._weights = [self._weight() for _ in range(copies or self._copies())]
        self.calls = max(CALLS, len(self._weights))
        self._x = self._rows()
        rows, outputs = product.rows, product.outputs
        self._residual = self._normal(rows, outputs).to(self._dtype)
        self._gate = self._normal(outputs)
        self._y = torch.empty_like(self._residual)
        self._half = torch.empty((rows, outputs // 2), dtype=self._dtype, device=device)
        self._normed = torch.empty_like(self._y)
        self._written = [self._y, self._half, self._normed]
        # One head of keys and one of values, the others queries.
        self._size = 2 * product.head or _head(outputs)
        if product.heads:
            angles = self._normal(rows, self._size // 2)
            self._rotary = (angles.cos(), angles.sin())
            norm = self._normal(self._size).to(self._dtype) if product.head else None
            self._norms = {'q_norm': norm, 'k_norm': norm}
            shape = (rows, 1, self._size)
            self._keys = torch.empty(shape, dtype=self._dtype, device=device)
            self._values = torch.empty_like(self._keys)
            self._written += [self._keys, self._values]
        self._before: tuple[Tensor, Norm] | None = None
        if rows <= FEW_ROWS:
            x = self._normal(rows, min(product.columns, _WIDEST_NORM)).to(self._dtype)
            self._before = (x, Norm(None, out=torch.empty_like(x)))
        self._expected: list[Tensor] | None = None

    def run_once(self, tile: GemmTile) -> list[Tensor]:
        """The results of one run; compiles what it needs."""
        self._precede()
        return self._run(launch, self._weights[0], {'tile': tile})

    def refusal(self, tile: GemmTile) -> str | None:
        """Why this tile cannot run here or is wrong; None: neither."""
        import triton

        for written in self._written:
            written.fill_(float('nan'))
        try:
            found = self.run_once(tile)
        except triton.errors.TritonError as error:
            return fault_of(error)
        if self._expected is None:
            self._expected = self._run(fused_reference, self._defined(), {})
        for one, other in zip(found, self._expected, strict=True):
            wrong = unlike(one, other)
            if wrong is not None:
                return wrong
        return None

    def launch(self, call: int, tile: GemmTile) -> None:
        """One run, with another weight than the one before."""
        self._precede()
        self._run(launch, self._weights[call % len(self._weights)], {'tile': tile})

    def _precede(self) -> None:
        if self._before is not None:
            fused.normed(*self._before)

    def _run(self, module, weight, options: dict) -> list[Tensor]:
        """The product by `fused_reference` or by the kernels; its results, newly made or not."""
        exact = module is fused_reference
        if self.product.heads:
            heads = self.product.outputs // self._size - 2
            keys, values = (
                (torch.empty_like(t) if exact else t) for t in (self._keys, self._values)
            )
            queries = module.attention_inputs(
                self._x, weight, self._rotary, heads, 1, self._size, keys, values, 0,
                **self._norms, **options,
            )  # fmt: skip
            return [queries, keys, values]
        if self.product.pairs:
            y = torch.empty_like(self._half) if exact else self._half
            return [
                module.gated_linear(self._x, weight, activation='gelu_tanh', out=y, **options)
            ]
        y = torch.empty_like(self._y) if exact else self._y
        if self.product.joined:
            norm = Norm(None, out=torch.empty_like(self._y) if exact else self._normed)
            return list(
                module.linear_norm(
                    self._x, weight, norm, residual=self._residual, gate=self._gate, out=y,
                    **options,
                )
            )  # fmt: skip
        return [
            module.linear(
                self._x, weight, residual=self._residual, gate=self._gate, out=y, **options
            )
        ]

    def _copies(self) -> int:
        """So many weights that none is in the L2 when its turn comes again."""
        bits = {'int4': 4, 'int8': 8, 'float32': 32}.get(self.product.kind, 16)
        size = self.product.outputs * self.product.columns * bits / 8
        return cold_copies(self.device, size, _MOST_COPIES)

    def _weight(self):
        weight = self._plain_weight()
        return halved(weight) if isinstance(weight, Int4Weight) else weight

    def _plain_weight(self) -> FloatWeight | Int8Weight | Int4Weight:
        outputs, columns = self.product.outputs, self.product.columns
        if self._float is not None:
            return FloatWeight((self._normal(outputs, columns) * columns**-0.5).to(self._float))
        scale = (self._normal(outputs).abs() + 0.1) * columns**-0.5 / 127
        if self.product.kind == 'int8':
            return Int8Weight(self._integers(-127, 128, outputs, columns), scale, None, Rows())
        group = self.product.group
        groups = None
        if group:
            groups = self._integers(1, 16, outputs, -(-columns // group)).to(torch.uint8)
        packed = pack_int4(self._integers(-8, 8, outputs, columns))
        return Int4Weight(packed, groups, group, scale, None, Rows())

    def _defined(self):
        """The first weight as the definition reads it: the same numbers, in the plain order."""
        if self.product.kind != 'int4':
            return self._weights[0]
        self._generator.manual_seed(0)
        return self._plain_weight()

    def _rows(self) -> Tensor | Quantized:
        rows, columns = self.product.rows, self.product.columns
        if self._float is not None:
            return self._normal(rows, columns).to(self._float)
        scale = (self._normal(rows).abs() + 0.1) / 127
        return Quantized(self._integers(-127, 128, rows, columns), scale, self._dtype)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator, device=self.device)

    def _integers(self, low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(
            low, high, shape, generator=self._generator, device=self.device, dtype=torch.int8
        )


def trial_of(
    product: Product | Attention, device: torch.device, **options: Any
) -> GpuTrial | AttentionTrial:
    """What tries the tiles of a product or of an attention; `options` of theirs."""
    if isinstance(product, Attention):
        return AttentionTrial(product, device, **options)
    return GpuTrial(product, device, **options)


def _head(outputs: int) -> int:
    """A size of heads that makes two of them or more."""
    return next((size for size in (256, 128, 72, 64, 16) if outputs % size == 0), 2)
