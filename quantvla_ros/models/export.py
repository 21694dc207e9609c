# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Writing checkpoints in the hub's layout: what all architectures share.

Weights under the hub's names, statistics, small tokenizers. `pi05_export`, `groot_export` and
`smolvla_export` add each its config and what surrounds its network, as `checkpoint` and the
processors read them. Knows nothing of training or of bags.
"""
from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from quantvla_ros.models.architectures import architecture_of, build_network
from quantvla_ros.models.dit import AdaptiveLayerNorm
from quantvla_ros.models.embodiment import EmbodimentLinear
from quantvla_ros.models.layers import AdaptiveRMSNorm

SHARD_BYTES = 2 * 1024**3


@dataclass(frozen=True)
class Features:
    """What a checkpoint reads and writes.

    Attributes:
        slots: image features, as 'observation.images.wrist'.
        state, action: statistics of the data set by name (min, max, mean, std, q01, q99), [D] each.
        action_names, state_names: one for each dimension; the latter may be left out.
        control_period: seconds between two actions of a chunk, where it is known.
    """

    slots: tuple[str, ...]
    state: Mapping[str, np.ndarray]
    action: Mapping[str, np.ndarray]
    action_names: tuple[str, ...]
    state_names: tuple[str, ...] | None = None
    control_period: float | None = None


def write_checkpoint(
    directory: Path,
    config: Mapping[str, Any],
    weights: Iterable[tuple[str, Tensor]],
    dtype: torch.dtype,
) -> None:
    """Write config.json and weights; what surrounds the network is its own exporter's.

    Args:
        directory: made if it does not exist; files of these names are replaced.
        weights: (name in our module tree, tensor), taken one at a time.
        dtype: of the stored weights.
    """
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / 'config.json', config)
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
        write_json(directory / 'model.safetensors.index.json', {'weight_map': placed})


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


def byte_tokenizer(texts: Iterable[str], special: Mapping[str, int], size: int) -> Any:
    """A small tokenizer that can spell every text: bytes, and merges learned from a few texts.

    Args:
        texts: what is likely to be said.
        special: ids of tokens that stand for themselves, whatever is around them.
        size: of the vocabulary; the ids that stay free belong to `special`.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    def backend(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Any:
        tokenizer = Tokenizer(models.BPE(vocabulary, merges))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        return tokenizer

    learned = backend({}, [])
    learned.train_from_iterator(
        list(texts),
        trainers.BpeTrainer(
            vocab_size=size - len(special),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    content = json.loads(learned.to_str())['model']
    free = (number for number in range(size) if number not in special.values())
    order = sorted(content['vocab'], key=content['vocab'].__getitem__)
    vocabulary = dict(zip(order, free, strict=False))
    merges = [tuple(merge) for merge in content['merges']]
    # Within the vocabulary itself, so that they keep their ids: the library numbers others.
    tokenizer = backend({**vocabulary, **special}, merges)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
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


def write_json(path: Path, content: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write JSON for people to read."""
    path.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')
