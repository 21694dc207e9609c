# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Chunks on one time axis: what an older one says for the rows of a newer, and their average.

A chunk's numbers are kept absolute, so that offsets from one measurement never meet offsets from
another. Temporal ensembling is that of ACT (Zhao et al., arXiv 2304.13705, section IV.B): for one
instant, w_i = exp(-m i) over the chunks that have a row for it, i = 0 for the OLDEST of them, and
the weights sum to 1. Knows arrays and times; knows nothing of networks or ROS.
"""
from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

_SLACK = 1e-6  # rows; times in ns are no exact multiples of the period


@dataclass(frozen=True)
class Numbers:
    """A chunk as its policy gave it, in the contract's units, on the clock that it runs by.

    Attributes:
        begin: ns; row i is meant for `begin + (i + 1) * period`.
        period: s between rows.
        rows: [steps, actions]; offsets from a measurement with that measurement added.
    """

    begin: int
    period: float
    rows: np.ndarray

    def at_rows_of(
        self, begin: int, period: float, count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """What this chunk says for the instants of another one's rows.

        Args:
            begin, period, count: of the other: ns, s, rows.
        Returns:
            [count, actions] its rows, interpolated between two, the nearest one where it has none;
            [count] bool, where it has.
        """
        times = (np.arange(count) + 1.0) * period + (begin - self.begin) * 1e-9
        place = times / self.period - 1.0
        last = len(self.rows) - 1
        has = (place >= -_SLACK) & (place <= last + _SLACK)
        place = np.clip(place, 0.0, last)
        left = np.minimum(place.astype(int), max(last - 1, 0))
        part = (place - left)[:, np.newaxis]
        right = np.minimum(left + 1, last)
        return (1.0 - part) * self.rows[left] + part * self.rows[right], has


class Ensemble:
    """The newest chunks of an unbroken motion, and their average.

    Args:
        decay: m of the weights.
        most: chunks that are averaged at most.
    """

    def __init__(self, decay: float, most: int) -> None:
        self._decay = decay
        self._chunks: deque[Numbers] = deque(maxlen=most)

    def __len__(self) -> int:
        return len(self._chunks)

    def clear(self) -> None:
        """Forget all: the motion was broken off, and what was planned before is void."""
        self._chunks.clear()

    def mixed(self, new: Numbers) -> np.ndarray:
        """Take a chunk in; [steps, actions] the average for each of its rows."""
        self._chunks.append(new)
        total = np.zeros_like(new.rows)
        weights = np.zeros(len(new.rows))
        rank = np.zeros(len(new.rows))  # of the next chunk among those that have the row
        for chunk in self._chunks:
            rows, has = chunk.at_rows_of(new.begin, new.period, len(new.rows))
            weight = np.where(has, np.exp(-self._decay * rank), 0.0)
            total += weight[:, np.newaxis] * rows
            weights += weight
            rank += has
        return total / weights[:, np.newaxis]
