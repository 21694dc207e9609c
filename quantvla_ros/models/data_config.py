# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Data configs: what a checkpoint's own files do not say of the data that it was trained on.

`data_config.yaml` in the checkpoint's directory, put there by the user (config/data holds some to
copy), read strictly: order and normalisation of state
and action parts, which embodiment's weights, where statistics and tokenizer lie, and the switches
between ways of preparing prompts and pictures that no checkpoint records. An artifact carries its
own copy. Knows names and choices; knows nothing of what an architecture makes of them.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from quantvla_ros.contract.yaml_reader import Place
from quantvla_ros.errors import CheckpointError

FILE = 'data_config.yaml'
MODES = ('min_max', 'quantiles', 'mean_std', 'binary', 'sin_cos')

# Choices of `resize`, by model.
RESIZES = {'pi05': ('lerobot', 'lerobot_0_4', 'openpi'), 'gr00t_n1_5': ('isaac', 'lerobot')}

# Keys that may be given, by model; `data_config` and `model` always.
KEYS: dict[str, tuple[str, ...]] = {
    'pi05': (
        'cameras', 'statistics', 'tokenizer', 'prompt_state', 'resize', 'control_period',
        'execute_steps', 'state_names', 'action_names', 'relative_actions',
    ),
    'gr00t_n1_5': (
        'cameras', 'embodiment', 'embodiment_id', 'state', 'action', 'statistics', 'tokenizer',
        'resize', 'crop', 'instruction', 'control_period', 'execute_steps',
    ),
    'smolvla': (
        'cameras', 'statistics', 'tokenizer', 'control_period', 'execute_steps', 'state_names',
        'action_names',
    ),
}


@dataclass(frozen=True)
class VectorPart:
    """One part of a state or of an action, as the data set names it.

    Attributes:
        key: in the statistics, as 'left_arm'.
        mode: one of MODES.
        names: of its numbers in the robot's contract; None: key_0, key_1, ...
        dimensions: its first number and the one after its last within a flat vector, where the
            statistics are of the whole vector.
    """

    key: str
    mode: str
    names: tuple[str, ...] | None = None
    dimensions: tuple[int, int] | None = None


@dataclass(frozen=True)
class DataConfig:
    """What the user says; None or () where nothing.

    Attributes:
        source: the file.
        model: kind of the architecture that it is for.
        cameras: slots in the order of training.
        embodiment: name under which statistics are stored; embodiment_id: row of the weights.
        state, action: parts in the order of training.
        state_names, action_names: of single numbers, for statistics that are of one vector.
        relative_actions: which numbers of an action are relative to the state, in runs as openpi
            writes them: [6, -1] is six that are and one that is not.
        statistics, tokenizer: files, relative to this one.
        prompt_state: 'raw', 'pad32' or 'none': how the state stands in pi0.5's prompt.
        resize: how pictures are fitted, one of RESIZES.
        crop: share of a picture's sides that is kept, about its middle.
        instruction: 'plain' or 'as_list': the command as it is, or as a Python list of one.
        control_period: s between two actions of a chunk; execute_steps: actions to run of it.
    """

    source: Path
    model: str
    cameras: tuple[str, ...] = ()
    embodiment: str | None = None
    embodiment_id: int | None = None
    state: tuple[VectorPart, ...] = ()
    action: tuple[VectorPart, ...] = ()
    state_names: tuple[str, ...] | None = None
    action_names: tuple[str, ...] | None = None
    relative_actions: tuple[int, ...] = ()
    statistics: str | None = None
    tokenizer: str | None = None
    prompt_state: str | None = None
    resize: str | None = None
    crop: float | None = None
    instruction: str | None = None
    control_period: float | None = None
    execute_steps: int | None = None

    def find(self, name: str) -> Path:
        """A file that this one names, relative to it."""
        return self.source.parent / name

    def local_text(self) -> str:
        """The YAML of a copy that lies beside copies of the files that it names."""
        content = yaml.safe_load(self.source.read_text(encoding='utf-8'))
        for key in ('statistics', 'tokenizer'):
            if key in content:
                content[key] = Path(content[key]).name
        return yaml.safe_dump(content, sort_keys=False)


class DataPlace(Place):
    """One value of a data config."""

    error = CheckpointError
    document = 'a data config'
    manual = 'docs/checkpoints.md'


def find_data_config(directory: Path) -> DataConfig | None:
    """The data config that a directory carries; None where it has none."""
    path = Path(directory) / FILE
    return load_data_config(path) if path.is_file() else None


def load_data_config(path: str | Path) -> DataConfig:
    """Read a data config.

    Raises:
        CheckpointError: no such file, or not a data config; with the line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f'{path}: expected a data config (YAML), found {error}; config/data holds some to copy'
        ) from None
    top = DataPlace.top(text, str(path))
    every = tuple(dict.fromkeys(key for keys in KEYS.values() for key in keys))
    fields = top.fields(('data_config', 'model'), every)
    fields['data_config'].integer(1, 1)
    model = fields['model'].choice(KEYS)
    values: dict[str, Any] = {}
    for name, place in fields.items():
        if name in ('data_config', 'model'):
            continue
        if name not in KEYS[model]:
            place.fail(
                f'one of the keys of {model}: {", ".join(KEYS[model])}', f'the key {name!r}',
                'remove it',
            )
        values[name] = (
            place.choice(RESIZES[model]) if name == 'resize' else _READERS[name](place)
        )
    return DataConfig(path, model, **values)


def _texts(place: Place) -> tuple[str, ...]:
    texts = tuple(one.text('a name') for one in place.sequence())
    if not texts or len(set(texts)) != len(texts):
        place.fail('a list of different names', f'{list(texts)}')
    return texts


def _runs(place: Place) -> tuple[int, ...]:
    runs = tuple(one.integer(-1000, 1000) for one in place.sequence())
    if not runs or 0 in runs:
        place.fail('a list of whole numbers unlike 0', f'{list(runs)}')
    return runs


def _parts(place: Place) -> tuple[VectorPart, ...]:
    parts = []
    for one in place.sequence():
        fields = one.fields(('key', 'normalize'), ('names', 'dimensions'))
        dimensions = None
        if 'dimensions' in fields:
            ends = [end.integer(0, 2**16) for end in fields['dimensions'].sequence()]
            if len(ends) != 2 or ends[0] >= ends[1]:
                fields['dimensions'].fail('[first, after the last]', str(ends))
            dimensions = (ends[0], ends[1])
        parts.append(
            VectorPart(
                fields['key'].text('a key of the statistics'),
                fields['normalize'].choice(MODES),
                _texts(fields['names']) if 'names' in fields else None,
                dimensions,
            )
        )
    keys = [part.key for part in parts]
    if not parts or len(set(keys)) != len(keys):
        place.fail('a list of parts with different keys', str(keys))
    return tuple(parts)


_READERS: Mapping[str, Any] = {
    'cameras': _texts,
    'embodiment': lambda place: place.text('the name of an embodiment'),
    'embodiment_id': lambda place: place.integer(0, 2**10),
    'state': _parts,
    'action': _parts,
    'state_names': _texts,
    'action_names': _texts,
    'relative_actions': _runs,
    'statistics': lambda place: place.text('a file'),
    'tokenizer': lambda place: place.text('a file'),
    'prompt_state': lambda place: place.choice(('raw', 'pad32', 'none')),
    'crop': lambda place: place.between(0.0, 1.0, ''),
    'instruction': lambda place: place.choice(('plain', 'as_list')),
    'control_period': lambda place: place.between(0.0, 10.0, 's'),
    'execute_steps': lambda place: place.integer(1, 1000),
}
