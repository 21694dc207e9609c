# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A recipe's quantized layers in a network's places.

Knows networks, places and formats; knows nothing of how a layer's integers are found or of files.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from quantvla_ros.errors import CalibrationError
from quantvla_ros.models.roles import Place, Role
from quantvla_ros.quantization.linear import QuantizedLinear
from quantvla_ros.quantization.recipe import PER_STEP, LayerFormat, Recipe

HEAD = (Role.HEAD_ATTENTION, Role.HEAD_MLP)
VISION = (Role.VISION, Role.PROJECTOR)
BACKBONE = (Role.BACKBONE_ATTENTION, Role.BACKBONE_MLP)


def scale_steps(place: Place, layout: LayerFormat, denoising_steps: int) -> int:
    """How many static scales a layer has: one, or one for each denoising step in the head."""
    in_head = place.role in HEAD and layout.activation_scale == PER_STEP
    return denoising_steps if in_head else 1


def replace_layer(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Put a layer into the place of a float linear layer.

    Raises:
        CalibrationError: the path does not name a float linear layer.
    """
    path, _, attribute = name.rpartition('.')
    try:
        parent = model.get_submodule(path)
        linear = getattr(parent, attribute)
    except AttributeError:
        raise CalibrationError(
            f'{name}: expected a layer of the model, found no such; another model?'
        ) from None
    if not isinstance(linear, nn.Linear):
        raise CalibrationError(
            f'{name}: expected a float linear layer, found {type(linear).__name__}; '
            f'quantize a float checkpoint, once'
        )
    setattr(parent, attribute, layer)


def place_empty_layers(model: Any, recipe: Recipe) -> tuple[str, ...]:
    """Replace the layers of a recipe's layout by empty ones, for loading into.

    Args:
        model: a Network and nn.Module, in float; on the meta device, say.
    Returns:
        The paths of the layers.
    """
    places: Mapping[str, Place] = model.linear_places()
    names = recipe.layout.select(model)
    for name in names:
        layout = recipe.layer_format(places[name])
        steps = scale_steps(places[name], layout, model.denoising_steps)
        linear = model.get_submodule(name)
        layer = QuantizedLinear.like(linear, layout, model.denoising_step, steps)
        replace_layer(model, name, layer.train(linear.training))
    return names
