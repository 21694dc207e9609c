# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Directories of openpi's PyTorch conversion: what its config.json and norm_stats.json say.

`examples/convert_jax_model_to_pytorch.py` of openpi writes model.safetensors, a config.json without
a model type, and a copy of `assets/`. What its training configs say in code (cameras, whether the
state stands in the prompt, which actions are relative) is in no file: the data config says it.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantvla_ros.errors import CheckpointError
from quantvla_ros.models.data_config import FILE as DATA_CONFIG
from quantvla_ros.models.data_config import DataConfig
from quantvla_ros.models.normalization import Normalizer
from quantvla_ros.models.relative_actions import by_runs
from quantvla_ros.models.statistics import ACTION, NORM_STATS, STATE, read_statistics, statistics_of

# Of every pi0.5 of openpi, in the order of training.
CAMERAS = (
    'observation.images.base_0_rgb',
    'observation.images.left_wrist_0_rgb',
    'observation.images.right_wrist_0_rgb',
)
MAX_TOKENS = 200


@dataclass(frozen=True)
class OpenpiFiles:
    """What surrounds a network in such a directory.

    Attributes:
        state, action: normalisation; their sizes are the robot's.
        relative: per number of the action, whether the state is added to it; None: to none.
        files: what it was read from.
    """

    state: Normalizer
    action: Normalizer
    relative: tuple[bool, ...] | None
    files: tuple[Path, ...]


def is_openpi(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is one that openpi's converter writes: it names no type."""
    return not (config.get('type') or config.get('model_type')) and {
        'action_dim', 'action_horizon', 'action_expert_variant',
    } <= set(config)


def read_openpi_files(
    directory: Path, config: Mapping[str, Any], data: DataConfig | None
) -> OpenpiFiles:
    """Read the statistics of a directory, or those that the data config names.

    Raises:
        CheckpointError: none or several there, or they do not fit.
    """
    path = _norm_stats(directory, data)
    statistics = read_statistics(path)
    maps = {}
    for feature, what in ((STATE, 'state'), (ACTION, 'action')):
        map_ = Normalizer.openpi(
            f'{path}: {feature}', statistics_of(path, statistics, feature)
        )
        maps[what] = _first(map_, path, feature, what, config['action_dim'], data)
    relative = _relative(data, maps['action'].size, maps['state'].size)
    return OpenpiFiles(maps['state'], maps['action'], relative, (path,))


def _norm_stats(directory: Path, data: DataConfig | None) -> Path:
    if data is not None and data.statistics is not None:
        return data.find(data.statistics)
    # An artifact holds its copy under its own name alone.
    if (directory / NORM_STATS).is_file():
        return directory / NORM_STATS
    found = sorted((directory / 'assets').rglob(NORM_STATS))
    if len(found) == 1:
        return found[0]
    if not found:
        raise CheckpointError(
            f'{directory}: expected assets/ASSET_ID/{NORM_STATS}, found none; copy assets of the '
            f'openpi checkpoint there (the converter leaves them out where it finds none), or name '
            f'the statistics in {DATA_CONFIG} (statistics: PATH)'
        )
    names = ', '.join(str(path.relative_to(directory)) for path in found)
    raise CheckpointError(
        f'{directory}: expected one {NORM_STATS}, found {names}; name that of your robot in '
        f'{DATA_CONFIG} (statistics: PATH)'
    )


def _first(
    map_: Normalizer,
    path: Path,
    feature: str,
    what: str,
    largest: int,
    data: DataConfig | None,
) -> Normalizer:
    """The map of the robot's own numbers: openpi's statistics may be of the padded vector.

    openpi cuts them to the robot's state and actions too; here the names say how many there are.
    """
    names = None if data is None else getattr(data, f'{what}_names')
    if map_.size > largest:
        raise CheckpointError(
            f'{path}: {feature}: expected statistics of at most {largest} numbers, as config.json '
            f'says (action_dim), found {map_.size}; they are of another model'
        )
    if names is None:
        return map_
    if len(names) > map_.size:
        assert data is not None
        raise CheckpointError(
            f'{data.source}: {what}_names: expected at most {map_.size} names, as {path} has '
            f'numbers, found {len(names)}'
        )
    return map_.first(len(names))


def _relative(
    data: DataConfig | None, actions: int, states: int
) -> tuple[bool, ...] | None:
    if data is None or not data.relative_actions:
        return None
    mask = by_runs(data.relative_actions)
    if len(mask) > actions or any(mask[states:]):
        raise CheckpointError(
            f'{data.source}: relative_actions: expected at most {actions} numbers, the relative '
            f'ones among the first {states} (there is no other state to add), found '
            f'{list(data.relative_actions)}'
        )
    return mask + (False,) * (actions - len(mask))
