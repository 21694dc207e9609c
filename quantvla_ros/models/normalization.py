# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Normalisation of states and actions by a data set's statistics.

Knows vectors; knows nothing of files or of what the numbers mean. The formulas are those of lerobot
(processor/normalize_processor.py) and of openpi (transforms.py), each with its own epsilon.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np

from quantvla_ros.errors import CheckpointError

OPENPI_EPS = 1e-6


class Mode(Enum):
    """How a feature is normalised, as the checkpoint's files spell it."""

    QUANTILES = 'QUANTILES'  # 1st and 99th percentile to -1 and 1
    QUANTILE10 = 'QUANTILE10'  # 10th and 90th percentile to -1 and 1
    MEAN_STD = 'MEAN_STD'
    MIN_MAX = 'MIN_MAX'
    IDENTITY = 'IDENTITY'


_NEEDED = {
    Mode.QUANTILES: ('q01', 'q99'),
    Mode.QUANTILE10: ('q10', 'q90'),
    Mode.MEAN_STD: ('mean', 'std'),
    Mode.MIN_MAX: ('min', 'max'),
    Mode.IDENTITY: (),
}


@dataclass(frozen=True)
class Normalizer:
    """An affine map per dimension, and its inverse.

    MEAN_STD: normalised = (x - offset) / divisor; the others, from a range to [-1, 1]:
    normalised = 2 * (x - offset) / divisor - 1.

    Attributes:
        offset, divisor: [D] float32, or float64 where the reference computes so.
        span: [D] what the inverse multiplies by: the divisor but for lerobot's MEAN_STD, whose
            epsilon stands on one side only.
    """

    mode: Mode
    offset: np.ndarray
    divisor: np.ndarray
    span: np.ndarray

    @classmethod
    def from_statistics(
        cls, feature: str, mode: Mode, statistics: Mapping[str, np.ndarray], eps: float = 1e-8
    ) -> Normalizer:
        """By lerobot's formulas: epsilon beside a standard deviation, or in place of no range.

        Raises:
            CheckpointError: a statistic that the mode needs is missing, not finite, or of another
                size. Silent identity would be a policy that moves to the wrong place.
        """
        first, second = _needed(feature, mode, statistics, np.float32)
        if mode is Mode.MEAN_STD:
            return cls(mode, first, second + np.float32(eps), second)
        span = second - first
        span = np.where(span == 0, np.float32(eps), span)
        return cls(mode, first, span, span)

    @classmethod
    def openpi(
        cls, feature: str, statistics: Mapping[str, np.ndarray], mode: Mode = Mode.QUANTILES
    ) -> Normalizer:
        """By openpi's formulas: epsilon beside every divisor, in float64.

        Raises:
            CheckpointError: as `from_statistics`.
        """
        first, second = _needed(feature, mode, statistics, np.float64)
        span = (second if mode is Mode.MEAN_STD else second - first) + OPENPI_EPS
        return cls(mode, first, span, span)

    @property
    def size(self) -> int:
        """Number of dimensions."""
        return self.offset.size

    def first(self, count: int) -> Normalizer:
        """The map of the first dimensions alone."""
        return Normalizer(
            self.mode, self.offset[:count], self.divisor[:count], self.span[:count]
        )

    def normalize(self, x: np.ndarray) -> np.ndarray:
        """[..., D] in the data's units to about [-1, 1] or unit variance."""
        scaled = (np.asarray(x, self.offset.dtype) - self.offset) / self.divisor
        return scaled if self.mode is Mode.MEAN_STD else 2 * scaled - 1

    def restore(self, y: np.ndarray) -> np.ndarray:
        """[..., D] normalised to float32 in the data's units; the inverse of `normalize`."""
        y = np.asarray(y, self.offset.dtype)
        if self.mode is not Mode.MEAN_STD:
            y = (y + 1) / 2
        return np.asarray(y * self.span + self.offset, np.float32)


def _needed(
    feature: str, mode: Mode, statistics: Mapping[str, np.ndarray], dtype: type
) -> tuple[np.ndarray, np.ndarray]:
    """The two statistics of a mode, checked."""
    if mode is Mode.IDENTITY:
        raise CheckpointError(
            f'{feature}: normalisation is IDENTITY, so nothing says that its numbers are in the '
            f'robot\'s units; expected QUANTILES, MEAN_STD or MIN_MAX. Where they are, say so: '
            f'MEAN_STD in both processor files, with statistics of mean 0 and std 1'
        )
    names = _NEEDED[mode]
    values = []
    for name in names:
        if name not in statistics:
            raise CheckpointError(
                f'{feature}: {mode.value} needs the statistics {list(names)}, found '
                f'{sorted(statistics) or "none"}; name a file that has them in data_config.yaml '
                f'(statistics: PATH), or pass a checkpoint fine-tuned on your data'
            )
        try:
            value: np.ndarray = np.asarray(statistics[name], dtype).reshape(-1)
        except (TypeError, ValueError):
            raise CheckpointError(
                f'{feature}: {name}: expected numbers, found {str(statistics[name])[:80]!r}'
            ) from None
        if not value.size or not np.isfinite(value).all():
            raise CheckpointError(f'{feature}: {name}: expected finite numbers, found {value}')
        values.append(value)
    first, second = values
    if first.shape != second.shape:
        raise CheckpointError(
            f'{feature}: statistics differ in size: {names[0]} has {first.size} numbers, '
            f'{names[1]} {second.size}; they are of different data sets'
        )
    # A standard deviation below zero, or a range turned round, would mirror the motion.
    wrong = second < (0 if mode is Mode.MEAN_STD else first)
    if wrong.any():
        raise CheckpointError(
            f'{feature}: expected {names[1]} >= {"0" if mode is Mode.MEAN_STD else names[0]}, '
            f'found otherwise in dimension {int(np.flatnonzero(wrong)[0])}; the statistics are '
            f'damaged or of something else'
        )
    return first, second
