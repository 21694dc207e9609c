# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Layers as the engine's weights: whatever is joined gives what the layers give one by one."""
import pytest
import torch
from torch import nn

from quantvla_ros.engine.weights import WeightLoader
from quantvla_ros.errors import BackendError
from quantvla_ros.kernels import fused
from quantvla_ros.kernels.fused_types import FloatWeight, Int4Weight, Int8Weight, Stacked
from quantvla_ros.models.network import DenoisingStep
from quantvla_ros.quantization.quantize import quantize_linear
from quantvla_ros.quantization.recipe import LayerFormat
from quantvla_ros.quantization.recipe_file import load_recipe

W8A8 = LayerFormat(8, 0, 8, 'dynamic_per_token', 'hadamard', 16, False, False)
W4A8 = LayerFormat(4, 32, 8, 'dynamic_per_token', 'hadamard', 16, False, False)
OTHER_GROUPS = LayerFormat(4, 64, 8, 'dynamic_per_token', 'hadamard', 16, False, False)
NO_GROUPS = LayerFormat(4, 0, 8, 'dynamic_per_token', 'hadamard', 16, False, False)
PLAIN = LayerFormat(8, 0, 8, 'dynamic_per_token', 'none', 16, False, False)
FEWER_BITS = LayerFormat(8, 0, 4, 'dynamic_per_token', 'hadamard', 16, False, False)
OWN_AXES = LayerFormat(8, 0, 8, 'dynamic_per_token', 'pca', 16, False, False)
PERMUTED = LayerFormat(8, 0, 8, 'dynamic_per_token', 'hadamard', 16, True, False)
TURNED = LayerFormat(8, 0, 8, 'dynamic_per_token', 'hadamard', 16, False, True)
STATIC = LayerFormat(8, 0, 8, 'static_per_step', 'none', 16, False, False)
FLOAT = None


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def loader() -> WeightLoader:
    return WeightLoader(torch.device('cpu'), torch.float32)


def layer(layout: LayerFormat | None, outputs: int = 32, bias: bool = False, scales=None):
    linear = nn.Linear(64, outputs, bias=bias).requires_grad_(False)
    if layout is None:
        return linear
    made, _ = quantize_linear(linear, layout, load_recipe('w8a8').weights, DenoisingStep())
    if scales is not None:
        made.input_scale = torch.tensor(scales)
    return made


@pytest.mark.parametrize(
    ('formats', 'kind'),
    [
        ((FLOAT, FLOAT), FloatWeight),
        ((W8A8, W8A8), Int8Weight),
        ((W4A8, W4A8), Int4Weight),
        ((NO_GROUPS, NO_GROUPS), Int4Weight),
        ((W4A8, W8A8), Int8Weight),
        ((W4A8, OTHER_GROUPS), Int8Weight),
        ((W4A8, NO_GROUPS), Int8Weight),
        ((W8A8, FLOAT), Stacked),
        ((W8A8, PLAIN), Stacked),
        ((W8A8, FEWER_BITS), Stacked),
        ((OWN_AXES, OWN_AXES), Stacked),
        ((PERMUTED, PERMUTED), Stacked),
        ((TURNED, TURNED), Stacked),
    ],
)
@pytest.mark.parametrize('biases', [(False, False), (True, True), (False, True)])
def test_joined_layers_give_what_they_give_one_by_one(formats, kind, biases):
    layers = [layer(f, bias=bias) for f, bias in zip(formats, biases, strict=True)]
    weight = loader().weight(*layers)
    assert isinstance(weight, kind)
    x = torch.randn(5, 64)
    wanted = torch.cat([each(x) for each in layers], dim=-1)
    assert torch.allclose(fused.linear(x, weight), wanted, rtol=1e-4, atol=1e-5)
    pair = loader().weight(*layers, interleaved=True)
    gate, up = (each(x) for each in layers)
    found = fused.gated_linear(x, pair, activation='relu')
    assert torch.allclose(found, gate.relu() * up, rtol=1e-4, atol=1e-5)


def test_layers_of_different_sizes_are_joined():
    layers = [layer(W8A8, 64), layer(W8A8, 16), layer(W8A8, 32)]
    x = torch.randn(5, 64)
    wanted = torch.cat([each(x) for each in layers], dim=-1)
    assert torch.allclose(fused.linear(x, loader().weight(*layers)), wanted, rtol=1e-4, atol=1e-5)


def test_static_scales_are_compared_and_chosen_by_step():
    scales = [0.01, 0.02, 0.03]
    one, same = layer(STATIC, scales=scales), layer(STATIC, scales=scales)
    other = layer(STATIC, scales=[0.01, 0.02, 0.04])
    assert isinstance(loader().by_step(3, one, other)[0], Stacked)
    found = loader().by_step(3, one, same)
    x = torch.randn(5, 64)
    for step, weight in enumerate(found):
        one.step.index = same.step.index = step
        wanted = torch.cat((one(x), same(x)), dim=-1)
        assert torch.allclose(fused.linear(x, weight), wanted, rtol=1e-4, atol=1e-5)
    assert found[0].weight is found[2].weight


def test_scales_for_another_number_of_steps_are_refused():
    with pytest.raises(BackendError, match='one or 4'):
        loader().by_step(4, layer(STATIC, scales=[0.01, 0.02, 0.03]))


def test_layers_with_the_same_rotation_share_one_setting():
    load = loader()
    assert load.weight(layer(W8A8)).rows is load.weight(layer(W4A8)).rows


def test_what_is_no_linear_layer_is_refused_by_name():
    with pytest.raises(BackendError, match='Conv1d'):
        loader().weight(nn.Conv1d(4, 4, 1))
