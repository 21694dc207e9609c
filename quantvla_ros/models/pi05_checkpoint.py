# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""pi0.5's checkpoint directories: sizes from config.json, and how keys are spelled.

Knows names and sizes; knows nothing of files, prompts or normalisation.
"""
from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from quantvla_ros.errors import CheckpointError
from quantvla_ros.models.architecture import Architecture
from quantvla_ros.models.openpi_files import is_openpi
from quantvla_ros.models.pi05 import GEMMA_2B, GEMMA_300M, PI05, GemmaConfig, PI05Config
from quantvla_ros.models.pi05_processor import PI05Processor
from quantvla_ros.models.siglip import VisionConfig
from quantvla_ros.models.sizes import numbers, plausible, section, whole_number

VARIANTS = {'gemma_2b': GEMMA_2B, 'gemma_300m': GEMMA_300M}


def pi05_config(config: Mapping[str, Any]) -> PI05Config:
    """Sizes of a pi0.5 network from a hub config; reduced ones are given by `_sizes`.

    openpi's converter calls two of them otherwise, and leaves out what never differs.

    Raises:
        CheckpointError: a variant we do not know, or a feature we do not support.
    """
    for switch in ('use_visual_memory', 'use_proprioceptive_memory'):
        if config.get(switch):
            raise CheckpointError(
                f'config.json: {switch} is on, which is not supported; '
                f'use a checkpoint trained without it'
            )
    resolution = config.get('image_resolution', (224, 224))
    height = resolution[0] if isinstance(resolution, (list, tuple)) and resolution else None
    if type(height) is not int or list(resolution) != [height] * 2 or height % VisionConfig.patch:
        raise CheckpointError(
            f'config.json: image_resolution: expected a square divisible by {VisionConfig.patch}, '
            f'found {resolution}'
        )
    sizes = section(config, '_sizes') if config.get('_sizes') is not None else {}
    if sizes:
        width, depth, heads, mlp = numbers(sizes, 'vis', 4)
        vision = VisionConfig(width, depth, heads, mlp, image=height)
        prefix = GemmaConfig(*numbers(sizes, 'vlm', 6))
        expert = GemmaConfig(*numbers(sizes, 'exp', 6))
        vocabulary = whole_number(sizes, 'vocab', PI05Config.vocabulary, 1, 2**24)
    else:
        vision = VisionConfig(image=height)
        prefix = _variant(config, 'paligemma_variant', 'gemma_2b')
        expert = _variant(config, 'action_expert_variant', 'gemma_300m')
        vocabulary = PI05Config.vocabulary
    if (prefix.depth, prefix.heads, prefix.kv_heads, prefix.head_dim) != (
        expert.depth,
        expert.heads,
        expert.kv_heads,
        expert.head_dim,
    ):
        raise CheckpointError(
            f'config.json: backbone and expert must agree in depth, heads and head size; '
            f'found {prefix} and {expert}'
        )
    return plausible(
        PI05Config(
            vision=vision,
            prefix=prefix,
            expert=expert,
            vocabulary=vocabulary,
            action_dim=config.get('max_action_dim', config.get('action_dim', 32)),
            chunk=config.get('chunk_size', config.get('action_horizon', 50)),
            steps=config.get('num_inference_steps', 10),
            min_period=config.get('min_period', 4e-3),
            max_period=config.get('max_period', 4.0),
        )
    )


def _variant(config: Mapping[str, Any], key: str, default: str) -> GemmaConfig:
    name = config.get(key, default)
    if name not in VARIANTS:
        raise CheckpointError(
            f'config.json: {key}: expected one of {sorted(VARIANTS)}, found {name!r}'
        )
    return VARIANTS[name]


_TREE = 'paligemma_with_expert.paligemma.'
LM_HEAD = _TREE + 'lm_head.weight'
EMBEDDING = _TREE + 'model.language_model.embed_tokens.weight'
_EXPERT = r'paligemma_with_expert\.gemma_expert\.'
# Output layer and embedding of an expert that reads no words, weights of norms that have a
# modulation instead, and pi0's projection of the state.
_UNUSED = re.compile(
    rf'{_EXPERT}lm_head\.|{_EXPERT}model\.embed_tokens\.|{_EXPERT}model\.(layers\.\d+\.'
    r'(input|post_attention)_layer)?norm\.weight$|state_proj\.'
)


def canonical_key(name: str) -> str | None:
    """A checkpoint's key as our module tree spells it; None for weights nothing uses.

    Tolerates what public files differ in: the leading `model.`, the older `action_time_mlp_*`, and
    the flattened vision tower of newer exports.
    """
    key = name.removeprefix('model.').replace('action_time_mlp_', 'time_mlp_')
    key = re.sub(r'\.vision_tower\.(?!vision_model\.)', '.vision_tower.vision_model.', key)
    return None if _UNUSED.match(key) else key


def hub_key(name: str) -> str:
    """How the hub spells the name of a tensor of our module tree.

    The embedding is stored as the tied output layer, and only there.
    """
    return 'model.' + (LM_HEAD if name == EMBEDDING else name)


ARCHITECTURE = Architecture(
    kind='pi05',
    title='pi0.5',
    build=lambda config: PI05(pi05_config(config)),
    canonical_key=canonical_key,
    hub_key=hub_key,
    tied={LM_HEAD: EMBEDDING},
    float32_modules=('action_in_proj', 'action_out_proj', 'time_mlp_in', 'time_mlp_out'),
    processor=lambda directory, config, data: PI05Processor.from_directory(
        directory, config, data, network=pi05_config(config)
    ),
    untyped=is_openpi,
)
