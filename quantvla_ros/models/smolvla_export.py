# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Writing SmolVLA checkpoints in lerobot's layout: config, processor files, a tokenizer.

Knows the layout that `smolvla_checkpoint` and `smolvla_processor` read; knows nothing of training
or of bags.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quantvla_ros.models import export, lerobot_export
from quantvla_ros.models.export import Features
from quantvla_ros.models.lerobot_export import Step
from quantvla_ros.models.lerobot_steps import NORMALIZE, TOKENIZE
from quantvla_ros.models.smolvla import SmolVLAConfig
from quantvla_ros.models.smolvla_processor import MAX_TOKENS, NEW_LINE, VLM

NORM_MAP = {'VISUAL': 'IDENTITY', 'STATE': 'MEAN_STD', 'ACTION': 'MEAN_STD'}
# Tokens that stand for themselves, after all others.
SPECIAL = ('<|im_start|>', '<|im_end|>', '<image>', '<end_of_utterance>')


def hub_config(
    features: Features,
    *,
    chunk: int = 50,
    execute: int | None = None,
    layers: int = 16,
    max_action_dim: int = 32,
    sizes: Mapping[str, Any] | None = None,
    max_tokens: int = MAX_TOKENS,
) -> dict[str, Any]:
    """A config.json as the hub's SmolVLA checkpoints have it; `sizes` for reduced networks."""
    image = SmolVLAConfig().vision.image if sizes is None else sizes['img']
    config: dict[str, Any] = {
        'type': 'smolvla',
        **lerobot_export.feature_sections(features, image),
        'normalization_mapping': NORM_MAP,
        'chunk_size': chunk,
        'n_action_steps': execute or chunk,
        'max_state_dim': 32,
        'max_action_dim': max_action_dim,
        'resize_imgs_with_padding': [image, image],
        'empty_cameras': 0,
        'adapt_to_pi_aloha': False,
        'use_delta_joint_actions_aloha': False,
        'tokenizer_max_length': max_tokens,
        'num_steps': 10,
        'vlm_model_name': VLM,
        'add_image_special_tokens': False,
        'attention_mode': 'cross_attn',
        'pad_language_to': 'longest',
        'num_expert_layers': -1,
        'num_vlm_layers': layers,
        'self_attn_every_n_layers': 2,
        'expert_width_multiplier': 0.75,
        'min_period': 4e-3,
        'max_period': 4.0,
    }
    if sizes is not None:
        config['_sizes'] = dict(sizes)
    return config


def write_checkpoint(
    directory: str | Path,
    config: Mapping[str, Any],
    weights: Iterable[tuple[str, Tensor]],
    features: Features,
    words: Iterable[str],
    *,
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """Write a complete checkpoint directory; arguments as in `pi05_export.write_checkpoint`."""
    directory = Path(directory)
    export.write_checkpoint(directory, config, weights, dtype)
    vocabulary = config.get('_sizes', {}).get('vocab', SmolVLAConfig.vocabulary)
    special = {token: vocabulary - len(SPECIAL) + n for n, token in enumerate(SPECIAL)}
    tokenizer = export.byte_tokenizer(sorted(set(words)), special, vocabulary)
    tokenizer.save(str(directory / 'tokenizer.json'))
    settings = lerobot_export.tokenizer_settings(config['tokenizer_max_length'], 'longest')
    steps: list[Step] = [
        (NEW_LINE, {}),
        (TOKENIZE, settings),
        ('device_processor', {'device': 'cpu', 'float_dtype': None}),
        (NORMALIZE, None),
    ]
    lerobot_export.write_processors(directory, features, NORM_MAP, steps)
    lerobot_export.write_data_config(directory, config['type'], features)
