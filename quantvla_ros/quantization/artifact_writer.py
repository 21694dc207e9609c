# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Writing an artifact directory: whole or not at all, with the hash of every part in its manifest.

Knows the directory (manifest, weights, and the checkpoint's own config, processor and tokenizer
files, so that the float checkpoint is not needed to run it); knows nothing of bags or ROS.
"""
from __future__ import annotations

import datetime
import json
import os
import platform
import secrets
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from quantvla_ros import __version__
from quantvla_ros.contract.load import contract_hash
from quantvla_ros.contract.types import Contract
from quantvla_ros.errors import ArtifactError, CheckpointError
from quantvla_ros.models.architecture import Processor
from quantvla_ros.models.architectures import architecture_of, load_processor
from quantvla_ros.models.checkpoint import checkpoint_files, read_config
from quantvla_ros.models.data_config import FILE as DATA_CONFIG
from quantvla_ros.models.data_config import find_data_config
from quantvla_ros.quantization.manifest import (
    FORMAT,
    MANIFEST,
    VERSION,
    WEIGHTS,
    Manifest,
    content_id,
    read_manifest,
)
from quantvla_ros.quantization.recipe import Recipe
from quantvla_ros.quantization.stored import (
    DTYPE_NAMES,
    file_hash,
    float_bytes,
    stored_dtypes,
    tensor_hash,
)


def write_artifact(
    out: Path,
    model: Any,
    *,
    checkpoint: Path,
    recipe: Recipe,
    contract: Contract,
    corrections: Mapping[str, Any],
    calibration: Mapping[str, Any],
    float32_tensors: Collection[str] = (),
    beside: Callable[[Path, Manifest], None] = lambda directory, manifest: None,
) -> Manifest:
    """Write an artifact directory, whole or not at all.

    It is written beside `out` under a hidden name and renamed at the end; interrupted at any
    instant, or on a full disk, `out` does not come to be.

    Args:
        out: must not exist yet.
        model: quantized by `recipe` and corrected.
        checkpoint: the float checkpoint; its config and what surrounds the network are copied.
        contract: of the robot that the calibration data came from.
        corrections: as folded into the weights; the manifest's part of that name.
        calibration: the manifest's part of that name, without the checkpoint's hashes.
        float32_tensors: names of tensors that 16 bits would spoil, whatever the checkpoint has.
        beside: called when everything is written but not yet in its place, to add what people read.
    Raises:
        ArtifactError: `out` exists, or the disk refuses.
        CheckpointError: a file of the checkpoint is missing.
    """
    out, checkpoint = Path(out), Path(checkpoint)
    refuse_existing(out)
    partial = out.parent / f'.{out.name}.{secrets.token_hex(4)}.partial'
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise ArtifactError(f'{out}: cannot write there ({error})') from None
    try:
        config = read_config(checkpoint)
        processor = load_processor(checkpoint, config)
        copied = _copy_side_files(checkpoint, processor, partial)
        dtypes = dict(stored_dtypes(checkpoint))
        dtypes.update(dict.fromkeys(float32_tensors, torch.float32))
        tensors = _state(model, dtypes)
        entries = {
            name: {
                'dtype': DTYPE_NAMES[tensor.dtype],
                'shape': list(tensor.shape),
                'sha256': tensor_hash(tensor),
            }
            for name, tensor in tensors.items()
        }
        save_file(tensors, partial / WEIGHTS, metadata={'format': 'pt'})
        # The library makes it readable by its owner only; as readable as its neighbours is meant.
        shutil.copymode(partial / 'config.json', partial / WEIGHTS)
        quantized_bytes = sum(t.numel() * t.element_size() for t in tensors.values())
        del tensors
        content: dict[str, Any] = {
            'format': FORMAT,
            'version': VERSION,
            'created': datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'),
            'versions': {
                'quantvla_ros': __version__,
                'torch': torch.__version__,
                'python': platform.python_version(),
            },
            'precision': recipe.precision,
            'model': {
                'type': architecture_of(config).kind,
                'chunk_size': model.noise_shape[0],
                'execute_steps': min(processor.execute_steps or 2**31, model.noise_shape[0]),
            },
            'layout': {
                'name': recipe.layout.name,
                'layers': list(recipe.layout.select(model)),
            },
            'recipe': {'name': recipe.name, 'text': recipe.text},
            'contract': {
                'robot': contract.robot,
                'hash': contract_hash(contract),
                'slots': list(processor.slots),
                'state_names': list(contract.state_names),
                'action_names': list(contract.action.names),
                'control_period': contract.control_period,
            },
            'tokenizer': processor.tokenizer_file.name,
            'normalization': sorted(name for name in copied if name.endswith('.safetensors')),
            'files': copied,
            'tensors': entries,
            'float32_tensors': sorted(float32_tensors),
            'bytes': {'float': float_bytes(checkpoint), 'quantized': quantized_bytes},
            'corrections': dict(corrections),
            'calibration': {
                **calibration,
                'checkpoint': {
                    file.name: file_hash(file)
                    for file in (checkpoint / 'config.json', *checkpoint_files(checkpoint))
                },
            },
        }
        content['artifact_id'] = content_id(content)
        text = json.dumps(content, indent=1, allow_nan=False) + '\n'
        (partial / MANIFEST).write_text(text, encoding='utf-8')
        manifest = read_manifest(partial)  # what we write must pass what we ask of a stranger
        beside(partial, manifest)
        for file in sorted(partial.iterdir()):
            _sync(file)
        _sync(partial)
        os.rename(partial, out)
        _sync(out.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise ArtifactError(f'{out}: cannot write it ({error}); nothing is left') from None
    except BaseException:  # Ctrl-C too leaves nothing
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return manifest


def refuse_existing(out: Path) -> None:
    """Raise an ArtifactError when `out` exists: an artifact is never written over."""
    if out.exists() or out.is_symlink():
        raise ArtifactError(f'{out}: exists already; give another directory, or remove this one')


def _copy_side_files(
    checkpoint: Path, processor: Processor, target: Path
) -> dict[str, dict[str, Any]]:
    """Copy what the policy needs beside its weights; by name their size and hash."""
    files = dict.fromkeys((checkpoint / 'config.json', *processor.files))
    sources: dict[str, Path] = {}
    for file in files:
        if file.name in (WEIGHTS, MANIFEST, DATA_CONFIG) or file.name in sources:
            raise CheckpointError(
                f'{file}: expected a name of its own among the files of an artifact, found that of '
                f'{sources.get(file.name, "one of its own files")}; rename it'
            )
        if not file.is_file():
            raise CheckpointError(f'{file}: expected this file, found none')
        sources[file.name] = file
        shutil.copyfile(file, target / file.name)
    if (data := find_data_config(checkpoint)) is not None:
        (target / DATA_CONFIG).write_text(data.local_text(), encoding='utf-8')
    return {
        file.name: {'bytes': file.stat().st_size, 'sha256': file_hash(file)}
        for file in sorted(target.iterdir())
    }


def _state(model: nn.Module, dtypes: Mapping[str, torch.dtype]) -> dict[str, Tensor]:
    """The model's tensors on the CPU: scales in float32, the rest as the checkpoint stores them."""
    state = {}
    for name, tensor in model.state_dict().items():
        dtype = dtypes.get(name, tensor.dtype)
        state[name] = tensor.detach().to('cpu', dtype).contiguous()
    return state


def _sync(path: Path) -> None:
    """Wait until a file or directory is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
