# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A linear layer in integers: what it stores, and how it runs.

Knows one layer and its format; knows nothing of models, recipes' files or how its integers were
found (see `quantize`). Whatever the format, the product is int8 x int8 summed in int32: a 4-bit
weight is int8 numbers in half the space.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quantvla_ros.kernels.linear import Rows, int4_linear, int8_linear
from quantvla_ros.kernels.packing import expand
from quantvla_ros.models.network import DenoisingStep
from quantvla_ros.quantization.recipe import DYNAMIC, PER_STEP, LayerFormat
from quantvla_ros.quantization.rotation import block_of, hadamard, rotate_columns
from quantvla_ros.quantization.weights import LARGEST_MULTIPLIER

FLOAT32_BUFFERS = ('weight_scale', 'input_scale')  # in every precision of the rest


@dataclass(frozen=True)
class _Kept:
    """What a layer holds beside its buffers, made of them on first use."""

    device: torch.device
    rows: tuple[Rows, ...]
    expanded: Tensor | None


class QuantizedLinear(nn.Module):
    """A linear layer that runs in integers.

    Buffers (N outputs, K inputs; absent ones are None):
        weight_q: [N, K] int8, at 8 bits.
        weight_packed: [N, K / 2] uint8, at 4 bits: column 2j in the low half of byte j, 2j + 1 in
            the high half, each value + 8.
        group_scale: [N, ceil(K / group)] uint8 in 1..15, multipliers of the 4-bit groups.
        weight_scale: [N] float32.
        input_scale: [] or [steps] float32, where activations have static scales.
        permutation: [K] int32, of the inputs before they are rotated.
        rotation: [K / block, block, block] float16; a Hadamard rotation is a constant.
        output_rotation: [N / block, block (outputs), block] float16, applied to the product.
        bias: [N].

    Attributes:
        step: the denoising step that per-step scales are looked up by.
    """

    weight_q: Tensor | None
    weight_packed: Tensor | None
    group_scale: Tensor | None
    weight_scale: Tensor
    input_scale: Tensor | None
    permutation: Tensor | None
    rotation: Tensor | None
    output_rotation: Tensor | None
    bias: Tensor | None

    def __init__(
        self, in_features: int, out_features: int, layout: LayerFormat, step: DenoisingStep
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.format, self.step = layout, step
        for name in (
            'weight_q',
            'weight_packed',
            'group_scale',
            'weight_scale',
            'input_scale',
            'permutation',
            'rotation',
            'output_rotation',
            'bias',
        ):
            self.register_buffer(name, None)
        self._kept: _Kept | None = None

    @classmethod
    def like(
        cls, linear: nn.Linear, layout: LayerFormat, step: DenoisingStep, steps: int
    ) -> QuantizedLinear:
        """An empty layer in a float layer's place, for loading into; on the default device.

        Args:
            steps: denoising steps that the layer runs in; 1 in the backbone.
        """
        rows, columns = linear.out_features, linear.in_features
        layer = cls(columns, rows, layout, step)
        if layout.weight_bits == 8:
            layer.weight_q = torch.zeros(rows, columns, dtype=torch.int8)
        else:
            layer.weight_packed = torch.zeros(rows, columns // 2, dtype=torch.uint8)
            if layout.group:
                groups = -(-columns // layout.group)
                layer.group_scale = torch.ones(rows, groups, dtype=torch.uint8)
        layer.weight_scale = torch.ones(rows)
        if layout.activation_scale != DYNAMIC:
            layer.input_scale = torch.ones((steps,) if layout.activation_scale == PER_STEP else ())
        if layout.permute:
            layer.permutation = torch.zeros(columns, dtype=torch.int32)
        if layout.rotation in ('pca', 'pca_hadamard'):
            block = block_of(columns, layout.block)
            layer.rotation = torch.zeros(columns // block, block, block, dtype=torch.float16)
        if layout.output_rotation:
            block = block_of(rows, layout.block)
            layer.output_rotation = torch.zeros(rows // block, block, block, dtype=torch.float16)
        if linear.bias is not None:
            layer.bias = torch.zeros(rows)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] to [..., out_features] of the same dtype."""
        kept = self._kept
        if kept is None or kept.device != self.weight_scale.device:
            kept = self._kept = self._prepare()
        rows = kept.rows[self.step.index if len(kept.rows) > 1 else 0]
        bias = self.bias if self.output_rotation is None else None
        weight = self.weight_q if kept.expanded is None else kept.expanded
        if weight is not None:
            y = int8_linear(x, weight, self.weight_scale, bias, rows=rows)
        else:
            assert self.weight_packed is not None
            y = int4_linear(
                x,
                self.weight_packed,
                self.group_scale,
                self.format.group,
                self.weight_scale,
                bias,
                rows=rows,
            )
        if self.output_rotation is not None:
            y = rotate_columns(y.float(), self.output_rotation.float().transpose(1, 2))
            if self.bias is not None:
                y = y + self.bias.float()
        return y.to(x.dtype)

    def integers(self) -> Tensor:
        """[N, K] int8: the weight in units of `weight_scale`, in the rotated basis."""
        if self.weight_q is not None:
            return self.weight_q
        assert self.weight_packed is not None
        return expand(self.weight_packed, self.group_scale, self.format.group)

    def dequantized(self) -> Tensor:
        """[N, K] float32: the weight that this layer stands for, in the basis of its inputs."""
        weight = self.integers().float() * self.weight_scale[:, None]
        basis = self.input_basis()
        if basis is not None:
            weight = rotate_columns(weight, basis.transpose(-1, -2))
        if self.permutation is not None:
            weight = weight[:, self.permutation.long().argsort()]
        if self.output_rotation is not None:
            weight = rotate_columns(weight.t(), self.output_rotation.float().transpose(1, 2)).t()
        return weight

    @property
    def output_scales(self) -> Tensor:
        """[N, ...] what the outputs are proportional to, row by row; a view."""
        if self.output_rotation is None:
            return self.weight_scale
        return self.output_rotation.view(self.out_features, -1)

    def fault(self) -> str | None:
        """What is wrong with the layer's numbers, in words; None: nothing."""
        multipliers = self.group_scale
        if multipliers is not None and multipliers.numel():
            low, high = int(multipliers.min()), int(multipliers.max())
            if not 1 <= low <= high <= LARGEST_MULTIPLIER:
                return f'group_scale: expected 1 to {LARGEST_MULTIPLIER}, found {low} to {high}'
        if self.permutation is not None:
            ordered = self.permutation.sort().values
            if not torch.equal(ordered, torch.arange(len(ordered), device=ordered.device).int()):
                return 'permutation: expected each input once, found some twice or out of range'
        if self.rotation is not None:
            rotation = self.rotation.float()
            unit = torch.eye(rotation.shape[-1], device=rotation.device)
            if not bool((rotation @ rotation.transpose(1, 2) - unit).abs().max() < 0.01):
                return 'rotation: expected orthogonal blocks, found others'
        if self.output_rotation is not None:
            # Its rows carry the corrections that were folded in: only their directions are fixed.
            rotation = nn.functional.normalize(self.output_rotation.float(), dim=-1)
            unit = torch.eye(rotation.shape[-1], device=rotation.device)
            if not bool((rotation @ rotation.transpose(1, 2) - unit).abs().max() < 0.01):
                return 'output_rotation: expected orthogonal rows, found others'
        return None

    def input_basis(self) -> Tensor | None:
        """Rotation of the inputs, float32: [block, block], [K / block, block, block] or None."""
        device = self.weight_scale.device
        if self.format.rotation == 'hadamard':
            return hadamard(block_of(self.in_features, self.format.block)).to(device)
        return None if self.rotation is None else self.rotation.float()

    def _prepare(self) -> _Kept:
        basis = self.input_basis()
        scales: tuple[Tensor | None, ...] = (None,)
        if self.input_scale is not None:
            scales = tuple(self.input_scale.reshape(-1))
        rows = tuple(
            Rows(
                bits=self.format.activation_bits,
                scale=scale,
                rotation=basis,
                permutation=self.permutation,
            )
            for scale in scales
        )
        # A CPU has no kernel for packed weights: there they are held as int8 while the layer lives.
        device = self.weight_scale.device
        expanded = None
        if self.weight_packed is not None and device.type == 'cpu':
            expanded = self.integers()
        return _Kept(device, rows, expanded)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantizedLinear:
        # A cast of the model must not round the scales: nn.Module.to converts all floating buffers.
        # Integers of the same bits are never cast, only moved.
        fixed = {
            name: getattr(self, name)
            for name in (*FLOAT32_BUFFERS, 'rotation', 'output_rotation')
            if getattr(self, name) is not None
        }
        super()._apply(fn, recurse)
        for name, tensor in fixed.items():
            bits = torch.int32 if tensor.dtype == torch.float32 else torch.int16
            setattr(self, name, fn(tensor.view(bits)).view(tensor.dtype))
        self._kept = None
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> QuantizedLinear:
        other = QuantizedLinear(self.in_features, self.out_features, self.format, self.step)
        for name, tensor in self._buffers.items():
            other._buffers[name] = None if tensor is None else tensor.clone()
        return other.train(self.training)
