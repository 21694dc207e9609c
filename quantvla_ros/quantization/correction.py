# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the corrections share: bounds on a scalar, and scaling a layer's outputs without a trace.

Knows numbers and linear layers; knows nothing of what is matched (see `temperature`, `balance`).
"""
from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from quantvla_ros.errors import CalibrationError
from quantvla_ros.quantization.recipe import Correction


def ratio(
    teacher: Tensor, student: Tensor, what: str, notes: list[str], *, signed: bool = False
) -> Tensor:
    """`teacher / student`, statistics of the float and of the quantized policy.

    Where both are zero nothing can be restored, and where a correlation is not positive no positive
    scalar brings the student closer: 1, with a note.

    Args:
        teacher, student: statistics of equal shape; `student` is not negative.
        what: of what, for notes and errors; the place in a list of statistics follows it.
        notes: takes a sentence for each such case.
        signed: the teacher's is a correlation, which may be anything finite.
    Returns:
        float64 of the same shape, positive.
    Raises:
        CalibrationError: a statistic is not finite, or impossible.
    """
    teacher, student = teacher.double().cpu(), student.double().cpu()
    for name, value in (('quantized', student), ('float', teacher)):
        possible = torch.isfinite(value) & ((value >= 0) | (signed and name == 'float'))
        if not bool(possible.all()):
            raise CalibrationError(
                f'{what}, {name} policy: expected finite statistics, none negative, found '
                f'{value.tolist()}; it returns NaN'
            )
    silent = (student == 0) & (teacher == 0)
    lost = (student == 0) & (teacher != 0) | (student > 0) & (teacher == 0) & (not signed)
    if bool(lost.any()):
        raise CalibrationError(
            f'{what}: expected both policies to react to their inputs, found '
            f'{teacher.tolist()} for the float and {student.tolist()} for the quantized one'
        )
    opposed = ~silent & (teacher <= 0)
    for mask, reason in (
        (silent, 'it is constant, float and quantized'),
        (opposed, 'float and quantized do not agree even in sign'),
    ):
        if bool(mask.any()):
            where = f' {_places(mask)}' if mask.dim() else ''
            notes.append(f'{what}{where}: left as it is, {reason}')
    neutral = silent | opposed
    return torch.where(neutral, 1.0, teacher / torch.where(neutral, 1.0, student))


def _places(mask: Tensor) -> str:
    return ', '.join(str(index) for index in mask.nonzero().flatten().tolist())


def bounded(measured: Tensor, settings: Correction, applied: Tensor | None = None) -> Tensor:
    """A measured scalar as it is applied: dead band, then shrinkage, then the clip.

    The clip bounds the total, so that sweeps cannot walk away in steps.

    Args:
        measured: positive, what the policy as it is now would have to be multiplied by.
        settings: a dead band on |log measured|; the share of it that is applied; a bound on the
            |logarithm| of the total.
        applied: what has been folded in before; 1 if None.
    Returns:
        float64 of the same shape, the new total.
    """
    log = measured.double().log()
    log = torch.where(log.abs() < settings.dead_band, 0.0, log) * settings.shrinkage
    before = torch.zeros_like(log) if applied is None else applied.double().log()
    return (before + log).clamp(-settings.log_clip, settings.log_clip).exp()


@torch.no_grad()
def scale_outputs(linear: nn.Module, factor: Tensor, *, bias: bool = True) -> None:
    """Multiply a layer's outputs by constants, in its weights: no work at run time.

    Args:
        linear: float or quantized; changed in place.
        factor: [N], one per output.
        bias: False leaves the bias alone: the constants are on the layer's input.
    """
    for tensor, multiplier in _multipliers(linear, factor, bias):
        tensor.copy_(tensor.double() * multiplier)  # a single rounding, to the tensor's own dtype


def _multipliers(linear: nn.Module, factor: Tensor, bias: bool) -> list[tuple[Tensor, Tensor]]:
    """The tensors in which outputs are scaled, each with what it is multiplied by."""
    rows = linear.output_scales if hasattr(linear, 'output_scales') else linear.weight
    assert isinstance(rows, Tensor)
    factor = factor.to(rows.device).double()
    found = [(rows, factor.reshape(-1, *[1] * (rows.dim() - 1)))]
    if bias and linear.bias is not None:
        found.append((linear.bias, factor))  # type: ignore[arg-type]
    return found


class Fold:
    """A factor on one layer's outputs that may be set again.

    Each new factor starts from the layer as it was, so that roundings do not add up over sweeps.
    """

    def __init__(
        self, linear: nn.Module, stored: Mapping[int, torch.dtype], *, bias: bool = True
    ) -> None:
        """As `scale_outputs`.

        Args:
            stored: by `id` of a tensor, the dtype in which it will be stored; it is rounded to it.
        """
        self._linear, self._stored, self._bias = linear, stored, bias
        self._changed: list[tuple[Tensor, Tensor]] = []  # with a copy of each as it was

    @torch.no_grad()
    def set(self, factor: Tensor) -> None:
        """The layer's outputs times [N] or [] constants, whatever they were times before."""
        for tensor, original in self._changed:
            tensor.copy_(original)
        self._changed = []
        if bool((factor == 1.0).all()):
            return
        rows: int = self._linear.out_features  # type: ignore[assignment]
        for tensor, multiplier in _multipliers(self._linear, factor.expand(rows), self._bias):
            self._changed.append((tensor, tensor.clone()))
            value = tensor.double() * multiplier
            tensor.copy_(value.to(self._stored.get(id(tensor), tensor.dtype)))
