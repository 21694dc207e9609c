# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The architectures that can be run, by the name that config.json gives them."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from quantvla_ros.errors import CheckpointError
from quantvla_ros.models import groot_checkpoint, pi05_checkpoint, smolvla_checkpoint
from quantvla_ros.models.architecture import Architecture, Processor
from quantvla_ros.models.data_config import find_data_config
from quantvla_ros.models.foreign import name_of_config

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
    title = name_of_config(kind)
    known = ' or '.join(f'{one.title} ({one.kind})' for one in ARCHITECTURES.values())
    raise CheckpointError(
        f'config.json: type: expected {known}, found {kind!r}{f": {title}" if title else ""}; '
        f'this model is not supported, pass a checkpoint of one of those'
    )


def build_network(config: Mapping[str, Any]) -> Any:
    """The network a config describes, on the current default device, weights not loaded.

    Raises:
        CheckpointError: a model type we do not know.
    """
    return architecture_of(config).build(config)


def empty_network(config: Mapping[str, Any]) -> Any:
    """The network a config describes, on the meta device: names and shapes, no memory.

    Raises:
        CheckpointError: a model type we do not know, or sizes that make no network.
    """
    architecture = architecture_of(config)
    try:
        with torch.device('meta'), _Undrawn():
            return architecture.build(config)
    # RuntimeError: torch's, for a size that is none; RecursionError among them.
    except (
        LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError,
    ) as error:
        raise CheckpointError(
            f'config.json: expected the sizes of {architecture.title}, found '
            f'{type(error).__name__}: {error}; fetch it again'
        ) from None


class _Undrawn(TorchFunctionMode):
    """Leaves out the random numbers of new embeddings.

    On the meta device there are none anyway, but torch would import its compiler for them, which
    takes seconds.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.nn.init.normal_:
            return args[0] if args else kwargs['tensor']
        return func(*args, **(kwargs or {}))


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
