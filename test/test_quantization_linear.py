# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The quantized layer: every format runs close to its float layer, and what it stores is all."""
import copy
import dataclasses
import itertools

import pytest
import torch
from torch import nn

from quantvla_ros.errors import CalibrationError
from quantvla_ros.models.network import DenoisingStep
from quantvla_ros.models.roles import Part, Place, Role
from quantvla_ros.quantization.correction import scale_outputs
from quantvla_ros.quantization.formats import replace_layer
from quantvla_ros.quantization.linear import QuantizedLinear
from quantvla_ros.quantization.quantize import Inputs, quantize_linear
from quantvla_ros.quantization.recipe import LayerFormat
from quantvla_ros.quantization.recipe_file import load_recipe

W8A8 = LayerFormat(8, 0, 8, 'dynamic_per_token', 'none', 64, False, False)
W4A8 = LayerFormat(4, 32, 8, 'dynamic_per_token', 'hadamard', 64, False, False)
PAPER = LayerFormat(4, 0, 8, 'dynamic_per_token', 'pca', 64, True, True)
WEIGHTS = load_recipe('w4a8').weights


def inputs_of(x, step_size=None):
    x = x.reshape(-1, x.shape[-1])
    return Inputs(x.t() @ x / len(x), None, x.abs().amax(0), step_size)


def quantize(linear, layout, x=None, step_size=None, step=None, steps=1):
    return quantize_linear(
        linear,
        layout,
        WEIGHTS,
        step or DenoisingStep(),
        inputs=None if x is None else inputs_of(x, step_size),
        steps=steps,
    )


def relative(a, b):
    return float(((a - b).norm() / b.norm()).detach())


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize(
    ('bits', 'group', 'rotation', 'permute', 'output'),
    [
        (bits, group, rotation, permute, output)
        for bits, group in ((8, 0), (4, 0), (4, 32))
        for rotation, permute, output in itertools.chain(
            (('none', False, False), ('pca', True, True), ('pca_hadamard', False, False)),
            (('hadamard', True, False), ('hadamard', False, True)),
        )
    ],
)
def test_every_format_runs_close_to_the_float_layer(bits, group, rotation, permute, output, bias):
    layout = LayerFormat(bits, group, 8, 'dynamic_per_token', rotation, 64, permute, output)
    linear = nn.Linear(192, 96, bias=bias)
    nn.init.normal_(linear.weight)
    x = torch.randn(2, 50, 192)
    layer, quality = quantize(linear, layout, x)
    expected = linear(x)
    limit = 0.02 if bits == 8 else 0.2
    assert 1e-4 < relative(layer(x), expected) < limit  # not float in disguise, and not wrong
    assert relative(layer.dequantized(), linear.weight) < 1.5 * limit
    # what the layer stands for is what it runs, up to the rounding of activations
    run = nn.functional.linear(x, layer.dequantized(), linear.bias)
    assert relative(layer(x), run) < 0.015
    assert quality.quantized == pytest.approx(
        relative(run - expected + x @ linear.weight.t(), x @ linear.weight.t()), rel=0.02
    )


def test_four_bit_activations_are_coarser():
    linear, x = nn.Linear(128, 64), torch.randn(40, 128)
    eight, _ = quantize(linear, W8A8, x)
    four, _ = quantize(linear, dataclasses.replace(W8A8, activation_bits=4), x)
    errors = [relative(layer(x), linear(x)) for layer in (eight, four)]
    assert 5 * errors[0] < errors[1] < 0.3


def test_static_scales_are_looked_up_by_the_denoising_step():
    linear, x = nn.Linear(64, 32), torch.randn(40, 64)
    step = DenoisingStep()
    sizes = torch.tensor([0.001, float(x.abs().max()) / 127])
    layout = dataclasses.replace(W8A8, activation_scale='static_per_step')
    layer, _ = quantize(linear, layout, x, sizes, step, steps=2)
    assert torch.equal(layer.input_scale, sizes)
    errors = []
    for step.index in (0, 1):
        errors.append(relative(layer(x), linear(x)))
    assert errors[0] > 0.5 and errors[1] < 0.03  # the first step's scale clips nearly everything
    whole, _ = quantize(
        linear, dataclasses.replace(layout, activation_scale='static_per_tensor'), x, sizes[1:]
    )
    assert torch.equal(whole(x), layer(x))


def test_a_layer_that_nothing_runs_is_rounded():
    layer, quality = quantize(nn.Linear(64, 32), W4A8)
    assert quality.quantized is None and layer.weight_packed is not None


@pytest.mark.parametrize('layout', [W8A8, W4A8, PAPER])
def test_casting_and_copying_leave_the_numbers_alone(layout):
    layer, _ = quantize(nn.Linear(128, 64), layout, torch.randn(100, 128))
    state = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    cast = nn.Sequential(copy.deepcopy(layer)).to(torch.bfloat16)[0]
    assert cast.bias.dtype == torch.bfloat16
    for name, tensor in state.items():
        if name != 'bias':
            assert torch.equal(cast.state_dict()[name], tensor), name
    x = torch.randn(3, 128, dtype=torch.bfloat16)
    assert cast(x).dtype == torch.bfloat16


@pytest.mark.parametrize('layout', [W8A8, W4A8, PAPER])
def test_an_empty_layer_takes_the_state_of_a_quantized_one(layout):
    linear = nn.Linear(128, 64)
    layer, _ = quantize(linear, layout, torch.randn(100, 128))
    with torch.device('meta'):
        empty = QuantizedLinear.like(nn.Linear(128, 64), layout, DenoisingStep(), 1)
    assert {n: (t.shape, t.dtype) for n, t in empty.state_dict().items()} == {
        n: (t.shape, t.dtype) for n, t in layer.state_dict().items()
    }
    empty.load_state_dict(layer.state_dict(), assign=True)
    x = torch.randn(3, 128)
    assert torch.equal(empty(x), layer(x))


@pytest.mark.parametrize('layout', [W8A8, W4A8, PAPER])
def test_outputs_are_scaled_in_what_is_stored(layout):
    layer, _ = quantize(nn.Linear(128, 64), layout, torch.randn(100, 128))
    x = torch.randn(5, 128)
    before = layer(x)
    factor = torch.linspace(0.8, 1.2, 64).double()
    names = set(layer.state_dict())
    scale_outputs(layer, factor)
    torch.testing.assert_close(layer(x), before * factor.float(), rtol=2e-3, atol=2e-3)
    assert set(layer.state_dict()) == names  # nothing is added that would run


def test_four_bits_take_half_the_space():
    linear = nn.Linear(256, 64, bias=False)
    sizes = {}
    for layout in (W8A8, dataclasses.replace(W4A8, group=128)):
        layer, _ = quantize(linear, layout)
        sizes[layout.weight_bits] = sum(t.numel() * t.element_size() for t in layer.buffers())
    assert sizes[8] == 64 * 256 + 64 * 4
    assert sizes[4] == 64 * 128 + 64 * 4 + 64 * 2  # two groups of a byte in each row


def test_impossible_numbers_are_told():
    layer, _ = quantize(nn.Linear(128, 64), dataclasses.replace(PAPER, group=32))
    assert layer.fault() is None
    layer.permutation[0] = layer.permutation[1]
    assert 'permutation' in layer.fault()
    layer.group_scale[3, 1] = 16
    assert 'found 1 to 16' in layer.fault().replace(
        str(int(layer.group_scale.min())) + ' to', '1 to'
    )


def test_only_a_float_layer_can_be_replaced_and_only_once():
    model = nn.Sequential(nn.Linear(64, 32))
    layer, _ = quantize(model[0], W8A8)
    replace_layer(model, '0', layer)
    with pytest.raises(CalibrationError, match='QuantizedLinear'):
        replace_layer(model, '0', layer)
    with pytest.raises(CalibrationError, match='no such'):
        replace_layer(model, '1', layer)


def test_a_recipe_keeps_the_kinds_it_names_at_eight_bits():
    recipe = load_recipe('w4a8')
    assert 'backbone.value' in recipe.weights.eight_bits
    value = recipe.layer_format(Place(Role.BACKBONE_ATTENTION, Part.VALUE))
    gate = recipe.layer_format(Place(Role.BACKBONE_MLP, Part.GATE))
    assert (value.weight_bits, value.group) == (8, 0)
    assert (gate.weight_bits, gate.group) == (4, 128)
