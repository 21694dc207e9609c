# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The architectures that have an engine, as tests of all of them take them."""
import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import engine_groot_samples
import engine_samples
import engine_smolvla_samples
import torch

from quantvla_ros.engine.graph import Graphs, Shape
from quantvla_ros.engine.groot import GrootForward, GrootWeights
from quantvla_ros.engine.inputs import BufferedForward
from quantvla_ros.engine.pi05 import PI05Forward, PI05Weights
from quantvla_ros.engine.smolvla import SmolVLAForward, SmolVLAWeights

CPU = torch.device('cpu')


@dataclass(frozen=True)
class Kind:
    """An architecture.

    Attributes:
        samples: networks, inputs and what a network makes of them.
        pack: (network, device, dtype) to its weights.
        forward: (weights, views, prompt) to a forward pass.
        exact: relative error of actions where nothing is rounded differently.
        seeds: observations whose mean differs by 5 % at most from chance alone (one standard
            deviation): one alone differs by an eighth to two fifths.
    """

    samples: ModuleType
    pack: Callable[..., Any]
    forward: type[BufferedForward]
    exact: float
    seeds: int = 16

    @functools.cached_property
    def _weights(self) -> dict[str, Any]:
        return {}

    def weights(self, recipe: str) -> Any:
        """Of `samples.network(recipe)`, float32 on the CPU; shared, not to be changed."""
        if recipe not in self._weights:
            self._weights[recipe] = self.pack(self.samples.network(recipe), CPU, torch.float32)
        return self._weights[recipe]

    def made(self, recipe: str, views: int, prompt: int) -> Any:
        """A forward pass on `weights`."""
        return self.forward(self.weights(recipe), views, prompt)

    def graphs(self, weights: Any, shapes: list[Shape]) -> Graphs:
        """Forward passes of several shapes, captured where the weights are."""
        return Graphs(lambda s: self.forward(weights, s.views, s.prompt), shapes, weights.device)


KINDS = {
    'pi05': Kind(engine_samples, PI05Weights, PI05Forward, 1e-6),
    'smolvla': Kind(engine_smolvla_samples, SmolVLAWeights, SmolVLAForward, 3e-6, seeds=32),
    'groot': Kind(
        engine_groot_samples,
        functools.partial(GrootWeights, embodiment=engine_groot_samples.ROBOT),
        GrootForward,
        2e-6,
        seeds=64,
    ),
}


def run(forward: Any, given: tuple[Any, ...]) -> torch.Tensor:
    """Actions of an observation's inputs, the caller's own."""
    forward.set_inputs(*given)
    with torch.no_grad():
        return forward.run().clone()
