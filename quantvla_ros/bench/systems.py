# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The ways to run one network: a table, each entry a row of a benchmark for each precision.

`eager`, `cudagraph` and `compile` run the network's own modules and are what others would do; an
engine of ours is one more entry. Knows networks; knows nothing of time.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from quantvla_ros.models.network import act, integrate
from quantvla_ros.models.tree import join, tensors
from quantvla_ros.quantization.linear import QuantizedLinear

Call = Callable[[], Any]
PARTS = ('vision', 'prefix', 'head')


class Running(Protocol):
    """A network ready to run."""

    def load(self, inputs: Any, noise: Tensor) -> None:
        """Take over the next inputs, of the same shapes, and [1, chunk, action] noise."""

    def run(self) -> tuple[Tensor, Tensor | None]:
        """[1, chunk, action] normalised actions, valid until the next run; and the velocity of the
        first step where it is at hand.
        """
        ...

    def parts(self) -> Mapping[str, Call]:
        """Some of `PARTS`, each to be run alone on what the one before it gave once."""
        ...


@dataclass(frozen=True)
class System:
    """One way to run a network.

    Attributes:
        title: what it is, in a few words.
        refusal: (network, device) to why it cannot be; None: it can.
        start: (network, inputs, noise) to it, ready.
    """

    name: str
    title: str
    refusal: Callable[[Any, torch.device], str | None]
    start: Callable[[Any, Any, Tensor], Running]


class Plain:
    """The network's own modules, on inputs at fixed addresses."""

    def __init__(
        self, network: Any, inputs: Any, noise: Tensor, wrap: Callable[[Call], Call]
    ) -> None:
        """`wrap` makes of a function one that does the same, faster."""
        self._network, self._wrap = network, wrap
        self._inputs, self._noise = join([inputs]), noise.clone()  # copies
        self._act = wrap(self._once)

    def load(self, inputs: Any, noise: Tensor) -> None:
        """As `Running`."""
        for mine, new in zip(tensors(self._inputs), tensors(inputs), strict=True):
            mine.copy_(new, non_blocking=True)
        self._noise.copy_(noise, non_blocking=True)

    def run(self) -> tuple[Tensor, Tensor | None]:
        """As `Running`."""
        return self._act()

    def parts(self) -> Mapping[str, Call]:
        """As `Running`."""
        return {name: self._wrap(call) for name, call in plain_parts(
            self._network, self._inputs, self._noise
        ).items()}

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


def _any(network: Any, device: torch.device) -> None:
    """Nothing stands against it."""


def _only_gpus(network: Any, device: torch.device) -> str | None:
    return None if device.type == 'cuda' else 'CUDA graphs need an NVIDIA GPU'


def _only_floats(network: Any, device: torch.device) -> str | None:
    integers = any(isinstance(module, QuantizedLinear) for module in network.modules())
    return "torch's compiler does not see into our integer kernels" if integers else None


# In the order of a table's rows.
SYSTEMS: dict[str, System] = {
    system.name: system
    for system in (
        System(
            'eager', 'plain PyTorch', _any,
            lambda network, inputs, noise: Plain(network, inputs, noise, lambda call: call),
        ),
        System(
            'cudagraph', 'plain PyTorch in one CUDA graph', _only_gpus,
            lambda network, inputs, noise: Plain(network, inputs, noise, capture),
        ),
        System(
            'compile', 'torch.compile, as openpi runs', _only_floats,
            lambda network, inputs, noise: Plain(network, inputs, noise, compiled),
        ),
    )
}
BASELINES = ('eager', 'cudagraph', 'compile')
