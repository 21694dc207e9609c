# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Writing checkpoints in the hub's layout: configs, weights; tokenizer and processors for pi0.5.

Knows the layout that `checkpoint` and `processor` read; knows nothing of training or of bags.
"""
from __future__ import annotations

import json
import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file
from torch import Tensor, nn

from quantvla_ros.models.architectures import architecture_of, build_network
from quantvla_ros.models.dit import AdaptiveLayerNorm
from quantvla_ros.models.embodiment import EmbodimentLinear
from quantvla_ros.models.groot_n15 import DIT, FEATURES, GrootConfig
from quantvla_ros.models.layers import AdaptiveRMSNorm
from quantvla_ros.models.pi05_processor import ACTION, POSTPROCESSOR, PREPROCESSOR, STATE
from quantvla_ros.models.tokenizer import STATE_BINS

SHARD_BYTES = 2 * 1024**3
STATISTICS_FILE = 'policy_preprocessor_step_2_normalizer_processor.safetensors'
RESTORE_FILE = 'policy_postprocessor_step_0_unnormalizer_processor.safetensors'


@dataclass(frozen=True)
class Features:
    """What a checkpoint reads and writes.

    Attributes:
        slots: image features, as 'observation.images.wrist'.
        state, action: statistics of the data set by name (min, max, mean, std, q01, q99), [D] each.
        action_names: one for each action dimension.
    """

    slots: tuple[str, ...]
    state: Mapping[str, np.ndarray]
    action: Mapping[str, np.ndarray]
    action_names: tuple[str, ...]


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
    visual = {s: {'type': 'VISUAL', 'shape': [3, image, image]} for s in features.slots}
    state = {STATE: {'type': 'STATE', 'shape': [features.state['q01'].size]}}
    config: dict[str, Any] = {
        'type': 'pi05',
        'input_features': {**visual, **state},
        'output_features': {ACTION: {'type': 'ACTION', 'shape': [len(features.action_names)]}},
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
        'normalization_mapping': {
            'VISUAL': 'IDENTITY',
            'STATE': 'QUANTILES',
            'ACTION': 'QUANTILES',
        },
        'use_relative_actions': False,
        'action_feature_names': list(features.action_names),
    }
    if sizes is not None:
        config['_sizes'] = dict(sizes)
    return config


def groot_hub_config(
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
    directory.mkdir(parents=True, exist_ok=True)
    _write_json(directory / 'config.json', config)
    build_tokenizer(words).save(str(directory / 'tokenizer.json'))
    write_processors(directory, features, max_tokens=config['tokenizer_max_length'])
    write_weights(directory, weights, dtype, architecture_of(config).hub_key)


def write_weights(
    directory: Path,
    weights: Iterable[tuple[str, Tensor]],
    dtype: torch.dtype,
    hub_key: Callable[[str], str],
) -> None:
    """Weights under hub names, as one file or, from 2 GiB on, as indexed shards."""
    shards: list[list[str]] = []
    batch: dict[str, Tensor] = {}

    def flush() -> None:
        save_file(batch, directory / f'shard-{len(shards)}', metadata={'format': 'pt'})
        shards.append(list(batch))
        batch.clear()

    for name, tensor in weights:
        batch[hub_key(name)] = tensor.detach().to('cpu', dtype).contiguous()
        if sum(t.numel() * t.element_size() for t in batch.values()) >= SHARD_BYTES:
            flush()
    if batch:
        flush()
    placed: dict[str, str] = {}
    for index, names in enumerate(shards):
        whole = len(shards) == 1
        part = '' if whole else f'-{index + 1:05d}-of-{len(shards):05d}'
        path = directory / f'model{part}.safetensors'
        (directory / f'shard-{index}').replace(path)
        path.chmod(0o644)  # the library writes for the owner alone
        placed.update(dict.fromkeys(names, path.name))
    if len(shards) > 1:
        _write_json(directory / 'model.safetensors.index.json', {'weight_map': placed})


def write_processors(directory: Path, features: Features, *, max_tokens: int) -> None:
    """The processor files, with the steps that lerobot writes for pi0.5."""
    norm_map = {'VISUAL': 'IDENTITY', 'STATE': 'QUANTILES', 'ACTION': 'QUANTILES'}
    shapes = {
        STATE: {'type': 'STATE', 'shape': [features.state['q01'].size]},
        ACTION: {'type': 'ACTION', 'shape': [len(features.action_names)]},
    }
    settings = {'eps': 1e-8, 'features': shapes, 'norm_map': norm_map}
    tokenizer = {
        'max_length': max_tokens,
        'task_key': 'task',
        'padding_side': 'right',
        'padding': 'max_length',
        'truncation': True,
        'tokenizer_name': 'tokenizer.json',
    }
    before: list[dict[str, Any]] = [
        {'registry_name': 'rename_observations_processor', 'config': {'rename_map': {}}},
        {'registry_name': 'to_batch_processor', 'config': {}},
        {
            'registry_name': 'normalizer_processor',
            'config': settings,
            'state_file': STATISTICS_FILE,
        },
        {'registry_name': 'pi05_prepare_state_tokenizer_processor_step', 'config': {}},
        {'registry_name': 'tokenizer_processor', 'config': tokenizer},
    ]
    after: list[dict[str, Any]] = [
        {'registry_name': 'unnormalizer_processor', 'config': settings, 'state_file': RESTORE_FILE},
    ]
    _write_json(directory / PREPROCESSOR, {'name': 'policy_preprocessor', 'steps': before})
    _write_json(directory / POSTPROCESSOR, {'name': 'policy_postprocessor', 'steps': after})
    arrays = {f'{STATE}.{k}': v for k, v in features.state.items()}
    arrays |= {f'{ACTION}.{k}': v for k, v in features.action.items()}
    arrays = {k: np.ascontiguousarray(v, np.float32) for k, v in arrays.items()}
    for name in (STATISTICS_FILE, RESTORE_FILE):
        save_arrays(arrays, directory / name)
        (directory / name).chmod(0o644)


def statistics(values: np.ndarray) -> dict[str, np.ndarray]:
    """Statistics of [N, D] numbers as data sets store them."""
    low, high = np.quantile(values, (0.01, 0.99), axis=0)
    return {
        'min': values.min(0),
        'max': values.max(0),
        'mean': values.mean(0),
        'std': values.std(0),
        'q01': low,
        'q99': high,
    }


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


def random_weights(
    config: Mapping[str, Any], seed: int, device: str | torch.device = 'cpu'
) -> Iterator[tuple[str, Tensor]]:
    """Random weights of a config's network, one tensor at a time.

    Scaled so that activations stay of order one through the depth, with gates, biases and norm
    offsets unlike zero, so that every path of the network counts.

    Args:
        seed: the same gives the same weights, on the same kind of device.
        device: where they are made.
    Yields:
        (name in our module tree, float32 tensor).
    """
    with torch.device('meta'):
        network = build_network(config)
    adaptive = (AdaptiveRMSNorm, AdaptiveLayerNorm)
    generator = torch.Generator(device).manual_seed(seed)
    for name, empty in network.state_dict().items():
        path, _, kind = name.rpartition('.')
        tensor = torch.randn(empty.shape, generator=generator, device=device)
        module, parent = network.get_submodule(path), network.get_submodule(path.rpartition('.')[0])
        if tensor.ndim == 1 or kind == 'b':
            # These multiply by their weight, Gemma's norm by one plus it.
            factor = kind == 'weight' and isinstance(module, (nn.LayerNorm, nn.RMSNorm))
            yield name, (1.0 if factor else 0.0) + 0.05 * tensor
        elif isinstance(parent, adaptive) or path.endswith('.proj_out_1'):
            yield name, tensor * (0.3 / tensor.shape[1] ** 0.5)
        elif isinstance(module, EmbodimentLinear):
            yield name, tensor * tensor.shape[1] ** -0.5
        else:
            yield name, tensor * float(np.prod(tensor.shape[1:])) ** -0.5


def _write_json(path: Path, content: Mapping[str, Any] | Sequence[Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + '\n')
