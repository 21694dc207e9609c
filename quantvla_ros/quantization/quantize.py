# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One float linear layer to a quantized one, given what its inputs look like.

Knows a layer, its format, a recipe's weight settings and statistics of inputs; knows nothing of
models or of where the statistics come from.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from quantvla_ros.kernels.packing import pack_int4
from quantvla_ros.models.network import DenoisingStep
from quantvla_ros.quantization import gptq
from quantvla_ros.quantization.linear import QuantizedLinear
from quantvla_ros.quantization.recipe import DYNAMIC, LayerFormat, Weights
from quantvla_ros.quantization.rotation import (
    block_of,
    hadamard,
    inverse_transpose,
    principal_axes,
    rotate_columns,
    row_axes,
    zigzag,
)
from quantvla_ros.quantization.weights import search_grid


@dataclass(frozen=True)
class Basis:
    """The map of a layer's inputs: a permutation, then a rotation by blocks.

    Attributes:
        permutation: [K] int32 or None.
        rotation: as it is stored and run, float32: [block, block], [K / block, block, block], None.
    """

    permutation: Tensor | None
    rotation: Tensor | None

    @classmethod
    def of(cls, weight: Tensor, layout: LayerFormat) -> Basis:
        """What a format asks for on a weight [N, K]."""
        permutation = zigzag(weight) if layout.permute else None
        if permutation is not None:
            weight = weight[:, permutation.long()]
        if layout.rotation == 'none':
            return cls(permutation, None)
        block = block_of(weight.shape[1], layout.block)
        spread = hadamard(block).to(weight.device)
        if layout.rotation == 'hadamard':
            return cls(permutation, spread)
        axes = principal_axes(weight, block)
        rotation = axes @ spread if layout.rotation == 'pca_hadamard' else axes
        return cls(permutation, rotation.half().float())  # as it will be stored

    def inputs(self, x: Tensor) -> Tensor:
        """[..., K] inputs, mapped."""
        if self.permutation is not None:
            x = x[..., self.permutation.long()]
        return x if self.rotation is None else rotate_columns(x, self.rotation)

    def weight(self, weight: Tensor) -> Tensor:
        """[N, K] weight, mapped so that the product stays what it was."""
        if self.permutation is not None:
            weight = weight[:, self.permutation.long()]
        if self.rotation is None:
            return weight
        return rotate_columns(weight, inverse_transpose(self.rotation))

    def moments(self, moments: Tensor) -> Tensor:
        """[K, K] second moments of inputs, mapped on both sides."""
        return self.inputs(self.inputs(moments).t().contiguous()).t().contiguous()


@dataclass(frozen=True)
class Inputs:
    """What a layer read during calibration.

    Attributes:
        moments: [K, K] float32 mean of `x x^T` over the quantized policy's inputs.
        cross: [K, K] float32 mean of `x_float x^T`, or None.
        largest: [K] float32 maximum of |x|.
        step_size: [] or [steps] float32, static activation scales in the layer's basis, or None.
    """

    moments: Tensor
    cross: Tensor | None
    largest: Tensor
    step_size: Tensor | None = None


@dataclass(frozen=True)
class Quality:
    """How well a layer was quantized: relative errors of its outputs, from its inputs' moments.

    Attributes:
        rounded: to the nearest number, with one scale per output channel from its maximum and
            nothing else, at the same bits.
        quantized: as the recipe has it. None where nothing reads the layer.
    """

    rounded: float | None
    quantized: float | None


def quantize_linear(
    linear: nn.Linear,
    layout: LayerFormat,
    weights: Weights,
    step: DenoisingStep,
    *,
    basis: Basis | None = None,
    inputs: Inputs | None = None,
    steps: int = 1,
) -> tuple[QuantizedLinear, Quality]:
    """Quantize a layer; the layer itself is left as it is.

    Args:
        basis: of the layer's inputs; None makes it.
        inputs: None for a layer that nothing runs: it is rounded to the nearest.
        steps: denoising steps that the layer runs in.
    Raises:
        CalibrationError: a weight or an input holds a NaN or an infinity.
    """
    original = linear.weight.detach().float()
    basis = Basis.of(original, layout) if basis is None else basis
    with torch.device('meta'):
        layer = QuantizedLinear.like(linear, layout, step, steps)
    layer.train(linear.training)
    target, moments = original, None
    if inputs is not None:
        moments = basis.moments(inputs.moments)
        if weights.match_float and inputs.cross is not None:
            cross, damping = inputs.cross, max(weights.damping, 1e-3)
            target = gptq.match_target(original, cross, inputs.moments, damping)
    mapped = basis.weight(target)
    output_rotation = None
    if layout.output_rotation:
        axes = row_axes(mapped, block_of(len(mapped), layout.block)).transpose(1, 2)
        output_rotation = axes.half().contiguous()  # as it will be stored: outputs first
        undo = inverse_transpose(output_rotation.float())
        mapped = rotate_columns(mapped.t().contiguous(), undo).t().contiguous()
    grid = search_grid(
        mapped,
        bits=layout.weight_bits,
        group=layout.group,
        scale_grid=weights.scale_grid,
        importance=moments.diagonal() if moments is not None and _weighted(weights) else None,
    )
    if moments is not None and weights.rounding == 'gptq':
        q = gptq.round_with_feedback(mapped, grid, moments, weights.damping)
        grid = gptq.refit_scale(mapped, grid, q, moments)
    else:
        q = grid.round(mapped)
    if layout.weight_bits == 8:
        layer.weight_q = q.to(torch.int8)
    else:
        layer.weight_packed = pack_int4(q.to(torch.int8))
        layer.group_scale = grid.multiplier
    layer.weight_scale = grid.scale
    layer.permutation = basis.permutation
    if layer.rotation is not None:
        assert basis.rotation is not None
        layer.rotation = basis.rotation.half()
    layer.output_rotation = output_rotation
    if layer.input_scale is not None:
        layer.input_scale = _static_scale(layer.input_scale, inputs, original)
    layer.bias = None if linear.bias is None else linear.bias.detach().clone()
    return layer, _quality(original, layer, inputs)


def _weighted(weights: Weights) -> bool:
    """GPTQ knows its inputs; rounding to the nearest, as in the paper, does not."""
    return weights.rounding == 'gptq'


def _static_scale(empty: Tensor, inputs: Inputs | None, weight: Tensor) -> Tensor:
    """[] or [steps] step size; ones for a layer that nothing runs."""
    if inputs is None or inputs.step_size is None:
        return torch.ones(empty.shape, device=weight.device)
    return inputs.step_size.to(weight.device).float().reshape(empty.shape)


def _quality(original: Tensor, layer: QuantizedLinear, inputs: Inputs | None) -> Quality:
    if inputs is None:
        return Quality(None, None)
    bits = layer.format.weight_bits
    plain = search_grid(original, bits=bits, group=0, scale_grid=(1.0,))
    value = plain.value(plain.round(original))
    rounded = gptq.output_error(original, value, inputs.moments)
    quantized = gptq.output_error(original, layer.dequantized(), inputs.moments)
    return Quality(rounded, quantized)


def is_static(layout: LayerFormat) -> bool:
    """Whether a layer of this format needs step sizes from its inputs."""
    return layout.activation_scale != DYNAMIC
