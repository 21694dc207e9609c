# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a GPU is, as far as the choice of tiles goes.

Knows torch's devices; knows nothing of tiles, kernels or files.
"""
from __future__ import annotations

import functools

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
