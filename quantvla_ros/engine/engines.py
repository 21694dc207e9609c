# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The architectures that have an engine: how their weights are packed and their inputs read.

Knows which class serves which architecture; knows nothing of checkpoints, graphs or devices. An
engine is two classes in a module of its own and a line in ENGINES.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from quantvla_ros.engine.graph import Shape
from quantvla_ros.engine.groot import GrootForward, GrootWeights
from quantvla_ros.engine.pi05 import PI05Forward, PI05Weights
from quantvla_ros.engine.shapes import prompt_lengths
from quantvla_ros.engine.smolvla import SmolVLAForward, SmolVLAWeights
from quantvla_ros.models.groot_n15 import GrootInputs
from quantvla_ros.models.pi05 import ModelInputs
from quantvla_ros.models.smolvla import SmolVLAInputs


class Forward(Protocol):
    """A forward pass of one shape on static buffers: `set_inputs`, `run`, `result`.

    The operations of `run` and of what it is made of depend on nothing but the shape, and touch
    nothing but buffers of the object. Not thread-safe.

    Attributes:
        noise, actions: [chunk, action_dim] float32, what the flow starts from and ends at.
    """

    noise: Tensor
    actions: Tensor

    def set_inputs(self, *inputs: Any) -> None:
        """Take an observation's inputs without waiting for the device.

        The last one is the noise, [chunk, action_dim] float32.
        """

    def set_noise(self, noise: Tensor) -> None:
        """Take other noise beside the inputs of before."""

    def run(self) -> Tensor:
        """`receive`, `encode`, `integrate`, `deliver`."""
        ...

    def receive(self) -> None:
        """What was taken, as far as it is another each time, to its buffers."""

    def deliver(self) -> None:
        """`actions` to the host, for `result`."""

    def encode(self) -> None:
        """Pictures and prompt to what the action head reads."""

    def integrate(self) -> Tensor:
        """`noise` to `actions` by all denoising steps."""
        ...

    def velocity(self, step: int, x: Tensor) -> Tensor:
        """The flow's velocity at [chunk, action_dim] noisy actions, float32; after `encode`."""
        ...

    def result(self) -> Tensor:
        """Wait for the actions: [chunk, action_dim] float32 on the host, the caller's own."""
        ...


@dataclass(frozen=True)
class Given:
    """An observation's inputs as a forward pass takes them.

    Attributes:
        needs: pictures and tokens of the prompt, as many as there are.
        inputs: of `Forward.set_inputs`, all but the noise. On the host; pictures may be on the
            device already.
    """

    needs: Shape
    inputs: tuple[Any, ...]


@dataclass(frozen=True)
class EngineKind:
    """What the engine must know of an architecture.

    Attributes:
        weights: (network, device, dtype) to its packed weights. The network is on the host and
            is dropped afterwards; of its tensors only embeddings may be kept, where they are.
        forward: (weights, views, prompt, images=) to a forward pass; `images`: where its pictures
            will lie, None: it makes a place.
        given: what the architecture's processor makes of an observation, on the host.
        lengths: processor to the prompt lengths to prepare where nobody says.
        direction: of an Euler step along the velocity: 1 or -1.
        settled: (this, processor) to the same for that processor's robot, where weights or inputs
            depend on it; None: they do not.
    """

    weights: Callable[..., Any]
    forward: Callable[..., Forward]
    given: Callable[..., Given]
    lengths: Callable[[Any], tuple[int, ...]]
    direction: int
    settled: Callable[[EngineKind, Any], EngineKind] | None = None

    def of(self, processor: Any) -> EngineKind:
        """The same, for the robot of a processor."""
        return self if self.settled is None else self.settled(self, processor)


class _EmbedsOnce:
    """Embeds a prompt once for as long as it stays the same."""

    _held: Tensor | None = None

    def set_prompt(self, tokens: Tensor) -> None:
        """As the forward pass's own."""
        if self._held is not None and torch.equal(self._held, tokens):
            return
        self._held = None  # what follows may fail half-way
        super().set_prompt(tokens)  # type: ignore[misc]
        self._held = tokens.clone()


class _PI05(_EmbedsOnce, PI05Forward):
    pass


class _SmolVLA(_EmbedsOnce, SmolVLAForward):
    pass


class _Groot(_EmbedsOnce, GrootForward):
    pass


def _pi05(inputs: ModelInputs) -> Given:
    pictures = [image[0] for image in inputs.images]
    tokens = inputs.tokens[0]
    return Given(Shape(len(pictures), len(tokens)), (pictures, tokens))


def _smolvla(inputs: SmolVLAInputs) -> Given:
    pictures = [image[0] for image in inputs.images]
    tokens = inputs.tokens[0]
    return Given(Shape(len(pictures), len(tokens)), (pictures, tokens, inputs.state))


def _groot(inputs: GrootInputs, *, of_pictures: int) -> Given:
    tokens = inputs.input_ids[0]
    needs = Shape(len(inputs.pixel_values), len(tokens) - of_pictures)
    return Given(needs, (inputs.pixel_values, tokens, inputs.state[0]))


def _of_robot(kind: EngineKind, processor: Any) -> EngineKind:
    """GR00T's: its embodiment's layers, its cameras' tokens."""
    return replace(
        kind,
        weights=partial(kind.weights, embodiment=processor.embodiment_id),
        given=partial(kind.given, of_pictures=_of_pictures(processor)),
    )


def _of_pictures(processor: Any) -> int:
    """Tokens of GR00T's prompt that stand for pictures."""
    return processor.prompt.pictures * processor.prompt.tokens


def _beyond_the_chat(processor: Any) -> tuple[int, ...]:
    """What surrounds the command in GR00T's prompt, and room for shorter and longer ones."""
    chat = len(processor.tokens('a')) - _of_pictures(processor)
    return tuple(-(-(chat + room) // 16) * 16 for room in (8, 24, 56, 120))


def _up_to_the_processors_longest(processor: Any) -> tuple[int, ...]:
    return prompt_lengths(processor.max_tokens)


ENGINES: Mapping[str, EngineKind] = {
    'pi05': EngineKind(
        weights=PI05Weights,
        forward=_PI05,
        given=_pi05,
        lengths=_up_to_the_processors_longest,
        direction=-1,
    ),
    'smolvla': EngineKind(
        weights=SmolVLAWeights,
        forward=_SmolVLA,
        given=_smolvla,
        lengths=_up_to_the_processors_longest,
        direction=-1,
    ),
    'gr00t_n1_5': EngineKind(
        weights=GrootWeights,
        forward=_Groot,
        given=_groot,
        lengths=_beyond_the_chat,
        direction=1,
        settled=_of_robot,
    ),
}
