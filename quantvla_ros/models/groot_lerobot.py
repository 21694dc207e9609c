# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a GR00T N1.5 checkpoint of lerobot says of its own data: its processor files.

Knows `policy_preprocessor.json`, `policy_postprocessor.json` and the steps that lerobot 0.4 and 0.5
write for GR00T; knows nothing of what the network makes of the data. An unknown step is an error.
"""
from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantvla_ros.errors import CheckpointError

PREPROCESSOR, POSTPROCESSOR = 'policy_preprocessor.json', 'policy_postprocessor.json'
PACK, UNPACK = 'groot_pack_inputs_v3', 'groot_action_unpack_unnormalize_v1'

RENAME = 'rename_observations_processor'
# Steps that need nothing from us: batching and moving to a device are ours by construction, and
# what Eagle's steps do is written in `groot_prompt` and `groot_images`.
_PASSIVE = (
    'to_batch_processor',
    'groot_eagle_encode_v3',
    'groot_eagle_collate_v3',
    'device_processor',
)


@dataclass(frozen=True)
class LerobotSetup:
    """What the files say.

    Attributes:
        rename: the data's names of observations, to the network's.
        tag: the embodiment's name.
        embodiment_id: row of the weights.
        simplified: commands lose case and marks.
        action_size: numbers of the robot's action; None where nothing says.
        state, action: files with the statistics; None where the checkpoint was saved without.
        files: all that was read, the statistics among them.
    """

    rename: Mapping[str, str]
    tag: str
    embodiment_id: int
    simplified: bool
    action_size: int | None
    state: Path | None
    action: Path | None
    files: tuple[Path, ...]


def read_setup(directory: Path) -> LerobotSetup | None:
    """The setup of a directory of lerobot; None where it has no processor files.

    Raises:
        CheckpointError: they are damaged, or hold a step that is unknown.
    """
    before, after = directory / PREPROCESSOR, directory / POSTPROCESSOR
    if not before.is_file() and not after.is_file():
        return None
    renaming, pack = _steps(before, PACK)
    _, unpack = _steps(after, UNPACK)
    settings = pack.get('config', {})
    rename = renaming.get('config', {}).get('rename_map') or {}
    if not isinstance(rename, dict) or len(set(map(str, rename.values()))) != len(rename):
        raise CheckpointError(
            f'{before}: {RENAME}: rename_map: expected different new names by old names, found '
            f'{rename}; fetch it again'
        )
    for path, step in ((before, pack), (after, unpack)):
        if not step.get('config', {}).get('normalize_min_max', True):
            raise CheckpointError(
                f'{path}: normalize_min_max: expected true, found false: the units of its numbers '
                f'cannot be known; use a checkpoint whose data is normalised'
            )
    try:
        tag = settings['embodiment_tag']
        number = settings['embodiment_mapping'][tag]
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f'{before}: {PACK}: expected embodiment_tag and its number in embodiment_mapping, '
            f'found no {error}; fetch it again'
        ) from None
    state, action = (
        directory / Path(step['state_file']).name if step.get('state_file') else None
        for step in (pack, unpack)
    )
    read = (before, after, *dict.fromkeys(path for path in (state, action) if path is not None))
    return LerobotSetup(
        rename,
        tag,
        number,
        bool(settings.get('formalize_language', False)),
        unpack.get('config', {}).get('env_action_dim') or None,
        state,
        action,
        read,
    )


def _steps(path: Path, wanted: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The renaming, {} where there is none, and the one step of that name."""
    try:
        steps = json.loads(path.read_text(encoding='utf-8'))['steps']
        names = [step.get('registry_name') for step in steps]
        good = all(isinstance(step.get('config', {}), dict) for step in steps)
    except FileNotFoundError:
        raise CheckpointError(
            f'{path}: expected the processor file of the checkpoint, found none; fetch the whole '
            f'repository, not only the weights'
        ) from None
    # ValueError: no JSON, or not UTF-8; RecursionError: nested without end.
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f'{path}: expected a processor file, found {error!r}; fetch it again'
        ) from None
    known = (RENAME, wanted, *_PASSIVE)
    if names.count(wanted) != 1 or names.count(RENAME) > 1 or not good or set(names) - set(known):
        raise CheckpointError(
            f'{path}: expected one step {wanted} and none but {", ".join(known)}, found '
            f'{", ".join(map(str, names))}; another step would move the robot otherwise than in '
            f'training'
        )
    found = dict(zip(names, steps, strict=True))
    return found.get(RENAME, {}), found[wanted]
