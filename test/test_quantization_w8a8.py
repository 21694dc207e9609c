# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Weights in int8: what is stored, what runs, and which layers."""
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from quantvla_ros.errors import CalibrationError
from quantvla_ros.models.checkpoint import build_network
from quantvla_ros.models.roles import Role
from quantvla_ros.quantization.layout import LAYOUTS
from quantvla_ros.quantization.schemes import swap
from quantvla_ros.quantization.w8a8 import LinearW8A8, quantize_weight

SHARED = Path(__file__).resolve().parents[2] / 'shared'
GRID = (1.0, 0.99, 0.98, 0.96, 0.92, 0.88)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 70),
    exponent=st.integers(-37, 30),
    seed=st.integers(0, 2**31),
)
def test_a_weight_is_at_most_half_a_step_away_without_a_search(rows, columns, exponent, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator) * 10.0**exponent
    q, scale = quantize_weight(weight, (1.0,))
    assert q.dtype == torch.int8 and q.abs().max() <= 127
    assert scale.dtype == torch.float32 and (scale > 0).all() and scale.isfinite().all()
    error = (q.double() * scale.double()[:, None] - weight.double()).abs()
    assert (error <= 0.5001 * scale.double()[:, None]).all()


def test_the_search_never_makes_a_row_worse_and_helps_long_ones():
    weight = torch.randn(16, 16384)  # as long as the backbone's down projection

    def error(grid):
        q, scale = quantize_weight(weight, grid)
        return (q * scale[:, None] - weight).square().sum(dim=1)

    plain, searched = error((1.0,)), error(GRID)
    assert (searched <= plain * (1 + 1e-6)).all()
    # the scale that wins is the best of the candidates, row by row
    candidates = torch.stack([error((fraction,)) for fraction in GRID])
    torch.testing.assert_close(searched, candidates.amin(dim=0))
    assert (searched < 0.99 * plain).any()


def test_rows_beyond_one_block_are_quantized_alike():
    weight = torch.randn(2500, 8)
    q, scale = quantize_weight(weight, GRID)
    again = [quantize_weight(row[None], GRID) for row in weight[[0, 1023, 1024, 2499]]]
    assert torch.equal(q[[0, 1023, 1024, 2499]], torch.cat([a for a, _ in again]))
    assert torch.equal(scale[[0, 1023, 1024, 2499]], torch.cat([b for _, b in again]))


def test_a_zero_row_stays_zero_with_a_scale_that_can_be_divided_by():
    weight = torch.randn(3, 16)
    weight[1] = 0.0
    q, scale = quantize_weight(weight, GRID)
    assert (q[1] == 0).all() and scale[1] == 1.0


@pytest.mark.parametrize('poison', [float('nan'), float('inf')])
def test_a_damaged_weight_is_named(poison):
    model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 4))
    with torch.no_grad():
        model[1].weight[2, 3] = poison
    with pytest.raises(CalibrationError, match=r'^1: .*1 of 4 rows'):
        swap(model, ['0', '1'], lambda linear: LinearW8A8.from_linear(linear, GRID))


@pytest.mark.parametrize('bias', [True, False])
def test_the_layer_runs_close_to_the_float_one(bias):
    linear = nn.Linear(256, 64, bias=bias)
    layer = LinearW8A8.from_linear(linear, GRID)
    x = torch.randn(2, 5, 256)
    expected = linear(x)
    error = (layer(x) - expected).norm() / expected.norm()
    assert 1e-4 < error < 0.02  # not float in disguise, and not wrong
    assert 1e-4 < (layer.dequantized() - linear.weight).norm() / linear.weight.norm() < 0.01
    assert torch.equal(layer(x), layer(x))


def test_casting_a_model_leaves_the_scales_in_float32():
    layer = LinearW8A8.from_linear(nn.Linear(16, 8), GRID)
    scale, q = layer.weight_scale.clone(), layer.weight_q.clone()
    nn.Sequential(layer).to(torch.bfloat16)
    assert torch.equal(layer.weight_scale, scale) and torch.equal(layer.weight_q, q)
    assert layer.bias.dtype == torch.bfloat16
    x = torch.randn(3, 16, dtype=torch.bfloat16)
    assert layer(x).dtype == torch.bfloat16


def test_an_empty_layer_takes_the_state_of_a_quantized_one():
    linear = nn.Linear(16, 8)
    layer = LinearW8A8.from_linear(linear, GRID)
    with torch.device('meta'):
        empty = LinearW8A8.like(nn.Linear(16, 8))
    empty.load_state_dict(layer.state_dict(), assign=True)
    x = torch.randn(3, 16)
    assert torch.equal(empty(x), layer(x))


def test_swapping_a_layer_twice_or_an_unknown_one_is_refused():
    model = nn.Sequential(nn.Linear(8, 4))
    make = lambda linear: LinearW8A8.from_linear(linear, GRID)  # noqa: E731
    swap(model, ['0'], make)
    with pytest.raises(CalibrationError, match='LinearW8A8'):
        swap(model, ['0'], make)
    with pytest.raises(CalibrationError, match='no such'):
        swap(model, ['1'], make)


@pytest.fixture(scope='module')
def full_size():
    with torch.device('meta'):
        return build_network({'type': 'pi05'})


@pytest.mark.parametrize(('layout', 'count'), [('paper', 180), ('language', 126), ('full', 252)])
def test_the_layouts_of_a_full_pi05_have_the_papers_layer_counts(full_size, layout, count):
    names = LAYOUTS[layout].select(full_size)
    assert len(names) == len(set(names)) == count
    for name in names:
        assert isinstance(full_size.get_submodule(name), nn.Linear)


def test_the_paper_layout_is_the_backbone_and_the_experts_mlp(full_size):
    expected = {
        f'paligemma_with_expert.paligemma.model.language_model.layers.{layer}.{part}'
        for layer in range(18)
        for part in (
            *(f'self_attn.{p}_proj' for p in 'qkvo'),
            *(f'mlp.{p}_proj' for p in ('gate', 'up', 'down')),
        )
    } | {
        f'paligemma_with_expert.gemma_expert.model.layers.{layer}.mlp.{part}_proj'
        for layer in range(18)
        for part in ('gate', 'up', 'down')
    }
    assert set(LAYOUTS['paper'].select(full_size)) == expected


@pytest.mark.skipif(
    not (SHARED / 'reference' / 'models_keys.txt').exists(), reason='no key list here'
)
def test_quantized_layers_are_weights_of_the_public_checkpoint(full_size):
    public = {}
    for line in (SHARED / 'reference' / 'models_keys.txt').read_text().splitlines():
        if line.startswith('== groot') or line.startswith('== gr00t'):
            break
        match = re.match(r'\s+model\.(\S+)\s+\[([\d, ]+)\](?:\s+i=(\d+)\.\.(\d+))?', line)
        if match is None:
            continue
        name, shape, first, last = match.groups()
        for i in range(int(first), int(last) + 1) if first else (0,):
            public[name.replace('{i}', str(i))] = [int(n) for n in shape.split(',')]
    assert len(public) > 800
    for name in LAYOUTS['full'].select(full_size):
        layer = full_size.get_submodule(name)
        assert public[name + '.weight'] == [layer.out_features, layer.in_features]


def test_every_layout_gives_a_reason_for_each_role_it_leaves_out():
    for layout in LAYOUTS.values():
        assert set(layout.kept) == set(Role) - layout.roles
        assert all(len(reason) > 10 for reason in layout.kept.values())
