# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What surrounds a network, as a lerobot checkpoint's processor files list it, step by step.

Knows `policy_preprocessor.json`, `policy_postprocessor.json` and the meaning of each step that
lerobot 0.4 to 0.6 writes; knows nothing of prompts, pictures or any one network. A step that is
not known here is an error: skipping one silently is how a policy that worked in training moves to
the wrong place.
"""
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quantvla_ros.errors import CheckpointError
from quantvla_ros.models.data_config import DataConfig
from quantvla_ros.models.normalization import Mode, Normalizer
from quantvla_ros.models.relative_actions import add_state, by_names, without_state
from quantvla_ros.models.sizes import whole_number
from quantvla_ros.models.statistics import ACTION, STATE, read_statistics, statistics_of

PREPROCESSOR = 'policy_preprocessor.json'
POSTPROCESSOR = 'policy_postprocessor.json'

RENAME = 'rename_observations_processor'
NORMALIZE, RESTORE = 'normalizer_processor', 'unnormalizer_processor'
TOKENIZE = 'tokenizer_processor'
ABSOLUTE = 'absolute_actions_processor'
# The same step: 0.5 wrote the first name, 0.6 and the published pi05_base the second; 0.4 none.
RELATIVE = ('delta_actions_processor', 'relative_actions_processor')
# Batching and moving to a device are ours by construction.
PASSIVE = ('to_batch_processor', 'device_processor')

_KINDS = {STATE: 'STATE', ACTION: 'ACTION'}


@dataclass(frozen=True)
class LerobotSteps:
    """What a checkpoint's processor files say.

    Attributes:
        rename: names of observations in the data, to the network's.
        state, action: normalisation; their sizes are the robot's.
        relative: per number of the action, whether the network gives it relative to the state of
            the same place, which is added after restoring; None: to none.
        max_tokens: longest prompt; tokenizer_name: repository of the hub; None: not said.
        action_names: one per number of the action; None: not said.
        own: settings of the architecture's own steps, by name.
        files: what all this was read from.
    """

    rename: Mapping[str, str]
    state: Normalizer
    action: Normalizer
    relative: tuple[bool, ...] | None
    max_tokens: int | None
    tokenizer_name: str | None
    action_names: tuple[str, ...] | None
    own: Mapping[str, Mapping[str, Any]]
    files: tuple[Path, ...]

    def actions(self, raw: np.ndarray, state: np.ndarray) -> np.ndarray:
        """[chunk, >= action] network output and [state] raw state to [chunk, action] float32."""
        restored = self.action.restore(raw[:, : self.action.size])
        return add_state(restored, state, self.relative)

    def normalized(self, actions: np.ndarray, state: np.ndarray) -> np.ndarray:
        """The inverse of `actions`: [chunk, action] to what the network gives, float32."""
        own = without_state(actions, state, self.relative)
        return np.asarray(self.action.normalize(own), np.float32)


@dataclass(frozen=True)
class ProcessorFile:
    """One processor file."""

    path: Path
    steps: list[dict[str, Any]]

    def index(self, name: str) -> int | None:
        """Place of a step."""
        places = [n for n, step in enumerate(self.steps) if step.get('registry_name') == name]
        if len(places) > 1:
            raise CheckpointError(f'{self.path}: expected one {name}, found {len(places)}')
        return places[0] if places else None

    def find(self, name: str) -> dict[str, Any] | None:
        """A step that may be there."""
        index = self.index(name)
        return None if index is None else self.steps[index]

    def one(self, name: str) -> dict[str, Any]:
        """A step that must be there."""
        step = self.find(name)
        if step is None:
            raise CheckpointError(f'{self.path}: expected the step {name}, found none of that name')
        return step


def read_lerobot_steps(
    directory: str | Path,
    config: Mapping[str, Any],
    data: DataConfig | None = None,
    *,
    own: Sequence[str] = (),
    order: Sequence[str] = (),
) -> LerobotSteps:
    """Read the processor files of a checkpoint or artifact.

    Args:
        config: its config.json.
        data: what the user says; its `statistics` take the place of the checkpoint's.
        own: steps of the architecture, each of which must be there; it carries them out itself.
        order: further steps in the order in which they must stand.
    Raises:
        CheckpointError: a file, step or statistic is missing, unknown or contradicts another.
    """
    directory = Path(directory)
    before = read_processor_file(directory / PREPROCESSOR)
    after = read_processor_file(directory / POSTPROCESSOR)
    refuse_unknown(before, (RENAME, NORMALIZE, TOKENIZE, *RELATIVE, *own, *PASSIVE))
    refuse_unknown(after, (RESTORE, ABSOLUTE, *PASSIVE))
    own_settings = {name: before.one(name)['config'] for name in own}
    _in_order(before, (RENAME, *RELATIVE, NORMALIZE))
    _in_order(before, order)
    _in_order(after, (RESTORE, ABSOLUTE))

    rename = renaming(before)
    normalizer, restorer = before.one(NORMALIZE), after.one(RESTORE)
    given = None if data is None or data.statistics is None else data.find(data.statistics)
    back = {new: old for old, new in rename.items()}
    state = _normalizer(before, normalizer, STATE, given, back)
    action = _normalizer(after, restorer, ACTION, given, back)
    _agree(before, normalizer, after, restorer, action, given)
    for map_, feature, section, padded in (
        (state, STATE, 'input_features', 'max_state_dim'),
        (action, ACTION, 'output_features', 'max_action_dim'),
    ):
        largest = whole_number(config, padded, 32, 1, 2**16)
        _right_size(directory, config, map_, feature, section, largest, given)
    relative, names = _relative(before, after, action.size, state.size)
    tokens = before.one(TOKENIZE)['config']
    files = [before.path, after.path]
    if given is not None:
        files.append(given)
    else:
        files += [state_file(*one) for one in ((before, normalizer), (after, restorer))]
    listed = config.get('action_feature_names')
    listed = names or (tuple(map(str, listed)) if isinstance(listed, list) else None)
    return LerobotSteps(
        rename=rename,
        state=state,
        action=action,
        relative=relative,
        max_tokens=setting(before, tokens, 'max_length', int, None),
        tokenizer_name=setting(before, tokens, 'tokenizer_name', str, None),
        action_names=listed if listed is not None and len(listed) == action.size else None,
        own=own_settings,
        files=tuple(dict.fromkeys(files)),
    )


def read_processor_file(path: Path) -> ProcessorFile:
    """One of the two files.

    Raises:
        CheckpointError: there is none, or it is none.
    """
    try:
        steps = list(json.loads(path.read_text(encoding='utf-8'))['steps'])
        if not all(isinstance(s, dict) and isinstance(s.get('config', {}), dict) for s in steps):
            raise TypeError('steps: expected objects, each with an object as config')
        return ProcessorFile(path, [{**step, 'config': step.get('config', {})} for step in steps])
    except FileNotFoundError:
        raise CheckpointError(
            f'{path}: expected the processor file of the checkpoint, found none; fetch the whole '
            f'repository, not only the weights (a checkpoint of lerobot before 0.4 has none: '
            f'lerobot\'s migrate_policy_normalization.py writes it)'
        ) from None
    # ValueError: no JSON, or not UTF-8; RecursionError: nested without end.
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise CheckpointError(f'{path}: not a processor file ({error}); fetch it again') from None


def setting(
    file: ProcessorFile, settings: Mapping[str, Any], name: str, kind: type, default: Any
) -> Any:
    """A setting of a step; the default where it is null or left out."""
    value = settings.get(name)
    if value is None:
        return default
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise CheckpointError(
            f'{file.path}: {name}: expected {kind.__name__}, found {str(value)[:80]!r}; fetch it '
            f'again'
        )
    return value


def state_file(file: ProcessorFile, step: Mapping[str, Any]) -> Path:
    """Where the statistics of a step lie: beside its file, under the name that it gives."""
    return file.path.with_name(Path(setting(file, step, 'state_file', str, '')).name)


def refuse_unknown(file: ProcessorFile, known: Sequence[str]) -> None:
    """Every step must be one whose meaning is carried out."""
    for step in file.steps:
        name = str(step.get('registry_name', step.get('class')))
        if name not in known:
            raise CheckpointError(
                f'{file.path}: unknown step {name!r}, so the policy would move otherwise than in '
                f'training; known here are {", ".join(known)}'
            )
        if name == 'device_processor' and step['config'].get('float_dtype') not in (
            None, 'float32',
        ):
            raise CheckpointError(
                f'{file.path}: device_processor: float_dtype: expected null or float32, found '
                f'{step["config"]["float_dtype"]!r}; it would round states before they are used'
            )
        file.index(name)  # once


def _in_order(file: ProcessorFile, names: Sequence[str]) -> None:
    found = [name for name in names if file.index(name) is not None]
    places = [file.index(name) for name in found]
    if places != sorted(places):  # type: ignore[type-var]
        raise CheckpointError(
            f'{file.path}: expected the steps in the order {", ".join(found)}; each works on what '
            f'the one before it makes'
        )


def renaming(before: ProcessorFile) -> dict[str, str]:
    """Names of observations in the data, to the network's."""
    step = before.find(RENAME)
    rename = {}
    if step is not None:
        rename = setting(before, step['config'], 'rename_map', dict, {})
    if len(set(map(str, rename.values()))) != len(rename):
        raise CheckpointError(
            f'{before.path}: {RENAME}: rename_map: expected different new names by old names, '
            f'found {rename}'
        )
    return rename


def _mode(file: ProcessorFile, step: Mapping[str, Any], kind: str) -> Mode:
    modes = step['config'].get('norm_map')
    mode = str(modes.get(kind)) if isinstance(modes, dict) else ''
    if mode not in Mode.__members__:
        raise CheckpointError(
            f'{file.path}: norm_map.{kind}: expected one of {", ".join(Mode.__members__)}, '
            f'found {mode!r}'
        )
    return Mode[mode]


def _normalizer(
    file: ProcessorFile,
    step: Mapping[str, Any],
    feature: str,
    given: Path | None,
    back: Mapping[str, str],
) -> Normalizer:
    """Normalisation of a feature as a step says, by its statistics or those the user names."""
    settings, kind = step['config'], _KINDS[feature]
    mode = _mode(file, step, kind)
    visual = settings['norm_map'].get('VISUAL', 'IDENTITY')
    if visual != 'IDENTITY':
        raise CheckpointError(
            f'{file.path}: norm_map.VISUAL: expected IDENTITY, found {visual!r}; pictures '
            f'normalised by statistics are not supported'
        )
    eps = setting(file, settings, 'eps', float, 1e-8)
    only = setting(file, settings, 'normalize_observation_keys', list, None)
    if feature == STATE and only is not None and STATE not in only:
        raise CheckpointError(
            f'{file.path}: normalize_observation_keys: expected {STATE} among them, found {only}'
        )
    if given is not None:
        statistics = read_statistics(given)
        # A data set's own file has the names before the renaming.
        old = back.get(feature, feature)
        values = statistics_of(given, statistics, old if old in statistics else feature)
        return Normalizer.from_statistics(f'{given}: {feature}', mode, values, eps)
    if not step.get('state_file'):
        raise CheckpointError(
            f'{file.path}: {feature}: this checkpoint carries no statistics (no state_file), as '
            f'base checkpoints do not; name those of your data in data_config.yaml (statistics: '
            f'PATH, as meta/stats.json of the data set), or pass a checkpoint fine-tuned on it'
        )
    path = state_file(file, step)
    values = statistics_of(path, read_statistics(path), feature)
    return Normalizer.from_statistics(f'{path}: {feature}', mode, values, eps)


def _agree(
    before: ProcessorFile,
    normalizer: Mapping[str, Any],
    after: ProcessorFile,
    restorer: Mapping[str, Any],
    action: Normalizer,
    given: Path | None,
) -> None:
    """The targets of training were normalised by the one file, actions are restored by the other.

    Where they differ, the files are of two checkpoints.
    """
    first, second = (
        _mode(before, normalizer, 'ACTION'), _mode(after, restorer, 'ACTION'),
    )
    if first is not second:
        raise CheckpointError(
            f'{after.path}: norm_map.ACTION: expected {first.value}, as {before.path.name} has it, '
            f'found {second.value}; the files are of different checkpoints'
        )
    if given is not None:
        return
    path = state_file(before, normalizer)
    found = read_statistics(path).get(ACTION)
    if found is None:
        return
    eps = setting(before, normalizer['config'], 'eps', float, 1e-8)
    trained = Normalizer.from_statistics(f'{path}: {ACTION}', first, found, eps)
    if trained.size != action.size or not (
        np.allclose(trained.offset, action.offset, rtol=1e-5)
        and np.allclose(trained.span, action.span, rtol=1e-5)
    ):
        raise CheckpointError(
            f'{path}: expected the statistics of {ACTION} that {after.path.name} restores by, '
            f'found others; the files are of different checkpoints'
        )


def _right_size(
    directory: Path,
    config: Mapping[str, Any],
    map_: Normalizer,
    feature: str,
    section: str,
    padded: int,
    given: Path | None,
) -> None:
    """Statistics must have as many numbers as config.json says, or fit into a base model."""
    if map_.size > padded:
        raise CheckpointError(
            f'{given or directory}: {feature}: expected statistics of at most {padded} numbers, '
            f'as the network takes, found {map_.size}; they are of another robot'
        )
    features = config.get(section)
    described = features.get(feature) if isinstance(features, dict) else None
    if not isinstance(described, dict):
        return
    shape = described.get('shape')
    # Base checkpoints name the padded size; whose data it will be is not known yet.
    if shape != [map_.size] and not (given is not None and shape == [padded]):
        raise CheckpointError(
            f'{given or directory}: {feature}: expected statistics of {shape} numbers, as '
            f'config.json says, found {map_.size}; they are of another robot or data set'
        )


def _relative(
    before: ProcessorFile, after: ProcessorFile, actions: int, states: int
) -> tuple[tuple[bool, ...] | None, tuple[str, ...] | None]:
    """Which actions are relative to the state, and the actions' names."""
    found = [step for name in RELATIVE if (step := before.find(name)) is not None]
    if len(found) > 1:
        raise CheckpointError(f'{before.path}: expected one of {" and ".join(RELATIVE)}')
    settings = found[0]['config'] if found else {}
    absolute = after.find(ABSOLUTE)
    enabled = bool(settings.get('enabled'))
    if enabled != bool(absolute and absolute['config'].get('enabled')):
        raise CheckpointError(
            f'{after.path}: {ABSOLUTE}: expected enabled: {str(enabled).lower()}, as '
            f'{RELATIVE[1]} of {before.path.name} has it; the files are of different checkpoints'
        )
    names = tuple(map(str, setting(before, settings, 'action_names', list, None) or ())) or None
    if not enabled:
        return None, names
    mask = by_names(
        actions, setting(before, settings, 'exclude_joints', list, None) or (), names
    )
    if any(mask[states:]):
        raise CheckpointError(
            f'{before.path}: relative actions: expected a state of at least {actions} numbers, '
            f'to which the actions are relative, found {states}'
        )
    return mask, names
