# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoint directories: config.json and safetensors to a network.

Knows file formats; knows nothing of prompts, normalisation or quantization. Each architecture says
how its sizes and keys are spelled.
"""
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quantvla_ros.errors import CheckpointError
from quantvla_ros.models.architecture import Architecture
from quantvla_ros.models.architectures import architecture_of, empty_network
from quantvla_ros.models.foreign import name_of_keys
from quantvla_ros.models.weight_files import (
    FLOATS,
    Stored,
    checkpoint_files,
    read_headers,
    read_tensors,
    shown,
)

__all__ = [
    'NetworkWeights',
    'checkpoint_files',
    'count_parameters',
    'load_model',
    'network_weights',
    'read_config',
]


def read_config(directory: Path) -> dict[str, Any]:
    """The directory's config.json.

    Raises:
        CheckpointError: no such file, or not a JSON object.
    """
    path = Path(directory) / 'config.json'
    if not path.is_file():
        below = path.parent / 'pretrained_model'  # lerobot's training leaves it there
        found = 'none' if path.parent.is_dir() else 'no such directory'
        held = (below / path.name).is_file()
        better = below if held else 'the directory that holds it and the weights'
        raise CheckpointError(
            f'{path}: expected a checkpoint directory with a config.json, found {found}; '
            f'pass {better}'
        )
    try:
        config = json.loads(path.read_text(encoding='utf-8'))
    # ValueError: no JSON, or not UTF-8; RecursionError: nested without end.
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f'{path}: expected JSON, found {error}; fetch it again') from None
    if not isinstance(config, dict):
        raise CheckpointError(
            f'{path}: expected a JSON object, found {type(config).__name__}; fetch it again'
        )
    return config


def load_model(
    directory: str | Path,
    device: str | torch.device = 'cpu',
    dtype: torch.dtype = torch.float32,
    *,
    mapped: bool = False,
) -> Any:
    """Load a checkpoint directory.

    Everything that headers and config.json can tell is checked before the device is touched. Host
    memory holds the weights once, in the type they get, or on another device nearly nothing.

    Args:
        directory: holds config.json and model.safetensors (one file or indexed shards).
        device: where the weights go.
        dtype: of the weights; norms' arithmetic, the modulation and the action and time
            projections are float32 always.
        mapped: leave weights that the host gets as they are stored in their files, to be read when
            they are used: for a short while, as the files must not change meanwhile.
    Returns:
        The network (see models.network) in evaluation mode.
    Raises:
        CheckpointError: files missing or damaged, an unknown model, missing or extra keys, wrong
            shapes or types.
    """
    directory = Path(directory)
    config = read_config(directory)
    architecture = architecture_of(config)
    model = empty_network(config)
    stored = network_weights(directory, architecture)
    _check(directory, architecture, model.state_dict(), stored)
    keys = {entry: key for key, entry in stored.weights.items()}
    in_float32 = architecture.float32_modules
    wanted = [
        (entry, torch.float32 if key.startswith(in_float32) else dtype)
        for entry, key in keys.items()
    ]
    state = {keys[entry]: tensor for entry, tensor in read_tensors(wanted, device, mapped)}
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False)


@dataclass(frozen=True)
class NetworkWeights:
    """Where a network's weights are stored.

    Attributes:
        weights: by the names of the module tree. An embedding that is stored twice, as itself and
            as the tied output layer, is itself.
        names: every name in the files, of unused tensors too.
    """

    weights: Mapping[str, Stored]
    names: tuple[str, ...]


def network_weights(directory: str | Path, architecture: Architecture) -> NetworkWeights:
    """Where a checkpoint stores what its network uses, from the files' headers alone.

    Raises:
        CheckpointError: a file is missing or damaged, shards do not belong together, or two
            tensors stand for the same weight.
    """
    directory = Path(directory)
    weights: dict[str, Stored] = {}
    instead: dict[str, Stored] = {}
    headers = read_headers(directory)
    for entry in headers:
        key = architecture.canonical_key(entry.name)
        if key is None:
            continue
        if key in architecture.tied:
            # On the hub an embedding may be stored only as the tied output layer.
            instead[architecture.tied[key]] = entry
            continue
        if key in weights:
            raise CheckpointError(
                f'expected each weight once, found {weights[key]} and {entry} for the same; '
                f'two checkpoints are mixed, fetch one of them anew'
            )
        weights[key] = entry
    return NetworkWeights({**instead, **weights}, tuple(entry.name for entry in headers))


def _check(
    directory: Path,
    architecture: Architecture,
    wanted: Mapping[str, Tensor],
    stored: NetworkWeights,
) -> None:
    """Names, shapes and types of what is stored are those that config.json asks for."""
    weights = stored.weights
    missing = sorted(set(wanted) - set(weights))
    extra = sorted(weights[key].name for key in set(weights) - set(wanted))
    if missing or extra:
        raise CheckpointError(
            f'{directory}: expected the {len(wanted)} tensors of {architecture.title} by '
            f'config.json, found {len(missing)} missing ({_some(missing)}) and {len(extra)} '
            f'unknown ({_some(extra)}); {_nearest(architecture, stored.names)}'
        )
    for key, tensor in wanted.items():
        entry = weights[key]
        if entry.shape != tuple(tensor.shape):
            raise CheckpointError(
                f'{entry}: expected shape {list(tensor.shape)} by config.json, '
                f'found {list(entry.shape)}; the two are of different checkpoints, fetch both again'
            )
        if entry.type not in FLOATS:
            raise CheckpointError(
                f'{entry}: expected one of the types {", ".join(FLOATS)}, found '
                f'{entry.type}; the file is quantized already, pass the checkpoint it was made of'
            )


def _nearest(architecture: Architecture, names: Sequence[str]) -> str:
    """What a checkpoint whose names do not fit may be."""
    title = name_of_keys(names)
    if title is None:
        return 'these names are of no model that is known here'
    if title.startswith(architecture.title):
        return f'the names are those of {title}, so it is incomplete or was changed: fetch it again'
    remedy = '' if ':' in title else ', so config.json and the weights are of different models'
    return f'the names are those of {title}{remedy}'


def _some(names: list[str], limit: int = 4) -> str:
    if not names:
        return 'none'
    more = f' and {len(names) - limit} more' if len(names) > limit else ''
    return ', '.join(shown(name) for name in names[:limit]) + more


def count_parameters(model: nn.Module) -> int:
    """Parameters of a network."""
    return sum(parameter.numel() for parameter in model.parameters())
