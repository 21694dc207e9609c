# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Forward passes of a few shapes, captured once as CUDA graphs and chosen by what an input needs.

Knows functions of static buffers; knows nothing of what they compute. On a CPU the same functions
run as they are. Everything is captured where the engine is made: never on the control path.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch

from quantvla_ros.errors import BackendError
from quantvla_ros.kernels.counters import own_counters

WARM_UPS = 2  # runs before a capture: kernels are compiled and libraries initialised in the first


@dataclass(frozen=True, order=True)
class Shape:
    """What a forward pass is for.

    Attributes:
        views: pictures, exactly.
        prompt: tokens of the prompt, at most.
    """

    views: int
    prompt: int


class Forward(Protocol):
    """A forward pass whose operations depend on nothing but its shape."""

    def run(self) -> Any:
        """From buffers to buffers of the object."""


_Forward = TypeVar('_Forward', bound=Forward)


class Captured:
    """A function of static buffers, captured in a graph where there is a GPU."""

    @torch.no_grad()
    def __init__(self, run: Callable[[], Any], device: torch.device, pool: Any = None) -> None:
        """Run, then capture.

        Another thread may use the GPU meanwhile, and another graph run beside this one.

        Args:
            pool: of memory that graphs share which never run at the same time.
        """
        self._run, self._graph = run, None
        if device.type != 'cuda':
            return
        with torch.cuda.device(device), own_counters() as self._counters:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    run()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            # What other threads ask of the driver would else end the capture, and fail there.
            with torch.cuda.graph(graph, pool=pool, capture_error_mode='thread_local'):
                run()
        self._graph = graph

    def __call__(self) -> None:
        """Run once more, on what the buffers hold now."""
        if self._graph is not None:
            self._graph.replay()
            return
        with torch.no_grad():
            self._run()


class Graphs(Generic[_Forward]):
    """Forward passes of several shapes that share weights and memory.

    Not thread-safe, and one runs at a time: they share what lies between their operations.

    Attributes:
        shapes: ascending.
    """

    def __init__(
        self,
        make: Callable[[Shape], _Forward],
        shapes: Iterable[Shape],
        device: torch.device,
    ) -> None:
        """Make and capture all of them, the largest first: the others fit into its memory."""
        self.shapes = tuple(sorted(set(shapes)))
        pool = torch.cuda.graph_pool_handle() if device.type == 'cuda' else None
        self._made: dict[Shape, tuple[_Forward, Captured]] = {}
        for shape in reversed(self.shapes):
            forward = make(shape)
            self._made[shape] = (forward, Captured(forward.run, device, pool))

    def forwards(self) -> list[tuple[Shape, _Forward]]:
        """All of them, in the order of their making: the largest first."""
        return [(shape, forward) for shape, (forward, _) in self._made.items()]

    def fitting(self, views: int, prompt: int) -> tuple[_Forward, Captured]:
        """The smallest that takes so many pictures and tokens.

        Raises:
            BackendError: there is none; which there are is said.
        """
        for shape in self.shapes:
            if shape.views == views and prompt <= shape.prompt:
                return self._made[shape]
        known = ', '.join(f'{s.views} with up to {s.prompt} tokens' for s in self.shapes)
        raise BackendError(
            f'engine: expected pictures as prepared for ({known or "none"}), found {views} with '
            f'{prompt} tokens; prepare the engine for that too'
        )
