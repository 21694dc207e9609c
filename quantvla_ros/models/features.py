# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Names of cameras and of single numbers: what a config.json says, and what the user says instead.

Knows names; knows nothing of pictures, statistics or any one network.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quantvla_ros.errors import CheckpointError
from quantvla_ros.models.data_config import FILE as DATA_CONFIG
from quantvla_ros.models.data_config import DataConfig
from quantvla_ros.models.sizes import whole_number


def camera_slots(
    directory: Path,
    config: Mapping[str, Any],
    rename: Mapping[str, str],
    data: DataConfig | None,
) -> tuple[str, ...]:
    """Cameras in the network's order: those of config.json, or as the data config names them.

    Args:
        rename: names of the data, which the robot's contract has, to those of config.json.
    Raises:
        CheckpointError: neither names any, or the data config more than there are.
    """
    features = config.get('input_features') or {}
    if not isinstance(features, dict) or not all(isinstance(f, dict) for f in features.values()):
        raise CheckpointError(
            f'{directory}/config.json: input_features: expected objects by name, found '
            f'{str(features)[:80]}; fetch it again'
        )
    old = {new: name for name, new in rename.items()}
    # Empty cameras stand for pictures that never come.
    count = whole_number(config, 'empty_cameras', 0, 0, 16)
    empty = {f'observation.images.empty_camera_{n}' for n in range(count)}
    found = [
        feature
        for feature, what in features.items()
        if what.get('type') == 'VISUAL' and feature not in empty
    ]
    said = () if data is None else data.cameras
    if said:
        if found and len(said) > len(found):
            assert data is not None
            raise CheckpointError(
                f'{data.source}: cameras: expected at most {len(found)}, as config.json has '
                f'({", ".join(found)}), found {len(said)}'
            )
        return said
    if not found:
        raise CheckpointError(
            f'{directory}/config.json: input_features: expected at least one VISUAL feature, found '
            f'none, as in base checkpoints; name the cameras in {DATA_CONFIG} (cameras: [...]) in '
            f'the order of training'
        )
    return tuple(old.get(feature, feature) for feature in found)


def with_names(
    found: Sequence[str] | None, size: int, what: str, data: DataConfig | None
) -> tuple[str, ...] | None:
    """Names of single numbers: those of the data config (`<what>_names`), or those found.

    Raises:
        CheckpointError: the data config names another number of them.
    """
    said = None if data is None else getattr(data, f'{what}_names')
    if said is None:
        return None if found is None else tuple(found)
    if len(said) != size:
        assert data is not None
        raise CheckpointError(
            f'{data.source}: {what}_names: expected {size} names, as the statistics have numbers, '
            f'found {len(said)}'
        )
    return tuple(said)
