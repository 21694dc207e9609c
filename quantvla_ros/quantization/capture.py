# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the corrections need of the action head's attention, gathered while a policy runs.

Knows attention modules with a `probe`; knows nothing of bags, of models or of what is done with the
statistics. Sums only: the memory does not grow with the number of runs.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from quantvla_ros.models.layers import GroupedAttention, Probe
from quantvla_ros.quantization.balance import output_rms
from quantvla_ros.quantization.temperature import logit_spread


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
