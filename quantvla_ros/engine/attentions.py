# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The attentions of an engine's forward pass, from a network's sizes alone.

Knows sizes; knows nothing of tensors, devices or times. They are in bfloat16 in every precision.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from quantvla_ros.engine.products import Workload, unknown
from quantvla_ros.kernels.attention_tiles import Attention
from quantvla_ros.models.groot_n15 import GrootConfig
from quantvla_ros.models.pi05 import PI05Config
from quantvla_ros.models.siglip import VisionConfig
from quantvla_ros.models.smolvla import SmolVLAConfig


@dataclass(frozen=True)
class NamedAttention:
    """An attention of the forward pass.

    Attributes:
        name: where it is.
        attention: its sizes.
        times: how often it runs for an observation.
    """

    name: str
    attention: Attention
    times: int


def attentions(config: Any, workload: Workload) -> list[NamedAttention]:
    """The attentions of one observation.

    Raises:
        BackendError: there is no engine for such a network.
    """
    make = _BY_CONFIG.get(type(config))
    if make is None:
        raise unknown(config, _BY_CONFIG)
    return make(config, workload)


def _named(
    name: str, times: int, queries: int, keys: int, heads: int, kv_heads: int, size: int,
    *, segments: int = 1, causal: bool = False,
) -> NamedAttention:
    sizes = Attention('bfloat16', queries, keys, heads, kv_heads, size, segments, causal)
    return NamedAttention(f'attention {name}', sizes, times)


def _vision(config: VisionConfig, views: int) -> NamedAttention:
    size = config.width // config.heads
    return _named(
        'vision', config.depth, config.tokens, config.tokens, config.heads, config.heads, size,
        segments=views,
    )  # fmt: skip


def _pi05(config: PI05Config, workload: Workload) -> list[NamedAttention]:
    prefix, expert = config.prefix, config.expert
    read = workload.views * config.vision.tokens + workload.tokens
    chunk = config.chunk if workload.chunk is None else workload.chunk
    return [
        _vision(config.vision, workload.views),
        _named(  # the last layer has keys and values only
            'backbone', prefix.depth - 1, read, read, prefix.heads, prefix.kv_heads,
            prefix.head_dim,
        ),
        _named(
            'expert', expert.depth * config.steps, chunk, read + chunk, expert.heads,
            expert.kv_heads, expert.head_dim,
        ),
    ]  # fmt: skip


def _groot(config: GrootConfig, workload: Workload) -> list[NamedAttention]:
    stack, features, head = config.language, config.features, config.dit
    read = workload.views * config.vision.tokens + workload.tokens
    chunk = config.chunk if workload.chunk is None else workload.chunk
    tokens = 1 + config.future_tokens + chunk
    crossing = -(-head.depth // 2)
    of_head = (head.heads, head.heads, head.head_dim)
    return [
        _vision(config.vision, workload.views),
        _named(
            'backbone', stack.depth, read, read, stack.heads, stack.kv_heads, stack.head_dim,
            causal=True,
        ),
        _named(
            'features', features.depth, read, read, features.heads, features.heads,
            features.head_dim,
        ),
        _named('head to the features', crossing * config.steps, tokens, read, *of_head),
        _named(
            'head to its own', (head.depth - crossing) * config.steps, tokens, tokens, *of_head
        ),
    ]  # fmt: skip


def _smolvla(config: SmolVLAConfig, workload: Workload) -> list[NamedAttention]:
    text, expert = config.text, config.expert
    words = workload.views * config.vision.tokens // config.shuffle**2 + workload.tokens
    chunk = config.chunk if workload.chunk is None else workload.chunk
    once = text.depth - 1  # the last layer has keys and values only
    mixing = -(-expert.depth // config.self_every)
    of_text = (text.heads, text.kv_heads, text.head_dim)
    of_expert = (expert.heads, expert.kv_heads, expert.head_dim)
    return [
        _vision(config.vision, workload.views),
        # The state is a token of the prefix, the only one that sees it.
        _named('backbone of the state', once, 1, 1 + words, *of_text),
        _named('backbone', once, words, words, *of_text),
        _named('expert to all', mixing * config.steps, chunk, 1 + words + chunk, *of_expert),
        _named(
            'expert to the prefix', (expert.depth - mixing) * config.steps, chunk, 1 + words,
            *of_expert,
        ),
    ]  # fmt: skip


_BY_CONFIG: Mapping[type, Callable[[Any, Workload], list[NamedAttention]]] = {
    PI05Config: _pi05,
    GrootConfig: _groot,
    SmolVLAConfig: _smolvla,
}
