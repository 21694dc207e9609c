# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Which measured tiles an engine finds on its GPU, in words.

Knows tables of tiles; knows nothing of kernels, shapes or times. Tiles decide about time only.
"""
from __future__ import annotations

from pathlib import Path

import torch

from quantvla_ros.errors import BackendError
from quantvla_ros.kernels.gpu import gpu_of
from quantvla_ros.kernels.tile_table import (
    SHIPPED,
    Gpu,
    load_table,
    read_table,
    table_path,
    user_directory,
)


def tiles_in_use(device: torch.device) -> str:
    """Where the kernels of a device find their tiles; '' where it is no GPU."""
    return describe_tables(gpu_of(device)) if device.type == 'cuda' else ''


def describe_tables(gpu: Gpu, *, user: Path | None = None, shipped: Path | None = None) -> str:
    """As `tiles_in_use`; arguments as `load_table`."""
    table = load_table(gpu, user=user, shipped=shipped)
    user = user_directory() if user is None else user
    parts = []
    if table.own and user is not None:
        parts.append(f'{len(table.own)} measured here ({table_path(user, gpu)})')
    if table.shipped:
        own = _is_of(table_path(SHIPPED if shipped is None else shipped, gpu), gpu)
        of = 'this GPU' if own else 'another GPU of its kind'
        parts.append(f'{len(table.shipped)} shipped for {of}')
    if not parts:
        return 'none measured, all by rule; `quantvla_ros tune` measures them'
    return f'{", ".join(parts)}; the nearest of these or by rule for other products'


def _is_of(path: Path, gpu: Gpu) -> bool:
    try:
        return read_table(path)[0] == gpu
    except (OSError, BackendError):
        return False
