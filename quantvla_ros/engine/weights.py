# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A network's linear layers, float or quantized, as the fused operations read them.

Knows layers and weights; knows nothing of any one architecture. Layers that read one tensor become
one matrix wherever their inputs become the same integers. Nothing is rounded here: the weights are
the layers' own numbers in another order.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from quantvla_ros.errors import BackendError
from quantvla_ros.kernels import fused
from quantvla_ros.kernels.fused_types import (
    FloatWeight,
    Int4Weight,
    Int8Weight,
    Stacked,
    Weight,
)
from quantvla_ros.kernels.packing import expand
from quantvla_ros.kernels.rows import Rows
from quantvla_ros.quantization.linear import QuantizedLinear
from quantvla_ros.quantization.rotation import block_of, hadamard

_Join = Callable[[Sequence[Tensor]], Tensor]


@dataclass(frozen=True)
class _Part:
    """One layer: its weight, and how its inputs become integers, by step where that differs."""

    weight: FloatWeight | Int8Weight | Int4Weight
    rows: tuple[Rows, ...]


class WeightLoader:
    """Makes weights on a device of layers that may be elsewhere.

    A network on the host thus never needs its memory on the device twice.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        """`dtype`: of the activations, and so of weights in floating point."""
        self.device, self.dtype = device, dtype
        self._moved: dict[int, tuple[Tensor, Tensor]] = {}
        self._rows: dict[tuple[int, ...], Rows] = {}

    def tensor(self, source: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """A tensor on the device, of another dtype where one is given, contiguous."""
        return source.detach().to(self.device, dtype or source.dtype).contiguous()

    def float_weight(
        self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype | None = None
    ) -> FloatWeight:
        """A matrix [N, K] and its bias, of the activations' dtype unless one is given."""
        dtype = dtype or self.dtype
        return FloatWeight(
            self.tensor(weight, dtype), None if bias is None else self.tensor(bias, dtype)
        )

    def weight(
        self, *layers: nn.Module, interleaved: bool = False, dtype: torch.dtype | None = None
    ) -> Weight:
        """Layers that read one tensor and run once: their outputs side by side.

        Args:
            interleaved: the outputs of two layers in turn, as `gated_linear` reads gate and up.
            dtype: of weights in floating point; None: the activations'.
        """
        found = self.by_step(1, *layers, interleaved=interleaved, dtype=dtype)
        return found[0]

    def by_step(
        self,
        steps: int,
        *layers: nn.Module,
        interleaved: bool = False,
        dtype: torch.dtype | None = None,
    ) -> tuple[Weight, ...]:
        """As `weight`, for each denoising step: the numbers are shared, static scales differ."""
        parts = [_part(layer) for layer in layers]
        join = _alternate if interleaved else _side_by_side
        joined = _joined(parts, join) if len(parts) > 1 else parts[0]
        stack = [joined] if joined is not None else parts
        moved = [self._move(part.weight, dtype) for part in stack]
        found = []
        for step in range(steps):
            by_part = [
                self._with_rows(weight, part.rows, step, steps)
                for weight, part in zip(moved, stack, strict=True)
            ]
            found.append(by_part[0] if len(by_part) == 1 else Stacked(tuple(by_part)))
        return tuple(found)

    def _move(
        self, weight: FloatWeight | Int8Weight | Int4Weight, dtype: torch.dtype | None
    ) -> Weight:
        if isinstance(weight, FloatWeight):
            return self.float_weight(weight.weight, weight.bias, dtype)
        common: dict[str, Any] = {
            'scale': self.tensor(weight.scale),
            'bias': None if weight.bias is None else self.tensor(weight.bias, torch.float32),
            'turn': None if weight.turn is None else self.tensor(weight.turn),
        }
        if isinstance(weight, Int8Weight):
            return replace(weight, weight=self.tensor(weight.weight), **common)
        groups = weight.group_scale
        groups = None if groups is None else self.tensor(groups)
        packed = self.tensor(weight.packed)
        return fused.prepared(replace(weight, packed=packed, group_scale=groups, **common))

    def _with_rows(
        self, weight: Any, rows: tuple[Rows, ...], step: int, steps: int
    ) -> Any:
        if not rows:
            return weight
        if len(rows) not in (1, steps):
            raise BackendError(
                f'static scales: expected one or {steps}, one a step, found {len(rows)}'
            )
        chosen = rows[step if len(rows) > 1 else 0]
        scale, rotation, order = (
            self._shared(t) for t in (chosen.scale, chosen.rotation, chosen.permutation)
        )
        # One object for all that are alike: kernels keep what they make of it.
        key = (chosen.bits, id(scale), id(rotation), id(order))
        moved = self._rows.setdefault(key, Rows(chosen.bits, scale, rotation, order))
        return replace(weight, rows=moved)

    def _shared(self, source: Tensor | None) -> Tensor | None:
        """A tensor on the device, moved once however many layers have it."""
        if source is None:
            return None
        if id(source) not in self._moved:
            self._moved[id(source)] = (source, self.tensor(source))  # the source keeps its id
        return self._moved[id(source)][1]


def _part(layer: nn.Module) -> _Part:
    if isinstance(layer, nn.Linear):
        return _Part(FloatWeight(layer.weight, layer.bias), ())
    if not isinstance(layer, QuantizedLinear):
        raise BackendError(
            f'engine: expected a linear layer, float or quantized, found {type(layer).__name__}'
        )
    rotation: Tensor | None = layer.rotation
    if layer.format.rotation == 'hadamard':
        rotation = hadamard(block_of(layer.in_features, layer.format.block))
    scales: tuple[Tensor | None, ...] = (None,)
    if layer.input_scale is not None:
        scales = tuple(layer.input_scale.reshape(-1))
    rows = tuple(
        Rows(layer.format.activation_bits, scale, rotation, layer.permutation) for scale in scales
    )
    turn = None if layer.output_rotation is None else layer.output_rotation.float()
    if layer.weight_q is not None:
        weight = Int8Weight(layer.weight_q, layer.weight_scale, layer.bias, rows[0], turn)
        return _Part(weight, rows)
    assert layer.weight_packed is not None
    group = layer.format.group if layer.group_scale is not None else 0
    packed = Int4Weight(
        layer.weight_packed, layer.group_scale, group, layer.weight_scale, layer.bias, rows[0], turn
    )
    return _Part(packed, rows)


def _joined(parts: Sequence[_Part], join: _Join) -> _Part | None:
    """Several layers as one; None: their inputs become integers differently, or outputs turn."""
    first = parts[0]
    biases = [part.weight.bias for part in parts]
    bias = None
    if any(b is not None for b in biases):
        bias = join([
            p.weight.bias.float()
            if p.weight.bias is not None
            else torch.zeros(p.weight.outputs, device=_device(p.weight))
            for p in parts
        ])
    floats = [part.weight for part in parts if isinstance(part.weight, FloatWeight)]
    if len(floats) == len(parts):
        return _Part(FloatWeight(join([w.weight for w in floats]), bias), ())
    whole = [part.weight for part in parts if not isinstance(part.weight, FloatWeight)]
    if len(whole) < len(parts) or any(w.turn is not None for w in whole):
        return None
    if not all(_same_rows(first.rows, part.rows) for part in parts):
        return None
    scale = join([w.scale for w in whole])
    rows = first.rows
    packed = [w for w in whole if isinstance(w, Int4Weight)]
    if len(packed) == len(whole) and len({w.group for w in packed}) == 1:
        groups = [w.group_scale for w in packed if w.group_scale is not None]
        return _Part(
            Int4Weight(
                join([w.packed for w in packed]),
                join(groups) if groups else None,
                packed[0].group,
                scale,
                bias,
                rows[0],
            ),
            rows,
        )
    # A recipe may keep one of them at 8 bits. As int8 numbers all are alike.
    return _Part(Int8Weight(join([_integers(w) for w in whole]), scale, bias, rows[0]), rows)


def _integers(weight: Int8Weight | Int4Weight) -> Tensor:
    if isinstance(weight, Int8Weight):
        return weight.weight
    return expand(weight.packed, weight.group_scale, weight.group)


def _device(weight: FloatWeight | Int8Weight | Int4Weight) -> torch.device:
    return weight.weight.device if isinstance(weight, FloatWeight) else weight.scale.device


def _side_by_side(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat(tuple(tensors))


def _alternate(tensors: Sequence[Tensor]) -> Tensor:
    """Rows of several tensors in turn."""
    return torch.stack(tuple(tensors), dim=1).flatten(0, 1)


def _same_rows(one: tuple[Rows, ...], other: tuple[Rows, ...]) -> bool:
    return len(one) == len(other) and all(
        a.bits == b.bits
        and _equal(a.scale, b.scale)
        and _equal(a.rotation, b.rotation)
        and _equal(a.permutation, b.permutation)
        for a, b in zip(one, other, strict=True)
    )


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None or a is b:
        return a is b
    return a.shape == b.shape and bool(torch.equal(a, b))
