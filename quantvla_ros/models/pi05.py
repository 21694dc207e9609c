# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""pi0.5: a PaliGemma prefix and a Gemma action expert that integrates a flow to a chunk of actions.

Knows tensors; knows nothing of checkpoints, prompts, normalisation or quantization.
Source: pi0.5 (arXiv 2504.16054) and its public PyTorch checkpoints, whose key names the module tree
repeats. What inference does not need is not computed: the prefix runs once, its last layer only
to keys and values, and whatever depends on the denoising step alone is prepared beforehand.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantvla_ros.models.layers import (
    AdaptiveRMSNorm,
    GatedMLP,
    GroupedAttention,
    RMSNorm,
    rotary_table,
    time_embedding,
)
from quantvla_ros.models.roles import Role
from quantvla_ros.models.siglip import VisionConfig, VisionTower

ROTARY_THETA = 10_000.0


@dataclass(frozen=True)
class GemmaConfig:
    """Sizes of one Gemma stack."""

    width: int
    depth: int
    mlp: int
    heads: int
    kv_heads: int
    head_dim: int


GEMMA_2B = GemmaConfig(width=2048, depth=18, mlp=16384, heads=8, kv_heads=1, head_dim=256)
GEMMA_300M = GemmaConfig(width=1024, depth=18, mlp=4096, heads=8, kv_heads=1, head_dim=256)


@dataclass(frozen=True)
class PI05Config:
    """Sizes of a pi0.5 policy; the defaults are those of the public checkpoints."""

    vision: VisionConfig = field(default_factory=VisionConfig)
    prefix: GemmaConfig = GEMMA_2B
    expert: GemmaConfig = GEMMA_300M
    vocabulary: int = 257_152
    action_dim: int = 32
    chunk: int = 50
    steps: int = 10
    min_period: float = 4e-3
    max_period: float = 4.0


@dataclass(frozen=True)
class Prefix:
    """What the action expert reads of pictures and prompt.

    Attributes:
        keys, values: per layer [B, kv_heads, T, head_dim], keys after rotary embedding.
        valid: [B, T] bool, False at padding and absent cameras.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    valid: Tensor


@dataclass(frozen=True)
class Modulation:
    """adaRMS modulation of one instant of the flow.

    Attributes:
        layers: per layer, for the two norms, [B, 3, width] float32.
        final: [B, 3, width] float32.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    final: Tensor


class PrefixLayer(nn.Module):
    """One block of the language backbone."""

    def __init__(self, config: GemmaConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.width)
        self.self_attn = GroupedAttention(
            config.width, config.heads, config.kv_heads, config.head_dim
        )
        self.post_attention_layernorm = RMSNorm(config.width)
        self.mlp = GatedMLP(config.width, config.mlp)


class PrefixStack(nn.Module):
    """The language backbone: prefix tokens to keys and values of every layer."""

    layers: Sequence[PrefixLayer]

    def __init__(self, config: GemmaConfig, vocabulary: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary, config.width)
        layers = nn.ModuleList(PrefixLayer(config) for _ in range(config.depth))
        self.layers = layers  # type: ignore[assignment]
        self.norm = RMSNorm(config.width)  # in the checkpoints; nothing reads its output

    def forward(self, x: Tensor, valid: Tensor) -> Prefix:
        """[B, T, width] embeddings and [B, T] bool to the prefix that the expert reads.

        Bidirectional over the valid tokens; padding does not advance the position.
        """
        attention = self.layers[0].self_attn
        rotary = rotary_table(positions(valid), attention.head_dim, ROTARY_THETA)
        mask = valid[:, None, None, :]
        keys, values = [], []
        for index, layer in enumerate(self.layers):
            normed = layer.input_layernorm(x)
            key, value = layer.self_attn.key_value(normed, rotary)
            keys.append(key)
            values.append(value)
            if index + 1 == len(self.layers):
                break  # nothing reads the output of the last layer
            query = layer.self_attn.query(normed, rotary)
            x = x + layer.self_attn.attend(query, key, value, mask)
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        return Prefix(tuple(keys), tuple(values), valid)


class ExpertLayer(nn.Module):
    """One block of the action expert."""

    def __init__(self, config: GemmaConfig) -> None:
        super().__init__()
        self.input_layernorm = AdaptiveRMSNorm(config.width)
        self.self_attn = GroupedAttention(
            config.width, config.heads, config.kv_heads, config.head_dim
        )
        self.post_attention_layernorm = AdaptiveRMSNorm(config.width)
        self.mlp = GatedMLP(config.width, config.mlp)


class ExpertStack(nn.Module):
    """The action expert: its tokens see each other and the whole valid prefix."""

    layers: Sequence[ExpertLayer]

    def __init__(self, config: GemmaConfig) -> None:
        super().__init__()
        layers = nn.ModuleList(ExpertLayer(config) for _ in range(config.depth))
        self.layers = layers  # type: ignore[assignment]
        self.norm = AdaptiveRMSNorm(config.width)

    def modulation(self, condition: Tensor) -> Modulation:
        """[B, width] condition of one instant to the modulation of every norm."""
        layers = tuple(
            (
                layer.input_layernorm.modulation(condition),
                layer.post_attention_layernorm.modulation(condition),
            )
            for layer in self.layers
        )
        return Modulation(layers, self.norm.modulation(condition))

    def forward(self, x: Tensor, prefix: Prefix, modulation: Modulation) -> Tensor:
        """[B, S, width] action tokens to [B, S, width] features."""
        batch, length = x.shape[:2]
        start = prefix.valid.sum(-1, keepdim=True)
        place = start + torch.arange(length, device=x.device)
        rotary = rotary_table(place, self.layers[0].self_attn.head_dim, ROTARY_THETA)
        own = prefix.valid.new_ones(batch, length)
        mask = torch.cat((prefix.valid, own), dim=1)[:, None, None, :]
        for index, layer in enumerate(self.layers):
            before_attention, before_mlp = modulation.layers[index]
            normed = layer.input_layernorm(x, before_attention)
            key, value = layer.self_attn.key_value(normed, rotary)
            key = torch.cat((prefix.keys[index], key), dim=2)
            value = torch.cat((prefix.values[index], value), dim=2)
            query = layer.self_attn.query(normed, rotary)
            mixed = layer.self_attn.attend(query, key, value, mask)
            x = x + (before_attention[:, 2, None] * mixed).to(x.dtype)
            mixed = layer.mlp(layer.post_attention_layernorm(x, before_mlp))
            x = x + (before_mlp[:, 2, None] * mixed).to(x.dtype)
        return self.norm(x, modulation.final)


def positions(valid: Tensor) -> Tensor:
    """[B, T] bool to [B, T] positions that padding does not advance."""
    return valid.long().cumsum(-1) - 1


class _Container(nn.Module):
    """A node of the checkpoint's key tree without behaviour of its own."""

    def __init__(self, **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


class PI05(nn.Module):
    """The policy network.

    Attributes:
        config: its sizes.
    """

    config: PI05Config

    def __init__(self, config: PI05Config) -> None:
        super().__init__()
        self.config = config
        width = config.expert.width
        self.paligemma_with_expert = _Container(
            paligemma=_Container(
                model=_Container(
                    vision_tower=_Container(vision_model=VisionTower(config.vision)),
                    multi_modal_projector=_Container(
                        linear=nn.Linear(config.vision.width, config.prefix.width)
                    ),
                    language_model=PrefixStack(config.prefix, config.vocabulary),
                )
            ),
            gemma_expert=_Container(model=ExpertStack(config.expert)),
        )
        self.action_in_proj = nn.Linear(config.action_dim, width)
        self.action_out_proj = nn.Linear(width, config.action_dim)
        self.time_mlp_in = nn.Linear(width, width)
        self.time_mlp_out = nn.Linear(width, width)
        self._prepared: tuple[int, list[Modulation]] | None = None

    # The tree above is the checkpoint's; these are the names we think in.
    @property
    def vision(self) -> VisionTower:
        """The vision tower."""
        return self.get_submodule('paligemma_with_expert.paligemma.model.vision_tower.vision_model')  # type: ignore[return-value]

    @property
    def projector(self) -> nn.Module:
        """Image features to backbone width."""
        return self.get_submodule(
            'paligemma_with_expert.paligemma.model.multi_modal_projector.linear'
        )

    @property
    def backbone(self) -> PrefixStack:
        """The language backbone."""
        return self.get_submodule('paligemma_with_expert.paligemma.model.language_model')  # type: ignore[return-value]

    @property
    def expert(self) -> ExpertStack:
        """The action expert."""
        return self.get_submodule('paligemma_with_expert.gemma_expert.model')  # type: ignore[return-value]

    def head_attentions(self) -> list[GroupedAttention]:
        """The action head's attention modules, first layer first."""
        return [layer.self_attn for layer in self.expert.layers]

    def linear_roles(self) -> dict[str, Role]:
        """The role of every linear layer (float or replaced), by module path."""
        tree = 'paligemma_with_expert.paligemma.model.'
        expert = 'paligemma_with_expert.gemma_expert.model.'
        rules: list[tuple[str, str, Role]] = [
            (tree + 'vision_tower.', '', Role.VISION),
            (tree + 'multi_modal_projector.', '', Role.PROJECTOR),
            (tree + 'language_model.', '.self_attn.', Role.BACKBONE_ATTENTION),
            (tree + 'language_model.', '.mlp.', Role.BACKBONE_MLP),
            (expert, '.self_attn.', Role.HEAD_ATTENTION),
            (expert, '.mlp.', Role.HEAD_MLP),
            (expert, 'norm.', Role.HEAD_CONDITION),
            ('time_mlp_', '', Role.HEAD_CONDITION),
            ('action_', '', Role.HEAD_INPUT_OUTPUT),
        ]
        roles = {}
        for name, module in self.named_modules():
            if not hasattr(module, 'in_features'):
                continue
            roles[name] = next(
                role for start, part, role in rules if name.startswith(start) and part in name
            )
        return roles

    def embed_prefix(
        self,
        images: Sequence[Tensor],
        image_masks: Sequence[Tensor],
        tokens: Tensor,
        token_mask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Pictures and prompt to prefix embeddings.

        Args:
            images: per camera [B, 3, image, image] in [-1, 1].
            image_masks: per camera [B] bool, False where the robot lacks that camera.
            tokens, token_mask: [B, T] token ids and which of them are real.
        Returns:
            [B, P, width] embeddings and [B, P] bool. Text is scaled by sqrt(width), pictures
            are not.
        """
        backbone = self.backbone
        parts, valid = [], []
        for image, mask in zip(images, image_masks, strict=True):
            features = self.projector(self.vision(image))
            parts.append(features)
            valid.append(mask[:, None].expand(-1, features.shape[1]))
        text = backbone.embed_tokens(tokens)
        parts.append(text * text.shape[-1] ** 0.5)
        valid.append(token_mask)
        return torch.cat([p.to(text.dtype) for p in parts], dim=1), torch.cat(valid, dim=1)

    def encode_prefix(
        self,
        images: Sequence[Tensor],
        image_masks: Sequence[Tensor],
        tokens: Tensor,
        token_mask: Tensor,
    ) -> Prefix:
        """Pictures and prompt to what the action expert reads; arguments as `embed_prefix`."""
        return self.backbone(*self.embed_prefix(images, image_masks, tokens, token_mask))

    def condition(self, time: Tensor) -> Tensor:
        """[B] flow time to [B, width] float32 condition of the expert's norms."""
        config = self.config
        x = time_embedding(time, config.expert.width, config.min_period, config.max_period)
        x = F.silu(self.time_mlp_in(x.to(self.time_mlp_in.weight.dtype)))
        return F.silu(self.time_mlp_out(x)).float()

    def modulation(self, time: Tensor) -> Modulation:
        """[B] flow time to the modulation of every norm of the expert."""
        return self.expert.modulation(self.condition(time))

    def velocity(self, x: Tensor, prefix: Prefix, modulation: Modulation) -> Tensor:
        """The flow's velocity at [B, chunk, action_dim] noisy actions; same shape, float32."""
        tokens = self.action_in_proj(x.to(self.action_in_proj.weight.dtype))
        features = self.expert(tokens.to(prefix.keys[0].dtype), prefix, modulation)
        return self.action_out_proj(features.to(self.action_out_proj.weight.dtype)).float()

    @torch.no_grad()
    def sample_actions(
        self,
        images: Sequence[Tensor],
        image_masks: Sequence[Tensor],
        tokens: Tensor,
        token_mask: Tensor,
        noise: Tensor,
        *,
        on_step: Callable[[int, Tensor, Tensor], Any] | None = None,
    ) -> Tensor:
        """Integrate the flow from noise (t = 1) to actions (t = 0) by Euler's method.

        Args:
            images, image_masks, tokens, token_mask: as `embed_prefix`.
            noise: [B, chunk, action_dim] float32, standard normal.
            on_step: called with (step, x, velocity) at each step; for tests and studies.
        Returns:
            [B, chunk, action_dim] float32, normalised actions.
        """
        prefix = self.encode_prefix(images, image_masks, tokens, token_mask)
        x, steps = noise.float(), self.config.steps
        for step, modulation in enumerate(self._modulations(noise.device)):
            velocity = self.velocity(x, prefix, modulation)
            if on_step is not None:
                on_step(step, x, velocity)
            x = x - velocity / steps
        return x

    def _modulations(self, device: torch.device) -> list[Modulation]:
        """The modulation of every step: constant for given weights, so computed once."""
        if self._prepared is None or self._prepared[0] != self.config.steps:
            steps = self.config.steps
            times = [1.0 - step / steps for step in range(steps)]
            prepared = [self.modulation(torch.tensor([t], device=device)) for t in times]
            self._prepared = (steps, prepared)
        return self._prepared[1]

    def train(self, mode: bool = True) -> PI05:
        """As nn.Module; weights may change from here on, so prepared values are dropped."""
        self._prepared = None
        return super().train(mode)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> PI05:
        self._prepared = None  # device or dtype changes
        return super()._apply(fn, recurse)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As nn.Module; prepared values are dropped."""
        self._prepared = None
        return super().load_state_dict(*args, **kwargs)
