# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The grid of a weight's integers: scales by search, per output channel or per group of columns.

Knows one weight matrix; knows nothing of layers, activations or how integers are stored. Four-bit
groups share a channel's float scale through a whole multiplier,

    w_nk ~ scale_n * (multiplier_ng * q_nk),    q in -8..7, multiplier in 1..15,

so that the numbers in brackets are int8 and a group costs one byte. Two-level scales with an
integer product inside are QServe's (arXiv 2405.04532); the bounds are ours.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from quantvla_ros.errors import CalibrationError

LARGEST_MULTIPLIER = 15  # times -8 still is int8
_RANGES = {4: (-8, 7), 8: (-127, 127)}
_ROWS = 1024  # rows searched at a time: bounds the float32 copies of a large weight
_TINY = torch.finfo(torch.float32).tiny  # a scale must stay positive and invertible


@dataclass(frozen=True)
class Grid:
    """The numbers that a weight may take.

    Attributes:
        bits: 4 or 8.
        group: columns per multiplier; 0: none.
        scale: [N] float32, positive.
        multiplier: [N, ceil(K / group)] uint8 in 1..15, or None.
    """

    bits: int
    group: int
    scale: Tensor
    multiplier: Tensor | None = None

    @property
    def range(self) -> tuple[int, int]:
        """The smallest and the largest integer."""
        return _RANGES[self.bits]

    def steps(self, columns: int) -> Tensor:
        """[N, columns] float32 (or [N, 1] without groups): the distance of neighbouring numbers."""
        scale = self.scale[:, None]
        if self.multiplier is None:
            return scale
        wide = self.multiplier.repeat_interleave(self.group, dim=1)[:, :columns]
        return scale * wide

    def round(self, weight: Tensor, steps: Tensor | None = None) -> Tensor:
        """[N, K] to the nearest numbers of the grid, as float32 integers."""
        low, high = self.range
        steps = self.steps(weight.shape[1]) if steps is None else steps
        return (weight / steps).round_().clamp_(low, high)

    def value(self, q: Tensor) -> Tensor:
        """[N, K] float32: the numbers that integers stand for."""
        return q.float() * self.steps(q.shape[1])


def search_grid(
    weight: Tensor,
    *,
    bits: int,
    group: int,
    scale_grid: Sequence[float],
    importance: Tensor | None = None,
) -> Grid:
    """The grid with the least squared error of those that the candidates give.

    Args:
        weight: [N, K] float32.
        group: columns that share a multiplier; 0: one scale per output channel.
        scale_grid: candidates for the scale as fractions of the one that clips nothing.
        importance: [K] weight of each column's error (mean square of its input); None: all alike.
    Raises:
        CalibrationError: the weight holds a NaN or an infinity.
    """
    finite = torch.isfinite(weight).all(dim=1)
    if not finite.all():
        raise CalibrationError(
            f'weight: expected finite numbers, found {int((~finite).sum())} of {len(finite)} rows '
            f'with NaN or infinity; the checkpoint is damaged'
        )
    parts = [
        _search(rows, bits, group, scale_grid, importance) for rows in weight.split(_ROWS)
    ]
    multipliers = [part.multiplier for part in parts if part.multiplier is not None]
    return Grid(
        bits,
        group,
        torch.cat([part.scale for part in parts]),
        torch.cat(multipliers) if multipliers else None,
    )


def _search(
    weight: Tensor, bits: int, group: int, scale_grid: Sequence[float], importance: Tensor | None
) -> Grid:
    columns = weight.shape[1]
    width = group or columns
    pad = -columns % width
    parts = F.pad(weight, (0, pad)).unflatten(1, (-1, width))  # [N, groups, width]
    weights = None
    if importance is not None:
        weights = F.pad(importance.to(weight), (0, pad)).unflatten(0, (-1, width))
    low, high = _RANGES[bits]

    def error(step: Tensor) -> Tensor:
        difference = (parts / step[..., None]).round_().clamp_(low, high)
        difference.mul_(step[..., None]).sub_(parts).square_()
        return (difference if weights is None else difference.mul_(weights)).sum(-1)

    full = (parts.abs().amax(-1) / high).clamp_min(_TINY)
    step = _least(((full * f).clamp_min(_TINY) for f in scale_grid), error)
    largest = step.amax(1)
    empty = parts.abs().amax((1, 2)) == 0
    if not group:
        return Grid(bits, 0, torch.where(empty, 1.0, step[:, 0]))
    scale = torch.where(empty, 1.0, (largest / LARGEST_MULTIPLIER).clamp_min(_TINY))
    near = (step / scale[:, None]).round()
    candidates = ((near + d).clamp_(1, LARGEST_MULTIPLIER) for d in (0, 1, -1, 2, -2, 3))
    best = _least((c * scale[:, None] for c in candidates), error)
    multiplier = (best / scale[:, None]).round().clamp_(1, LARGEST_MULTIPLIER)
    return Grid(bits, group, scale, multiplier.to(torch.uint8))


def _least(candidates: Iterator[Tensor], error: object) -> Tensor:
    """Elementwise, the candidate with the least error; the first of equals."""
    best, least = None, None
    for candidate in candidates:
        found = error(candidate)  # type: ignore[operator]
        if best is None or least is None:
            best, least = candidate, found
            continue
        better = found < least
        best = torch.where(better, candidate, best)
        least = torch.where(better, found, least)
    assert best is not None
    return best
