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

from quantvla_ros.models.folding import gated_block
from quantvla_ros.models.gemma import (
    GEMMA_2B,
    GEMMA_300M,
    ExpertStack,
    GemmaConfig,
    Modulation,
)
from quantvla_ros.models.layers import Container, time_embedding
from quantvla_ros.models.network import (
    Equalization,
    FlowPolicy,
    HeadLayer,
    InterfacePoint,
    integrate,
)
from quantvla_ros.models.prefix import Prefix, PrefixStack
from quantvla_ros.models.roles import Place, Role, find_places
from quantvla_ros.models.siglip import VisionConfig, VisionTower


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
class ModelInputs:
    """What the network takes of an observation, or of several.

    Attributes:
        images: per camera [B, 3, image, image] float32 in [-1, 1]; absent cameras left out.
        image_masks: per camera [B] bool, False where the robot lacks that camera.
        tokens, token_mask: [B, T] ids, and which of them are real.
    """

    images: list[Tensor]
    image_masks: list[Tensor]
    tokens: Tensor
    token_mask: Tensor


class PI05Flow:
    """The action expert on one prefix, ready to integrate from noise (t = 1) to actions (t = 0)."""

    def __init__(self, model: PI05, prefix: Prefix) -> None:
        self.model, self.prefix = model, prefix
        self.steps = model.config.steps
        self._modulations = model.modulations(prefix.valid.device)

    def velocity(self, step: int, x: Tensor) -> Tensor:
        """The velocity at [B, chunk, action_dim] noisy actions, float32."""
        self.model.denoising_step.index = step
        return self.model.velocity(x, self.prefix, self._modulations[step])

    def advance(self, x: Tensor, velocity: Tensor) -> Tensor:
        """One Euler step."""
        return x - velocity / self.steps


_TREE = 'paligemma_with_expert.paligemma.model.'
_BACKBONE = _TREE + 'language_model.'
_EXPERT = 'paligemma_with_expert.gemma_expert.model.'


class PI05(FlowPolicy):
    """The policy network.

    Attributes:
        config: its sizes.
    """

    config: PI05Config

    def __init__(self, config: PI05Config) -> None:
        super().__init__(config)
        width = config.expert.width
        self.paligemma_with_expert = Container(
            paligemma=Container(
                model=Container(
                    vision_tower=Container(vision_model=VisionTower(config.vision)),
                    multi_modal_projector=Container(
                        linear=nn.Linear(config.vision.width, config.prefix.width)
                    ),
                    language_model=PrefixStack(config.prefix, config.vocabulary),
                )
            ),
            gemma_expert=Container(model=ExpertStack(config.expert)),
        )
        self.action_in_proj = nn.Linear(config.action_dim, width)
        self.action_out_proj = nn.Linear(width, config.action_dim)
        self.time_mlp_in = nn.Linear(width, width)
        self.time_mlp_out = nn.Linear(width, width)

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
        return self.get_submodule(_BACKBONE[:-1])  # type: ignore[return-value]

    @property
    def expert(self) -> ExpertStack:
        """The action expert."""
        return self.get_submodule(_EXPERT[:-1])  # type: ignore[return-value]

    def head_layers(self) -> list[HeadLayer]:
        """The action expert's layers, first to last."""
        return [HeadLayer(layer.self_attn, layer.mlp) for layer in self.expert.layers]

    def interface(self) -> list[InterfacePoint]:
        """The values of the prefix, layer by layer; its keys are matched by the temperatures."""
        return [
            InterfacePoint(f'{_BACKBONE}layers.{index}.self_attn.v_proj', 'output')
            for index in range(self.config.prefix.depth)
        ]

    def linear_places(self) -> dict[str, Place]:
        """What every linear layer (float or replaced) is for, by module path."""
        return find_places(
            self,
            (
                (_TREE + 'vision_tower.', '', Role.VISION),
                (_TREE + 'multi_modal_projector.', '', Role.PROJECTOR),
                (_BACKBONE, '.self_attn.', Role.BACKBONE_ATTENTION),
                (_BACKBONE, '.mlp.', Role.BACKBONE_MLP),
                (_EXPERT, '.self_attn.', Role.HEAD_ATTENTION),
                (_EXPERT, '.mlp.', Role.HEAD_MLP),
                (_EXPERT, 'norm.', Role.HEAD_CONDITION),
                ('time_mlp_', '', Role.HEAD_CONDITION),
                ('action_', '', Role.HEAD_INPUT_OUTPUT),
            ),
        )

    def equalizations(self) -> list[Equalization]:
        """Where a scale per channel folds away, over backbone and expert.

        Not in the values: the expert's output projections read the prefix's and its own in one sum.
        """
        found = []
        for index in range(self.config.prefix.depth):
            layer = f'{_BACKBONE}layers.{index}.'
            found += gated_block(layer, 'norm', self.config.prefix, own_values=False)
        for index in range(self.config.expert.depth):
            layer = f'{_EXPERT}layers.{index}.'
            found += gated_block(layer, 'adaptive_norm', self.config.expert, own_values=False)
        return found

    def encoders(self) -> list[nn.Module]:
        """PaliGemma: pictures and words to the prefix."""
        return [self.get_submodule('paligemma_with_expert.paligemma')]

    def embed(self, inputs: ModelInputs) -> tuple[Tensor, Tensor]:
        """As `embed_prefix`."""
        return self.embed_prefix(
            inputs.images, inputs.image_masks, inputs.tokens, inputs.token_mask
        )

    def flow(self, context: Prefix, inputs: ModelInputs | None = None) -> PI05Flow:
        """The action expert on a prefix; pi0.5 reads nothing else of the inputs."""
        return PI05Flow(self, context)

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
        flow = self.flow(self.encode_prefix(images, image_masks, tokens, token_mask))
        return integrate(flow, noise, on_step)

    def modulations(self, device: torch.device) -> list[Modulation]:
        """The modulation of every step: constant for given weights, so computed once."""
        steps = self.config.steps
        times = [1.0 - step / steps for step in range(steps)]
        return self.prepared(
            steps, lambda: [self.modulation(torch.tensor([t], device=device)) for t in times]
        )
