# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Our engine as a row of a benchmark. Knows engines and what `running` asks of them, no clocks."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from quantvla_ros.bench.running import Part, Running
from quantvla_ros.engine.graph import Captured
from quantvla_ros.engine.groot import GrootForward, GrootWeights
from quantvla_ros.engine.pi05 import PI05Forward, PI05Weights
from quantvla_ros.engine.smolvla import SmolVLAForward, SmolVLAWeights
from quantvla_ros.models.groot_n15 import GrootN15
from quantvla_ros.models.pi05 import PI05
from quantvla_ros.models.smolvla import SmolVLA


def without_engine(network: Any, device: torch.device) -> str | None:
    """Why a network has none."""
    return None if type(network) in _ENGINES else 'there is no engine for this architecture yet'


def start_engine(network: Any, inputs: Any, noise: Tensor) -> Running:
    """The network's engine; the network is moved to the host: a device holds the engine only."""
    return _ENGINES[type(network)](network, inputs, noise)


class _Engine:
    """A forward pass on the fused operations, in one CUDA graph where there is a GPU."""

    def __init__(self, forward: Any, inputs: Any, noise: Tensor) -> None:
        self._forward, self._device = forward, noise.device
        self.load(inputs, noise)
        self._run = Captured(forward.run, self._device)

    def load(self, inputs: Any, noise: Tensor) -> None:
        """As `Running`."""
        raise NotImplementedError

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


class PI05Engine(_Engine):
    """pi0.5."""

    def __init__(self, network: PI05, inputs: Any, noise: Tensor) -> None:
        """The network is moved to the host: a device holds the engine's weights only."""
        dtype = network.backbone.embed_tokens.weight.dtype
        weights = PI05Weights(network.cpu(), noise.device, dtype)
        forward = PI05Forward(weights, len(inputs.images), inputs.tokens.shape[1])
        super().__init__(forward, inputs, noise)

    def load(self, inputs: Any, noise: Tensor) -> None:
        """As `Running`."""
        pictures = [image[0] for image in inputs.images]
        self._forward.set_inputs(pictures, inputs.tokens[0], noise[0])


class SmolVLAEngine(_Engine):
    """SmolVLA."""

    def __init__(self, network: SmolVLA, inputs: Any, noise: Tensor) -> None:
        """The network is moved to the host: a device holds the engine's weights only."""
        dtype = network.backbone.embed_tokens.weight.dtype
        weights = SmolVLAWeights(network.cpu(), noise.device, dtype)
        forward = SmolVLAForward(weights, len(inputs.images), inputs.tokens.shape[1])
        super().__init__(forward, inputs, noise)

    def load(self, inputs: Any, noise: Tensor) -> None:
        """As `Running`."""
        pictures = [image[0] for image in inputs.images]
        self._forward.set_inputs(pictures, inputs.tokens[0], inputs.state, noise[0])


class GrootEngine(_Engine):
    """GR00T N1.5."""

    def __init__(self, network: GrootN15, inputs: Any, noise: Tensor) -> None:
        """The network is moved to the host: a device holds the engine's weights only."""
        dtype = network.backbone.language.embed_tokens.weight.dtype
        robot = int(inputs.embodiment_id[0])
        weights = GrootWeights(network.cpu(), noise.device, dtype, robot)
        words = int((inputs.input_ids != network.config.image_token).sum())
        forward = GrootForward(weights, len(inputs.pixel_values), words)
        super().__init__(forward, inputs, noise)

    def load(self, inputs: Any, noise: Tensor) -> None:
        """As `Running`."""
        self._forward.set_inputs(
            inputs.pixel_values, inputs.input_ids[0], inputs.state[0], noise[0]
        )

    def parts(self) -> Mapping[str, Part]:
        """As `Running`; the head refines the features, as the network's does."""
        forward = self._forward

        def head() -> None:
            forward.refine()
            forward.integrate()

        calls = {'vision': forward.see, 'prefix': forward.read, 'head': head}
        return {name: Part(Captured(call, self._device)) for name, call in calls.items()}


_ENGINES: Mapping[type, Callable[[Any, Any, Tensor], Running]] = {
    PI05: PI05Engine,
    GrootN15: GrootEngine,
    SmolVLA: SmolVLAEngine,
}
