# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How a policy is to be quantized: the settings of a recipe file, checked to the last key.

Knows the file's layout and what a setting may be; knows nothing of models or how a setting acts.
"""
from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from quantvla_ros.contract.yaml_reader import Place, suggest
from quantvla_ros.errors import CalibrationError
from quantvla_ros.quantization.layout import LAYOUTS, Layout
from quantvla_ros.quantization.schemes import SCHEMES

VERSION = 1  # of the file's layout


@dataclass(frozen=True)
class Correction:
    """One of the two corrections.

    Attributes:
        log_clip: bound on the scalar's |logarithm|.
        dead_band: a scalar whose |logarithm| is below this is left out.
    """

    enabled: bool
    log_clip: float
    dead_band: float


@dataclass(frozen=True)
class Sampling:
    """How many observations calibration takes.

    Attributes:
        samples: for the statistics.
        minimum: fewer are refused.
        held_out: further ones, for the reported error only.
    """

    samples: int
    minimum: int
    held_out: int


@dataclass(frozen=True)
class Recipe:
    """A checked recipe file.

    Attributes:
        name: of the file, without its suffix.
        text: the file itself; it goes into the artifact.
        scheme: a name of SCHEMES.
        scale_grid: candidates for a weight's scale, fractions of the largest.
    """

    name: str
    text: str
    scheme: str
    layout: Layout
    scale_grid: tuple[float, ...]
    temperature: Correction
    balance: Correction
    sampling: Sampling


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
    top = _RecipePlace.top(text, source).fields(
        [
            'recipe',
            'scheme',
            'layout',
            'weights',
            'activations',
            'temperature',
            'balance',
            'sampling',
        ]
    )
    top['recipe'].integer(VERSION, VERSION)
    top['activations'].fields(['scale'])['scale'].choice(['dynamic_per_token'])
    return Recipe(
        name=name,
        text=text,
        scheme=top['scheme'].choice(SCHEMES),
        layout=LAYOUTS[top['layout'].choice(LAYOUTS)],
        scale_grid=_grid(top['weights']),
        temperature=_correction(top['temperature'], 'std_ratio'),
        balance=_correction(top['balance'], 'rms_ratio'),
        sampling=_sampling(top['sampling']),
    )


def _grid(place: Place) -> tuple[float, ...]:
    grid = place.fields(['scale_grid'])['scale_grid']
    values = tuple(value.between(0.3, 1.0, '') for value in grid.sequence())
    if not values or 1.0 not in values:
        grid.fail('a list of fractions with 1.0 among them')
    return values


def _correction(place: Place, method: str) -> Correction:
    fields = place.fields(['enabled', 'method', 'log_clip', 'dead_band'])
    fields['method'].choice([method])
    log_clip = fields['log_clip'].between(0.0, 1.0, '')
    return Correction(
        enabled=fields['enabled'].boolean(),
        log_clip=log_clip,
        dead_band=fields['dead_band'].between(0.0, log_clip, '', open_low=False),
    )


def _sampling(place: Place) -> Sampling:
    fields = place.fields(['samples', 'minimum', 'held_out'])
    samples = fields['samples'].integer(1, 100_000)
    return Sampling(
        samples=samples,
        minimum=fields['minimum'].integer(1, samples),
        held_out=fields['held_out'].integer(1, 100_000),
    )


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
