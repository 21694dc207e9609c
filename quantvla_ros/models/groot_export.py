# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Writing GR00T N1.5 checkpoints in NVIDIA's layout.

config.json, experiment_cfg/metadata.json with the statistics, a tokenizer with the tokens of the
chat prompt, and the data config, which no checkpoint of the hub carries. Knows the layout that
`groot_checkpoint` and `groot_processor` read; knows nothing of training or of bags.
"""
from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from quantvla_ros.models import export
from quantvla_ros.models.data_config import FILE as DATA_CONFIG
from quantvla_ros.models.export import Features
from quantvla_ros.models.groot_n15 import DIT, FEATURES, GrootConfig

METADATA = 'experiment_cfg/metadata.json'
EMBODIMENT, EMBODIMENT_ID = 'new_embodiment', 31
# The chat prompt's own tokens; <IMG_CONTEXT> stands where an image feature goes.
CHAT = ('<|endoftext|>', '<|im_start|>', '<|im_end|>', '<img>', '</img>')
IMAGE_TOKEN = '<IMG_CONTEXT>'
PROMPT = 'system\nYou are a helpful assistant.\nuser\n<image 1><image 2>\nassistant\n'


def hub_config(
    *,
    eagle: Mapping[str, Any] | None = None,
    layers: int = GrootConfig().language.depth,
    features: tuple[int, int, int] = (FEATURES.heads, FEATURES.head_dim, FEATURES.depth),
    dit: tuple[int, int, int] = (DIT.heads, DIT.head_dim, DIT.depth),
    hidden: int = GrootConfig.hidden,
    future_tokens: int = GrootConfig.future_tokens,
) -> dict[str, Any]:
    """A config.json as the hub's GR00T N1.5 has it.

    Args:
        eagle: sizes of a reduced backbone (`vis`, `llm`, `vocab`, `image`, `image_token_index`).
        layers: of the language model.
        features, dit: (heads, head size, blocks) of the two transformers of the action head.
        hidden, future_tokens: see `GrootConfig`.
    """
    width = GrootConfig().language.width if eagle is None else eagle['llm'][0]

    def transformer(sizes: tuple[int, int, int]) -> dict[str, Any]:
        heads, head_dim, depth = sizes
        return {
            'num_attention_heads': heads,
            'attention_head_dim': head_dim,
            'num_layers': depth,
            'dropout': 0.2,
            'final_dropout': True,
            'positional_embeddings': None,
        }

    diffusion = {
        'output_dim': hidden,
        'interleave_self_attention': True,
        'norm_type': 'ada_norm',
        'cross_attention_dim': width,
    }
    head = {
        'action_dim': GrootConfig.action_dim,
        'action_horizon': GrootConfig.chunk,
        'add_pos_embed': True,
        'backbone_embedding_dim': width,
        'diffusion_model_cfg': transformer(dit) | diffusion,
        'hidden_size': hidden,
        'input_embedding_dim': dit[0] * dit[1],
        'max_action_dim': GrootConfig.action_dim,
        'max_state_dim': GrootConfig.state_dim,
        'noise_s': 0.999,
        'num_inference_timesteps': GrootConfig.steps,
        'num_target_vision_tokens': future_tokens,
        'num_timestep_buckets': GrootConfig.buckets,
        'use_vlln': True,
        'vl_self_attention_cfg': transformer(features),
    }
    config: dict[str, Any] = {
        'model_type': 'gr00t_n1_5',
        'action_dim': GrootConfig.action_dim,
        'action_horizon': GrootConfig.chunk,
        'hidden_size': width,
        'compute_dtype': 'bfloat16',
        'action_head_cfg': head,
        'backbone_cfg': {
            'select_layer': layers,
            'project_to_dim': None,
            'reproject_vision': False,
        },
    }
    if eagle is not None:
        config['_eagle'] = dict(eagle)
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
    """Write a complete checkpoint directory; arguments as in `pi05_export.write_checkpoint`.

    Joints named alike up to a number at the end (left_arm_0, left_arm_1) become one part of state
    or action, normalised by the smallest and largest value.
    """
    directory = Path(directory)
    export.write_checkpoint(directory, config, weights, dtype)
    eagle = config.get('_eagle', {})
    vocabulary = eagle.get('vocab', GrootConfig.vocabulary)
    image_token = eagle.get('image_token_index', GrootConfig.image_token)
    special = {IMAGE_TOKEN: image_token}
    special |= {token: image_token - len(CHAT) + n for n, token in enumerate(CHAT)}
    tokenizer = export.byte_tokenizer([PROMPT, *sorted(set(words))], special, vocabulary)
    tokenizer.save(str(directory / 'tokenizer.json'))
    state = _parts(features.state_names or _numbered('state', features.state['mean'].size))
    action = _parts(features.action_names)
    metadata = directory / METADATA
    metadata.parent.mkdir(exist_ok=True)
    export.write_json(metadata, {EMBODIMENT: _metadata(features, state, action)})
    (directory / DATA_CONFIG).write_text(
        yaml.safe_dump(_data_config(features, state, action), sort_keys=False, width=100)
    )


Part = tuple[str, int, tuple[str, ...]]  # key, its first dimension, the names of all


def _numbered(stem: str, count: int) -> tuple[str, ...]:
    return tuple(f'{stem}_{n}' for n in range(count))


def _parts(names: Sequence[str]) -> list[Part]:
    """Runs of names that differ in the number at their end alone."""
    found: list[tuple[str, int, list[str]]] = []
    for index, name in enumerate(names):
        key = re.sub(r'_?\d+$', '', name) or name
        if not found or found[-1][0] != key:
            found.append((key, index, []))
        found[-1][2].append(name)
    # A key counts once: what comes back to it later is told apart by where it begins.
    seen: set[str] = set()
    parts = []
    for key, start, own in found:
        unique = key if key not in seen else f'{key}_from_{start}'
        seen.add(key)
        parts.append((unique, start, tuple(own)))
    return parts


def _metadata(
    features: Features, state: Sequence[Part], action: Sequence[Part]
) -> dict[str, Any]:
    def statistics(vector: Mapping[str, np.ndarray], parts: Sequence[Part]) -> dict[str, Any]:
        return {
            key: {
                name: np.asarray(values, np.float64)[start : start + len(names)].tolist()
                for name, values in vector.items()
            }
            for key, start, names in parts
        }

    def modality(parts: Sequence[Part]) -> dict[str, Any]:
        return {
            key: {
                'absolute': True,
                'rotation_type': None,
                'shape': [len(names)],
                'continuous': True,
            }
            for key, _, names in parts
        }

    fps = 1.0 / features.control_period if features.control_period else 20.0
    picture = {'resolution': [224, 224], 'channels': 3, 'fps': fps}
    return {
        'statistics': {
            'state': statistics(features.state, state),
            'action': statistics(features.action, action),
        },
        'modalities': {
            'video': {slot.rpartition('.')[2]: picture for slot in features.slots},
            'state': modality(state),
            'action': modality(action),
        },
        'embodiment_tag': EMBODIMENT,
    }


def _data_config(
    features: Features, state: Sequence[Part], action: Sequence[Part]
) -> dict[str, Any]:
    def vector(parts: Sequence[Part]) -> list[dict[str, Any]]:
        return [
            {'key': key, 'normalize': 'min_max', 'names': list(names)} for key, _, names in parts
        ]

    content: dict[str, Any] = {
        'data_config': 1,
        'model': 'gr00t_n1_5',
        'cameras': list(features.slots),
        'embodiment': EMBODIMENT,
        'embodiment_id': EMBODIMENT_ID,
        'state': vector(state),
        'action': vector(action),
        'statistics': METADATA,
    }
    if features.control_period:
        content['control_period'] = features.control_period
    return content
