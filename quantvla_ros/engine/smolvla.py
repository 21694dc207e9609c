# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""SmolVLA's forward pass on the fused operations: pictures, prompt and state to actions.

Knows the network's parts and the operations; knows nothing of checkpoints, prompts or graphs. It
means what `models.smolvla` means, for one observation, written for few kernels: the time's share of
the action tokens is a bias of each step, what the cross layers read is projected once for an
observation, the Euler step is the epilogue of the last product, and every buffer has its place
before the first run.

The prefix lies as state, pictures, prompt: the state, which alone sees itself, is then one row at a
known place, and the keys in use are the first ones, however long the prompt is. Where the expert
attends to its own tokens too, their keys lie before the prefix's.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quantvla_ros.engine.inputs import WordsLast
from quantvla_ros.engine.lanes import Beside, Told
from quantvla_ros.engine.norms import linear_normed, load_norm, normed
from quantvla_ros.engine.siglip import SiglipForward, SiglipWeights
from quantvla_ros.engine.weights import WeightLoader
from quantvla_ros.kernels import fused
from quantvla_ros.kernels.fused_types import FloatWeight, Norm, Quantized, Weight
from quantvla_ros.models.prefix import ROTARY_THETA
from quantvla_ros.models.smolvla import SmolVLA


@dataclass(frozen=True, eq=False)
class _Layer:
    """A layer of the language model, or of the expert at one denoising step.

    Attributes:
        inputs: of the attention: queries, keys, values; in a cross layer queries only.
    """

    before_attention: Norm
    inputs: Weight
    output: Weight
    before_mlp: Norm
    gate_up: Weight
    down: Weight


@dataclass(frozen=True, eq=False)
class _LastLayer:
    """The language model's last layer, of which nothing but keys and values is read."""

    before_attention: Norm
    inputs: Weight


@dataclass(frozen=True, eq=False)
class _Crossing:
    """What makes a cross layer's keys and values of the prefix's own."""

    keys: Weight
    values: Weight


class SmolVLAWeights:
    """A network's weights as the forward pass reads them; shared by all of its shapes.

    Attributes:
        config: sizes of the network.
        device, dtype: of the activations.
        embed_tokens: the network's own embedding, where the network is.
    """

    @torch.no_grad()
    def __init__(self, network: SmolVLA, device: torch.device, dtype: torch.dtype) -> None:
        """The network may be on another device; it is not changed, its embedding is kept."""
        self.config, self.device, self.dtype = network.config, device, dtype
        config, expert = network.config, network.expert
        load = WeightLoader(device, dtype)
        self.vision = SiglipWeights(load, network.vision, config.vision)
        self.after_vision = load_norm(load, network.vision.post_layernorm)
        self.connector = load.weight(network.connector.modality_projection.get_submodule('proj'))
        self.embed_tokens = network.backbone.embed_tokens
        layers = network.backbone.layers
        self.prefix = tuple(_layers(load, layer, 1)[0] for layer in layers[:-1])
        last = layers[-1].self_attn
        self.last = _LastLayer(
            load_norm(load, layers[-1].input_layernorm), load.weight(last.k_proj, last.v_proj)
        )
        self.crossings = tuple(
            _crossing(load, layer.self_attn, config.steps) if layer.crosses else None
            for layer in expert.layers
        )
        by_layer = [
            _layers(load, layer, config.steps, crosses=layer.crosses) for layer in expert.layers
        ]
        self.expert = tuple(zip(*by_layer, strict=True))  # by step, then by layer
        self.after_expert = load_norm(load, expert.norm)
        # States and actions stay float32, as in the network.
        wide = torch.float32
        self.state = load.weight(network.state_proj, dtype=wide)
        self.actions_in = _actions_in(load, network)
        self.time_out = load.weight(network.action_time_mlp_out, dtype=wide)
        self.action_out = load.weight(network.action_out_proj, dtype=wide)


class SmolVLAForward(WordsLast):
    """SmolVLA's forward pass; see `BufferedForward`.

    Attributes:
        state: [1, state_dim] float32, normalised.
        counts: [3] int32, tokens of the prefix without the state, with it, and with the actions.
    """

    ROWS = ('state', 'noise')
    weights: SmolVLAWeights

    def __init__(
        self, weights: SmolVLAWeights, views: int, prompt: int, *, images: Tensor | None = None,
        beside: int | None = None,
    ) -> None:
        """Make the buffers.

        Args:
            images: where the pictures will lie, as `SiglipForward`.
            beside: how many layers apart the first step and the prefix meet, as `Beside`.
        """
        super().__init__(weights, views, prompt)
        config = weights.config
        vision, stack, expert, chunk = config.vision, config.text, config.expert, config.chunk
        self.pictures = views * vision.tokens // config.shuffle**2
        self.longest = 1 + self.pictures + prompt
        whole = self.longest + chunk
        buffer = self._buffer
        self._vision = SiglipForward(weights.vision, views, images)
        self.images = self._vision.images
        blocks, side = vision.image // vision.patch // config.shuffle, config.shuffle
        self._squares = buffer(views, blocks, blocks, side, side, vision.width)
        self.text = buffer(prompt, stack.width)
        self.state = buffer(1, config.state_dim, dtype=torch.float32)
        self.counts = buffer(3, dtype=torch.int32)
        # The connector's product is scaled in its epilogue, as a gate on nothing.
        self._nothing = buffer(self.pictures, stack.width)
        self._scale = torch.full_like(self._nothing[0], stack.width**0.5, dtype=torch.float32)
        self._prefix = buffer(self.longest, stack.width)
        self._seen = buffer(self.longest, stack.heads * stack.head_dim)
        heads = (expert.kv_heads, expert.head_dim)  # the prefix's are as many and as large
        self._keys, self._values = (buffer(stack.depth, whole, *heads) for _ in range(2))
        self._crossed_keys, self._crossed_values = (
            buffer(expert.depth, self.longest, *heads) for _ in range(2)
        )
        self._no_keys = buffer(chunk, 0, expert.head_dim)
        self._tokens = buffer(chunk, expert.width)
        self._features_buffer = torch.zeros_like(self._tokens, dtype=torch.float32)
        self._euler = torch.full_like(self.noise[0], -1.0 / config.steps)
        self._beside = Beside(stack.depth, beside)
        self._set_up_positions()
        self._stage()

    def _counts(self, tokens: int) -> list[int]:
        before = self.pictures + tokens
        whole = before + 1
        return [before, whole, whole + self.weights.config.chunk]

    def _set_up_positions(self) -> None:
        """Of the rows state, pictures, prompt, actions: a start, moved by counts[0] or not."""
        longest, config = self.longest, self.weights.config
        whole = longest + config.chunk
        rows = torch.arange(whole, device=self.weights.device)
        before, after = rows == 0, rows >= longest
        self._starts = torch.where(after, rows - longest + 1, rows - 1) + before.long()
        self._moved = (before | after).long()
        self._places = torch.zeros_like(rows)
        self._cos_table, self._sin_table = self._rotary(whole, config.text.head_dim, ROTARY_THETA)
        self._cos, self._sin = torch.zeros_like(self._cos_table), torch.zeros_like(self._sin_table)

    def act(self) -> Tensor:
        """As `BufferedForward`, with the first step beside the prefix."""
        self.see()
        x = self._beside.run(
            self.weights.device, self.read, lambda needed: self._step(0, self.noise, needed)
        )
        return self._steps(1, x)

    def encode(self) -> None:
        """Pictures, prompt and state to the keys and values that the expert reads."""
        self.see()
        self.read()

    def see(self) -> None:
        """Pictures, prompt and state to the prefix's embeddings."""
        weights, pictures = self.weights, 1 + self.pictures
        features = normed(self._vision.run(), weights.after_vision, None)
        assert isinstance(features, Tensor)
        views, blocks, _, side, _, _ = self._squares.shape
        # [views, block row, row, block column, column, width]: a square's patches become one row
        grid = features.unflatten(0, (views, blocks, side, blocks, side))
        self._squares.copy_(grid.transpose(2, 3))
        fused.linear(
            self._squares.flatten(3).flatten(0, 2), weights.connector,
            residual=self._nothing, gate=self._scale, out=self._prefix[1:pictures],
        )  # fmt: skip
        fused.linear(self.state, weights.state, out=self._prefix[:1])
        self._prefix[pictures:].copy_(self.text)

    def read(self, written: Told | None = None) -> None:
        """The prefix's embeddings to keys and values, layer by layer; embeddings are used up.

        Args:
            written: told of each layer behind the launches that write its keys and values.
        """
        weights, stack, x = self.weights, self.weights.config.text, self._prefix
        torch.add(self._starts, self._moved * self.counts[0], out=self._places)
        torch.index_select(self._cos_table, 0, self._places, out=self._cos)
        torch.index_select(self._sin_table, 0, self._places, out=self._sin)
        rotary = (self._cos[: self.longest], self._sin[: self.longest])
        size, kv_heads = stack.head_dim, stack.kv_heads
        layers: list[_Layer | _LastLayer] = [*weights.prefix, weights.last]
        y = normed(x, layers[0].before_attention, layers[0].inputs)
        for index, layer in enumerate(layers):
            keys, values = self._keys[index], self._values[index]
            first = self.weights.config.chunk
            heads = stack.heads if isinstance(layer, _Layer) else 0
            query = fused.attention_inputs(
                y, layer.inputs, rotary, heads, kv_heads, size, keys, values, first
            )
            self._cross(index)
            if written is not None:
                written(index)
            if isinstance(layer, _LastLayer):
                return
            self._attend(query, keys[first:], values[first:])
            y = linear_normed(self._seen, layer.output, x, layer.before_mlp, layer.gate_up)
            y = fused.gated_linear(y, layer.gate_up, activation='silu')
            following = layers[index + 1]
            y = linear_normed(y, layer.down, x, following.before_attention, following.inputs)

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor) -> None:
        """Mix the prefix's values to `_seen`: the state sees all, the others all but the state."""
        scale = query.shape[-1] ** -0.5
        before, whole, _ = self.counts
        seen = self._seen
        fused.attention(query[:1], keys, values, count=whole, scale=scale, out=seen[:1])
        fused.attention(
            query[1:], keys[1:], values[1:], count=before, scale=scale, out=seen[1:]
        )

    def _cross(self, index: int) -> None:
        """The keys and values of a layer of the prefix as the expert's layer reads them."""
        crossing = self.weights.crossings[index]
        if crossing is None:
            return
        for weight, source, made in (
            (crossing.keys, self._keys, self._crossed_keys),
            (crossing.values, self._values, self._crossed_values),
        ):
            rows = source[index, self.weights.config.chunk :].flatten(1)
            fused.linear(rows, weight, out=made[index].flatten(1))

    def integrate(self) -> Tensor:
        """`noise` to `actions` by all denoising steps, on the keys and values of `encode`."""
        return self._steps(0, self.noise)

    def _steps(self, first: int, x: Tensor) -> Tensor:
        """All denoising steps from one on."""
        for step in range(first, len(self.weights.expert)):
            x = self._step(step, x)
        return x

    def _step(self, step: int, x: Tensor, needed: Told | None = None) -> Tensor:
        """An Euler step from x to `actions`."""
        return fused.linear(
            self._features(step, x, needed), self.weights.action_out, residual=x,
            gate=self._euler, out=self.actions,
        )  # fmt: skip

    def velocity(self, step: int, x: Tensor) -> Tensor:
        """The flow's velocity at [chunk, action_dim] noisy actions, float32; for comparisons."""
        features = self._features(step, x)
        return fused.linear(features, self.weights.action_out, out=torch.empty_like(x))

    def _features(
        self, step: int, x: Tensor, needed: Told | None = None
    ) -> Tensor | Quantized:
        """What the expert makes of noisy actions [chunk, action_dim]: [chunk, width].

        Args:
            needed: told of each layer before the launches that read what the prefix leaves.
        """
        weights, layers = self.weights, self.weights.expert[step]
        hidden = fused.linear(x, weights.actions_in[step], activation='silu')
        tokens = fused.linear(hidden, weights.time_out, out=self._tokens)
        y = normed(tokens, layers[0].before_attention, layers[0].inputs)
        for index, layer in enumerate(layers):
            if needed is not None:
                needed(index)
            if weights.crossings[index] is None:
                y = self._attend_to_all(index, layer.inputs, y)
            else:
                y = self._attend_to_prefix(index, layer.inputs, y)
            y = linear_normed(y, layer.output, tokens, layer.before_mlp, layer.gate_up)
            inner = fused.gated_linear(y, layer.gate_up, activation='silu')
            if index + 1 < len(layers):
                norm, reader = layers[index + 1].before_attention, layers[index + 1].inputs
                y = linear_normed(inner, layer.down, tokens, norm, reader)
        # The last product is in float32, as the network's: the norm writes what that reads.
        return linear_normed(
            inner, layers[-1].down, tokens, weights.after_expert, None, self._features_buffer
        )

    def _attend_to_prefix(self, index: int, inputs: Weight, y: Tensor | Quantized) -> Tensor:
        """A cross layer: its tokens' positions count from 0."""
        expert, chunk = self.weights.config.expert, self.weights.config.chunk
        size, none = expert.head_dim, self._no_keys
        rotary = (self._cos_table[:chunk], self._sin_table[:chunk])
        query = fused.attention_inputs(y, inputs, rotary, expert.heads, 0, size, none, none, 0)
        keys, values = self._crossed_keys[index], self._crossed_values[index]
        return fused.attention(query, keys, values, count=self.counts[1], scale=size**-0.5)

    def _attend_to_all(self, index: int, inputs: Weight, y: Tensor | Quantized) -> Tensor:
        """The prefix, and of the action tokens those before and itself."""
        expert, chunk = self.weights.config.expert, self.weights.config.chunk
        heads, kv_heads, size = expert.heads, expert.kv_heads, expert.head_dim
        keys, values = self._keys[index], self._values[index]
        rotary = (self._cos[self.longest :], self._sin[self.longest :])
        query = fused.attention_inputs(y, inputs, rotary, heads, kv_heads, size, keys, values, 0)
        return fused.attention(
            query, keys, values, count=self.counts[2], own=chunk, scale=size**-0.5
        )


def _layers(
    load: WeightLoader, layer: Any, steps: int, *, crosses: bool = False
) -> tuple[_Layer, ...]:
    """One layer of either stack, for each denoising step."""
    attention, mlp = layer.self_attn, layer.mlp
    names = 'q' if crosses else 'qkv'
    before_attention = load_norm(load, layer.input_layernorm)
    before_mlp = load_norm(load, layer.post_attention_layernorm)
    parts = zip(
        load.by_step(steps, *(getattr(attention, f'{name}_proj') for name in names)),
        load.by_step(steps, attention.o_proj),
        load.by_step(steps, mlp.gate_proj, mlp.up_proj, interleaved=True),
        load.by_step(steps, mlp.down_proj),
        strict=True,
    )
    return tuple(
        _Layer(before_attention, inputs, output, before_mlp, gate_up, down)
        for inputs, output, gate_up, down in parts
    )


def _crossing(load: WeightLoader, attention: nn.Module, steps: int) -> _Crossing:
    """Layers that run once for all steps run as in the first."""
    keys, values = (
        load.by_step(steps, attention.get_submodule(f'{name}_proj'))[0] for name in 'kv'
    )
    return _Crossing(keys, values)


def _actions_in(load: WeightLoader, network: SmolVLA) -> tuple[FloatWeight, ...]:
    """Actions to the hidden layer of the action tokens, one product for two, by step.

    Between the two there is no activation, and the time's share is a bias.
    """
    first, last = network.action_in_proj, network.action_time_mlp_in
    mixing = last.weight[:, : first.out_features].double()
    weight = load.tensor(mixing @ first.weight.double(), torch.float32)
    biases = network.instants().double() + mixing @ first.bias.double()
    return tuple(FloatWeight(weight, load.tensor(bias, torch.float32)) for bias in biases)
