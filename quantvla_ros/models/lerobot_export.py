# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The files that lerobot puts around its policies: processor steps and statistics.

Knows their layout; which steps a policy has is its own exporter's.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import save_file

from quantvla_ros.models.data_config import FILE as DATA_CONFIG
from quantvla_ros.models.export import Features, write_json

PREPROCESSOR, POSTPROCESSOR = 'policy_preprocessor.json', 'policy_postprocessor.json'
STATE, ACTION = 'observation.state', 'action'
RESTORE_FILE = 'policy_postprocessor_step_0_unnormalizer_processor.safetensors'

Step = tuple[str, Mapping[str, Any] | None]  # name, settings; None: the statistics' own


def feature_sections(features: Features, image: int) -> dict[str, Any]:
    """`input_features` and `output_features` of a config.json; pictures of `image` pixels."""
    visual = {slot: {'type': 'VISUAL', 'shape': [3, image, image]} for slot in features.slots}
    vectors = _vectors(features)
    return {
        'input_features': {**visual, STATE: vectors[STATE]},
        'output_features': {ACTION: vectors[ACTION]},
    }


def tokenizer_settings(max_tokens: int, padding: str = 'max_length') -> dict[str, Any]:
    """Settings of the step that makes token ids."""
    return {
        'max_length': max_tokens,
        'task_key': 'task',
        'padding_side': 'right',
        'padding': padding,
        'truncation': True,
        'tokenizer_name': 'tokenizer.json',
    }


def write_processors(
    directory: Path, features: Features, norm_map: Mapping[str, str], steps: Sequence[Step]
) -> None:
    """The processor files.

    Args:
        norm_map: how each kind of feature is normalised.
        steps: those after the renaming and batching that every policy begins with.
    """
    settings = {'eps': 1e-8, 'features': _vectors(features), 'norm_map': dict(norm_map)}
    before: list[dict[str, Any]] = [
        {'registry_name': 'rename_observations_processor', 'config': {'rename_map': {}}},
        {'registry_name': 'to_batch_processor', 'config': {}},
    ]
    statistics = [RESTORE_FILE]
    for name, own in steps:
        if own is None:
            file = f'policy_preprocessor_step_{len(before)}_{name}.safetensors'
            statistics.append(file)
            before.append({'registry_name': name, 'config': settings, 'state_file': file})
        else:
            before.append({'registry_name': name, 'config': dict(own)})
    after = [
        {'registry_name': 'unnormalizer_processor', 'config': settings, 'state_file': RESTORE_FILE},
    ]
    write_json(directory / PREPROCESSOR, {'name': 'policy_preprocessor', 'steps': before})
    write_json(directory / POSTPROCESSOR, {'name': 'policy_postprocessor', 'steps': after})
    arrays = {f'{STATE}.{k}': v for k, v in features.state.items()}
    arrays |= {f'{ACTION}.{k}': v for k, v in features.action.items()}
    arrays = {k: np.ascontiguousarray(v, np.float32) for k, v in arrays.items()}
    for name in statistics:
        save_file(arrays, directory / name)
        (directory / name).chmod(0o644)  # the library writes for the owner alone


def write_data_config(directory: Path, model: str, features: Features) -> None:
    """The data config, with the names and the period that lerobot's files have no place for."""
    content: dict[str, Any] = {'data_config': 1, 'model': model}
    if features.state_names is not None:
        content['state_names'] = list(features.state_names)
    content['action_names'] = list(features.action_names)
    if features.control_period is not None:
        content['control_period'] = features.control_period
    text = yaml.safe_dump(content, sort_keys=False, width=100)
    (directory / DATA_CONFIG).write_text(text, encoding='utf-8')


def _vectors(features: Features) -> dict[str, Any]:
    return {
        STATE: {'type': 'STATE', 'shape': [features.state['mean'].size]},
        ACTION: {'type': 'ACTION', 'shape': [len(features.action_names)]},
    }
