# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The ways to run one network: a table, each entry a row of a benchmark for each precision.

Baselines are what others would do, and are chosen by the user; the rest is ours, and always run.
"""
from __future__ import annotations

from functools import partial
from typing import Any

import torch

from quantvla_ros.bench.engines import EngineRow, without_engine
from quantvla_ros.bench.running import Plain, System, capture, compiled
from quantvla_ros.bench.workload import Workload
from quantvla_ros.quantization.linear import QuantizedLinear


def _any(network: Any, workload: Workload, device: torch.device) -> None:
    """Nothing stands against it."""


def _only_gpus(network: Any, workload: Workload, device: torch.device) -> str | None:
    return None if device.type == 'cuda' else 'CUDA graphs need an NVIDIA GPU'


def _only_floats(network: Any, workload: Workload, device: torch.device) -> str | None:
    integers = any(isinstance(module, QuantizedLinear) for module in network.modules())
    return "torch's compiler does not see into our integer kernels" if integers else None


# In the order of a table's rows; the engine last, for it takes the network's weights away.
SYSTEMS: dict[str, System] = {
    system.name: system
    for system in (
        System(
            'eager', 'plain PyTorch', _any,
            partial(Plain, wrap=lambda call: call),
        ),
        System(
            'cudagraph', 'plain PyTorch in one CUDA graph', _only_gpus,
            partial(Plain, wrap=capture),
        ),
        System(
            'compile', 'torch.compile, as openpi runs', _only_floats,
            # Each part would take the compiler minutes more.
            partial(Plain, wrap=compiled, by_parts=False),
        ),
        System(
            'engine', 'our engine', lambda network, workload, device: without_engine(workload),
            EngineRow,
        ),
    )
}
BASELINES = ('eager', 'cudagraph', 'compile')
