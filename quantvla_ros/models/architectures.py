# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The architectures that can be run, by the name that config.json gives them."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantvla_ros.errors import CheckpointError
from quantvla_ros.models import groot_checkpoint, pi05_checkpoint, smolvla_checkpoint
from quantvla_ros.models.architecture import Architecture, Processor
from quantvla_ros.models.data_config import find_data_config

ARCHITECTURES: dict[str, Architecture] = {
    one.kind: one
    for one in (
        pi05_checkpoint.ARCHITECTURE,
        groot_checkpoint.ARCHITECTURE,
        smolvla_checkpoint.ARCHITECTURE,
    )
}


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """The architecture that a config.json names; the hub's families spell the key differently.

    Raises:
        CheckpointError: one that we do not know.
    """
    kind = config.get('type') or config.get('model_type')
    for one in ARCHITECTURES.values():
        if kind in (one.kind, *one.aliases) or (kind is None and one.untyped(config)):
            return one
    raise CheckpointError(
        f'config.json: type: expected one of {sorted(ARCHITECTURES)}, found {kind!r}; '
        f'this model is not supported'
    )


def build_network(config: Mapping[str, Any]) -> Any:
    """The network a config describes, on the current default device, weights not loaded.

    Raises:
        CheckpointError: a model type we do not know.
    """
    return architecture_of(config).build(config)


def load_processor(directory: str | Path, config: Mapping[str, Any]) -> Processor:
    """What surrounds the network of a checkpoint or artifact.

    Args:
        directory: may hold a data config (see models.data_config) beside the files of the hub.
        config: the directory's config.json.
    Raises:
        CheckpointError: a file or statistic is missing, or a step is unknown.
    """
    directory, architecture = Path(directory), architecture_of(config)
    data = find_data_config(directory)
    if data is not None and data.model != architecture.kind:
        raise CheckpointError(
            f'{data.source}: model: expected {architecture.kind}, as config.json has it, found '
            f'{data.model}; put the data config of this checkpoint there'
        )
    return architecture.processor(directory, config, data)
