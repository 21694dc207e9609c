# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""SmolVLA's checkpoint directories: sizes from config.json, and how keys are spelled.

Knows names and sizes; knows nothing of files, prompts or normalisation.
"""
from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantvla_ros.errors import CheckpointError
from quantvla_ros.models.architecture import Architecture
from quantvla_ros.models.prefix import StackConfig
from quantvla_ros.models.siglip import VisionConfig
from quantvla_ros.models.sizes import plausible, section
from quantvla_ros.models.smolvla import TEXT, VISION, SmolVLA, SmolVLAConfig
from quantvla_ros.models.smolvla_processor import VLM, SmolVLAProcessor

TEXT_LAYERS = 32  # of the whole language model; checkpoints keep the first ones
_WIDTHS = 256  # the expert's MLP is a multiple of it


def smolvla_config(config: Mapping[str, Any]) -> SmolVLAConfig:
    """Sizes of a SmolVLA network from a hub config; reduced ones are given by `_sizes`.

    Raises:
        CheckpointError: a feature we do not support, or sizes that do not fit together.
    """
    sizes, layers = section(config, '_sizes'), config.get('num_vlm_layers', TEXT.depth)
    for key, supported in (
        ('vlm_model_name', (config.get('vlm_model_name'),) if sizes else (VLM,)),
        ('attention_mode', ('cross_attn',)),
        ('num_expert_layers', (-1, 0, layers)),
        ('add_image_special_tokens', (False,)),
        ('adapt_to_pi_aloha', (False,)),
        ('use_delta_joint_actions_aloha', (False,)),
    ):
        if config.get(key, supported[0]) not in supported:
            raise CheckpointError(
                f'config.json: {key}: expected {supported[0]!r} as in the public checkpoint, found '
                f'{config[key]!r}, which is not supported; use such a checkpoint'
            )
    vision, text = VISION, replace(TEXT, depth=TEXT_LAYERS)
    if sizes:
        width, depth, heads, mlp, patch = sizes['vis']
        vision = VisionConfig(width, depth, heads, mlp, patch, sizes['img'])
        width, depth, heads, kv_heads, head_dim, mlp = sizes['txt']
        text = StackConfig(width, depth, mlp, heads, kv_heads, head_dim)
    height, columns = config.get('resize_imgs_with_padding') or (vision.image, vision.image)
    shuffle = sizes.get('scale', SmolVLAConfig.shuffle)
    if (height, columns) != (vision.image, vision.image) or height % (vision.patch * shuffle):
        raise CheckpointError(
            f'config.json: resize_imgs_with_padding: expected the {vision.image}x{vision.image} '
            f'of the vision tower, divisible by {vision.patch * shuffle}, found '
            f'{height}x{columns}, which is not supported; use such a checkpoint'
        )
    text = replace(text, depth=layers if layers > 0 else text.depth)
    width = int(text.width * config.get('expert_width_multiplier', 0.75))
    return plausible(
        SmolVLAConfig(
            vision=vision,
            shuffle=shuffle,
            text=text,
            expert=replace(text, width=width, mlp=expert_mlp(width)),
            self_every=config.get('self_attn_every_n_layers', SmolVLAConfig.self_every),
            vocabulary=sizes.get('vocab', SmolVLAConfig.vocabulary),
            state_dim=config.get('max_state_dim', SmolVLAConfig.state_dim),
            action_dim=config.get('max_action_dim', SmolVLAConfig.action_dim),
            chunk=config.get('chunk_size', SmolVLAConfig.chunk),
            steps=config.get('num_steps', SmolVLAConfig.steps),
            min_period=config.get('min_period', SmolVLAConfig.min_period),
            max_period=config.get('max_period', SmolVLAConfig.max_period),
        )
    )


def expert_mlp(width: int) -> int:
    """Hidden units of the expert's MLP: 8/3 of its width, rounded up."""
    return -(-4 * int(2 * width / 3) // _WIDTHS) * _WIDTHS


_VLM = 'vlm_with_expert.vlm.'
LM_HEAD = _VLM + 'lm_head.weight'
EMBEDDING = _VLM + 'model.text_model.embed_tokens.weight'
# statistics of lerobot before 0.4, of one data set or of several; the processor reads files
_UNUSED = re.compile(r'(un)?normalize_(inputs|targets|outputs)\b')


def canonical_key(name: str) -> str | None:
    """A checkpoint's key as our module tree spells it; None for weights nothing uses.

    Tolerates what public files differ in: the leading `model.`, and the `_orig_mod.` of compiled
    models.
    """
    key = name.removeprefix('model.').removeprefix('_orig_mod.')
    return None if _UNUSED.match(key) else key


def hub_key(name: str) -> str:
    """How the hub spells the name of a tensor of our module tree."""
    return 'model.' + name


ARCHITECTURE = Architecture(
    kind='smolvla',
    title='SmolVLA',
    build=lambda config: SmolVLA(smolvla_config(config)),
    canonical_key=canonical_key,
    hub_key=hub_key,
    tied={LM_HEAD: EMBEDDING},
    float32_modules=('state_proj', 'action_in_proj', 'action_out_proj', 'action_time_mlp_'),
    processor=lambda directory, config, data: SmolVLAProcessor.from_directory(
        directory, config, data, sizes=smolvla_config(config)
    ),
)
