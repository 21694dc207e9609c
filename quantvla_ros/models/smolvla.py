# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""SmolVLA: the first layers of SmolVLM2, and an expert that integrates a flow to actions.

Knows tensors; knows nothing of checkpoints, prompts, normalisation or quantization.
Source: SmolVLA (arXiv 2506.01844) and its public checkpoints, whose key names the module tree
repeats. What the expert's cross-attention reads of the prefix is prepared once for an observation,
the time's share of the action tokens once for given weights.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantvla_ros.models.folding import gated_block
from quantvla_ros.models.layers import (
    Container,
    GatedMLP,
    GroupedAttention,
    rotary_table,
    time_embedding,
)
from quantvla_ros.models.network import (
    Equalization,
    FlowPolicy,
    HeadLayer,
    InterfacePoint,
    act,
)
from quantvla_ros.models.prefix import ROTARY_THETA, Prefix, PrefixStack, StackConfig
from quantvla_ros.models.roles import Place, Role, find_places
from quantvla_ros.models.siglip import ShuffleConnector, VisionConfig, VisionTower

VISION = VisionConfig(width=768, depth=12, heads=12, mlp=3072, patch=16, image=512)
TEXT = StackConfig(width=960, depth=16, mlp=2560, heads=15, kv_heads=5, head_dim=64)
EXPERT = StackConfig(width=720, depth=16, mlp=2048, heads=15, kv_heads=5, head_dim=64)

Norm = partial(nn.RMSNorm, eps=1e-5)


@dataclass(frozen=True)
class SmolVLAConfig:
    """Sizes of a SmolVLA policy; the defaults are those of the public checkpoint.

    Attributes:
        shuffle: side of the square of patches that becomes one token.
        self_every: of so many layers of the expert the first attends to its own tokens too.
    """

    vision: VisionConfig = VISION
    shuffle: int = 4
    text: StackConfig = TEXT
    expert: StackConfig = EXPERT
    self_every: int = 2
    vocabulary: int = 49_280
    state_dim: int = 32
    action_dim: int = 32
    chunk: int = 50
    steps: int = 10
    min_period: float = 4e-3
    max_period: float = 4.0


@dataclass(frozen=True)
class SmolVLAInputs:
    """What the network takes of an observation, or of several.

    Attributes:
        images: per camera [B, 3, image, image] float32 in [-1, 1].
        image_masks: per camera [B] bool, False where the robot lacks that camera.
        tokens, token_mask: [B, T] ids, and which of them are real.
        state: [B, state_dim] float32, normalised.
    """

    images: list[Tensor]
    image_masks: list[Tensor]
    tokens: Tensor
    token_mask: Tensor
    state: Tensor


class SmolBackbone(PrefixStack):
    """The language model; the last token of its prefix, the robot's state, is seen by none before.

    It sees them all.
    """

    def visible(self, valid: Tensor) -> Tensor:
        """[B, T] bool to the mask [B, 1, T, T]."""
        length = valid.shape[1]
        before = torch.ones(length, length, dtype=torch.bool, device=valid.device)
        before[:-1, -1] = False
        return before & valid[:, None, None, :]


@dataclass(frozen=True)
class Reading:
    """What one layer of the expert reads beside its own tokens, and how it sees it.

    Attributes:
        key, value: [B, kv_heads, T, head_dim].
        rotary: table of the positions of its own tokens.
        mask: [B, 1, 1 or chunk, keys] bool.
    """

    key: Tensor
    value: Tensor
    rotary: tuple[Tensor, Tensor]
    mask: Tensor


class ExpertLayer(nn.Module):
    """One block of the expert.

    Attributes:
        crosses: it attends to the prefix alone, through projections of its keys and values.
    """

    def __init__(self, config: StackConfig, *, crosses: bool) -> None:
        super().__init__()
        heads, kv_heads, head_dim = config.heads, config.kv_heads, config.head_dim
        context = kv_heads * head_dim if crosses else None
        self.input_layernorm = Norm(config.width)
        self.self_attn = GroupedAttention(config.width, heads, kv_heads, head_dim, context)
        self.post_attention_layernorm = Norm(config.width)
        self.mlp = GatedMLP(config.width, config.mlp, F.silu)
        self.crosses = crosses

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        """[B, chunk, width] to [B, chunk, width]."""
        attention, key, value = self.self_attn, reading.key, reading.value
        normed = self.input_layernorm(x)
        if not self.crosses:
            own_key, own_value = attention.key_value(normed, reading.rotary)
            key, value = torch.cat((key, own_key), dim=2), torch.cat((value, own_value), dim=2)
        query = attention.query(normed, reading.rotary)
        x = x + attention.attend(query, key, value, reading.mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class ExpertStack(nn.Module):
    """The action expert: layers that attend to prefix and own tokens, and layers that cross."""

    layers: Sequence[ExpertLayer]

    def __init__(self, config: SmolVLAConfig) -> None:
        super().__init__()
        layers = nn.ModuleList(
            ExpertLayer(config.expert, crosses=index % config.self_every != 0)
            for index in range(config.expert.depth)
        )
        self.layers = layers  # type: ignore[assignment]
        self.norm = Norm(config.expert.width)

    def read(self, prefix: Prefix, chunk: int) -> tuple[Reading, ...]:
        """What each layer reads of a prefix; cross layers count their tokens' positions from 0."""
        place = torch.arange(chunk, device=prefix.valid.device)[None]
        after = place + prefix.valid.sum(-1, keepdim=True)
        head_dim = self.layers[0].self_attn.head_dim
        alone, behind = (rotary_table(p, head_dim, ROTARY_THETA) for p in (place, after))
        of_prefix = prefix.valid[:, None, None, :]
        causal = torch.ones(chunk, chunk, dtype=torch.bool, device=place.device).tril()
        whole = of_prefix.expand(-1, -1, chunk, -1)
        both = torch.cat((whole, causal.expand(len(whole), 1, -1, -1)), dim=-1)
        return tuple(
            Reading(*layer.self_attn.reproject(key, value), alone, of_prefix)
            if layer.crosses
            else Reading(key, value, behind, both)
            for layer, key, value in zip(self.layers, prefix.keys, prefix.values, strict=True)
        )

    def forward(self, x: Tensor, readings: Sequence[Reading]) -> Tensor:
        """[B, chunk, width] action tokens to [B, chunk, width] features."""
        for layer, reading in zip(self.layers, readings, strict=True):
            x = layer(x, reading)
        return self.norm(x)


class SmolVLAFlow:
    """The expert on one prefix, ready to integrate from noise (t = 1) to actions (t = 0)."""

    def __init__(self, model: SmolVLA, prefix: Prefix) -> None:
        self.steps = model.config.steps
        model.denoising_step.index = 0  # layers that run once for all steps run in the first
        self._model, self._dtype = model, prefix.keys[0].dtype
        self._instants = model.instants()
        self._readings = model.expert.read(prefix, model.config.chunk)

    def velocity(self, step: int, x: Tensor) -> Tensor:
        """The velocity at [B, chunk, action_dim] noisy actions, float32."""
        model = self._model
        model.denoising_step.index = step
        tokens = model.action_tokens(x, self._instants[step])
        features = model.expert(tokens.to(self._dtype), self._readings)
        return model.action_out_proj(features.to(model.action_out_proj.weight.dtype)).float()

    def advance(self, x: Tensor, velocity: Tensor) -> Tensor:
        """One Euler step."""
        return x - velocity / self.steps


_TREE = 'vlm_with_expert.vlm.model.'
_TEXT = _TREE + 'text_model.'
_EXPERT = 'vlm_with_expert.lm_expert.'


class SmolVLA(FlowPolicy):
    """The policy network.

    Attributes:
        config: its sizes.
    """

    config: SmolVLAConfig

    def __init__(self, config: SmolVLAConfig) -> None:
        super().__init__(config)
        text, width = config.text, config.expert.width
        self.vlm_with_expert = Container(
            vlm=Container(
                model=Container(
                    vision_model=VisionTower(config.vision),
                    connector=ShuffleConnector(config.vision, config.shuffle, text.width),
                    text_model=SmolBackbone(
                        text, config.vocabulary, norm=Norm, activation=F.silu
                    ),
                )
            ),
            lm_expert=ExpertStack(config),
        )
        self.state_proj = nn.Linear(config.state_dim, text.width)
        self.action_in_proj = nn.Linear(config.action_dim, width)
        self.action_out_proj = nn.Linear(width, config.action_dim)
        self.action_time_mlp_in = nn.Linear(2 * width, width)
        self.action_time_mlp_out = nn.Linear(width, width)

    # The tree above is the checkpoint's; these are the names we think in.
    @property
    def vision(self) -> VisionTower:
        """The vision tower."""
        return self.get_submodule(_TREE + 'vision_model')  # type: ignore[return-value]

    @property
    def connector(self) -> ShuffleConnector:
        """Image features to tokens of the language model."""
        return self.get_submodule(_TREE + 'connector')  # type: ignore[return-value]

    @property
    def backbone(self) -> SmolBackbone:
        """The language model."""
        return self.get_submodule(_TEXT[:-1])  # type: ignore[return-value]

    @property
    def expert(self) -> ExpertStack:
        """The action expert."""
        return self.get_submodule(_EXPERT[:-1])  # type: ignore[return-value]

    def linear_places(self) -> dict[str, Place]:
        """What every linear layer (float or replaced) is for, by module path."""
        return find_places(
            self,
            (
                (_TREE + 'vision_model.', '', Role.VISION),
                (_TREE + 'connector.', '', Role.PROJECTOR),
                (_TEXT, '.self_attn.', Role.BACKBONE_ATTENTION),
                (_TEXT, '.mlp.', Role.BACKBONE_MLP),
                (_EXPERT, '.self_attn.', Role.HEAD_ATTENTION),
                (_EXPERT, '.mlp.', Role.HEAD_MLP),
                ('', '', Role.HEAD_INPUT_OUTPUT),
            ),
        )

    def head_layers(self) -> list[HeadLayer]:
        """The expert's layers, first to last."""
        return [HeadLayer(layer.self_attn, layer.mlp) for layer in self.expert.layers]

    def interface(self) -> list[InterfacePoint]:
        """Values of the prefix where they are read as they are, else what projects them again."""
        points = []
        for index, layer in enumerate(self.expert.layers):
            attention = f'layers.{index}.self_attn.'
            if layer.crosses:
                points += [
                    InterfacePoint(f'{_EXPERT}{attention}{name}_proj', 'input') for name in 'kv'
                ]
            else:
                points.append(InterfacePoint(f'{_TEXT}{attention}v_proj', 'output'))
        return points

    def equalizations(self) -> list[Equalization]:
        """Where a scale per channel folds away, over backbone and expert.

        Not in the prefix's values, which two attentions read, nor in what the expert mixes with
        them; the values of cross layers are their own.
        """
        found = []
        for index in range(self.config.text.depth):
            layer = f'{_TEXT}layers.{index}.'
            found += gated_block(layer, 'norm', self.config.text, own_values=False)
        for index, block in enumerate(self.expert.layers):
            found += gated_block(
                f'{_EXPERT}layers.{index}.',
                'norm',
                self.config.expert,
                own_values=block.crosses,
                crosses=block.crosses,
            )
        return found

    def encoders(self) -> list[nn.Module]:
        """SmolVLM and the state's projection: pictures, words and state to the prefix."""
        return [self.get_submodule('vlm_with_expert.vlm'), self.state_proj]

    def embed(self, inputs: SmolVLAInputs) -> tuple[Tensor, Tensor]:
        """Inputs to [B, T, width] embeddings and [B, T] bool: pictures, words, and the state last.

        Pictures and words are scaled by sqrt(width), the state is not.
        """
        words = self.backbone.embed_tokens(inputs.tokens)
        scale = words.shape[-1] ** 0.5
        parts, valid = [], []
        for image, mask in zip(inputs.images, inputs.image_masks, strict=True):
            features = self.connector(self.vision(image))
            parts.append(features * scale)
            valid.append(mask[:, None].expand(-1, features.shape[1]))
        state = self.state_proj(inputs.state.to(self.state_proj.weight.dtype))[:, None]
        parts += [words * scale, state]
        valid += [inputs.token_mask, torch.ones_like(inputs.token_mask[:, :1])]
        return torch.cat([p.to(words.dtype) for p in parts], dim=1), torch.cat(valid, dim=1)

    def flow(self, context: Prefix, inputs: SmolVLAInputs | None = None) -> SmolVLAFlow:
        """The expert on a prefix; SmolVLA reads nothing else of the inputs."""
        return SmolVLAFlow(self, context)

    def action_tokens(self, x: Tensor, instant: Tensor) -> Tensor:
        """[B, chunk, action_dim] noisy actions to the expert's tokens.

        Args:
            instant: [width], one row of `instants`.
        """
        first, last = self.action_time_mlp_in, self.action_time_mlp_out
        actions = self.action_in_proj(x.to(first.weight.dtype))
        hidden = F.linear(actions, first.weight[:, : actions.shape[-1]]) + instant
        return last(F.silu(hidden))

    def instants(self) -> Tensor:
        """[steps, width] the time's share of the layer that reads actions and time side by side.

        Constant for given weights, so computed once.
        """
        config, first = self.config, self.action_time_mlp_in

        def make() -> Tensor:
            width = config.expert.width
            # in Python's numbers: the shortest period turns a rounded time into 1e-4 rad
            times = [1.0 - step / config.steps for step in range(config.steps)]
            embedded = time_embedding(
                torch.tensor(times, device=first.weight.device),
                width,
                config.min_period,
                config.max_period,
            )
            return F.linear(embedded.to(first.weight.dtype), first.weight[:, width:], first.bias)

        return self.prepared(config.steps, make)

    @torch.no_grad()
    def sample_actions(
        self,
        images: Sequence[Tensor],
        image_masks: Sequence[Tensor],
        tokens: Tensor,
        token_mask: Tensor,
        state: Tensor,
        noise: Tensor,
        *,
        on_step: Callable[[int, Tensor, Tensor], Any] | None = None,
    ) -> Tensor:
        """Integrate the flow from noise (t = 1) to actions (t = 0) by Euler's method.

        Args:
            images, image_masks, tokens, token_mask, state: as in `SmolVLAInputs`.
            noise: [B, chunk, action_dim] float32, standard normal.
            on_step: called with (step, x, velocity) at each step; for tests and studies.
        Returns:
            [B, chunk, action_dim] float32, normalised actions.
        """
        inputs = SmolVLAInputs(list(images), list(image_masks), tokens, token_mask, state)
        return act(self, inputs, noise, on_step)
