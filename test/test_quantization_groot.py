# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Calibration is the same code for every network: here GR00T N1.5, with its cross-attention."""
import dataclasses

import pytest
import torch
from groot_samples import tiny_inputs, tiny_network

from quantvla_ros.quantization.calibrate import calibrate
from quantvla_ros.quantization.memory import memory, quantized_parts
from quantvla_ros.quantization.recipe_file import load_recipe


class Processor:
    """Observations here are numbers; each gives other inputs."""

    def inputs(self, observation, device='cpu'):
        inputs = tiny_inputs()
        generator = torch.Generator().manual_seed(observation)
        pixels = torch.randn(inputs.pixel_values.shape, generator=generator)
        state = torch.randn(inputs.state.shape, generator=generator)
        return dataclasses.replace(inputs, pixel_values=pixels, state=state)


def run(recipe, **changes):
    model = tiny_network()
    found = calibrate(
        model,
        Processor(),
        dataclasses.replace(load_recipe(recipe), **changes),
        range(16),
        range(100, 103),
        action_size=model.noise_shape[1],
        device=torch.device('cpu'),
        dtypes={},
        seed=0,
    )
    return model, found


@pytest.mark.parametrize(('recipe', 'worst'), [('w8a8', 0.02), ('w4a8', 0.2), ('paper-w4a8', 0.5)])
def test_the_recipes_run_on_groot(recipe, worst):
    model, found = run(recipe)
    assert 0 < found.corrected.relative < worst
    assert len(found.corrections.alpha) == len(model.head_layers())
    before, after = quantized_parts(memory(model))
    if recipe != 'paper-w4a8':  # whose rotations outweigh so small a network
        assert after < before


def test_a_calibrated_groot_reads_its_features_through_balanced_projections():
    recipe = load_recipe('w4a8')
    balance = dataclasses.replace(recipe.balance, interface=True, dead_band=0.0)
    model, found = run('w4a8', balance=balance)
    assert set(found.interface) == {
        point.projection for point in model.interface() if point.side == 'input'
    }


def test_everything_is_counted_once():
    model = tiny_network()
    parts = memory(model)
    whole = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    assert sum(part.float_bytes for part in parts) == 2 * whole
