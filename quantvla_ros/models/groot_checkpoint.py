# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""GR00T N1.5's checkpoint directories: sizes from config.json, and how keys are spelled.

Knows names and sizes; knows nothing of files, prompts or normalisation.
"""
from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantvla_ros.errors import CheckpointError
from quantvla_ros.models.architecture import Architecture
from quantvla_ros.models.dit import TransformerConfig
from quantvla_ros.models.groot_n15 import DIT, FEATURES, GrootConfig, GrootN15
from quantvla_ros.models.groot_processor import GrootProcessor
from quantvla_ros.models.qwen3 import Qwen3Config
from quantvla_ros.models.siglip import VisionConfig
from quantvla_ros.models.sizes import plausible, section


def groot_config(config: Mapping[str, Any]) -> GrootConfig:
    """Sizes of a GR00T N1.5 network from a hub config; reduced ones of its backbone by `_eagle`.

    Raises:
        CheckpointError: a feature we do not support, or sizes that do not fit together.
    """
    _refuse_later(config)
    backbone, head = section(config, 'backbone_cfg'), section(config, 'action_head_cfg')
    dit, refine = section(head, 'diffusion_model_cfg'), section(head, 'vl_self_attention_cfg')
    eagle = section(config, '_eagle')
    for place, settings, key, expected in (
        ('backbone_cfg', backbone, 'project_to_dim', None),
        ('backbone_cfg', backbone, 'reproject_vision', False),
        ('_eagle', eagle, 'use_pixel_shuffle', False),
        ('_eagle', eagle, 'mlp_connector_layers', 1),
        ('action_head_cfg', head, 'add_pos_embed', True),
        ('action_head_cfg', head, 'use_vlln', True),
        ('diffusion_model_cfg', dit, 'interleave_self_attention', True),
        ('diffusion_model_cfg', dit, 'norm_type', 'ada_norm'),
        ('diffusion_model_cfg', dit, 'positional_embeddings', None),
        ('vl_self_attention_cfg', refine, 'positional_embeddings', None),
    ):
        if settings.get(key, expected) != expected:
            raise CheckpointError(
                f'config.json: {place}.{key}: expected {expected!r} as in the public checkpoint, '
                f'found {settings[key]!r}, which is not supported; use such a checkpoint'
            )
    sizes = GrootConfig()
    vision, language = sizes.vision, sizes.language
    if eagle:
        vision_width, depth, heads, mlp = eagle['vis']
        vision = VisionConfig(vision_width, depth, heads, mlp, image=eagle['image'])
        # [width, layers of the whole model, heads, kv_heads, head_dim, mlp]
        width, _, heads, kv_heads, head_dim, mlp = eagle['llm']
        language = Qwen3Config(width, language.depth, heads, kv_heads, head_dim, mlp)
    language = replace(language, depth=backbone.get('select_layer', language.depth))
    features, blocks = _transformer(refine, FEATURES), _transformer(dit, DIT)
    tokens = head.get('input_embedding_dim', blocks.width)
    reads = dit.get('cross_attention_dim', language.width)
    if (blocks.width, features.width, reads) != (tokens, language.width, language.width):
        raise CheckpointError(
            f'config.json: expected input_embedding_dim = heads x head size of the diffusion model '
            f'and cross_attention_dim = that of vl_self_attention = width of the language model, '
            f'found {tokens} and {blocks.width}, {reads}, {features.width} and {language.width}'
        )
    return plausible(
        GrootConfig(
            vision=vision,
            language=language,
            vocabulary=eagle.get('vocab', sizes.vocabulary),
            image_token=eagle.get('image_token_index', sizes.image_token),
            features=features,
            dit=blocks,
            outputs=dit.get('output_dim', sizes.outputs),
            hidden=head.get('hidden_size', sizes.hidden),
            state_dim=head.get('max_state_dim', sizes.state_dim),
            action_dim=head.get('action_dim', sizes.action_dim),
            chunk=head.get('action_horizon', sizes.chunk),
            steps=head.get('num_inference_timesteps', sizes.steps),
            buckets=head.get('num_timestep_buckets', sizes.buckets),
            future_tokens=head.get('num_target_vision_tokens', sizes.future_tokens),
            positions=head.get('max_seq_len', sizes.positions),
            embodiments=head.get('max_num_embodiments', sizes.embodiments),
        )
    )


# What later models of the same name have in their configs: fields, and how they call themselves.
_LATER: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ('GR00T N1.7', ('n1_7_backbone_model',), r'n1[._d]7|cosmos-reason'),
    (
        'GR00T N1.6',
        ('use_alternate_vl_dit', 'attend_text_every_n_blocks', 'backbone_model_type'),
        r'n1[._d]6|eagle-block2a',
    ),
)
_CALLED = ('base_model_path', 'model_version', 'model_type', 'model_name', 'tokenizer_assets_repo')


def _refuse_later(config: Mapping[str, Any]) -> None:
    """GR00T N1.6 and N1.7 are other networks, whose configs may pass for this one's.

    Raises:
        CheckpointError: it is one of them.
    """
    for title, fields, spelling in _LATER:
        for key in (*fields, *_CALLED):
            value = config.get(key)
            named = isinstance(value, str) and re.search(spelling, value, re.IGNORECASE)
            if named or (key in fields and value is not None):
                raise CheckpointError(
                    f'config.json: {key}: expected GR00T N1.5, found {value!r}, which only '
                    f'{title} has; that is another network and not supported, pass a checkpoint of '
                    f'nvidia/GR00T-N1.5-3B'
                )


def _transformer(settings: Mapping[str, Any], default: TransformerConfig) -> TransformerConfig:
    return TransformerConfig(
        heads=settings.get('num_attention_heads', default.heads),
        head_dim=settings.get('attention_head_dim', default.head_dim),
        depth=settings.get('num_layers', default.depth),
    )


_LANGUAGE = 'backbone.eagle_model.language_model.'
LM_HEAD = _LANGUAGE + 'lm_head.weight'
EMBEDDING = _LANGUAGE + 'model.embed_tokens.weight'
_UNUSED = re.compile(r'backbone\.eagle_model\.vision_model\.vision_model\.head\.')


def canonical_key(name: str) -> str | None:
    """A checkpoint's key as our module tree spells it; None for weights nothing uses.

    Tolerates what public files differ in: lerobot's leading `_groot_model.`, and the flattened
    vision tower of newer exports.
    """
    key = name.removeprefix('model.').removeprefix('_groot_model.')
    key = re.sub(r'(eagle_model\.vision_model)\.(?!vision_model\.)', r'\1.vision_model.', key)
    return None if _UNUSED.match(key) else key


def hub_key(name: str) -> str:
    """How the hub spells the name of a tensor of our module tree: as it is."""
    return name


ARCHITECTURE = Architecture(
    kind='gr00t_n1_5',
    title='GR00T N1.5',
    build=lambda config: GrootN15(groot_config(config)),
    canonical_key=canonical_key,
    hub_key=hub_key,
    tied={LM_HEAD: EMBEDDING},
    # Encoders and decoder are not tiny; what a robot uses of them works in float32.
    float32_modules=('action_head.model.timestep_encoder', 'action_head.model.proj_out_'),
    processor=lambda directory, config, data: GrootProcessor.from_directory(
        directory, config, data, sizes=groot_config(config)
    ),
    aliases=('groot',),  # lerobot's directories
)
