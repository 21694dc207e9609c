# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a GR00T N1.5 checkpoint of lerobot says of its own data: its processor files.

Knows the steps that lerobot 0.4 and 0.5 write for GR00T; knows nothing of what the network makes of
the data. An unknown step is an error.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantvla_ros.errors import CheckpointError
from quantvla_ros.models.lerobot_steps import (
    PASSIVE,
    POSTPROCESSOR,
    PREPROCESSOR,
    RENAME,
    ProcessorFile,
    read_processor_file,
    refuse_unknown,
    renaming,
    setting,
    state_file,
)

PACK, UNPACK = 'groot_pack_inputs_v3', 'groot_action_unpack_unnormalize_v1'
# What they do is written in `groot_prompt` and `groot_images`.
_EAGLE = ('groot_eagle_encode_v3', 'groot_eagle_collate_v3')


@dataclass(frozen=True)
class LerobotSetup:
    """What the files say.

    Attributes:
        rename: names of observations in the data, to the network's.
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
    if not any((directory / name).is_file() for name in (PREPROCESSOR, POSTPROCESSOR)):
        return None
    before = read_processor_file(directory / PREPROCESSOR)
    after = read_processor_file(directory / POSTPROCESSOR)
    refuse_unknown(before, (RENAME, PACK, *_EAGLE, *PASSIVE))
    refuse_unknown(after, (UNPACK, *PASSIVE))
    pack, unpack = before.one(PACK), after.one(UNPACK)
    for file, step in ((before, pack), (after, unpack)):
        if not setting(file, step['config'], 'normalize_min_max', bool, True):
            raise CheckpointError(
                f'{file.path}: normalize_min_max: expected true, found false: the units of its '
                f'numbers cannot be known; use a checkpoint whose data is normalised'
            )
    settings = pack['config']
    tag = setting(before, settings, 'embodiment_tag', str, '')
    rows = setting(before, settings, 'embodiment_mapping', dict, {})
    if type(rows.get(tag)) is not int:
        raise CheckpointError(
            f'{before.path}: {PACK}: expected embodiment_tag and its number in '
            f'embodiment_mapping, found {tag!r} and {rows}; fetch it again'
        )
    state, action = _statistics(before, pack), _statistics(after, unpack)
    held = dict.fromkeys(path for path in (state, action) if path is not None)
    return LerobotSetup(
        renaming(before),
        tag,
        rows[tag],
        setting(before, settings, 'formalize_language', bool, False),
        setting(after, unpack['config'], 'env_action_dim', int, 0) or None,
        state,
        action,
        (before.path, after.path, *held),
    )


def _statistics(file: ProcessorFile, step: Mapping[str, Any]) -> Path | None:
    return state_file(file, step) if step.get('state_file') else None
