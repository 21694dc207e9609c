# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What every policy network offers to calibration and to the engine.

Knows tensors and modules; knows nothing of any one architecture, of files or of quantization. A
policy runs in three stages, each of which can be run alone:

    inputs --embed--> (x, valid) --backbone, layer by layer--> context --flow--> actions
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from quantvla_ros.models.guidance import Guide
from quantvla_ros.models.layers import PreparingModule, Probe
from quantvla_ros.models.roles import Place


class HeadAttention(Protocol):
    """An attention of the action head, self or cross.

    Its projections are linear layers, float or quantized.

    Attributes:
        probe: while set, called once for each call of the attention.
    """

    num_heads: int
    head_dim: int
    probe: Probe | None

    @property
    def query_projection(self) -> nn.Module:
        """The linear layer that makes the queries."""
        ...

    @property
    def output_projection(self) -> nn.Module:
        """The linear layer after the mixing."""
        ...


class HeadMLP(Protocol):
    """An MLP of the action head; its layers are float or quantized."""

    @property
    def output_projection(self) -> nn.Module:
        """The last linear layer."""
        ...


@dataclass
class DenoisingStep:
    """The step that the head is in, shared by its layers: some scales are looked up by it.

    Attributes:
        index: set by the flow before each evaluation of its velocity.
    """

    index: int = 0


@dataclass(frozen=True)
class HeadLayer:
    """One layer of the action head: what it adds to the residual stream."""

    attention: HeadAttention
    mlp: HeadMLP


@dataclass(frozen=True)
class InterfacePoint:
    """Where the action head reads what the backbone has made of pictures and words.

    Attributes:
        projection: path of a linear layer.
        side: 'output': the head reads what this layer gives (pi0.5's values of the prefix).
            'input': the head reads through this layer (GR00T's keys and values of its features);
            a scalar on the input leaves the bias alone.
    """

    projection: str
    side: str


@dataclass(frozen=True)
class Equalization:
    """Layers that read one tensor, and where the inverse of a scale per channel folds away.

    Attributes:
        readers: paths of the linear layers that read it, all of them.
        source: path of the module that makes it: a norm with a weight, an AdaptiveRMSNorm, or a
            linear layer whose outputs are scaled.
        kind: 'norm' (RMSNorm or LayerNorm: weight and bias), 'adaptive_norm', 'linear'.
        shared: outputs of the source that serve several channels of the readers: channel c of the
            readers is output `shared[c]`; None: one to one. Grouped heads share values.
    """

    readers: tuple[str, ...]
    source: str
    kind: str
    shared: tuple[int, ...] | None = None


class Stack(Protocol):
    """The language backbone, which can be run a layer at a time."""

    @property
    def layers(self) -> Sequence[nn.Module]:
        """First to last."""
        ...

    def start(self, x: Tensor, valid: Tensor) -> Any:
        """[B, T, width] embeddings and [B, T] bool to the state before the first layer."""

    def step(self, index: int, state: Any) -> Any:
        """The state after a layer; the given state stays as it is."""

    def finish(self, state: Any) -> Any:
        """The state after the last layer to the context that the head reads."""


class Flow(Protocol):
    """The action head on one context, ready to integrate.

    Attributes:
        steps: denoising steps.
    """

    steps: int

    def velocity(self, step: int, x: Tensor) -> Tensor:
        """The velocity at [B, chunk, action] noisy actions, float32."""

    def advance(self, x: Tensor, velocity: Tensor) -> Tensor:
        """One Euler step."""


class Network(Protocol):
    """A policy network. `inputs` is what the architecture's processor makes of an observation.

    Attributes:
        denoising_step: set by the network's flows.
        denoising_steps: how many there are.
    """

    denoising_step: DenoisingStep

    @property
    def denoising_steps(self) -> int:
        """Steps of the integration."""
        ...

    @property
    def backbone(self) -> Stack:
        """The language backbone."""
        ...

    @property
    def noise_shape(self) -> tuple[int, int]:
        """(chunk, action) of the initial noise."""

    def linear_places(self) -> dict[str, Place]:
        """What every linear layer (float or replaced) is for, by module path, in order of use."""

    def head_layers(self) -> list[HeadLayer]:
        """The action head's layers, first to last."""

    def interface(self) -> list[InterfacePoint]:
        """Where the head reads the backbone."""

    def equalizations(self) -> list[Equalization]:
        """Where a scale per channel folds away, over backbone and head."""

    def encoders(self) -> list[nn.Module]:
        """The modules that run before the head; a copy of the head alone shares them."""

    def embed(self, inputs: Any) -> tuple[Tensor, Tensor]:
        """Inputs to [B, T, width] embeddings and [B, T] bool."""

    def flow(self, context: Any, inputs: Any) -> Flow:
        """The action head on what the backbone made."""


class FlowConfig(Protocol):
    """Sizes that every network has."""

    @property
    def chunk(self) -> int:
        """Actions of one inference."""
        ...

    @property
    def action_dim(self) -> int:
        """Numbers of an action."""
        ...

    @property
    def steps(self) -> int:
        """Steps of the integration."""
        ...


class FlowPolicy(PreparingModule):
    """The part of `Network` that sizes alone decide.

    Attributes:
        config: its sizes.
    """

    config: FlowConfig

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        self.denoising_step = DenoisingStep()

    @property
    def denoising_steps(self) -> int:
        """Steps of the integration."""
        return self.config.steps

    @property
    def noise_shape(self) -> tuple[int, int]:
        """(chunk, action) of the initial noise."""
        return self.config.chunk, self.config.action_dim


def act(
    network: Network,
    inputs: Any,
    noise: Tensor,
    on_step: Callable[[int, Tensor, Tensor], Any] | None = None,
    guide: Guide | None = None,
) -> Tensor:
    """Inputs and [B, chunk, action] noise to [B, chunk, action] float32, normalised actions.

    Args:
        on_step, guide: as in `integrate`.
    """
    stack = network.backbone
    state = stack.start(*network.embed(inputs))
    for index in range(len(stack.layers)):
        state = stack.step(index, state)
    return integrate(network.flow(stack.finish(state), inputs), noise, on_step, guide)


def integrate(
    flow: Flow,
    noise: Tensor,
    on_step: Callable[[int, Tensor, Tensor], Any] | None = None,
    guide: Guide | None = None,
) -> Tensor:
    """Integrate a flow by Euler's method.

    Args:
        noise: [B, chunk, action], standard normal.
        on_step: called with (step, x, velocity) before each step; for tests and studies.
        guide: what the actions are drawn to on the way; None: nothing.
    Returns:
        [B, chunk, action] float32, normalised actions.
    """
    x = noise.float()
    for step in range(flow.steps):
        velocity = flow.velocity(step, x)
        if on_step is not None:
            on_step(step, x, velocity)
        after = flow.advance(x, velocity)
        x = after if guide is None else guide.applied(step, flow.steps, x, after)
    return x
