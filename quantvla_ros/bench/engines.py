# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Our engine as a row of a benchmark: packed, captured and fed as the node does it.

Knows engines and what `running` asks of them, no clocks.
"""
from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from quantvla_ros.bench.running import Part
from quantvla_ros.bench.workload import Workload
from quantvla_ros.engine.engine import PackedNetwork
from quantvla_ros.engine.engines import ENGINES
from quantvla_ros.engine.graph import Captured
from quantvla_ros.engine.groot import GrootForward
from quantvla_ros.engine.policy import make_engine

_HOST = torch.device('cpu')


class EngineRow:
    """An engine for the one shape of a workload."""

    def __init__(self, network: Any, workload: Workload, inputs: Any, noise: Tensor) -> None:
        """The network is moved to the host: a device holds the engine's weights only."""
        processor, self._device = workload.processor, noise.device
        kind = ENGINES[workload.kind].of(processor)
        dtype = _dtype(network)
        network.cpu()
        gc.collect()
        given = kind.given(processor.inputs(workload.observation, _HOST))
        if self._device.type == 'cuda':
            torch.cuda.empty_cache()  # the engine's weights shall not lie among its remains
        packed = PackedNetwork(kind, network, self._device, dtype)
        self._given, self._noise = given, noise[0].cpu()
        self._engine = make_engine(packed, [given.needs], processor)
        self._forward, self._captured = self._engine.fitting(given.needs)
        self._load()

    def run(self) -> Tensor:
        """As `Running`."""
        self._captured()
        return self._forward.actions[None]

    def whole(self, observation: Any) -> Tensor:
        """As `Running`."""
        return self._engine.act(observation, None)

    @torch.no_grad()
    def first_velocity(self) -> Tensor:
        """As `Running`."""
        self._load()
        self._forward.receive()
        self._forward.encode()
        return self._forward.velocity(0, self._forward.noise)[None]

    def parts(self) -> Mapping[str, Part]:
        """As `Running`."""
        forward: Any = self._forward
        self._load()
        self._captured()
        if isinstance(forward, GrootForward):  # its features are refined as the network's head does

            def head() -> None:
                forward.refine()
                forward.integrate()
        else:
            head = forward.integrate
        see, read, last = (
            Captured(call, self._device) for call in (forward.see, forward.read, head)
        )
        # Reading uses up what seeing gave.
        return {'vision': Part(see), 'prefix': Part(read, see), 'head': Part(last)}

    def _load(self) -> None:
        """The workload's inputs and noise."""
        self._forward.set_inputs(*self._given.inputs, self._noise)


def without_engine(workload: Workload) -> str | None:
    """Why there is none."""
    if workload.kind in ENGINES:
        return None
    return 'there is no engine for this architecture yet'


def _dtype(network: nn.Module) -> torch.dtype:
    """Of a network's activations: its embedding's."""
    return next(m.weight.dtype for m in network.modules() if isinstance(m, nn.Embedding))
