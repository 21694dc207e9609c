# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Where a scale per channel folds away in the blocks that networks are made of.

Knows the names of their layers; knows nothing of where a scale comes from or how it folds.
"""
from __future__ import annotations

from typing import Protocol

from quantvla_ros.models.network import Equalization


class HeadSizes(Protocol):
    """Sizes of an attention whose query heads share keys and values."""

    @property
    def heads(self) -> int:
        """Query heads."""
        ...

    @property
    def kv_heads(self) -> int:
        """Key and value heads."""
        ...

    @property
    def head_dim(self) -> int:
        """Channels of a head."""
        ...


def gated_block(
    layer: str, norm: str, sizes: HeadSizes, *, own_values: bool = True, crosses: bool = False
) -> list[Equalization]:
    """The equalizations of one pre-norm block.

    Args:
        layer: its path, with the dot.
        norm: kind of its two norms. A norm of queries or keys is after their projections, so it
            does not see what folds before them, and values pass it by.
        own_values: the block's output projection reads its own values and nothing else does; False
            leaves them alone.
        crosses: its keys and values read other tokens than its norm gives.
    """
    attention, mlp = f'{layer}self_attn.', f'{layer}mlp.'
    group = sizes.heads // sizes.kv_heads
    value_of = tuple(  # channel of the mixed heads to the value it is made of
        head // group * sizes.head_dim + channel
        for head in range(sizes.heads)
        for channel in range(sizes.head_dim)
    )
    readers = tuple(f'{attention}{name}_proj' for name in ('q' if crosses else 'qkv'))
    gated = (f'{mlp}gate_proj', f'{mlp}up_proj')
    values = Equalization((f'{attention}o_proj',), f'{attention}v_proj', 'linear', value_of)
    return [
        Equalization(readers, f'{layer}input_layernorm', norm),
        *([values] if own_values else []),
        Equalization(gated, f'{layer}post_attention_layernorm', norm),
        Equalization((f'{mlp}down_proj',), f'{mlp}up_proj', 'linear'),
    ]


def feature_block(layer: str) -> list[Equalization]:
    """The equalizations of one `FeatureBlock` (nothing folds through the GELU of its MLP)."""
    return [
        Equalization(_projections(layer, 'qkv'), f'{layer}norm1', 'norm'),
        Equalization((f'{layer}attn1.to_out.0',), f'{layer}attn1.to_v', 'linear'),
        Equalization((f'{layer}ff.net.0.proj',), f'{layer}norm3', 'norm'),
    ]


def dit_block(layer: str, *, crosses: bool) -> list[Equalization]:
    """The equalizations of one `DiTBlock`; the norm before its MLP has no weights to fold into.

    Args:
        layer: its path, with the dot.
        crosses: its keys and values read the features, which all such blocks share, not its norm.
    """
    readers = _projections(layer, 'q' if crosses else 'qkv')
    return [
        Equalization(readers, f'{layer}norm1', 'adaptive_norm'),
        Equalization((f'{layer}attn1.to_out.0',), f'{layer}attn1.to_v', 'linear'),
    ]


def _projections(layer: str, names: str) -> tuple[str, ...]:
    return tuple(f'{layer}attn1.to_{name}' for name in names)
