# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Our engine as a row of a benchmark. Knows engines and what `running` asks of them, no clocks."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from quantvla_ros.bench.running import Part
from quantvla_ros.engine.graph import Captured
from quantvla_ros.engine.pi05 import PI05Forward, PI05Weights
from quantvla_ros.models.pi05 import PI05


def without_engine(network: Any, device: torch.device) -> str | None:
    """Why a network has none."""
    return None if isinstance(network, PI05) else 'there is no engine for this architecture yet'


class PI05Engine:
    """pi0.5 on the fused operations, in one CUDA graph where there is a GPU."""

    def __init__(self, network: PI05, inputs: Any, noise: Tensor) -> None:
        """The network is moved to the host: a device holds the engine's weights only."""
        self._device = noise.device
        dtype = network.backbone.embed_tokens.weight.dtype
        weights = PI05Weights(network.cpu(), self._device, dtype)
        self._forward = PI05Forward(weights, len(inputs.images), inputs.tokens.shape[1])
        self.load(inputs, noise)
        self._run = Captured(self._forward.run, self._device)

    def load(self, inputs: Any, noise: Tensor) -> None:
        """As `Running`."""
        pictures = [image[0] for image in inputs.images]
        self._forward.set_inputs(pictures, inputs.tokens[0], noise[0])

    def run(self) -> Tensor:
        """As `Running`."""
        self._run()
        return self._forward.actions[None]

    @torch.no_grad()
    def first_velocity(self) -> Tensor:
        """As `Running`."""
        return self._forward.velocity(0, self._forward.noise)[None]

    def parts(self) -> Mapping[str, Part]:
        """As `Running`."""
        forward = self._forward
        see, read, integrate = (
            Captured(call, self._device) for call in (forward.see, forward.read, forward.integrate)
        )
        # Reading uses up what seeing gave.
        return {'vision': Part(see), 'prefix': Part(read, see), 'head': Part(integrate)}
