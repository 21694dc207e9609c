# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""pi0.5's forward pass on the fused operations: pictures and prompt to a chunk of actions.

Knows the network's parts and the operations; knows nothing of checkpoints, prompts or graphs. It
means what `models.pi05` means, for one observation, written for few kernels: everything that the
denoising step alone decides is prepared, the Euler step is the epilogue of the last product, and
every buffer has its place before the first run.

The first denoising step runs beside the prefix, in a lane: its layers need no more of it than the
keys and values of the same layer, and little of the GPU.

A layer's keys lie with the action tokens' first and the prefix's behind them, so that the keys in
use are always the first ones, however long the prompt is. Attention does not ask for an order.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quantvla_ros.engine.inputs import WordsLast
from quantvla_ros.engine.lanes import Beside, Told
from quantvla_ros.engine.norms import load_norm, normed
from quantvla_ros.engine.siglip import SiglipForward, SiglipWeights
from quantvla_ros.engine.weights import WeightLoader
from quantvla_ros.kernels import fused
from quantvla_ros.kernels.fused_types import Norm, Quantized, Weight, rows_of
from quantvla_ros.kernels.rows import Rows
from quantvla_ros.models.pi05 import PI05
from quantvla_ros.models.prefix import ROTARY_THETA


@dataclass(frozen=True, eq=False)
class _PrefixLayer:
    """The last layer has keys and values only: `inputs` makes no queries there."""

    before_attention: Norm
    inputs: Weight
    output: Weight | None = None
    before_mlp: Norm | None = None
    gate_up: Weight | None = None
    down: Weight | None = None


@dataclass(frozen=True, eq=False)
class _ExpertLayer:
    """One layer at one denoising step; modulations are (scale, shift, gate), [width] float32."""

    before_attention: tuple[Tensor, Tensor, Tensor]
    qkv: Weight
    output: Weight
    before_mlp: tuple[Tensor, Tensor, Tensor]
    gate_up: Weight
    down: Weight
    eps: float


@dataclass(frozen=True, eq=False)
class _ExpertStep:
    layers: tuple[_ExpertLayer, ...]
    final: tuple[Tensor, Tensor, Tensor]
    eps: float


class PI05Weights:
    """A network's weights as the forward pass reads them; shared by all of its shapes.

    Attributes:
        config: sizes of the network.
        device, dtype: of the activations.
        embed_tokens: the network's own embedding, where the network is.
    """

    @torch.no_grad()
    def __init__(self, network: PI05, device: torch.device, dtype: torch.dtype) -> None:
        """The network may be on another device; it is not changed, its embedding is kept."""
        self.config, self.device, self.dtype = network.config, device, dtype
        load = WeightLoader(device, dtype)
        self.vision = SiglipWeights(load, network.vision, network.config.vision)
        self.after_vision = load_norm(load, network.vision.post_layernorm)
        self.projector = load.weight(network.projector)
        self.embed_tokens = network.backbone.embed_tokens
        self.prefix = _prefix_layers(load, network)
        self.expert = _expert_steps(load, network)
        # Actions stay float32 between the steps, as in the network.
        self.action_in = load.weight(network.action_in_proj, dtype=torch.float32)
        self.action_out = load.weight(network.action_out_proj, dtype=torch.float32)


class PI05Forward(WordsLast):
    """pi0.5's forward pass; see `BufferedForward`.

    Attributes:
        counts: [2] int32, tokens of the prefix, and those with the action tokens.
    """

    weights: PI05Weights

    def __init__(
        self, weights: PI05Weights, views: int, prompt: int, *, images: Tensor | None = None,
        beside: int | None = None,
    ) -> None:
        """Make the buffers.

        Args:
            images: where the pictures will lie, as `SiglipForward`.
            beside: how many layers apart the first step and the prefix meet, as `Beside`.
        """
        super().__init__(weights, views, prompt)
        config, device = weights.config, weights.device
        vision, stack, expert = config.vision, config.prefix, config.expert
        self.pictures = views * vision.tokens
        self.longest = self.pictures + prompt
        buffer = self._buffer
        self._vision = SiglipForward(weights.vision, views, images)
        self.images = self._vision.images
        self.text = buffer(prompt, stack.width)
        self.counts = buffer(2, dtype=torch.int32)
        self._prefix = buffer(self.longest, stack.width)
        shape = (stack.depth, config.chunk + self.longest, stack.kv_heads, stack.head_dim)
        self._keys, self._values = buffer(*shape), buffer(*shape)
        self._tokens = buffer(config.chunk, expert.width)
        self._features_buffer = torch.zeros_like(self._tokens, dtype=torch.float32)
        self._euler = torch.full_like(self.noise[0], -1.0 / config.steps)
        self._cos, self._sin = self._rotary(
            self.longest + config.chunk, stack.head_dim, ROTARY_THETA
        )
        self._chunk = torch.arange(config.chunk, dtype=torch.int32, device=device)
        self._action_cos, self._action_sin = (
            buffer(config.chunk, stack.head_dim // 2, dtype=torch.float32) for _ in range(2)
        )
        self._beside = Beside(len(weights.prefix), beside)
        self._stage()

    def _counts(self, tokens: int) -> list[int]:
        count = self.pictures + tokens
        return [count, count + self.weights.config.chunk]

    def act(self) -> Tensor:
        """As `BufferedForward`, with the first step beside the prefix."""
        self.see()
        x = self._beside.run(
            self.weights.device,
            self.read,
            lambda needed: self._step(0, self.noise, self._action_rotary(), needed),
        )
        return self._steps(1, x, (self._action_cos, self._action_sin))

    def encode(self) -> None:
        """Pictures and prompt to the keys and values that the expert reads."""
        self.see()
        self.read()

    def see(self) -> None:
        """Pictures and prompt to the prefix's embeddings."""
        projector = self.weights.projector
        y = normed(self._vision.run(), self.weights.after_vision, projector)
        fused.linear(y, projector, out=self._prefix[: self.pictures])
        self._prefix[self.pictures :].copy_(self.text)

    def read(self, written: Told | None = None) -> None:
        """The prefix's embeddings to keys and values, layer by layer; embeddings are used up.

        Args:
            written: told of each layer behind the launch that writes its keys and values.
        """
        config = self.weights.config
        stack, chunk, x = config.prefix, config.chunk, self._prefix
        rotary = (self._cos[: self.longest], self._sin[: self.longest])
        count = self.counts[0]
        for index, layer in enumerate(self.weights.prefix):
            keys, values = self._keys[index], self._values[index]
            heads = stack.heads if layer.output is not None else 0
            y = normed(x, layer.before_attention, layer.inputs)
            query = fused.attention_inputs(
                y,
                layer.inputs,
                rotary,
                heads,
                stack.kv_heads,
                stack.head_dim,
                keys,
                values,
                chunk,
            )
            if written is not None:
                written(index)
            if layer.output is None:
                return
            assert layer.before_mlp and layer.gate_up is not None and layer.down is not None
            y = fused.attention(
                query, keys[chunk:], values[chunk:], count=count, scale=stack.head_dim**-0.5
            )
            x = fused.linear(y, layer.output, residual=x, out=x)
            y = normed(x, layer.before_mlp, layer.gate_up)
            y = fused.gated_linear(y, layer.gate_up, activation='gelu_tanh')
            x = fused.linear(y, layer.down, residual=x, out=x)

    def integrate(self) -> Tensor:
        """`noise` to `actions` by all denoising steps, on the keys and values of `encode`."""
        return self._steps(0, self.noise, self._action_rotary())

    def _steps(self, first: int, x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """All denoising steps from one on."""
        for step in range(first, len(self.weights.expert)):
            x = self._step(step, x, rotary)
        return x

    def _step(
        self, step: int, x: Tensor, rotary: tuple[Tensor, Tensor], needed: Told | None = None
    ) -> Tensor:
        """An Euler step from x to `actions`."""
        features = self._features(step, x, rotary, needed)
        return fused.linear(
            features, self.weights.action_out, residual=x, gate=self._euler, out=self.actions
        )

    def velocity(self, step: int, x: Tensor) -> Tensor:
        """The flow's velocity at [chunk, action_dim] noisy actions, float32; for comparisons."""
        features = self._features(step, x, self._action_rotary())
        return fused.linear(features, self.weights.action_out, out=torch.empty_like(x))

    def _features(
        self, step: int, x: Tensor, rotary: tuple[Tensor, Tensor],
        needed: Told | None = None,
    ) -> Tensor | Quantized:
        """What the expert makes of noisy actions [chunk, action_dim]: [chunk, width].

        Args:
            needed: told of each layer before the launch that reads the prefix's keys and values.
        """
        weights = self.weights
        sizes, at = weights.config.expert, weights.expert[step]
        tokens = fused.linear(x, weights.action_in, out=self._tokens)
        norms = [_modulated_norm(n.before_attention, n.eps, rows_of(n.qkv)) for n in at.layers]
        # The last product is in float32, as the network's: the norm writes what that reads.
        norms.append(_modulated_norm(at.final, at.eps, None, self._features_buffer))
        y = fused.normed(tokens, norms[0])
        for index, (layer, after) in enumerate(zip(at.layers, norms[1:], strict=True)):
            keys, values = self._keys[index], self._values[index]
            query = fused.attention_inputs(
                y,
                layer.qkv,
                rotary,
                sizes.heads,
                sizes.kv_heads,
                sizes.head_dim,
                keys,
                values,
                0,
            )
            if needed is not None:
                needed(index)
            y = fused.attention(
                query, keys, values, count=self.counts[1], scale=sizes.head_dim**-0.5
            )
            norm = _modulated_norm(layer.before_mlp, layer.eps, rows_of(layer.gate_up))
            _, _, gate = layer.before_attention
            tokens, y = fused.linear_norm(
                y, layer.output, norm, residual=tokens, gate=gate, out=tokens
            )
            inner = fused.gated_linear(y, layer.gate_up, activation='gelu_tanh')
            _, _, gate = layer.before_mlp
            tokens, y = fused.linear_norm(
                inner, layer.down, after, residual=tokens, gate=gate, out=tokens
            )
        return y

    def _action_rotary(self) -> tuple[Tensor, Tensor]:
        """Rotary tables of the action tokens, which follow the prompt's last token."""
        places = self._chunk + self.counts[0]
        torch.index_select(self._cos, 0, places, out=self._action_cos)
        torch.index_select(self._sin, 0, places, out=self._action_sin)
        return self._action_cos, self._action_sin


def _modulated_norm(
    modulation: tuple[Tensor, Tensor, Tensor],
    eps: float,
    rows: Rows | None,
    out: Tensor | None = None,
) -> Norm:
    scale, shift, _ = modulation
    return Norm(None, eps=eps, modulation=(scale, shift), rows=rows, out=out)


def _prefix_layers(load: WeightLoader, network: PI05) -> tuple[_PrefixLayer, ...]:
    found = []
    for layer in network.backbone.layers:
        attention, mlp = layer.self_attn, layer.mlp
        before_attention = load_norm(load, layer.input_layernorm)
        if layer.last:
            inputs = load.weight(attention.k_proj, attention.v_proj)
            found.append(_PrefixLayer(before_attention, inputs))
            continue
        found.append(
            _PrefixLayer(
                before_attention,
                load.weight(attention.q_proj, attention.k_proj, attention.v_proj),
                load.weight(attention.o_proj),
                load_norm(load, layer.post_attention_layernorm),
                load.weight(mlp.gate_proj, mlp.up_proj, interleaved=True),
                load.weight(mlp.down_proj),
            )
        )
    return tuple(found)


def _expert_steps(load: WeightLoader, network: PI05) -> tuple[_ExpertStep, ...]:
    steps, expert = network.config.steps, network.expert
    # Of shape [1, 3, width] each, by step, layer and norm.
    modulations = network.modulations(next(network.time_mlp_in.parameters()).device)

    def modulation(step: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scale, shift, gate = (load.tensor(row, torch.float32) for row in step[0])
        return scale, shift, gate

    layers = []  # by layer, then by step
    for index, layer in enumerate(expert.layers):
        attention, mlp = layer.self_attn, layer.mlp
        qkv = load.by_step(steps, attention.q_proj, attention.k_proj, attention.v_proj)
        output = load.by_step(steps, attention.o_proj)
        gate_up = load.by_step(steps, mlp.gate_proj, mlp.up_proj, interleaved=True)
        down = load.by_step(steps, mlp.down_proj)
        layers.append([
            _ExpertLayer(
                modulation(modulations[step].layers[index][0]),
                qkv[step],
                output[step],
                modulation(modulations[step].layers[index][1]),
                gate_up[step],
                down[step],
                layer.input_layernorm.eps,
            )
            for step in range(steps)
        ])
    return tuple(
        _ExpertStep(
            tuple(by_step[step] for by_step in layers),
            modulation(modulations[step].final),
            expert.norm.eps,
        )
        for step in range(steps)
    )
