# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Writing pi0.5 checkpoints in lerobot's layout: config, processor files, a word tokenizer.

Knows the layout that `pi05_checkpoint` and `pi05_processor` read; knows nothing of training or of
bags.
"""
from __future__ import annotations

import string
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quantvla_ros.models import export, lerobot_export
from quantvla_ros.models.export import Features
from quantvla_ros.models.lerobot_export import Step
from quantvla_ros.models.tokenizer import STATE_BINS

NORM_MAP = {'VISUAL': 'IDENTITY', 'STATE': 'QUANTILES', 'ACTION': 'QUANTILES'}


def hub_config(
    features: Features,
    *,
    image: int = 224,
    chunk: int = 50,
    execute: int | None = None,
    max_action_dim: int = 32,
    sizes: Mapping[str, Any] | None = None,
    max_tokens: int = 200,
) -> dict[str, Any]:
    """A config.json as the hub's pi0.5 checkpoints have it; `sizes` for reduced networks."""
    config: dict[str, Any] = {
        'type': 'pi05',
        **lerobot_export.feature_sections(features, image),
        'paligemma_variant': 'gemma_2b',
        'action_expert_variant': 'gemma_300m',
        'dtype': 'bfloat16',
        'chunk_size': chunk,
        'n_action_steps': execute or chunk,
        'max_state_dim': 32,
        'max_action_dim': max_action_dim,
        'num_inference_steps': 10,
        'min_period': 4e-3,
        'max_period': 4.0,
        'image_resolution': [image, image],
        'empty_cameras': 0,
        'tokenizer_max_length': max_tokens,
        'normalization_mapping': NORM_MAP,
        'use_relative_actions': False,
        'action_feature_names': list(features.action_names),
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
    """Write a complete checkpoint directory.

    Args:
        directory: made if it does not exist; files of these names are replaced.
        config: as `hub_config` gives it.
        weights: (name in our module tree, tensor), taken one at a time.
        features: as in the config, with statistics.
        words: the tokenizer's words; others are spelled by their letters.
        dtype: of the stored weights.
    """
    directory = Path(directory)
    export.write_checkpoint(directory, config, weights, dtype)
    build_tokenizer(words).save(str(directory / 'tokenizer.json'))
    steps: list[Step] = [
        ('normalizer_processor', None),
        ('pi05_prepare_state_tokenizer_processor_step', {}),
        ('tokenizer_processor', lerobot_export.tokenizer_settings(config['tokenizer_max_length'])),
    ]
    lerobot_export.write_processors(directory, features, NORM_MAP, steps)


def build_tokenizer(words: Iterable[str]) -> Any:
    """A small tokenizer: one id for each word and each state bin, letters for the rest.

    Special ids as PaliGemma has them: 0 pad, 1 end, 2 beginning, 3 unknown; a text begins with 2.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    letters = string.ascii_letters + string.digits + string.punctuation
    vocabulary: dict[str, int] = {}
    numbers = [str(n) for n in range(STATE_BINS)]
    pieces = [*letters, *(f'##{letter}' for letter in letters), *numbers]
    prompt = ['Task', 'State', 'Action']
    specials = ['<pad>', '<eos>', '<bos>', '<unk>']
    for token in [*specials, *prompt, *sorted(set(words)), *pieces]:
        vocabulary.setdefault(token, len(vocabulary))
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token='<unk>'))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single='<bos> $A', special_tokens=[('<bos>', vocabulary['<bos>'])]
    )
    return tokenizer
