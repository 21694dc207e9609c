# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a policy asks of whatever runs its network, and the network itself as one.

Knows networks and processors; knows nothing of any one architecture. `engine` is the other one.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from quantvla_ros.models.architecture import Processor
from quantvla_ros.models.guidance import Guide
from quantvla_ros.models.network import Network, act, integrate
from quantvla_ros.models.tree import alike, join
from quantvla_ros.observation.types import Observation


class Runner(Protocol):
    """Observations to normalised actions. Not thread-safe.

    Attributes:
        noise_shape: (chunk, action) of the initial noise.
        views: numbers of pictures that it takes, for warming up.
    """

    noise_shape: tuple[int, int]
    views: tuple[int, ...]

    def act(self, observation: Observation, seed: int | None) -> Tensor:
        """[1, chunk, action_dim] float32, from the noise of a seed; None: a fresh one.

        Raises:
            ObservationError: the observation does not fit the policy.
        """
        ...

    def act_many(self, observations: Sequence[Observation], seeds: Sequence[int]) -> list[Tensor]:
        """As `act`, of each."""
        ...

    def states(self, observation: Observation, seed: int) -> tuple[list[Tensor], Tensor]:
        """The noisy actions before each step, [1, chunk, action_dim] each, and what `act` gives."""
        ...

    def check(self) -> None:
        """Made sure of before anything moves.

        Raises:
            BackendError: it computes no numbers, or others each time.
        """


@runtime_checkable
class Guided(Protocol):
    """A runner whose chunks can be drawn to an older one."""

    def prepare_guided(self) -> None:
        """Make whatever a guided inference needs that another does not."""
        ...

    def act_guided(
        self, observation: Observation, seed: int | None, previous: Tensor, weights: Tensor
    ) -> Tensor:
        """As `Runner.act`, drawn to an older chunk; see `models.guidance.Guide.set`.

        Args:
            previous, weights: [chunk, robot's action] float32 on the host.
        """
        ...


class Plain:
    """A network run by PyTorch's operations, on its device."""

    def __init__(self, network: Network, processor: Processor, device: torch.device) -> None:
        self.network, self._processor, self._device = network, processor, device
        self.noise_shape = network.noise_shape
        self.views: tuple[int, ...] = (len(processor.slots),)

    def act(self, observation: Observation, seed: int | None) -> Tensor:
        """As `Runner`."""
        return self._act(observation, seed, None)

    def prepare_guided(self) -> None:
        """As `Guided`: there is nothing to make."""

    def act_guided(
        self, observation: Observation, seed: int | None, previous: Tensor, weights: Tensor
    ) -> Tensor:
        """As `Guided`."""
        guide = Guide(self.noise_shape, self._device)
        guide.set(previous, weights)
        return self._act(observation, seed, guide)

    def _act(self, observation: Observation, seed: int | None, guide: Guide | None) -> Tensor:
        inputs = self._processor.inputs(observation, self._device)
        return act(self.network, inputs, self._noise(seed), guide=guide)

    def act_many(self, observations: Sequence[Observation], seeds: Sequence[int]) -> list[Tensor]:
        """As `Runner`, equal to `act` up to rounding.

        Those whose inputs have the same shapes (the same cameras, prompts of one length) run as one
        batch: not every network can tell padding from words.
        """
        parts = [self._processor.inputs(observation, self._device) for observation in observations]
        found: dict[int, Tensor] = {}
        for places in alike(parts):
            noise = torch.cat([self._noise(seeds[place]) for place in places])
            raw = act(self.network, join([parts[place] for place in places]), noise)
            found.update((place, row[None]) for place, row in zip(places, raw, strict=True))
        return [found[place] for place in range(len(parts))]

    def states(self, observation: Observation, seed: int) -> tuple[list[Tensor], Tensor]:
        """As `Runner`."""
        network = self.network
        states: list[Tensor] = []
        inputs = self._processor.inputs(observation, self._device)
        stack = network.backbone
        state = stack.start(*network.embed(inputs))
        for index in range(len(stack.layers)):
            state = stack.step(index, state)
        flow = network.flow(stack.finish(state), inputs)
        raw = integrate(flow, self._noise(seed), lambda step, x, velocity: states.append(x))
        return states, raw

    def check(self) -> None:
        """As `Runner`: PyTorch is taken at its word."""

    def _noise(self, seed: int | None) -> Tensor:
        return draw_noise(torch.empty(1, *self.noise_shape), seed).to(self._device)


def draw_noise(out: Tensor, seed: int | None) -> Tensor:
    """Fill a tensor on the CPU with standard normal numbers: there, so that a seed means the same
    on every machine.
    """
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return torch.randn(out.shape, generator=generator, out=out)
