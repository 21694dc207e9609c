# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Attention temperature matching: one scalar per head brings the attention logits back to float's.

Knows attention modules and captured logits; knows nothing of bags, ROS or kernels.
Source: QuantVLA (arXiv 2602.20309), section 4 and appendix D; where we differ and why,
docs/quantization.md. In short: the spread is taken row by row (a softmax ignores its row's mean)
and over all valid keys, prefix and suffix; alpha is folded into W_q instead of multiplied.
"""
from __future__ import annotations

import torch
from torch import Tensor

from quantvla_ros.errors import CalibrationError
from quantvla_ros.models.network import HeadAttention
from quantvla_ros.quantization.correction import ratio

# Attributes by which attentions name a norm of their queries.
_QUERY_NORMS = ('query_norm', 'q_norm', 'norm_q')


class LogitMoments:
    """What alpha and the error of one layer's logits need, summed over calls.

    Logits are taken relative to their row's mean over the valid keys.
    """

    def __init__(self) -> None:
        self._rows = 0
        self._sums: dict[str, Tensor] = {}

    def add(self, teacher: Tensor, student: Tensor, valid: Tensor | None) -> None:
        """One call of the attention in both policies.

        Args:
            teacher, student: [B, heads, Q, K] float32, scaled, before the mask.
            valid: [B, 1, 1 or Q, K] bool, keys that a query may see; None: all.
        """
        if valid is None:
            valid = torch.ones(1, 1, 1, teacher.shape[-1], dtype=torch.bool, device=teacher.device)
        t, s = _centred(teacher, valid), _centred(student, valid)
        self._add('teacher_spread', _row_deviation(t, valid))
        self._add('student_spread', _row_deviation(s, valid))
        self._add('cross', t * s)
        self._add('teacher_square', t.square())
        self._add('student_square', s.square())
        self._add('error_square', (t - s).square())
        self._rows += teacher.shape[0] * teacher.shape[2]

    def _add(self, name: str, values: Tensor) -> None:
        others = [d for d in range(values.dim()) if d != 1]
        total = values.sum(dim=others, dtype=torch.float64)
        self._sums[name] = self._sums[name] + total if name in self._sums else total

    def spreads(self) -> tuple[Tensor, Tensor]:
        """[heads] float64 of teacher and student: mean over rows of the deviation over the keys."""
        return self._sums['teacher_spread'] / self._rows, self._sums['student_spread'] / self._rows

    def scalar(self, method: str, what: str, notes: list[str]) -> Tensor:
        """What the student's logits would have to be multiplied by, by head.

        Args:
            method: 'std_ratio', spreads alike (the paper); 'least_squares', the least squared
                error (a student that differs by noise is not amplified).
            what, notes: see `ratio`.
        Returns:
            [heads] float64, positive, on the CPU.
        """
        if method == 'std_ratio':
            return ratio(*self.spreads(), what, notes)
        if method == 'least_squares':
            return ratio(
                self._sums['cross'], self._sums['student_square'], what, notes, signed=True
            )
        raise CalibrationError(
            f'temperature: expected method std_ratio or least_squares, found {method!r}'
        )

    def relative_error(self) -> tuple[float, ...]:
        """By head: 2-norm of the difference over that of the float logits."""
        error, whole = self._sums['error_square'], self._sums['teacher_square']
        return tuple((error / whole.clamp_min(torch.finfo(torch.float64).tiny)).sqrt().tolist())


def _centred(logits: Tensor, valid: Tensor) -> Tensor:
    """Logits less their row's mean over the valid keys; 0 at the others."""
    count = valid.sum(-1, keepdim=True).clamp_min(1)
    # where, not a product: a masked logit may be anything, infinite included
    mean = logits.where(valid, 0.0).sum(-1, keepdim=True) / count
    return (logits - mean).where(valid, 0.0)


def _row_deviation(centred: Tensor, valid: Tensor) -> Tensor:
    """[B, heads, Q] standard deviation over the valid keys."""
    return (centred.square().sum(-1) / valid.sum(-1).clamp_min(1)).sqrt()


def refuse_query_norm(attention: HeadAttention) -> None:
    """Refuse an attention that normalises its queries: the norm would undo alpha.

    Raises:
        CalibrationError: it does.
    """
    for name in _QUERY_NORMS:
        if getattr(attention, name, None) is not None:
            raise CalibrationError(
                f'temperature: expected an attention without a norm of its queries, found {name} '
                f'in {type(attention).__name__}, which would undo alpha; switch temperature off'
            )


def head_factors(attention: HeadAttention, alpha: Tensor) -> Tensor:
    """[heads] to one factor per output of the query projection.

    Exact: rotary embedding is linear in the query; a norm of the query would undo it.
    """
    return alpha.repeat_interleave(attention.head_dim)
