# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Smoothing: a scale per channel moves outliers from what layers read into their weights.

Knows a network's equalizations and the largest inputs of its layers; knows nothing of how either is
quantized. The readers' columns take the scale, its inverse folds into the module that makes the
tensor: the function stays the same and nothing is done at run time.
Source: SmoothQuant (arXiv 2211.10438); scales normalised and bounded here.
"""
from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from quantvla_ros.errors import CalibrationError
from quantvla_ros.models.dit import AdaptiveLayerNorm
from quantvla_ros.models.layers import AdaptiveRMSNorm, RMSNorm
from quantvla_ros.models.network import Equalization, Network

LARGEST = 100.0  # a scale is in [1 / LARGEST, LARGEST]: no channel of a weight may vanish


def channel_scale(inputs: Tensor, weights: Tensor, strength: float) -> Tensor:
    """`max|x_c|^strength / max|W_:c|^(1 - strength)`, with a geometric mean of 1.

    Args:
        inputs, weights: [K] largest magnitudes by channel; a channel that is silent in either
            gets 1.
        strength: 0 levels the weights' channels, 1 the activations'.
    Returns:
        [K] float64 in [1 / LARGEST, LARGEST].
    Raises:
        CalibrationError: a magnitude is negative or not finite.
    """
    inputs, weights = inputs.double(), weights.double()
    for what, values in (('inputs', inputs), ('weights', weights)):
        if not bool((torch.isfinite(values) & (values >= 0)).all()):
            raise CalibrationError(
                f'smoothing: expected finite magnitudes of {what}, found NaN, infinity or less '
                f'than zero; the checkpoint is damaged'
            )
    live = (inputs > 0) & (weights > 0)
    if not bool(live.any()):
        return torch.ones_like(inputs)
    log = torch.zeros_like(inputs)
    log[live] = strength * inputs[live].log() - (1.0 - strength) * weights[live].log()
    log[live] -= log[live].mean()
    bound = math.log(LARGEST)
    return log.clamp(-bound, bound).exp()


@torch.no_grad()
def equalize(
    model: Network,
    maxima: Mapping[str, Tensor],
    strength: float,
    quantized: Collection[str],
) -> dict[str, Tensor]:
    """Smooth every tensor that a layer about to be quantized reads; the function stays the same.

    What the network computes from its weights alone is dropped; flows made before are stale.

    Args:
        model: float; changed in place.
        maxima: by path of a reader, [K] largest |x| by channel. Readers of one tensor share it; a
            tensor of which no quantized reader was seen is left alone.
        strength: see `channel_scale`.
        quantized: paths of the layers that will be quantized.
    Returns:
        By path of a reader, [K] float64: what the channels it reads were divided by.
    Raises:
        CalibrationError: a layer in question is quantized already, or sizes do not fit.
    """
    scales: dict[str, Tensor] = {}
    modules = cast(nn.Module, model)
    for point in model.equalizations():
        seen = [path for path in point.readers if path in quantized and path in maxima]
        if not seen:
            continue
        readers = [_float_linear(modules, path) for path in point.readers]
        inputs = _largest([maxima[path] for path in seen]).to(readers[0].weight.device)
        # only what will be rounded counts; all readers get the scale
        weights = _largest([_float_linear(modules, p).weight.abs().amax(0) for p in seen])
        if inputs.shape != weights.shape:
            raise CalibrationError(
                f'smoothing of {point.source}: expected {len(weights)} channels, found the largest '
                f'inputs of {len(inputs)}'
            )
        scale, of_source = _scales(inputs, weights, strength, point)
        _fold(modules.get_submodule(point.source), of_source, point)
        for path, reader in zip(point.readers, readers, strict=True):
            reader.weight.copy_(reader.weight.double() * scale.to(reader.weight.device))
            scales[path] = scale
    modules.train(modules.training)  # prepared values are dropped
    return scales


def shifted_tensors(model: Network, scales: Collection[str]) -> tuple[str, ...]:
    """Tensors that hold a factor less 1 and so cannot be stored in 16 bits once they are smoothed.

    A channel divided by 50 has 1 + w = 0.02, which bfloat16 gives to 10 % only.

    Args:
        model: smoothed.
        scales: what `equalize` returned.
    Returns:
        Names of parameters, small ones, that must be stored in float32.
    """
    names = []
    for point in model.equalizations():
        if point.readers[0] not in scales:
            continue
        source = cast(nn.Module, model).get_submodule(point.source)
        if isinstance(source, RMSNorm):
            names.append(f'{point.source}.weight')
        elif isinstance(source, AdaptiveRMSNorm):
            names.append(f'{point.source}.dense.bias')
        elif isinstance(source, AdaptiveLayerNorm):
            names.append(f'{point.source}.linear.bias')
    return tuple(dict.fromkeys(names))


def _scales(
    inputs: Tensor, weights: Tensor, strength: float, point: Equalization
) -> tuple[Tensor, Tensor]:
    """Of the readers' channels [K], and of the source's outputs."""
    if point.shared is None:
        scale = channel_scale(inputs, weights, strength)
        return scale, scale
    # channels made of one output have one scale: by the largest of them
    shared = torch.tensor(point.shared, device=inputs.device)
    outputs = int(shared.max()) + 1
    largest = [
        values.new_zeros(outputs).scatter_reduce(0, shared, values, 'amax')
        for values in (inputs, weights)
    ]
    scale = channel_scale(largest[0], largest[1], strength)
    return scale[shared], scale


def _fold(source: nn.Module, scale: Tensor, point: Equalization) -> None:
    """Divide what a module gives by a scale per channel."""
    if isinstance(source, nn.Linear):
        _divide(source, 'weight', scale[:, None])
        _divide(source, 'bias', scale)
    elif isinstance(source, AdaptiveRMSNorm):
        _divide_modulation(source.dense, scale)
    elif isinstance(source, AdaptiveLayerNorm):
        _divide_modulation(source.linear, scale)
    elif isinstance(source, RMSNorm):
        _divide(source, 'weight', scale, torch.ones_like(scale))
    elif isinstance(getattr(source, 'weight', None), Tensor):
        _divide(source, 'weight', scale)
        _divide(source, 'bias', scale)
    else:
        raise CalibrationError(
            f'smoothing of {point.source}: expected a linear layer or a norm with a weight, found '
            f'{type(source).__name__}'
        )


def _divide_modulation(dense: nn.Linear, scale: Tensor) -> None:
    """Divide what a norm gives whose modulation a layer makes: scale and shift first.

    The norm multiplies by 1 + scale; what follows, a gate, is not its own.
    """
    width = len(scale)
    divisor = torch.ones(dense.out_features, dtype=scale.dtype, device=scale.device)
    divisor[:width] = divisor[width : 2 * width] = scale
    offset = torch.zeros_like(divisor)
    offset[:width] = 1.0
    _divide(dense, 'weight', divisor[:, None])
    _divide(dense, 'bias', divisor, offset)


def _divide(
    module: nn.Module, name: str, scale: Tensor, offset: Tensor | None = None
) -> None:
    """A parameter over a scale; with an offset, `(offset + parameter) / scale - offset`."""
    parameter = getattr(module, name, None)
    if parameter is None:
        return
    scale = scale.to(parameter.device)
    wide = parameter.double()
    if offset is None:
        parameter.copy_(wide / scale)
        return
    offset = offset.to(parameter.device)
    # near -1 sixteen bits are too few: such a parameter becomes float32
    dtype = torch.promote_types(parameter.dtype, torch.float32)
    value = ((offset + wide) / scale - offset).to(dtype)
    setattr(module, name, nn.Parameter(value, requires_grad=parameter.requires_grad))


def _largest(magnitudes: Sequence[Tensor]) -> Tensor:
    """[K] elementwise maximum, on the first one's device."""
    device = magnitudes[0].device
    return torch.stack([values.to(device).double() for values in magnitudes]).amax(0)


def _float_linear(modules: nn.Module, path: str) -> nn.Linear:
    linear = modules.get_submodule(path)
    if not isinstance(linear, nn.Linear):
        raise CalibrationError(
            f'smoothing of {path}: expected a float linear layer, found {type(linear).__name__}; '
            f'smoothing comes before quantization'
        )
    return linear
