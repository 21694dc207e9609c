# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Recipes: the shipped ones say what they are called, and a fault is one line with its place."""
from pathlib import Path

import pytest

from quantvla_ros.errors import CalibrationError
from quantvla_ros.quantization.recipe_file import load_recipe, parse_recipe

RECIPES = Path(__file__).resolve().parents[1] / 'config' / 'recipes'
NAMES = ('paper-w4a8', 'paper-w4a4', 'w8a8', 'w4a8', 'w8a8-extended')


def test_the_shipped_recipes_are_these():
    assert {file.stem for file in RECIPES.iterdir()} == set(NAMES)


@pytest.mark.parametrize('name', NAMES)
def test_a_shipped_recipe_has_the_bits_of_its_name(name):
    recipe = load_recipe(name)
    precision, _, layout = name.removeprefix('paper-').partition('-')
    assert recipe.precision == precision
    assert recipe.layout.name == (layout or 'paper')
    assert recipe.temperature.enabled and recipe.balance.enabled


def test_the_papers_recipes_are_the_papers():
    for name in NAMES[:2]:
        recipe = load_recipe(name)
        for correction in (recipe.temperature, recipe.balance):
            assert (correction.log_clip, correction.dead_band) == (0.3, 0.03)
            assert correction.shrinkage == 1.0
        assert recipe.temperature.method == 'std_ratio' and recipe.balance.method == 'rms_ratio'
        assert not recipe.balance.mlp and not recipe.balance.interface
        assert (recipe.estimation.order, recipe.estimation.sweeps) == ('parallel', 1)
        assert recipe.weights.rounding == 'nearest' and recipe.weights.group == 0
        assert (recipe.rotation.block, recipe.rotation.permute) == (64, True)


def changed(old, new):
    text = (RECIPES / 'w4a8.yaml').read_text()
    assert old in text
    return text.replace(old, new, 1)


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ('layout: paper', 'layout: papre', "did you mean 'paper'"),
        ('samples: 128', 'sample: 128', "unknown key 'sample'.*did you mean 'samples'"),
        ('samples: 128', 'samples: 12.5', 'sampling.samples: expected a whole number'),
        ('minimum: 16', 'minimum: 500', 'sampling.minimum'),
        ('log_clip: 0.30', 'log_clip: 3.0', 'temperature.log_clip'),
        ('dead_band: 0.01', 'dead_band: 0.5', 'temperature.dead_band'),
        ('enabled: true', 'enabled: 1', 'temperature.enabled: expected true or false'),
        ('[1.0,', '[0.97,', 'scale_grid: expected a list of fractions with 1.0'),
        ('dynamic_per_token', 'static', 'activations.scale'),
        ('recipe: 2', 'recipe: 1', 'recipe: expected'),
        ('layout: paper', 'layout: paper\nlayout: full', 'second time'),
        ('least_squares', 'rms_ratio', 'temperature.method'),
        ('bits: 4', 'bits: 6', 'weights.bits: expected one of 4, 8'),
        ('bits: 4', 'bits: 8', 'weights.group: expected 0'),
        ('group: 128', 'group: 3', 'weights.group'),
        ('backbone.value', 'backbone.values', "did you mean 'backbone.value'"),
        ('block: 64', 'block: 48', 'rotation.block: expected one of 16, 32, 64, 128'),
        ('input: hadamard', 'input: hadamar', "did you mean 'hadamard'"),
        ('rounding: gptq', 'rounding: rtn', 'weights.rounding'),
        ('sweeps: 1', 'sweeps: 0', 'estimation.sweeps'),
        ('shrinkage: 1.0', 'shrinkage: 0.0', 'temperature.shrinkage'),
        ('shrinkage: 1.0', 'shrink: 1.0', "did you mean 'shrinkage'"),
    ],
)
def test_a_fault_in_a_recipe_is_one_line_with_its_place(old, new, message):
    with pytest.raises(CalibrationError, match=message) as caught:
        parse_recipe(changed(old, new), name='mine', source='mine.yaml')
    assert str(caught.value).startswith('mine.yaml:') and '\n' not in str(caught.value)


def test_a_recipe_is_found_by_name_or_path(tmp_path):
    (tmp_path / 'mine.yaml').write_text((RECIPES / 'w8a8.yaml').read_text())
    assert load_recipe(tmp_path / 'mine.yaml').name == 'mine'
    with pytest.raises(CalibrationError, match=r"expected one of .*w8a8.*did you mean 'w8a8'"):
        load_recipe('w8a')
    with pytest.raises(CalibrationError, match='found none'):
        load_recipe(tmp_path / 'other.yaml')
