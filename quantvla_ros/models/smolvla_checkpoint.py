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
from quantvla_ros.models.sizes import numbers, plausible, section, whole_number
from quantvla_ros.models.smolvla import TEXT, VISION, SmolVLA, SmolVLAConfig
from quantvla_ros.models.smolvla_processor import VLM, SmolVLAProcessor

TEXT_LAYERS = 32  # of the whole language model; checkpoints keep the first ones
_WIDTHS = 256  # the expert's MLP is a multiple of it


def smolvla_config(config: Mapping[str, Any]) -> SmolVLAConfig:
    """Sizes of a SmolVLA network from a hub config; reduced ones are given by `_sizes`.

    Raises:
        CheckpointError: a feature we do not support, or sizes that do not fit together.
    """
    sizes = {} if config.get('_sizes') is None else section(config, '_sizes')
    layers = _number(config, 'num_vlm_layers', TEXT.depth, low=-1)
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
        width, depth, heads, mlp, patch = numbers(sizes, 'vis', 5)
        image = _number(sizes, 'img', VISION.image)
        vision = VisionConfig(width, depth, heads, mlp, patch, image)
        width, depth, heads, kv_heads, head_dim, mlp = numbers(sizes, 'txt', 6)
        text = StackConfig(width, depth, mlp, heads, kv_heads, head_dim)
    share = config.get('expert_width_multiplier', 0.75)
    if type(share) not in (int, float) or not 0 < share <= 16:
        raise CheckpointError(
            f'config.json: expert_width_multiplier: expected a number above 0, found {share!r}; '
            f'fetch it again'
        )
    text = replace(text, depth=layers if layers > 0 else text.depth)
    width = int(text.width * share)
    found = plausible(
        SmolVLAConfig(
            vision=vision,
            shuffle=_number(sizes, 'scale', SmolVLAConfig.shuffle),
            text=text,
            expert=replace(text, width=width, mlp=expert_mlp(width)),
            self_every=_number(config, 'self_attn_every_n_layers', SmolVLAConfig.self_every),
            vocabulary=_number(sizes, 'vocab', SmolVLAConfig.vocabulary),
            state_dim=_number(config, 'max_state_dim', SmolVLAConfig.state_dim),
            action_dim=_number(config, 'max_action_dim', SmolVLAConfig.action_dim),
            chunk=_number(config, 'chunk_size', SmolVLAConfig.chunk),
            steps=_number(config, 'num_steps', SmolVLAConfig.steps),
            min_period=config.get('min_period', SmolVLAConfig.min_period),
            max_period=config.get('max_period', SmolVLAConfig.max_period),
        )
    )
    _fit(config, found)
    return found


def _number(config: Mapping[str, Any], key: str, default: int, *, low: int = 1) -> int:
    return whole_number(config, key, default, low, 2**24)


def _fit(config: Mapping[str, Any], sizes: SmolVLAConfig) -> None:
    """Refuse sizes that do not fit together."""
    vision, text, square = sizes.vision, sizes.text, sizes.vision.patch * sizes.shuffle
    resized = config.get('resize_imgs_with_padding') or [vision.image] * 2
    for what, fits in (
        (
            f'resize_imgs_with_padding of {vision.image} x {vision.image}, a multiple of {square}, '
            f'as the vision tower takes, found {resized}',
            resized in ([vision.image] * 2, (vision.image,) * 2) and vision.image % square == 0,
        ),
        (
            f'a width of the vision tower that its {vision.heads} heads share, found '
            f'{vision.width}',
            vision.width % vision.heads == 0,
        ),
        (
            f'heads of even size whose number is a multiple of that of keys and values, found '
            f'{text.heads} of {text.head_dim} and {text.kv_heads}',
            text.heads % text.kv_heads == 0 and text.head_dim % 2 == 0,
        ),
        (f'an even width of the expert, found {sizes.expert.width}', sizes.expert.width % 2 == 0),
    ):
        if not fits:
            raise CheckpointError(
                f'config.json: expected {what}, which is not supported; use another checkpoint'
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
