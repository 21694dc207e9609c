# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the action head computes on the way, shown to whoever watches while a policy runs.

Knows attention modules with a `probe` and MLPs; knows nothing of bags, of models or of what is done
with what is seen.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from quantvla_ros.models.layers import Probe
from quantvla_ros.models.network import HeadAttention, HeadLayer

# (layer, logits, valid or None, output) as a Probe gets them; (layer, output [B, T, width])
OnAttention = Callable[[int, Tensor, 'Tensor | None', Tensor], None]
OnMLP = Callable[[int, Tensor], None]


@contextmanager
def watch_layers(
    layers: Sequence[HeadLayer], on_attention: OnAttention, on_mlp: OnMLP
) -> Iterator[None]:
    """Call back for each attention and MLP of the head while the block runs.

    Everything is taken off again, also when the run is cut short by an exception of a callback,
    which is how to stop early.
    """

    def probe(index: int) -> Probe:
        return lambda logits, valid, output: on_attention(index, logits, valid, output)

    def hook(index: int) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda module, inputs, output: on_mlp(index, output)

    with ExitStack() as undo:
        for index, layer in enumerate(layers):
            undo.callback(_take_off, layer.attention)
            layer.attention.probe = probe(index)
            handle = layer.mlp.output_projection.register_forward_hook(hook(index))
            undo.callback(handle.remove)
        yield


def _take_off(attention: HeadAttention) -> None:
    attention.probe = None


@contextmanager
def watch_inputs(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """What modules read while the block runs: the last input of each, by its name."""
    seen: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen[name] = inputs[0].detach()

        return keep

    with ExitStack() as undo:
        for name, module in modules.items():
            undo.callback(module.register_forward_pre_hook(hook(name)).remove)
        yield seen
