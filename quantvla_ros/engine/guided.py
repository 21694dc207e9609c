# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""An engine's forward pass with real-time chunking in its integration, captured like the others.

The steps go through `Forward.velocity`, so any engine has it; a step is three small operations more
than without. Knows forward passes and a guide; knows nothing of any one architecture.
"""
from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from quantvla_ros.engine.engines import Forward
from quantvla_ros.engine.graph import Captured, Shape
from quantvla_ros.engine.staging import Staged
from quantvla_ros.models.guidance import Guide


class GuidedGraphs:
    """One more graph for every forward pass, all of them on one guide.

    Attributes:
        guide: static buffers on the device, for `set` to fill.
    """

    def __init__(
        self,
        forwards: Iterable[tuple[Shape, Forward]],
        *,
        steps: int,
        direction: int,
        noise_shape: tuple[int, int],
        device: torch.device,
    ) -> None:
        """Capture them, in the order given.

        Args:
            steps: of the integration.
            direction: of an Euler step along the velocity, 1 or -1.
            noise_shape: (chunk, action) of the initial noise.
        """
        self.guide = Guide(noise_shape, device)
        self._staged = Staged(self.guide.previous), Staged(self.guide.weights)
        self._whole = torch.zeros(noise_shape)
        pool = torch.cuda.graph_pool_handle() if device.type == 'cuda' else None
        self._captured: dict[int, Captured] = {}
        for _, forward in forwards:
            run = _Guided(forward, self.guide, steps, direction)
            self._captured[id(forward)] = Captured(run, device, pool)

    def set(self, previous: Tensor, weights: Tensor) -> None:
        """As `Guide.set`, from the host: before a graph runs, on its stream."""
        for staged, rows in zip(self._staged, (previous, weights), strict=True):
            self._whole.zero_()[:, : rows.shape[1]].copy_(rows)
            staged.write(self._whole)

    def of(self, forward: Forward) -> Captured:
        """The guided graph of a forward pass."""
        return self._captured[id(forward)]


class _Guided:
    """From buffers to `actions`, drawn to the guide."""

    def __init__(self, forward: Forward, guide: Guide, steps: int, direction: int) -> None:
        self._forward, self._guide = forward, guide
        self._steps, self._direction = steps, direction

    def __call__(self) -> None:
        forward, steps = self._forward, self._steps
        forward.receive()
        forward.encode()
        x = forward.noise
        for step in range(steps):
            after = x + forward.velocity(step, x) * (self._direction / steps)
            x = self._guide.applied(step, steps, x, after)
        forward.actions.copy_(x)
        forward.deliver()
