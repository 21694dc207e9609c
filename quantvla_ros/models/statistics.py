# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Files of a data set's statistics, as different projects write them.

Three kinds: lerobot's processor state (safetensors, `observation.state.mean`), lerobot's data set
(`meta/stats.json`) and openpi's `norm_stats.json`. Knows how they are spelled; knows nothing of
what is done with the numbers.
"""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from quantvla_ros.errors import CheckpointError

STATE, ACTION = 'observation.state', 'action'
NORM_STATS = 'norm_stats.json'

# By feature, by name of the statistic.
Statistics = dict[str, dict[str, Any]]

_OPENPI_NAMES = {'state': STATE, 'actions': ACTION}


def read_statistics(path: str | Path) -> Statistics:
    """Statistics of states and actions, and of what else the file holds, by feature and name.

    Raises:
        CheckpointError: no such file, or none of the three kinds.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f'{path}: expected a file of statistics, found none; fetch it again')
    if path.suffix == '.safetensors':
        return _from_safetensors(path)
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    # ValueError: no JSON, or not UTF-8; RecursionError: nested without end.
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f'{path}: expected statistics (a .safetensors file of lerobot, stats.json of a lerobot '
            f'data set, or norm_stats.json of openpi), found {error}'
        ) from None
    found = content.get('norm_stats', content) if isinstance(content, dict) else None
    if not isinstance(found, dict) or not all(isinstance(v, dict) for v in found.values()):
        raise CheckpointError(
            f'{path}: expected an object of features, each an object of statistics by name; give '
            f'stats.json of a lerobot data set or norm_stats.json of openpi'
        )
    names: dict[str, str] = {} if found is content else _OPENPI_NAMES
    # openpi writes null for quantiles that were not computed.
    return {
        names.get(str(feature), str(feature)): {
            k: v for k, v in statistics.items() if v is not None
        }
        for feature, statistics in found.items()
    }


def statistics_of(path: Path, statistics: Statistics, feature: str) -> dict[str, Any]:
    """The statistics of one feature.

    Raises:
        CheckpointError: the file has none of it; with what it has.
    """
    if feature in statistics:
        return statistics[feature]
    known = ', '.join(sorted(statistics)) or 'none'
    # Checkpoints trained on several data sets at once qualify the names by the data set.
    qualified = sorted(name for name in statistics if name.endswith(feature))
    reason = (
        f'they are of single data sets ({qualified[0]}), not of your robot'
        if qualified
        else 'it belongs to something else'
    )
    raise CheckpointError(
        f'{path}: expected statistics of {feature}, found those of {_short(known)}; {reason}: name '
        f'the statistics of your data in data_config.yaml (statistics: PATH)'
    )


def _from_safetensors(path: Path) -> Statistics:
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f'{path}: expected a file of statistics, found {error}; fetch it again'
        ) from None
    found: Statistics = {}
    for key, value in tensors.items():
        feature, _, name = key.rpartition('.')
        found.setdefault(feature, {})[name] = np.asarray(value)
    return found


def _short(text: str, limit: int = 200) -> str:
    return text if len(text) <= limit else text[:limit] + '...'
