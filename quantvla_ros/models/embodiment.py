# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Layers with weights of their own for each embodiment: states and actions in, actions out.

Knows tensors; knows nothing of what an embodiment's numbers mean.
Source: GR00T N1 (arXiv 2503.14734) and the public N1.5 checkpoint, whose key names the module tree
repeats. Weights are chosen once for a whole integration and, however they are stored, work in
float32: the integrated actions pass through them at every step.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Affine:
    """The weights of one embodiment per row of a batch, or of one for all rows.

    Attributes:
        weight: [B or 1, in, out] float32.
        bias: [B or 1, 1, out] float32.
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """[B, T, in] to [B, T, out] float32."""
        return torch.baddbmm(self.bias, x.float(), self.weight.expand(len(x), -1, -1))


class EmbodimentLinear(nn.Module):
    """`x @ W[embodiment] + b[embodiment]`."""

    def __init__(self, embodiments: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.empty(embodiments, inputs, outputs).normal_(std=0.02))
        self.b = nn.Parameter(torch.zeros(embodiments, outputs))

    def select(self, embodiment: Tensor) -> Affine:
        """The weights for [B] embodiments, or for one that all rows share."""
        return Affine(self.W[embodiment].float(), self.b[embodiment].float()[:, None])


class EmbodimentMLP(nn.Module):
    """Two layers around a ReLU: the state encoder and the action decoder."""

    def __init__(self, embodiments: int, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.layer1 = EmbodimentLinear(embodiments, inputs, hidden)
        self.layer2 = EmbodimentLinear(embodiments, hidden, outputs)

    def select(self, embodiment: Tensor) -> SelectedMLP:
        """The MLP of [B] embodiments."""
        return SelectedMLP(self.layer1.select(embodiment), self.layer2.select(embodiment))


@dataclass(frozen=True)
class SelectedMLP:
    """An `EmbodimentMLP` for the embodiments of a batch."""

    layer1: Affine
    layer2: Affine

    def __call__(self, x: Tensor) -> Tensor:
        """[B, T, in] to [B, T, out] float32."""
        return self.layer2(F.relu(self.layer1(x)))


class ActionEncoder(nn.Module):
    """Noisy actions and the instant of the flow to tokens."""

    def __init__(self, embodiments: int, actions: int, width: int) -> None:
        super().__init__()
        self.W1 = EmbodimentLinear(embodiments, actions, width)
        self.W2 = EmbodimentLinear(embodiments, 2 * width, width)
        self.W3 = EmbodimentLinear(embodiments, width, width)

    def select(self, embodiment: Tensor, times: Tensor) -> SelectedActionEncoder:
        """The encoder of [B] embodiments at [steps] instants.

        W2 reads actions and time side by side, so the time's share is a constant of each step.
        """
        second = self.W2.select(embodiment)
        width = second.weight.shape[2]
        of_actions, of_time = second.weight.split(width, dim=1)
        instants = torch.matmul(sinusoids(times, width), of_time) + second.bias
        return SelectedActionEncoder(
            self.W1.select(embodiment),
            tuple(Affine(of_actions, instant[:, None]) for instant in instants.unbind(1)),
            self.W3.select(embodiment),
        )


@dataclass(frozen=True)
class SelectedActionEncoder:
    """An `ActionEncoder` for the embodiments of a batch; `layer2` has one entry for each step."""

    layer1: Affine
    layer2: tuple[Affine, ...]
    layer3: Affine

    def __call__(self, step: int, actions: Tensor) -> Tensor:
        """[B, chunk, actions] noisy actions at a step to [B, chunk, width] float32."""
        return self.layer3(F.silu(self.layer2[step](self.layer1(actions))))


def distinct(embodiment: Tensor) -> Tensor:
    """[B] embodiments, or the one [1] that they all are: a copy of its weights is enough then."""
    if len(embodiment) > 1 and bool((embodiment == embodiment[0]).all()):
        return embodiment[:1]
    return embodiment


def sinusoids(times: Tensor, width: int) -> Tensor:
    """[N] instants to [N, width] float32: sines, then cosines, of periods up to 1e4 * 2 pi."""
    half = width // 2
    exponent = torch.arange(half, dtype=torch.float32, device=times.device) / half
    angle = times.float()[:, None] * torch.exp(-math.log(10_000.0) * exponent)
    return torch.cat((angle.sin(), angle.cos()), dim=-1)
