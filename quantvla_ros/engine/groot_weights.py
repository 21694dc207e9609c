# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""GR00T N1.5's weights as its forward pass on the fused operations reads them.

Knows the network's parts; knows nothing of buffers or graphs. Of the layers that each embodiment
has of its own only the chosen one's come along. Two layers without anything between them are one
(the action encoder's first two, the DiT's projection and the decoder's first), multiplied in
float64; what a denoising step alone decides (modulations, the time in the action encoder) is
computed here.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quantvla_ros.engine.norms import load_norm
from quantvla_ros.engine.siglip import Block, SiglipWeights
from quantvla_ros.engine.weights import WeightLoader
from quantvla_ros.errors import BackendError
from quantvla_ros.kernels.fused_types import FloatWeight, Norm, Stacked, Weight, rows_of
from quantvla_ros.models.dit import BLOCK_EPS, OUTPUT_EPS
from quantvla_ros.models.embodiment import Affine
from quantvla_ros.models.groot_n15 import GrootN15


@dataclass(frozen=True, eq=False)
class LanguageLayer:
    """A layer of the language backbone; q_norm and k_norm: [head_dim] float32."""

    before_attention: Norm
    qkv: Weight
    q_norm: Tensor
    k_norm: Tensor
    head_eps: float
    output: Weight
    before_mlp: Norm
    gate_up: Weight
    down: Weight


@dataclass(frozen=True, eq=False)
class HeadBlock:
    """A block of the DiT at one denoising step.

    Attributes:
        before_attention: modulated by the step.
        inputs: queries; where the block reads its own tokens, keys and values too.
    """

    before_attention: Norm
    inputs: Weight
    output: Weight
    before_mlp: Norm
    first: Weight
    second: Weight
    crosses: bool


@dataclass(frozen=True, eq=False)
class HeadStep:
    """The action head at one denoising step.

    Attributes:
        actions: noisy actions to the hidden layer of their encoder, its share of the time included.
        final: the last norm, modulated by the step.
    """

    actions: FloatWeight
    blocks: tuple[HeadBlock, ...]
    final: Norm


class GrootWeights:
    """A network's weights for one embodiment; shared by all shapes of the forward pass.

    Attributes:
        config: sizes of the network.
        device, dtype: of the activations.
        embodiment: whose layers these are.
        embed_tokens: the network's own embedding, where the network is.
        context: products that make all keys and values of the features, first to last; one, where
            their inputs become the same integers.
    """

    @torch.no_grad()
    def __init__(
        self, network: GrootN15, device: torch.device, dtype: torch.dtype, embodiment: int
    ) -> None:
        """The network may be on another device; it is not changed, its embedding is kept.

        Raises:
            BackendError: there is no such embodiment.
        """
        config, head = network.config, network.action_head
        if not 0 <= embodiment < config.embodiments:
            raise BackendError(
                f'embodiment: expected 0 to {config.embodiments - 1}, found {embodiment}'
            )
        self.config, self.device, self.dtype, self.embodiment = config, device, dtype, embodiment
        load = WeightLoader(device, dtype)
        backbone = network.backbone
        self.vision = SiglipWeights(load, backbone.vision, config.vision)
        self.after_vision = load_norm(load, backbone.vision.post_layernorm)
        self.projector = load.weight(backbone.projector)
        self.embed_tokens = backbone.language.embed_tokens
        self.language = tuple(_language_layer(load, layer) for layer in backbone.layers)
        self.after_language = load_norm(load, backbone.language.norm)
        self.before_features = load_norm(load, head.vlln)
        self.features = tuple(
            _feature_block(load, block) for block in head.vl_self_attention.transformer_blocks
        )
        self.context = _context(load, network)
        robot = torch.tensor([embodiment], device=head.future_tokens.weight.device)
        # States and actions pass through float32, as in the network.
        encode = head.state_encoder.select(robot)
        self.state = (_affine(load, encode.layer1), _affine(load, encode.layer2))
        self.future = load.tensor(head.future_tokens.weight, dtype)
        positions = head.position_embedding.weight[: config.chunk]
        self.positions = load.tensor(positions, torch.float32)
        self.actions, self.steps = _steps(load, network, robot)
        decode = head.action_decoder.select(robot)
        self.decoder = (
            _affine(load, _chained(_of_linear(head.model.proj_out_2), decode.layer1)),
            _affine(load, decode.layer2),
        )


def _language_layer(load: WeightLoader, layer: Any) -> LanguageLayer:
    attention, mlp = layer.self_attn, layer.mlp
    return LanguageLayer(
        load_norm(load, layer.input_layernorm),
        load.weight(attention.q_proj, attention.k_proj, attention.v_proj),
        load.tensor(attention.q_norm.weight, torch.float32),
        load.tensor(attention.k_norm.weight, torch.float32),
        attention.q_norm.eps,
        load.weight(attention.o_proj),
        load_norm(load, layer.post_attention_layernorm),
        load.weight(mlp.gate_proj, mlp.up_proj, interleaved=True),
        load.weight(mlp.down_proj),
    )


def _feature_block(load: WeightLoader, block: Any) -> Block:
    attention = block.attn1
    return Block(
        load_norm(load, block.norm1),
        load.weight(attention.to_q, attention.to_k, attention.to_v),
        load.weight(attention.output_projection),
        load_norm(load, block.norm3),
        *(load.weight(layer) for layer in _mlp(block)),
    )


def _mlp(block: Any) -> tuple[nn.Module, nn.Module]:
    """The MLP's two layers."""
    return block.ff.net[0].proj, block.ff.net[2]


def _context(load: WeightLoader, network: GrootN15) -> tuple[Weight, ...]:
    """Products of the features: keys and values of each block that reads them, in order."""
    layers = [
        layer
        for block in network.action_head.model.transformer_blocks
        if block.crosses
        for layer in (block.attn1.to_k, block.attn1.to_v)
    ]
    # They run once, in the first step.
    weight = load.by_step(network.config.steps, *layers)[0]
    return weight.parts if isinstance(weight, Stacked) else (weight,)


def _steps(
    load: WeightLoader, network: GrootN15, robot: Tensor
) -> tuple[FloatWeight, tuple[HeadStep, ...]]:
    """The action encoder's last layer, and what differs by step."""
    head, steps = network.action_head, network.config.steps
    encode = head.action_encoder.select(robot, network.times())
    modulations = network.modulations()

    def modulation(both: Tensor) -> tuple[Tensor, Tensor]:
        one, other = (load.tensor(row, torch.float32) for row in both[0])
        return one, other

    blocks = []  # by block, then by step
    for index, block in enumerate(head.model.transformer_blocks):
        attention: Any = block.attn1
        own = () if block.crosses else (attention.to_k, attention.to_v)
        inputs = load.by_step(steps, attention.to_q, *own)
        output = load.by_step(steps, attention.output_projection)
        first, second = (load.by_step(steps, layer) for layer in _mlp(block))
        blocks.append([
            HeadBlock(
                _modulated(modulation(modulations[step].blocks[index]), inputs[step]),
                inputs[step],
                output[step],
                Norm(None, eps=BLOCK_EPS, centered=True, rows=rows_of(first[step])),
                first[step],
                second[step],
                block.crosses,
            )
            for step in range(steps)
        ])
    found = []
    for step in range(steps):
        shift, scale = modulation(modulations[step].final)
        final = Norm(None, eps=OUTPUT_EPS, centered=True, modulation=(scale, shift))
        actions = _affine(load, _chained(encode.layer1, encode.layer2[step]))
        found.append(HeadStep(actions, tuple(by_step[step] for by_step in blocks), final))
    return _affine(load, encode.layer3), tuple(found)


def _modulated(modulation: tuple[Tensor, Tensor], reader: Weight) -> Norm:
    rows = rows_of(reader)
    return Norm(None, eps=BLOCK_EPS, centered=True, modulation=modulation, rows=rows)


def _of_linear(linear: nn.Module) -> Affine:
    if not isinstance(linear, nn.Linear):
        raise BackendError(
            f'engine: expected a projection in floating point out of the DiT, found '
            f'{type(linear).__name__}; leave it float in the recipe'
        )
    return Affine(linear.weight.t()[None], linear.bias[None, None])


def _chained(first: Affine, second: Affine) -> Affine:
    """Two layers as one."""
    weight = first.weight.double() @ second.weight.double()
    bias = first.bias.double() @ second.weight.double() + second.bias.double()
    return Affine(weight, bias)


def _affine(load: WeightLoader, affine: Affine) -> FloatWeight:
    return load.float_weight(affine.weight[0].t(), affine.bias[0, 0], torch.float32)
