# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Recipe files: YAML to a checked `Recipe`, every key required, unknown ones refused.

Knows the file's layout and where recipes lie; knows nothing of how a setting acts.
"""
from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quantvla_ros.contract.yaml_reader import Place, suggest
from quantvla_ros.errors import CalibrationError
from quantvla_ros.quantization import recipe as settings
from quantvla_ros.quantization.layout import LAYOUTS
from quantvla_ros.quantization.recipe import Recipe

VERSION = 2  # of the file's layout

_TOP = (
    'recipe',
    'layout',
    'weights',
    'activations',
    'rotation',
    'smoothing',
    'temperature',
    'balance',
    'estimation',
    'sampling',
)
_WEIGHTS = ('bits', 'group', 'rounding', 'damping', 'match_float', 'scale_grid', 'eight_bits')
_CORRECTION = ('enabled', 'method', 'log_clip', 'dead_band', 'shrinkage')


class _RecipePlace(Place):
    error = CalibrationError
    document = 'a recipe'
    manual = 'docs/quantization.md'


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Read and check a recipe.

    Args:
        name_or_path: a name in config/recipes ('w8a8') or a path to a YAML file.
    Raises:
        CalibrationError: no such recipe, or the first fault in it, in one line.
    """
    path = find_recipe(name_or_path)
    try:
        text = path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationError(f'{path}: expected a recipe, cannot read it ({error})') from None
    return parse_recipe(text, name=path.stem, source=str(path))


def parse_recipe(text: str, *, name: str, source: str = '<memory>') -> Recipe:
    """Check a recipe's text; see `load_recipe`."""
    top = _RecipePlace.top(text, source).fields(list(_TOP))
    top['recipe'].integer(VERSION, VERSION)
    return Recipe(
        name=name,
        text=text,
        layout=LAYOUTS[top['layout'].choice(LAYOUTS)],
        weights=_weights(top['weights']),
        activations=_activations(top['activations']),
        rotation=_rotation(top['rotation']),
        smoothing=_smoothing(top['smoothing']),
        temperature=_temperature(top['temperature']),
        balance=_balance(top['balance']),
        estimation=_estimation(top['estimation']),
        sampling=_sampling(top['sampling']),
    )


def _weights(place: Place) -> settings.Weights:
    fields = place.fields(list(_WEIGHTS))
    bits = _one_of(fields['bits'], (4, 8))
    group = fields['group'].integer(0, 1024)
    if group and (bits == 8 or group < 16 or group % 2):
        fields['group'].fail('0 (one scale per channel) or, with 4 bits, an even number from 16')
    grid = fields['scale_grid']
    values = tuple(value.between(0.3, 2.0, '') for value in grid.sequence())
    if not values or 1.0 not in values:
        grid.fail('a list of fractions with 1.0 among them')
    return settings.Weights(
        bits=bits,
        group=group,
        rounding=fields['rounding'].choice(settings.ROUNDINGS),
        damping=fields['damping'].between(0.0, 1.0, ''),
        match_float=fields['match_float'].boolean(),
        scale_grid=values,
        eight_bits=tuple(
            kind.choice(settings.LAYER_KINDS) for kind in fields['eight_bits'].sequence()
        ),
    )


def _activations(place: Place) -> settings.Activations:
    fields = place.fields(['bits', 'scale', 'percentile'])
    return settings.Activations(
        bits=_one_of(fields['bits'], (4, 8)),
        scale=fields['scale'].choice(settings.ACTIVATION_SCALES),
        percentile=fields['percentile'].between(90.0, 100.0, ''),
    )


def _rotation(place: Place) -> settings.Rotation:
    fields = place.fields(['input', 'block', 'permute', 'output'])
    return settings.Rotation(
        input=fields['input'].choice(settings.INPUT_ROTATIONS),
        block=_one_of(fields['block'], (16, 32, 64, 128)),
        permute=fields['permute'].boolean(),
        output=fields['output'].choice(settings.OUTPUT_ROTATIONS),
    )


def _smoothing(place: Place) -> settings.Smoothing:
    fields = place.fields(['enabled', 'strength'])
    return settings.Smoothing(
        enabled=fields['enabled'].boolean(),
        strength=fields['strength'].between(0.0, 1.0, '', open_low=False),
    )


def _temperature(place: Place) -> settings.Temperature:
    fields = place.fields(list(_CORRECTION))
    return settings.Temperature(**_correction(fields, settings.TEMPERATURE_METHODS))


def _balance(place: Place) -> settings.Balance:
    fields = place.fields([*_CORRECTION, 'mlp', 'interface'])
    return settings.Balance(
        **_correction(fields, settings.BALANCE_METHODS),
        mlp=fields['mlp'].boolean(),
        interface=fields['interface'].boolean(),
    )


def _correction(fields: dict[str, Place], methods: tuple[str, ...]) -> dict[str, Any]:
    log_clip = fields['log_clip'].between(0.0, 1.0, '')
    return {
        'enabled': fields['enabled'].boolean(),
        'method': fields['method'].choice(methods),
        'log_clip': log_clip,
        'dead_band': fields['dead_band'].between(0.0, log_clip, '', open_low=False),
        'shrinkage': fields['shrinkage'].between(0.0, 1.0, ''),
    }


def _estimation(place: Place) -> settings.Estimation:
    fields = place.fields(['order', 'sweeps', 'trajectory'])
    return settings.Estimation(
        order=fields['order'].choice(settings.ORDERS),
        sweeps=fields['sweeps'].integer(1, 10),
        trajectory=fields['trajectory'].choice(settings.TRAJECTORIES),
    )


def _sampling(place: Place) -> settings.Sampling:
    fields = place.fields(['samples', 'minimum', 'held_out'])
    samples = fields['samples'].integer(1, 100_000)
    return settings.Sampling(
        samples=samples,
        minimum=fields['minimum'].integer(1, samples),
        held_out=fields['held_out'].integer(1, 100_000),
    )


def _one_of(place: Place, values: tuple[int, ...]) -> int:
    value = place.integer(min(values), max(values))
    if value not in values:
        place.fail(f'one of {", ".join(map(str, values))}')
    return value


def find_recipe(name_or_path: str | Path) -> Path:
    """The file of a recipe's name, or the path itself.

    Raises:
        CalibrationError: there is none.
    """
    path = Path(name_or_path)
    if path.suffix or path.parent != Path():
        if path.is_file():
            return path
        raise CalibrationError(f'{path}: expected a recipe file, found none')
    known: dict[str, Path] = {}
    for directory in _directories():
        for file in sorted(directory.glob('*.yaml')):
            known.setdefault(file.stem, file)
    if path.name not in known:
        names = ', '.join(sorted(known)) or 'none'
        hint = suggest(path.name, known) or 'give a name or a path to a YAML file'
        raise CalibrationError(f'recipe {path.name!r}: expected one of {names}; {hint}')
    return known[path.name]


def _directories() -> Iterator[Path]:
    """Where recipes lie: in the source tree, or where the package was installed."""
    yield Path(__file__).resolve().parents[2] / 'config' / 'recipes'
    for prefix in (*os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep), sys.prefix):
        if prefix:
            yield Path(prefix) / 'share' / 'quantvla_ros' / 'config' / 'recipes'
