# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoint directories: config.json and safetensors to a network.

Knows file formats; knows nothing of prompts, normalisation or quantization. Each architecture says
how its sizes and keys are spelled.
"""
from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from quantvla_ros.errors import CheckpointError
from quantvla_ros.models.architectures import architecture_of


def read_config(directory: Path) -> dict[str, Any]:
    """The directory's config.json.

    Raises:
        CheckpointError: no such file, or not a JSON object.
    """
    path = Path(directory) / 'config.json'
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(
            f'{path}: expected a checkpoint directory with a config.json, found none; '
            f'pass the directory that holds config.json and model.safetensors'
        ) from None
    # ValueError: no JSON, or not UTF-8; RecursionError: nested without end.
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f'{path}: expected JSON, found {error}; fetch it again') from None
    if not isinstance(config, dict):
        raise CheckpointError(f'{path}: expected a JSON object, found {type(config).__name__}')
    return config


def load_model(
    directory: str | Path,
    device: str | torch.device = 'cpu',
    dtype: torch.dtype = torch.float32,
) -> Any:
    """Load a checkpoint directory.

    Args:
        directory: holds config.json and model.safetensors (one file or indexed shards).
        device: where the weights go.
        dtype: of the weights; norms' arithmetic, the modulation and the action and time
            projections are float32 always.
    Returns:
        The network (see models.network) in evaluation mode.
    Raises:
        CheckpointError: files missing or damaged, an unknown model, missing or extra keys, wrong
            shapes.
    """
    directory = Path(directory)
    config = read_config(directory)
    architecture = architecture_of(config)
    with torch.device('meta'):
        model = architecture.build(config)
    wanted = dict(model.state_dict())
    state: dict[str, Tensor] = {}
    extra = []
    for name, tensor in _checkpoint_tensors(directory):
        key = architecture.canonical_key(name)
        if key is None:
            continue
        if key in architecture.tied:
            # On the hub an embedding may be stored only as the tied output layer.
            key = architecture.tied[key]
            if key in state:
                continue
        if key not in wanted:
            extra.append(name)
            continue
        if tuple(tensor.shape) != tuple(wanted[key].shape):
            raise CheckpointError(
                f'{directory}: {name}: expected shape {list(wanted[key].shape)} by config.json, '
                f'found {list(tensor.shape)}'
            )
        target = torch.float32 if key.startswith(architecture.float32_modules) else dtype
        state[key] = tensor.to(device=device, dtype=target)
    missing = sorted(set(wanted) - set(state))
    if missing or extra:
        raise CheckpointError(
            f'{directory}: expected the {len(wanted)} tensors of {architecture.kind}, found '
            f'{len(missing)} missing ({_some(missing)}) and {len(extra)} unknown '
            f'({_some(sorted(extra))}); the file is of another model or incomplete'
        )
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False)


def checkpoint_files(directory: Path) -> list[Path]:
    """The safetensors files of a checkpoint: one, or those its index names.

    Raises:
        CheckpointError: none there, or the index names a file that is not.
    """
    index = directory / 'model.safetensors.index.json'
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_text())['weight_map'].values()))
        except (json.JSONDecodeError, KeyError, AttributeError) as error:
            raise CheckpointError(f'{index}: not a safetensors index ({error})') from None
        files = [directory / Path(name).name for name in names]
    else:
        files = [directory / 'model.safetensors']
    for file in files:
        if not file.exists():
            raise CheckpointError(f'{file}: expected weights, found no such file; fetch it again')
    return files


def _checkpoint_tensors(directory: Path) -> Iterator[tuple[str, Tensor]]:
    """All tensors, memory-mapped; embed_tokens before lm_head, so that the former wins."""
    for file in checkpoint_files(directory):
        try:
            with safe_open(file, framework='pt') as opened:
                for name in sorted(opened.keys(), key=lambda n: n.endswith('lm_head.weight')):
                    yield name, opened.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f'{file}: expected a whole safetensors file, found {error}; fetch it again'
            ) from None


def _some(names: list[str], limit: int = 4) -> str:
    if not names:
        return 'none'
    more = f' and {len(names) - limit} more' if len(names) > limit else ''
    return ', '.join(names[:limit]) + more


def count_parameters(model: nn.Module) -> int:
    """Parameters of a network."""
    return sum(parameter.numel() for parameter in model.parameters())
