# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The engine: a network's packed weights and its forward passes, captured before the first use.

Knows packed weights, shapes and streams; knows nothing of checkpoints, ROS or any one architecture.
After it is made nothing is compiled, captured, tuned or allocated on the device: an inference is
pinned memory written, one graph for the pictures and one for the rest, and pinned memory read, on a
stream of its own.
"""
from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from quantvla_ros.engine.engines import EngineKind, Forward
from quantvla_ros.engine.graph import Captured, Graphs, Shape
from quantvla_ros.engine.guided import GuidedGraphs
from quantvla_ros.engine.runners import draw_noise
from quantvla_ros.errors import BackendError, ObservationError
from quantvla_ros.models.network import Network
from quantvla_ros.observation.types import Observation

# What a processor makes of an observation; pictures may be on the device, all else on the host.
Reader = Callable[[Observation], Any]


class PackedNetwork:
    """A network as the engine holds it: its weights in the kernels' order, and a few numbers.

    Attributes:
        kind, device: what it is of, and where it is.
        weights: of that kind; embeddings among them stay on the host, where rows are picked.
        steps: of the integration.
        noise_shape: (chunk, action) of the initial noise.
    """

    @torch.no_grad()
    def __init__(
        self, kind: EngineKind, network: Network, device: torch.device, dtype: torch.dtype
    ) -> None:
        """Pack layer by layer. Nothing but embeddings is kept of a network on another device."""
        self.kind, self.device = kind, device
        self.steps, self.noise_shape = network.denoising_steps, network.noise_shape
        self.weights = kind.weights(network, device, dtype)
        if device.type == 'cuda':
            torch.cuda.synchronize(device)
            torch.cuda.empty_cache()  # what lay between the layers


class Engine:
    """A packed network's forward passes for the shapes that were asked for. As `Runner`.

    Not thread-safe, but any one thread at a time may use it.

    Attributes:
        shapes: ascending.
    """

    def __init__(
        self, packed: PackedNetwork, shapes: Sequence[Shape], read: Reader,
        place: Callable[[int], Tensor | None] = lambda views: None,
    ) -> None:
        """Make and capture them all.

        Args:
            read: an observation to what `EngineKind.given` takes, called on the engine's stream.
            place: number of pictures to where `read` puts them: float32 [views, 3, image, image] on
                the device, one for all prompt lengths. None: they are copied to places here.
        """
        self._packed, self._read = packed, read
        self.noise_shape = packed.noise_shape
        device, kind, weights = packed.device, packed.kind, packed.weights
        self._stream = torch.cuda.Stream(device) if device.type == 'cuda' else None
        # One for all inferences: `set_inputs` has read it when it returns.
        self._noise = torch.empty(self.noise_shape)
        with self._on_stream():
            self._graphs: Graphs[Forward] = Graphs(
                lambda shape: kind.forward(
                    weights, shape.views, shape.prompt, images=place(shape.views)
                ),
                shapes,
                device,
            )
        if device.type == 'cuda':
            torch.cuda.synchronize(device)
            torch.cuda.empty_cache()
        self.shapes = self._graphs.shapes
        self.views = tuple(sorted({shape.views for shape in self.shapes}))
        self._longest = max(shape.prompt for shape in self.shapes)
        self._guided: GuidedGraphs | None = None

    @property
    def prepared(self) -> str:
        """The shapes in words."""
        lengths = sorted({shape.prompt for shape in self.shapes})
        views = ' or '.join(map(str, self.views))
        return f'{views} pictures, prompts of up to {", ".join(map(str, lengths))} tokens'

    def fitting(self, needs: Shape) -> tuple[Forward, Captured]:
        """The forward pass that serves so much, and its graph: for measurements.

        Raises:
            BackendError: nothing was prepared for that.
        """
        return self._graphs.fitting(needs.views, needs.prompt)

    @torch.no_grad()
    def act(self, observation: Observation, seed: int | None) -> Tensor:
        """As `Runner`; on the host.

        Raises:
            ObservationError: besides, it needs a shape that was not asked for.
        """
        with self._on_stream():
            forward, captured = self._load(observation, seed)
            captured()
            return forward.result()[None]

    def prepare_guided(self) -> None:
        """As `Guided`: one more graph for every shape."""
        packed = self._packed
        with self._on_stream():
            self._guided = GuidedGraphs(
                self._graphs.forwards(), steps=packed.steps, direction=packed.kind.direction,
                noise_shape=packed.noise_shape, device=packed.device,
            )
        if packed.device.type == 'cuda':
            torch.cuda.synchronize(packed.device)

    @torch.no_grad()
    def act_guided(
        self, observation: Observation, seed: int | None, previous: Tensor, weights: Tensor
    ) -> Tensor:
        """As `Guided`; on the host."""
        if self._guided is None:
            raise BackendError('engine: expected prepare_guided before the first guided chunk')
        with self._on_stream():
            forward, _ = self._load(observation, seed)
            self._guided.set(previous, weights)
            self._guided.of(forward)()
            return forward.result()[None]

    def act_many(self, observations: Sequence[Observation], seeds: Sequence[int]) -> list[Tensor]:
        """As `Runner`, one after the other: just what `act` gives."""
        return [self.act(one, seed) for one, seed in zip(observations, seeds, strict=True)]

    @torch.no_grad()
    def states(self, observation: Observation, seed: int) -> tuple[list[Tensor], Tensor]:
        """As `Runner`, by the same kernels outside the graph: slower, and it allocates."""
        raw = self.act(observation, seed)
        with self._on_stream():
            forward, _ = self._load(observation, seed)
            forward.receive()
            forward.encode()
            x, states = forward.noise.clone(), []
            for step in range(self._packed.steps):
                states.append(x[None])
                x = x + self._packed.kind.direction * forward.velocity(step, x) / self._packed.steps
            return [state.cpu() for state in states], raw

    @torch.no_grad()
    def check(self) -> None:
        """Run every graph twice from the same noise, on whatever the other buffers hold.

        Raises:
            BackendError: the actions are not numbers, or differ.
        """
        draw_noise(self._noise, 0)
        with self._on_stream():
            for shape in self.shapes:
                forward, captured = self._graphs.fitting(shape.views, shape.prompt)
                forward.set_noise(self._noise)
                found = []
                for _ in range(2):
                    captured()
                    found.append(forward.result())
                fault = None
                if not torch.isfinite(found[0]).all():
                    fault = 'found NaN or infinity'
                elif not torch.equal(*found):
                    fault = 'found others each time'
                if fault:
                    raise BackendError(
                        f'engine for {shape.views} pictures and {shape.prompt} tokens: expected '
                        f'the same finite actions from the same noise, {fault}; a kernel is at '
                        f'fault on this GPU: run with engine plain, and report it'
                    )

    def _load(self, observation: Observation, seed: int | None) -> tuple[Forward, Captured]:
        """The forward pass for an observation, its inputs on their way to the buffers."""
        given = self._packed.kind.given(self._read(observation))
        needs = given.needs
        if needs.views not in self.views:
            raise ObservationError(
                f'expected pictures of {" or ".join(map(str, self.views))} cameras, for which the '
                f'engine was prepared, found {needs.views}; prepare it for that many too (views)'
            )
        if needs.prompt > self._longest:
            raise ObservationError(
                f'the prompt has {needs.prompt} tokens, the engine was prepared for up to '
                f'{self._longest}; shorten the command, or prepare it for longer ones '
                f'(prompt_lengths)'
            )
        forward, captured = self._graphs.fitting(needs.views, needs.prompt)
        forward.set_inputs(*given.inputs, draw_noise(self._noise, seed))
        return forward, captured

    def _on_stream(self) -> contextlib.AbstractContextManager[Any]:
        if self._stream is None:
            return contextlib.nullcontext()
        return torch.cuda.stream(self._stream)


def own_embeddings(network: nn.Module) -> None:
    """Copy the embeddings of a network that lies in mapped files: the engine keeps them."""
    for module in network.modules():
        if isinstance(module, nn.Embedding):
            module.weight = nn.Parameter(module.weight.detach().clone(), requires_grad=False)


def shapes_for(views: Sequence[int], lengths: Sequence[int]) -> tuple[Shape, ...]:
    """Every number of pictures with every prompt length."""
    return tuple(Shape(count, length) for count in views for length in lengths)
