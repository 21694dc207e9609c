# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A denoising step of two action heads, one after the other, compared layer by layer.

Knows what a head shows while it runs (see `capture`); knows nothing of samples, of networks or of
what is done with the statistics.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from quantvla_ros.quantization.balance import OutputMoments
from quantvla_ros.quantization.temperature import LogitMoments


@dataclass(frozen=True)
class LayerErrors:
    """How far the student is from the teacher in one layer of the head: relative 2-norms.

    Attributes:
        logits: by head, rows taken relative to their mean.
        attention: of the attention's output.
        mlp: of the MLP's output.
    """

    logits: tuple[float, ...]
    attention: float
    mlp: float


class Reached(Exception):
    """The layer in question has run; the rest of the head need not."""


@dataclass(frozen=True)
class Stop:
    """The last thing of interest in a pass: a layer's attention, or its MLP."""

    layer: int
    mlp: bool = False


@dataclass
class LayerMoments:
    """The statistics of one layer over one pass."""

    logits: LogitMoments = field(default_factory=LogitMoments)
    attention: OutputMoments = field(default_factory=OutputMoments)
    mlp: OutputMoments = field(default_factory=OutputMoments)

    def errors(self) -> LayerErrors:
        """How far the student was from the teacher."""
        return LayerErrors(
            self.logits.relative_error(),
            self.attention.relative_error(),
            self.mlp.relative_error(),
        )


class Lockstep:
    """One denoising step of the teacher, kept until the student has made the same step.

    Args:
        moments: by layer, take the statistics.
        stop: where a run ends, by `Reached`, and the only place that is measured; None: everything.
    """

    def __init__(self, moments: Sequence[LayerMoments], stop: Stop | None) -> None:
        self._moments, self._stop = moments, stop
        self._attention: dict[int, tuple[Tensor, Tensor | None, Tensor]] = {}
        self._mlp: dict[int, Tensor] = {}

    def _wanted(self, layer: int, mlp: bool) -> bool:
        return self._stop is None or (layer, mlp) == (self._stop.layer, self._stop.mlp)

    def _end(self, layer: int, mlp: bool) -> None:
        if self._stop is not None and self._wanted(layer, mlp):
            raise Reached

    def teacher_attention(
        self, layer: int, logits: Tensor, valid: Tensor | None, output: Tensor
    ) -> None:
        """A callback of `watch_layers`, like the three below."""
        if self._wanted(layer, False):
            self._attention[layer] = logits, valid, output
        self._end(layer, False)

    def teacher_mlp(self, layer: int, output: Tensor) -> None:
        """Keep the teacher's, to be compared with the student's."""
        if self._wanted(layer, True):
            self._mlp[layer] = output
        self._end(layer, True)

    def student_attention(
        self, layer: int, logits: Tensor, valid: Tensor | None, output: Tensor
    ) -> None:
        """Compare with the teacher's and let go of both."""
        if self._wanted(layer, False):
            teacher_logits, teacher_valid, teacher_output = self._attention.pop(layer)
            self._moments[layer].logits.add(teacher_logits, logits, teacher_valid)
            self._moments[layer].attention.add(teacher_output, output)
        self._end(layer, False)

    def student_mlp(self, layer: int, output: Tensor) -> None:
        """Compare with the teacher's and let go of both."""
        if self._wanted(layer, True):
            self._moments[layer].mlp.add(self._mlp.pop(layer), output)
        self._end(layer, True)
