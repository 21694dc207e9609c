# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a way to run a network is, and those that run the network's own modules, as others would.

Knows networks; knows nothing of time or of our engine.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from quantvla_ros.bench.workload import Workload
from quantvla_ros.models.network import act, integrate
from quantvla_ros.models.tree import join, tensors
from quantvla_ros.observation.types import Observation

Call = Callable[[], Any]


@dataclass(frozen=True)
class Part:
    """A stretch of a forward pass that can be run alone.

    Attributes:
        before: run before each run of the part, where the part needs it.
    """

    call: Call
    before: Call | None = None


class Running(Protocol):
    """A network ready to run."""

    def run(self) -> Tensor:
        """[1, chunk, action] normalised actions of the workload, valid until the next run."""
        ...

    def whole(self, observation: Observation) -> Tensor:
        """The same from an observation on the host, as a robot would, with fresh noise."""
        ...

    def first_velocity(self) -> Tensor:
        """[1, chunk, action] velocity of the first step of the last run."""
        ...

    def parts(self) -> Mapping[str, Part]:
        """Vision, prefix and head, or none of them where they cannot be told apart."""
        ...


@dataclass(frozen=True)
class System:
    """One way to run a network.

    Attributes:
        title: what it is, in a few words.
        refusal: (network, workload, device) to why it does not apply; None: it does.
        start: (network, workload, inputs, noise) to it, ready.
    """

    name: str
    title: str
    refusal: Callable[[Any, Workload, torch.device], str | None]
    start: Callable[[Any, Workload, Any, Tensor], Running]


class Plain:
    """The network's own modules, on inputs at fixed addresses."""

    def __init__(
        self, network: Any, workload: Workload, inputs: Any, noise: Tensor,
        *, wrap: Callable[[Call], Call], by_parts: bool = True,
    ) -> None:
        """`wrap` makes of a function one that does the same, faster; of the parts too."""
        self._processor, self._device = workload.processor, noise.device
        self._network, self._wrap, self._by_parts = network, wrap, by_parts
        self._inputs, self._noise = join([inputs]), noise.clone()  # copies
        self._act = wrap(self._once)

    def whole(self, observation: Observation) -> Tensor:
        """As `Running`."""
        inputs = self._processor.inputs(observation, self._device)
        self.load(inputs, torch.randn(self._noise.shape))
        return self.run()

    def load(self, inputs: Any, noise: Tensor) -> None:
        """Take over the next inputs, of the same shapes, and [1, chunk, action] noise."""
        for mine, new in zip(tensors(self._inputs), tensors(inputs), strict=True):
            mine.copy_(new, non_blocking=True)
        self._noise.copy_(noise, non_blocking=True)

    def run(self) -> Tensor:
        """As `Running`."""
        actions, self._velocity = self._act()
        return actions

    def first_velocity(self) -> Tensor:
        """As `Running`."""
        return self._velocity

    def parts(self) -> Mapping[str, Part]:
        """As `Running`."""
        if not self._by_parts:
            return {}
        parts = plain_parts(self._network, self._inputs, self._noise)
        return {name: Part(self._wrap(call)) for name, call in parts.items()}

    @torch.no_grad()
    def _once(self) -> tuple[Tensor, Tensor]:
        first: list[Tensor] = []

        def keep(step: int, x: Tensor, velocity: Tensor) -> None:
            if step == 0:
                first.append(velocity)

        return act(self._network, self._inputs, self._noise, keep), first[0]


def plain_parts(network: Any, inputs: Any, noise: Tensor) -> dict[str, Call]:
    """Vision (with the words' table), prefix and head of a network, each on its own."""
    stack = network.backbone

    @torch.no_grad()
    def vision() -> Any:
        return network.embed(inputs)

    embedded = vision()

    @torch.no_grad()
    def prefix() -> Any:
        state = stack.start(*embedded)
        for index in range(len(stack.layers)):
            state = stack.step(index, state)
        return stack.finish(state)

    context = prefix()

    @torch.no_grad()
    def head() -> Tensor:
        return integrate(network.flow(context, inputs), noise)

    return {'vision': vision, 'prefix': prefix, 'head': head}


def capture(call: Call) -> Call:
    """A CUDA graph of a function that works on fixed addresses."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # compiles kernels, prepares what depends on weights alone
            call()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()

    def replay() -> Any:
        graph.replay()
        return result

    return replay


def compiled(call: Call) -> Call:
    """A function by torch's compiler, as openpi compiles its own."""
    mode = 'max-autotune' if torch.cuda.is_available() else 'default'
    return torch.compile(call, mode=mode)
