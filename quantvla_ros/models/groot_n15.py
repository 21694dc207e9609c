# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""GR00T N1.5: an Eagle backbone and a diffusion transformer that integrates a flow to actions.

Knows tensors; knows nothing of checkpoints, prompts, normalisation or quantization.
Source: GR00T N1 (arXiv 2503.14734) and the public N1.5 checkpoint, whose key names the module tree
repeats. What the flow reads of pictures and words is prepared once for each observation, what
depends on the denoising step alone once for given weights.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from quantvla_ros.models.dit import DiT, FeatureTransformer, Modulation, TransformerConfig
from quantvla_ros.models.embodiment import ActionEncoder, EmbodimentMLP, distinct
from quantvla_ros.models.folding import dit_block, feature_block, gated_block
from quantvla_ros.models.layers import Container
from quantvla_ros.models.network import (
    Equalization,
    FlowPolicy,
    HeadLayer,
    InterfacePoint,
    integrate,
)
from quantvla_ros.models.qwen3 import Qwen3Config, Qwen3Layer, Qwen3Stack, Qwen3State
from quantvla_ros.models.roles import Place, Role, find_places
from quantvla_ros.models.siglip import VisionConfig, VisionTower

FEATURES = TransformerConfig(heads=32, head_dim=64, depth=4)
DIT = TransformerConfig(heads=32, head_dim=48, depth=16)


@dataclass(frozen=True)
class GrootConfig:
    """Sizes of a GR00T N1.5 policy; the defaults are those of the public checkpoint.

    Attributes:
        image_token: id whose embeddings the pictures' features replace.
        dit: its width is that of the head's tokens.
        outputs: of the DiT; hidden: of state encoder and action decoder.
        future_tokens: learned tokens between state and actions.
        positions: rows of the table of action positions.
        buckets: the instants of the flow are counted in.
    """

    vision: VisionConfig = field(default_factory=VisionConfig)
    language: Qwen3Config = field(default_factory=Qwen3Config)
    vocabulary: int = 151_680
    image_token: int = 151_669
    features: TransformerConfig = FEATURES
    dit: TransformerConfig = DIT
    outputs: int = 1024
    hidden: int = 1024
    state_dim: int = 64
    action_dim: int = 32
    chunk: int = 16
    steps: int = 4
    buckets: int = 1000
    future_tokens: int = 32
    positions: int = 1024
    embodiments: int = 32


@dataclass(frozen=True)
class GrootInputs:
    """What the network takes of an observation, or of several with prompts of equal length.

    Attributes:
        pixel_values: [B * pictures, 3, image, image] float32 in [-1, 1], row by row.
        input_ids, attention_mask: [B, T] ids, and which of them are real (bool or 0 and 1).
        state: [B, 1, state_dim] float32, normalised.
        embodiment_id: [B] int64.
    """

    pixel_values: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    state: Tensor
    embodiment_id: Tensor


class EagleBackbone(nn.Module):
    """SigLIP features among the words of a Qwen3 stack."""

    def __init__(self, config: GrootConfig) -> None:
        super().__init__()
        self.image_token = config.image_token
        self.eagle_model = Container(
            vision_model=Container(vision_model=VisionTower(config.vision)),
            mlp1=nn.ModuleList([nn.Linear(config.vision.width, config.language.width)]),
            language_model=Container(model=Qwen3Stack(config.language, config.vocabulary)),
        )

    @property
    def vision(self) -> VisionTower:
        """The vision tower."""
        return self.get_submodule('eagle_model.vision_model.vision_model')  # type: ignore[return-value]

    @property
    def projector(self) -> nn.Module:
        """Image features to the width of the words."""
        return self.get_submodule('eagle_model.mlp1.0')

    @property
    def language(self) -> Qwen3Stack:
        """The language model."""
        return self.get_submodule('eagle_model.language_model.model')  # type: ignore[return-value]

    @property
    def layers(self) -> Sequence[Qwen3Layer]:
        """The language model's layers."""
        return self.language.layers

    def embed(self, pixel_values: Tensor, input_ids: Tensor) -> Tensor:
        """Pictures and words to [B, T, width] embeddings; nothing is scaled.

        Args:
            pixel_values, input_ids: as in `GrootInputs`.
        Raises:
            ValueError: the prompt has another number of picture tokens than the pictures give.
        """
        pictures = self.projector(self.vision(pixel_values)).flatten(0, 1)
        words = self.language.embed_tokens(input_ids)
        places = input_ids == self.image_token
        # A graph that is being captured reads nothing back; it was run before, and checked then.
        if not _is_captured(places) and int(places.sum()) != len(pictures):
            raise ValueError(
                f'expected {len(pictures)} picture tokens (id {self.image_token}) in the prompt '
                f'for {len(pixel_values)} pictures, found {int(places.sum())}; make prompt and '
                f'pictures of one observation'
            )
        return words.masked_scatter(places[..., None], pictures.to(words.dtype))

    def start(self, x: Tensor, valid: Tensor) -> Qwen3State:
        """[B, T, width] embeddings and [B, T] bool to the state before the first layer."""
        return self.language.start(x, valid)

    def step(self, index: int, state: Qwen3State) -> Qwen3State:
        """The state after a layer."""
        return self.language.step(index, state)

    def finish(self, state: Qwen3State) -> Tensor:
        """The state after the last layer to [B, T, width] features."""
        return self.language.finish(state)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """[B, T, width] embeddings and [B, T] bool to [B, T, width] features."""
        return self.language(x, valid)


class ActionHead(nn.Module):
    """What reads the backbone's features: their refinement, encoders, the DiT, the decoder."""

    def __init__(self, config: GrootConfig) -> None:
        super().__init__()
        kinds, width = config.embodiments, config.dit.width
        self.vlln = nn.LayerNorm(config.language.width)
        self.vl_self_attention = FeatureTransformer(config.features)
        self.state_encoder = EmbodimentMLP(kinds, config.state_dim, config.hidden, width)
        self.future_tokens = nn.Embedding(config.future_tokens, width)
        self.action_encoder = ActionEncoder(kinds, config.action_dim, width)
        self.position_embedding = nn.Embedding(config.positions, width)
        self.model = DiT(config.dit, config.language.width, config.outputs)
        self.action_decoder = EmbodimentMLP(kinds, config.outputs, config.hidden, config.action_dim)

    def refine(self, features: Tensor) -> Tensor:
        """[B, T, width] of the backbone to what the DiT attends to, of the same shape."""
        return self.vl_self_attention(self.vlln(features))


class GrootFlow:
    """The action head on one context, ready to integrate from noise (t = 0) to actions (t = 1)."""

    def __init__(self, model: GrootN15, features: Tensor, state: Tensor, robot: Tensor) -> None:
        """The features are the backbone's; `robot` is the embodiment."""
        head, config, robot = model.action_head, model.config, distinct(robot)
        self.steps, self._step, self._chunk = config.steps, model.denoising_step, config.chunk
        self._step.index = 0  # layers that run once for all steps run in the first
        self._dit = head.model
        self._context = head.model.context(head.refine(features))
        self._modulations = model.modulations()
        self._encoder = head.action_encoder.select(robot, model.times())
        self._positions = head.position_embedding.weight[: config.chunk].float()
        future = head.future_tokens.weight.float().expand(len(features), -1, -1)
        self._before = torch.cat((head.state_encoder.select(robot)(state), future), dim=1)
        self._decoder = head.action_decoder.select(robot)
        self._dtype = features.dtype

    def tokens(self, step: int, x: Tensor) -> Tensor:
        """[B, chunk, action] noisy actions to the DiT's tokens: state, future, actions."""
        actions = self._encoder(step, x) + self._positions
        return torch.cat((self._before, actions), dim=1).to(self._dtype)

    def velocity(self, step: int, x: Tensor) -> Tensor:
        """The velocity at [B, chunk, action] noisy actions, float32."""
        self._step.index = step
        out = self._dit(self.tokens(step, x), self._context, self._modulations[step])
        return self._decoder(out[:, -self._chunk :])

    def advance(self, x: Tensor, velocity: Tensor) -> Tensor:
        """One Euler step; the velocity points from noise to actions."""
        return x + velocity / self.steps


def _is_captured(x: Tensor) -> bool:
    """Whether work on a tensor is only being recorded into a CUDA graph."""
    return x.is_cuda and torch.cuda.is_current_stream_capturing()


_EAGLE = 'backbone.eagle_model.'
_LANGUAGE = _EAGLE + 'language_model.model.'
_FEATURES = 'action_head.vl_self_attention.'
_DIT = 'action_head.model.'


class GrootN15(FlowPolicy):
    """The policy network.

    Attributes:
        config: its sizes.
        backbone: pictures and words to features.
        action_head: features and state to actions.
    """

    config: GrootConfig

    def __init__(self, config: GrootConfig) -> None:
        super().__init__(config)
        self.backbone = EagleBackbone(config)
        self.action_head = ActionHead(config)

    def linear_places(self) -> dict[str, Place]:
        """What every linear layer (float or replaced) is for, by module path."""
        return find_places(
            self,
            (
                (_EAGLE + 'vision_model.', '', Role.VISION),
                (_EAGLE + 'mlp1.', '', Role.PROJECTOR),
                (_LANGUAGE, '.self_attn.', Role.BACKBONE_ATTENTION),
                (_LANGUAGE, '.mlp.', Role.BACKBONE_MLP),
                (_FEATURES, '', Role.FEATURES),
                (_DIT, '.attn1.', Role.HEAD_ATTENTION),
                (_DIT, '.ff.', Role.HEAD_MLP),
                (_DIT, '.norm1.', Role.HEAD_CONDITION),
                (_DIT + 'timestep_encoder.', '', Role.HEAD_CONDITION),
                (_DIT + 'proj_out_1', '', Role.HEAD_CONDITION),
                (_DIT + 'proj_out_2', '', Role.HEAD_INPUT_OUTPUT),
            ),
        )

    def head_layers(self) -> list[HeadLayer]:
        """The DiT's blocks, first to last."""
        return [HeadLayer(b.attn1, b.ff) for b in self.action_head.model.transformer_blocks]

    def interface(self) -> list[InterfacePoint]:
        """Keys and values of the features, in the blocks that read them."""
        return [
            InterfacePoint(f'{_DIT}transformer_blocks.{index}.attn1.{name}', 'input')
            for index, block in enumerate(self.action_head.model.transformer_blocks)
            if block.crosses
            for name in ('to_k', 'to_v')
        ]

    def equalizations(self) -> list[Equalization]:
        """Where a scale per channel folds away, over backbone and head."""
        config, found = self.config, []
        for index in range(config.language.depth):
            found += gated_block(f'{_LANGUAGE}layers.{index}.', 'norm', config.language)
        for index in range(config.features.depth):
            found += feature_block(f'{_FEATURES}transformer_blocks.{index}.')
        for index, block in enumerate(self.action_head.model.transformer_blocks):
            found += dit_block(f'{_DIT}transformer_blocks.{index}.', crosses=block.crosses)
        return found

    def encoders(self) -> list[nn.Module]:
        """Eagle, and the refinement of its features."""
        return [self.backbone, self.action_head.vlln, self.action_head.vl_self_attention]

    def embed(self, inputs: GrootInputs) -> tuple[Tensor, Tensor]:
        """Inputs to [B, T, width] embeddings and [B, T] bool."""
        embeddings = self.backbone.embed(inputs.pixel_values, inputs.input_ids)
        return embeddings, inputs.attention_mask.bool()

    def flow(self, context: Tensor, inputs: GrootInputs) -> GrootFlow:
        """The action head on [B, T, width] features of the backbone."""
        return GrootFlow(self, context, inputs.state, inputs.embodiment_id)

    def times(self) -> Tensor:
        """[steps] instants of the flow, in whole buckets; made once."""
        return self._constants()[0]

    def modulations(self) -> tuple[Modulation, ...]:
        """The modulation of every step: constant for given weights, so computed once."""
        return self._constants()[1]

    def _constants(self) -> tuple[Tensor, tuple[Modulation, ...]]:
        steps, buckets = self.config.steps, self.config.buckets

        def make() -> tuple[Tensor, tuple[Modulation, ...]]:
            instants = [int(step / steps * buckets) for step in range(steps)]
            times = torch.tensor(instants, device=self.action_head.future_tokens.weight.device)
            return times, self.action_head.model.modulations(times)

        return self.prepared(steps, make)

    @torch.no_grad()
    def sample_actions(
        self,
        pixel_values: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        state: Tensor,
        embodiment_id: Tensor,
        noise: Tensor,
        *,
        on_step: Callable[[int, Tensor, Tensor], Any] | None = None,
    ) -> Tensor:
        """Integrate the flow from noise (t = 0) to actions (t = 1) by Euler's method.

        Args:
            pixel_values, input_ids, attention_mask, state, embodiment_id: as in `GrootInputs`.
            noise: [B, chunk, action_dim] float32, standard normal.
            on_step: called with (step, x, velocity) at each step; for tests and studies.
        Returns:
            [B, chunk, action_dim] float32, normalised actions.
        """
        inputs = GrootInputs(pixel_values, input_ids, attention_mask, state, embodiment_id)
        features = self.backbone(*self.embed(inputs))
        return integrate(self.flow(features, inputs), noise, on_step)
