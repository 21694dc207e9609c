# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the fused operations pass to each other: quantized rows, and weights of every kind.

Knows tensors; knows nothing of how an operation runs, of layers or models. `fused_reference` says
what the operations mean. All rows are tokens of one observation: tensors are [rows, width].
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quantvla_ros.kernels.rows import Rows


@dataclass(frozen=True, eq=False)
class Quantized:
    """Rows in integers, already permuted and rotated as their `Rows` say.

    Attributes:
        values: [M, K] int8, columns in order.
        scale: [M] float32, NaN for a row that was not finite.
        dtype: of the tensor that they stand for, and so of a product's result.
    """

    values: Tensor
    scale: Tensor
    dtype: torch.dtype


@dataclass(frozen=True, eq=False)
class FloatWeight:
    """A weight in floating point.

    Attributes:
        weight: [N, K] of its input's dtype, contiguous.
        bias: [N] or None.
    """

    weight: Tensor
    bias: Tensor | None = None

    @property
    def outputs(self) -> int:
        """N."""
        return self.weight.shape[0]

    @property
    def columns(self) -> int:
        """K."""
        return self.weight.shape[1]


@dataclass(frozen=True, eq=False)
class Int8Weight:
    """A weight in integers.

    Attributes:
        weight: [N, K] int8, contiguous.
        scale: [N] float32.
        bias: [N] or None.
        rows: how its inputs become integers.
        turn: [N / B, B (outputs), B] float32, by which each B outputs are multiplied before the
            bias (`y[n B + o] = sum_i turn[n, o, i] product[n B + i]`); None: they are not.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None
    rows: Rows
    turn: Tensor | None = None

    @property
    def outputs(self) -> int:
        """N."""
        return self.weight.shape[0]

    @property
    def columns(self) -> int:
        """K."""
        return self.weight.shape[1]


@dataclass(frozen=True, eq=False)
class Int4Weight:
    """A weight in integers of 4 bits, two to a byte as `packing` has them.

    Attributes:
        packed: [N, K / 2] uint8, contiguous.
        group_scale: [N, ceil(K / group)] uint8 in 1..15, contiguous, or None.
        group: columns that share a group scale; 0 without group_scale.
        scale, bias, rows, turn: as in `Int8Weight`.
    """

    packed: Tensor
    group_scale: Tensor | None
    group: int
    scale: Tensor
    bias: Tensor | None
    rows: Rows
    turn: Tensor | None = None

    @property
    def outputs(self) -> int:
        """N."""
        return self.packed.shape[0]

    @property
    def columns(self) -> int:
        """K."""
        return 2 * self.packed.shape[1]


@dataclass(frozen=True, eq=False)
class Stacked:
    """Weights that read one tensor but cannot be one matrix: their formats or `Rows` differ.

    A product for each, the outputs side by side in this order. In `gated_linear`: (gate, up).
    """

    parts: tuple[FloatWeight | Int8Weight | Int4Weight, ...]

    @property
    def outputs(self) -> int:
        """N, of all parts together."""
        return sum(part.outputs for part in self.parts)

    @property
    def columns(self) -> int:
        """K."""
        return self.parts[0].columns


Weight = FloatWeight | Int8Weight | Int4Weight | Stacked


@dataclass(frozen=True, eq=False)
class Norm:
    """A norm that follows a product, as `rms_norm` or, `centered`, `layer_norm` take it.

    Attributes:
        weight, bias: [W] or None.
        modulation: scale and shift, [W] float32 each, or None.
        rows: how the result becomes integers; None: it stays a tensor.
        out: where a tensor goes.
    """

    weight: Tensor | None
    bias: Tensor | None = None
    eps: float = 1e-6
    offset: float = 0.0
    centered: bool = False
    modulation: tuple[Tensor, Tensor] | None = None
    rows: Rows | None = None
    out: Tensor | None = None


def rows_of(weight: Weight) -> Rows | None:
    """How a norm before this weight shall give its result: in integers, or (None) as a tensor."""
    return getattr(weight, 'rows', None)
