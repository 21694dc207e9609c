# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a GPU is, as far as the choice of tiles goes.

Knows torch's devices; knows nothing of tiles, kernels or files.
"""
from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Iterator
from typing import Any

import torch

from quantvla_ros.kernels.gemm_tiles import FEW_ROWS
from quantvla_ros.kernels.tile_table import Gpu

_thread = threading.local()


@functools.cache
def gpu_of(device: torch.device) -> Gpu:
    """The NVIDIA GPU that `device` stands for."""
    properties = torch.cuda.get_device_properties(device)
    return Gpu(
        properties.name,
        (properties.major, properties.minor),
        properties.multi_processor_count,
        properties.shared_memory_per_block_optin,  # type: ignore[attr-defined]
    )


@contextlib.contextmanager
def one_after_the_other() -> Iterator[None]:
    """Kernels that this thread launches within, and the first behind, wait for the end of the last.

    For kernels of several streams: a launch beside the end of another knows its own stream only.
    """
    outer = getattr(_thread, 'waits', False)
    _thread.waits = True
    try:
        yield
    finally:
        _thread.waits = outer
        _thread.first = True


def launch_options(device: torch.device, rows: int) -> dict[str, Any]:
    """How every kernel of the engine on so many rows is started on `device`: see `triton_start`.

    Kernels of many rows fill the GPU to their end and gain nothing by it.
    QUANTVLA_OVERLAP=0 in the environment has each kernel wait for the end of the one before it, to
    see what that costs or to look for a fault.
    """
    if getattr(_thread, 'waits', False):
        return {'AHEAD': False}
    if getattr(_thread, 'first', False):
        _thread.first = False
        return {'AHEAD': False}
    return _options(device, rows)


@functools.cache
def _options(device: torch.device, rows: int) -> dict[str, Any]:
    if rows > FEW_ROWS or device.type != 'cuda' or os.environ.get('QUANTVLA_OVERLAP') == '0':
        return {'AHEAD': False}
    if gpu_of(device).capability < (9, 0):
        return {'AHEAD': False}
    return {'AHEAD': True, 'launch_pdl': True}
