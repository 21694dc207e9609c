# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a GPU is, as far as the choice of tiles goes.

Knows torch's devices; knows nothing of tiles, kernels or files.
"""
from __future__ import annotations

import functools
import os
from typing import Any

import torch

from quantvla_ros.kernels.tile_table import Gpu


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


@functools.cache
def launch_options(device: torch.device) -> dict[str, Any]:
    """What every kernel of the engine is started with on `device`: see `triton_start`.

    QUANTVLA_OVERLAP=0 in the environment has each kernel wait for the end of the one before it, to
    see what that costs or to look for a fault.
    """
    mode = os.environ.get('QUANTVLA_OVERLAP', '2')
    if device.type != 'cuda' or mode == '0' or gpu_of(device).capability < (9, 0):
        return {'AHEAD': 0}
    return {'AHEAD': int(mode[0]), 'launch_pdl': True}
