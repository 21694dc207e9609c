# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Output head balancing: one scalar per layer brings what the head adds back to float's energy.

Knows captured outputs; knows nothing of bags, ROS or kernels.
Source: QuantVLA (arXiv 2602.20309), section 4 and appendix D. The scalar belongs after W_o and
before the residual sum, so it is folded into W_o and b_o; in the same way into the last layer of
an MLP, and as a scalar on what the head reads of the backbone.
"""
from __future__ import annotations

import torch
from torch import Tensor

from quantvla_ros.errors import CalibrationError
from quantvla_ros.quantization.correction import ratio


class OutputMoments:
    """What beta and the error of one output need, summed over calls."""

    def __init__(self) -> None:
        self._observations = 0
        self._sums: dict[str, Tensor] = {}

    def add(self, teacher: Tensor, student: Tensor, valid: Tensor | None = None) -> None:
        """One call in both policies.

        Args:
            teacher, student: [B, T, width].
            valid: [B, T] bool, the tokens that count, at least one of each observation; None: all.
        """
        t, s = teacher.float(), student.float()
        count = torch.tensor(t[0].numel(), device=t.device)
        if valid is not None:
            t, s = t.where(valid[..., None], 0.0), s.where(valid[..., None], 0.0)
            count = valid.sum(1).clamp_min(1) * t.shape[-1]
        teacher_square, student_square = _energy(t), _energy(s)
        sums = {
            'teacher_rms': (teacher_square / count).sqrt().sum(),
            'student_rms': (student_square / count).sqrt().sum(),
            'cross': (t * s).sum(dtype=torch.float64),
            'teacher_square': teacher_square.sum(),
            'student_square': student_square.sum(),
            'error_square': _energy(t - s).sum(),
        }
        for name, value in sums.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._observations += len(t)

    def rms(self) -> tuple[Tensor, Tensor]:
        """[] float64 of teacher and student: root mean square, averaged over observations."""
        count = self._observations
        return self._sums['teacher_rms'] / count, self._sums['student_rms'] / count

    def scalar(self, method: str, what: str, notes: list[str]) -> Tensor:
        """What the student's output would have to be multiplied by.

        Args:
            method: 'rms_ratio', energies alike (the paper); 'least_squares', the least squared
                error.
            what, notes: see `ratio`.
        Returns:
            [] float64, positive, on the CPU.
        """
        if method == 'rms_ratio':
            return ratio(*self.rms(), what, notes)
        if method == 'least_squares':
            return ratio(
                self._sums['cross'], self._sums['student_square'], what, notes, signed=True
            )
        raise CalibrationError(
            f'balance: expected method rms_ratio or least_squares, found {method!r}'
        )

    def relative_error(self) -> float:
        """2-norm of the difference over that of the float output."""
        error, whole = self._sums['error_square'], self._sums['teacher_square']
        return float((error / whole.clamp_min(torch.finfo(torch.float64).tiny)).sqrt())


def _energy(x: Tensor) -> Tensor:
    """[B, ...] float32 to the sum of squares by observation: [B] float64."""
    return x.square().flatten(1).sum(1, dtype=torch.float64)
