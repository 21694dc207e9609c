# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoint directories: config.json and safetensors to a network.

Knows file formats and key names; knows nothing of prompts, normalisation or quantization.
"""
from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from quantvla_ros.errors import CheckpointError
from quantvla_ros.models.dit import TransformerConfig
from quantvla_ros.models.groot_n15 import DIT, FEATURES, GrootConfig, GrootN15
from quantvla_ros.models.pi05 import GEMMA_2B, GEMMA_300M, PI05, GemmaConfig, PI05Config
from quantvla_ros.models.qwen3 import Qwen3Config
from quantvla_ros.models.siglip import VisionConfig

Sizes = TypeVar('Sizes', PI05Config, GrootConfig)

VARIANTS = {'gemma_2b': GEMMA_2B, 'gemma_300m': GEMMA_300M}

# These stay in float32 in every precision: they touch the integrated actions or the time, and are
# tiny. (GR00T's encoders and decoder are not tiny; what a robot uses of them works in float32.)
FLOAT32_MODULES = (
    'action_in_proj',
    'action_out_proj',
    'time_mlp_in',
    'time_mlp_out',
    'action_head.model.timestep_encoder',
    'action_head.model.proj_out_',
)


def read_config(directory: Path) -> dict[str, Any]:
    """The directory's config.json.

    Raises:
        CheckpointError: no such file, or not a JSON object.
    """
    path = Path(directory) / 'config.json'
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(
            f'{path}: expected a checkpoint directory with a config.json, found none; '
            f'pass the directory that holds config.json and model.safetensors'
        ) from None
    # ValueError: no JSON, or not UTF-8; RecursionError: nested without end.
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f'{path}: expected JSON, found {error}; fetch it again') from None
    if not isinstance(config, dict):
        raise CheckpointError(f'{path}: expected a JSON object, found {type(config).__name__}')
    return config


def pi05_config(config: Mapping[str, Any]) -> PI05Config:
    """Sizes of a pi0.5 network from a hub config; reduced ones are given by `_sizes`.

    Raises:
        CheckpointError: a variant we do not know, or a feature we do not support.
    """
    for switch in ('use_visual_memory', 'use_proprioceptive_memory'):
        if config.get(switch):
            raise CheckpointError(
                f'config.json: {switch} is on, which is not supported; '
                f'use a checkpoint trained without it'
            )
    height, width = config.get('image_resolution', (224, 224))
    if height != width or height % VisionConfig.patch:
        raise CheckpointError(
            f'config.json: image_resolution: expected a square divisible by {VisionConfig.patch}, '
            f'found {height}x{width}'
        )
    sizes = config.get('_sizes')
    if sizes:
        vision_width, depth, heads, mlp = sizes['vis']
        vision = VisionConfig(vision_width, depth, heads, mlp, image=height)
        prefix, expert = GemmaConfig(*sizes['vlm']), GemmaConfig(*sizes['exp'])
        vocabulary = sizes['vocab']
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
    return _plausible(
        PI05Config(
            vision=vision,
            prefix=prefix,
            expert=expert,
            vocabulary=vocabulary,
            action_dim=config.get('max_action_dim', 32),
            chunk=config.get('chunk_size', 50),
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


def groot_config(config: Mapping[str, Any]) -> GrootConfig:
    """Sizes of a GR00T N1.5 network from a hub config; reduced ones of its backbone by `_eagle`.

    Raises:
        CheckpointError: a feature we do not support, or sizes that do not fit together.
    """
    backbone, head = _section(config, 'backbone_cfg'), _section(config, 'action_head_cfg')
    dit, refine = _section(head, 'diffusion_model_cfg'), _section(head, 'vl_self_attention_cfg')
    eagle = _section(config, '_eagle')
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
    return _plausible(
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


def _plausible(sizes: Sizes) -> Sizes:
    """Refuse sizes that no network has, before hours or all memory go into building one.

    Raises:
        CheckpointError: the first of them.
    """
    for field in fields(sizes):
        value = getattr(sizes, field.name)
        if hasattr(value, '__dataclass_fields__'):
            _plausible(value)
            continue
        if field.type in (float, 'float'):
            good = isinstance(value, (int, float)) and 0.0 < value < math.inf
            expected = 'a positive number'
        else:
            largest = 1000 if field.name in ('depth', 'steps') else 2**24
            good = type(value) is int and 1 <= value <= largest
            expected = f'a whole number from 1 to {largest}'
        if not good:
            raise CheckpointError(
                f'config.json: {field.name}: expected {expected}, found {value!r}; fetch it again'
            )
    return sizes


def _section(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    section = config.get(key, {})
    if not isinstance(section, dict):
        raise CheckpointError(
            f'config.json: {key}: expected an object, found {section!r}; fetch it again'
        )
    return section


def _transformer(settings: Mapping[str, Any], default: TransformerConfig) -> TransformerConfig:
    return TransformerConfig(
        heads=settings.get('num_attention_heads', default.heads),
        head_dim=settings.get('attention_head_dim', default.head_dim),
        depth=settings.get('num_layers', default.depth),
    )


def network_kind(config: Mapping[str, Any]) -> str | None:
    """What a config says that its network is; the hub's families spell the key differently."""
    return config.get('type') or config.get('model_type')


def build_network(config: Mapping[str, Any]) -> Any:
    """The network a config describes, on the current default device, weights not loaded.

    Raises:
        CheckpointError: a model type we do not know.
    """
    kind = network_kind(config)
    if kind not in NETWORKS:
        raise CheckpointError(
            f'config.json: type: expected one of {sorted(NETWORKS)}, found {kind!r}; '
            f'this model is not supported'
        )
    return NETWORKS[kind](config)


NETWORKS: dict[str, Callable[[Mapping[str, Any]], nn.Module]] = {
    'pi05': lambda config: PI05(pi05_config(config)),
    'gr00t_n1_5': lambda config: GrootN15(groot_config(config)),
}


def load_model(
    directory: str | Path,
    device: str | torch.device = 'cpu',
    dtype: torch.dtype = torch.float32,
) -> Any:
    """Load a checkpoint directory.

    Args:
        directory: holds config.json and model.safetensors (one file or indexed shards).
        device: where the weights go.
        dtype: of the weights; norms' arithmetic, the modulation and the action and time
            projections are float32 always.
    Returns:
        The network (see models.network) in evaluation mode.
    Raises:
        CheckpointError: files missing or damaged, an unknown model, missing or extra keys, wrong
            shapes.
    """
    directory = Path(directory)
    config = read_config(directory)
    with torch.device('meta'):
        model = build_network(config)
    wanted = dict(model.state_dict())
    state: dict[str, Tensor] = {}
    extra = []
    for name, tensor in _checkpoint_tensors(directory):
        key = canonical_key(name)
        if key is None:
            continue
        if key in TIED:
            # On the hub an embedding may be stored only as the tied output layer.
            key = TIED[key]
            if key in state:
                continue
        if key not in wanted:
            extra.append(name)
            continue
        if tuple(tensor.shape) != tuple(wanted[key].shape):
            raise CheckpointError(
                f'{directory}: {name}: expected shape {list(wanted[key].shape)} by config.json, '
                f'found {list(tensor.shape)}'
            )
        target = torch.float32 if key.startswith(FLOAT32_MODULES) else dtype
        state[key] = tensor.to(device=device, dtype=target)
    missing = sorted(set(wanted) - set(state))
    if missing or extra:
        raise CheckpointError(
            f'{directory}: expected the {len(wanted)} tensors of {network_kind(config)}, found '
            f'{len(missing)} missing ({_some(missing)}) and {len(extra)} unknown '
            f'({_some(sorted(extra))}); the file is of another model or incomplete'
        )
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False)


BACKBONE = 'paligemma_with_expert.paligemma.'
LM_HEAD = BACKBONE + 'lm_head.weight'
EMBEDDING = BACKBONE + 'model.language_model.embed_tokens.weight'
# Output layers that are stored in place of the embeddings they are tied to, or beside them.
TIED = {
    LM_HEAD: EMBEDDING,
    'backbone.eagle_model.language_model.lm_head.weight': (
        'backbone.eagle_model.language_model.model.embed_tokens.weight'
    ),
}
_UNUSED = re.compile(
    r'paligemma_with_expert\.gemma_expert\.lm_head\.|state_proj\.'
    r'|backbone\.eagle_model\.vision_model\.vision_model\.head\.'
)


def canonical_key(name: str) -> str | None:
    """A checkpoint's key as our module tree spells it; None for weights nothing uses.

    Tolerates what public files differ in: the leading `model.` or `_groot_model.`, the older
    `action_time_mlp_*`, and the flattened vision tower of newer exports.
    """
    key = name.removeprefix('model.').removeprefix('_groot_model.')
    key = key.replace('action_time_mlp_', 'time_mlp_')
    key = re.sub(r'\.vision_tower\.(?!vision_model\.)', '.vision_tower.vision_model.', key)
    key = re.sub(r'(eagle_model\.vision_model)\.(?!vision_model\.)', r'\1.vision_model.', key)
    return None if _UNUSED.match(key) else key


def checkpoint_files(directory: Path) -> list[Path]:
    """The safetensors files of a checkpoint: one, or those its index names.

    Raises:
        CheckpointError: none there, or the index names a file that is not.
    """
    index = directory / 'model.safetensors.index.json'
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_text())['weight_map'].values()))
        except (json.JSONDecodeError, KeyError, AttributeError) as error:
            raise CheckpointError(f'{index}: not a safetensors index ({error})') from None
        files = [directory / Path(name).name for name in names]
    else:
        files = [directory / 'model.safetensors']
    for file in files:
        if not file.exists():
            raise CheckpointError(f'{file}: expected weights, found no such file; fetch it again')
    return files


def _checkpoint_tensors(directory: Path) -> Iterator[tuple[str, Tensor]]:
    """All tensors, memory-mapped; embed_tokens before lm_head, so that the former wins."""
    for file in checkpoint_files(directory):
        try:
            with safe_open(file, framework='pt') as opened:
                for name in sorted(opened.keys(), key=lambda n: n.endswith('lm_head.weight')):
                    yield name, opened.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f'{file}: expected a whole safetensors file, found {error}; fetch it again'
            ) from None


def _some(names: list[str], limit: int = 4) -> str:
    if not names:
        return 'none'
    more = f' and {len(names) - limit} more' if len(names) > limit else ''
    return ', '.join(names[:limit]) + more


def count_parameters(model: nn.Module) -> int:
    """Parameters of a network."""
    return sum(parameter.numel() for parameter in model.parameters())
