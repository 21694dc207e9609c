# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Normalisation of states and actions by a data set's statistics.

Knows vectors; knows nothing of files or of what the numbers mean. The formulas are lerobot's.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np

from quantvla_ros.errors import CheckpointError


class Mode(Enum):
    """How a feature is normalised, as the checkpoint's files spell it."""

    QUANTILES = 'QUANTILES'  # 1st and 99th percentile to -1 and 1
    MEAN_STD = 'MEAN_STD'
    MIN_MAX = 'MIN_MAX'
    IDENTITY = 'IDENTITY'


_NEEDED = {
    Mode.QUANTILES: ('q01', 'q99'),
    Mode.MEAN_STD: ('mean', 'std'),
    Mode.MIN_MAX: ('min', 'max'),
    Mode.IDENTITY: (),
}


@dataclass(frozen=True)
class Normalizer:
    """An affine map per dimension: normalised = (x - offset) * gain - shift.

    Attributes:
        offset, span: [D] float32; `span` is the divisor.
        gain, shift: 2 and 1 for the modes with a range, 1 and 0 for MEAN_STD.
    """

    mode: Mode
    offset: np.ndarray
    span: np.ndarray

    @classmethod
    def from_statistics(
        cls, feature: str, mode: Mode, statistics: Mapping[str, np.ndarray], eps: float = 1e-8
    ) -> Normalizer:
        """Build from a data set's statistics.

        Raises:
            CheckpointError: a statistic that the mode needs is missing, not finite, or of another
                size. Silent identity would be a policy that moves to the wrong place.
        """
        values = []
        for name in _NEEDED[mode]:
            if name not in statistics:
                raise CheckpointError(
                    f'{feature}: {mode.value} needs the statistics {list(_NEEDED[mode])}, found '
                    f'{sorted(statistics) or "none"}; pass a checkpoint fine-tuned on your data, '
                    f'or its statistics'
                )
            value = np.asarray(statistics[name], np.float32).reshape(-1)
            if not np.isfinite(value).all():
                raise CheckpointError(f'{feature}: {name}: expected finite numbers, found {value}')
            values.append(value)
        if mode is Mode.IDENTITY:
            raise CheckpointError(
                f'{feature}: normalisation is IDENTITY in the checkpoint, so its units cannot be '
                f'known; expected QUANTILES, MEAN_STD or MIN_MAX'
            )
        first, second = values
        if first.shape != second.shape:
            raise CheckpointError(
                f'{feature}: statistics differ in size: {first.shape} and {second.shape}'
            )
        if mode is Mode.MEAN_STD:
            return cls(mode, first, second + np.float32(eps))
        span = second - first
        return cls(mode, first, np.where(span == 0, np.float32(eps), span))

    @property
    def size(self) -> int:
        """Number of dimensions."""
        return self.offset.size

    def normalize(self, x: np.ndarray) -> np.ndarray:
        """[..., D] in the data's units to float32, about [-1, 1] or unit variance."""
        scaled = (np.asarray(x, np.float32) - self.offset) / self.span
        return scaled if self.mode is Mode.MEAN_STD else np.float32(2) * scaled - np.float32(1)

    def restore(self, y: np.ndarray) -> np.ndarray:
        """[..., D] normalised to the data's units; the inverse of `normalize`."""
        y = np.asarray(y, np.float32)
        if self.mode is not Mode.MEAN_STD:
            y = (y + np.float32(1)) / np.float32(2)
        return y * self.span + self.offset
