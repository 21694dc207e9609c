# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How weights lie on disk: their types, sizes and hashes, in a checkpoint or an artifact.

Knows safetensors headers and bytes; knows nothing of networks, manifests or quantization.
"""
from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from quantvla_ros.errors import CheckpointError
from quantvla_ros.models.architectures import architecture_of
from quantvla_ros.models.checkpoint import network_weights, read_config
from quantvla_ros.models.weight_files import FLOATS

DTYPES = {
    **FLOATS,
    'I8': torch.int8,
    'U8': torch.uint8,
    'I32': torch.int32,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def stored_dtypes(checkpoint: Path) -> dict[str, torch.dtype]:
    """How a checkpoint stores each tensor that the network uses, by the network's own names.

    Raises:
        CheckpointError: a file is missing or damaged, or holds a type that no weight has.
    """
    return {name: dtype for name, (dtype, _) in _stored(checkpoint).items()}


def float_bytes(checkpoint: Path) -> int:
    """Bytes of the weights that the network uses, as the checkpoint stores them."""
    return sum(count * dtype.itemsize for dtype, count in _stored(checkpoint).values())


def _stored(checkpoint: Path) -> dict[str, tuple[torch.dtype, int]]:
    """Each weight's type and count of numbers, from the files' headers alone."""
    architecture = architecture_of(read_config(checkpoint))
    stored = {}
    for name, entry in network_weights(checkpoint, architecture).weights.items():
        if entry.type not in FLOATS:
            raise CheckpointError(f'{entry}: expected floating point, found {entry.type}')
        stored[name] = (FLOATS[entry.type], entry.count)
    return stored


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open('rb') as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def tensor_hash(tensor: Tensor) -> str:
    """SHA-256 of a tensor's bytes in row-major order, in hexadecimal."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest()


def count(shape: Sequence[int]) -> int:
    """Elements of a shape."""
    return math.prod(shape)
