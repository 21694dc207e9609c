# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The ways in which a policy could run here, the best one first, and why one of them cannot.

Knows engines, devices and what each needs; knows nothing of paths, weights or inferences.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch

from quantvla_ros.engine.engines import ENGINES
from quantvla_ros.engine.running import GRAPH, PLAIN
from quantvla_ros.errors import BackendError
from quantvla_ros.kernels import fused
from quantvla_ros.kernels.linear import BACKENDS, available_backends

AUTO = 'auto'
ENGINE_CHOICES = (AUTO, GRAPH, PLAIN)


@dataclass(frozen=True)
class Way:
    """An engine on a device."""

    engine: str
    device: torch.device

    def __str__(self) -> str:
        return f'{self.engine} on {self.device}'


def device_named(device: str | torch.device) -> torch.device:
    """The device by its name, available or not.

    Raises:
        BackendError: not a device that anything runs on.
    """
    try:
        found = torch.device(device)
    except RuntimeError:
        found = None
    if found is None or found.type not in ('cpu', 'cuda'):
        raise BackendError(f'device {device}: expected cpu, cuda or cuda:N')
    return found


def ways(engine: str, device: torch.device) -> tuple[Way, ...]:
    """What was asked for and, after it, what comes next best.

    Raises:
        BackendError: there is no engine of that name.
    """
    if engine not in ENGINE_CHOICES:
        raise BackendError(f'engine: expected {", ".join(ENGINE_CHOICES)}, found {engine!r}')
    if engine == AUTO:
        engine = GRAPH if device.type == 'cuda' else PLAIN
    found = [Way(engine, device), Way(PLAIN, device), Way(PLAIN, torch.device('cpu'))]
    return tuple(dict.fromkeys(found))


def without_device(device: torch.device) -> str | None:
    """Why nothing runs on a device, and what to do; None: it is there."""
    if device.type == 'cpu':
        return None
    if not torch.cuda.is_available():
        return (
            f'device {device}: expected an NVIDIA GPU that torch can use, found none '
            f'(torch {torch.__version__}); install a CUDA build of torch, or pass device cpu'
        )
    count = torch.cuda.device_count()
    if device.index is not None and device.index >= count:
        return f'device {device}: expected cuda:0 to cuda:{count - 1}, the GPUs that torch finds'
    return None


def unavailable(way: Way, kind: str, quantized: bool) -> str | None:
    """Why a policy cannot run in a way; None: nothing is known against it.

    Args:
        kind: of the architecture. quantized: whether it has integer layers.
    """
    missing = without_device(way.device)
    if missing is not None:
        return missing
    if way.engine == GRAPH:
        if kind not in ENGINES:
            known = ', '.join(ENGINES)
            return f'there is no such engine for {kind} yet (there is for {known})'
        return fused.unavailable(way.device) if way.device.type == 'cuda' else None
    if quantized and not available_backends(way.device):
        return f'none of the backends for integer layers ({", ".join(BACKENDS)}) runs there'
    return None
