# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A workload's network in one precision, on one device.

Knows weights and recipes; knows nothing of time. Integers are found by rounding to the nearest,
without data: as fast as calibrated ones, and a little less exact.
"""
from __future__ import annotations

from typing import Any

import torch

from quantvla_ros.bench.workload import Workload
from quantvla_ros.errors import BackendError, CalibrationError
from quantvla_ros.models.architectures import architecture_of, empty_network
from quantvla_ros.models.checkpoint import load_model
from quantvla_ros.models.export import random_weights
from quantvla_ros.quantization.artifact import load_artifact
from quantvla_ros.quantization.formats import replace_layer
from quantvla_ros.quantization.manifest import read_manifest
from quantvla_ros.quantization.quantize import quantize_linear
from quantvla_ros.quantization.recipe import DYNAMIC, Recipe
from quantvla_ros.quantization.recipe_file import load_recipe

FLOATS = {'float32': torch.float32, 'bf16': torch.bfloat16}
SEED = 0


def float_dtype(device: torch.device) -> torch.dtype:
    """Of what is not quantized, as the runtime has it."""
    return torch.bfloat16 if device.type == 'cuda' else torch.float32


def own_precision(workload: Workload) -> str:
    """That of an artifact."""
    assert workload.directory is not None
    return read_manifest(workload.directory).precision


def check_precision(workload: Workload, precision: str) -> None:
    """Refuse what cannot be made, before anything is.

    Raises:
        CalibrationError: neither a float type nor a recipe, or one that cannot do without data.
        BackendError: an artifact of another precision.
    """
    if workload.artifact:
        own = own_precision(workload)
        if precision != own:
            raise BackendError(
                f'{workload.directory}: expected precision {own}, which this artifact holds, found '
                f'{precision}; pass the float checkpoint'
            )
    elif precision not in FLOATS:
        _recipe(precision)


def make_network(workload: Workload, precision: str, device: torch.device) -> Any:
    """The network, ready to run, with the workload's chunk and steps.

    Args:
        precision: one of `FLOATS`, or a recipe by its name or path.
    """
    if workload.artifact:
        assert workload.directory is not None
        return load_artifact(workload.directory, device)[0]
    dtype = FLOATS.get(precision, float_dtype(device))
    if workload.directory is not None:
        network = load_model(workload.directory, device, dtype)
    else:
        network = _random_network(workload, dtype, device)
    network.config = workload.sizes
    if precision not in FLOATS:
        _quantize(network, _recipe(precision))
    return network


def _random_network(workload: Workload, dtype: torch.dtype, device: torch.device) -> Any:
    network = empty_network(workload.config)
    wide = architecture_of(workload.config).float32_modules
    # Through bfloat16, as the hub stores them: so they are the same in every precision.
    state = {
        name: tensor.to(torch.bfloat16).to(torch.float32 if name.startswith(wide) else dtype)
        for name, tensor in random_weights(workload.config, SEED, device)
    }
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(False)


def _recipe(precision: str) -> Recipe:
    try:
        recipe = load_recipe(precision)
    except CalibrationError as error:
        raise CalibrationError(
            f'precision {precision}: expected {", ".join(FLOATS)} or a recipe: {error}'
        ) from None
    if recipe.activations.scale != DYNAMIC:
        raise CalibrationError(
            f'recipe {recipe.name}: expected dynamic activation scales, found '
            f'{recipe.activations.scale}, which need data; calibrate, then pass the artifact'
        )
    return recipe


def _quantize(network: Any, recipe: Recipe) -> None:
    places = network.linear_places()
    for name in recipe.layout.select(network):
        layout, linear = recipe.layer_format(places[name]), network.get_submodule(name)
        layer, _ = quantize_linear(linear, layout, recipe.weights, network.denoising_step)
        replace_layer(network, name, layer)
