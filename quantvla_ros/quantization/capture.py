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

import torch
from torch import Tensor, nn

from quantvla_ros.models.layers import GroupedAttention, Probe
from quantvla_ros.models.network import HeadAttention, HeadLayer
from quantvla_ros.quantization.balance import output_rms
from quantvla_ros.quantization.temperature import logit_spread

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


class HeadStatistics:
    """Means over every call of every layer's attention: observations and denoising steps alike."""

    def __init__(self, layers: int) -> None:
        self._spread: list[Tensor | None] = [None] * layers
        self._energy: list[Tensor | None] = [None] * layers
        self._calls = [0] * layers

    def add(self, layer: int, logits: Tensor, valid: Tensor, output: Tensor) -> None:
        """One call of one layer; arguments as a probe gets them."""
        spread, energy = logit_spread(logits, valid), output_rms(output)
        before, sum_before = self._spread[layer], self._energy[layer]
        self._spread[layer] = spread if before is None else before + spread
        self._energy[layer] = energy if sum_before is None else sum_before + energy
        self._calls[layer] += 1

    @property
    def calls(self) -> tuple[int, ...]:
        """Calls seen, by layer."""
        return tuple(self._calls)

    def spread(self) -> Tensor:
        """[layers, heads] float64 mean `logit_spread`, on the CPU."""
        return self._mean(self._spread)

    def energy(self) -> Tensor:
        """[layers] float64 mean `output_rms`, on the CPU."""
        return self._mean(self._energy)

    def _mean(self, sums: Sequence[Tensor | None]) -> Tensor:
        means = []
        for total, calls in zip(sums, self._calls, strict=True):
            assert total is not None  # every layer runs in every denoising step
            means.append(total.cpu() / calls)
        return torch.stack(means)


@contextmanager
def observe_heads(attentions: Sequence[GroupedAttention]) -> Iterator[HeadStatistics]:
    """Gather statistics while the block runs; the probes are taken off in any case.

    Args:
        attentions: the action head's attention modules, first layer first.
    """
    statistics = HeadStatistics(len(attentions))

    def probe(layer: int) -> Probe:
        return lambda logits, valid, output: statistics.add(layer, logits, valid, output)

    for layer, attention in enumerate(attentions):
        attention.probe = probe(layer)
    try:
        yield statistics
    finally:
        for attention in attentions:
            attention.probe = None
