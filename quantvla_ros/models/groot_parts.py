# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A robot's state and action as GR00T takes them: parts, each normalised in its own way.

Knows vectors and statistics; knows nothing of files. The formulas are those of Isaac-GR00T
(gr00t/data/transform/state_action.py), down to what a part without a range becomes.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby

import numpy as np

from quantvla_ros.errors import CheckpointError

# Statistics that a mode cannot do without.
NEEDED: Mapping[str, tuple[str, ...]] = {
    'min_max': ('min', 'max'),
    'quantiles': ('q01', 'q99'),
    'mean_std': ('mean', 'std'),
    'binary': (),
    'sin_cos': (),
}


@dataclass(frozen=True)
class Part:
    """One part.

    Attributes:
        key: its name in the data set.
        mode: one of NEEDED.
        size: how many numbers it has.
        names: of its numbers on the robot; None where nothing says.
        statistics: [size] float32 each, by name.
    """

    key: str
    mode: str
    size: int
    names: tuple[str, ...] | None = None
    statistics: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lacking = [name for name in NEEDED[self.mode] if name not in self.statistics]
        if lacking:
            raise CheckpointError(
                f'{self.key}: {self.mode} needs the statistics {", ".join(NEEDED[self.mode])}, '
                f'found {", ".join(sorted(self.statistics)) or "none"}; pass statistics of the '
                f'training data that have them, or the mode that it was trained with'
            )
        for name, value in self.statistics.items():
            if value.shape != (self.size,) or not np.isfinite(value).all():
                raise CheckpointError(
                    f'{self.key}: {name}: expected {self.size} finite numbers, found '
                    f'{value.tolist()}; pass the statistics of the data it was trained on'
                )
        if self.mode in ('min_max', 'quantiles'):
            low, high = (self.statistics[name] for name in NEEDED[self.mode])
            if (low > high).any():
                raise CheckpointError(
                    f'{self.key}: expected {" <= ".join(NEEDED[self.mode])}, found '
                    f'{low.tolist()} and {high.tolist()}; pass the statistics of the data it was '
                    f'trained on'
                )
        if self.names is not None and len(self.names) != self.size:
            raise CheckpointError(
                f'{self.key}: names: expected {self.size}, one for each number, found '
                f'{len(self.names)} ({", ".join(self.names)})'
            )

    @property
    def width(self) -> int:
        """Numbers that the network sees of it."""
        return 2 * self.size if self.mode == 'sin_cos' else self.size

    def normalize(self, x: np.ndarray) -> np.ndarray:
        """[..., size] in the data's units to [..., width] float32."""
        x = np.asarray(x, np.float32)
        if self.mode == 'sin_cos':
            return np.concatenate((np.sin(x), np.cos(x)), axis=-1)
        if self.mode == 'binary':
            return (x > 0.5).astype(np.float32)
        offset, _, flat, divisor = self._map
        scaled = (x - offset) / divisor
        if self.mode == 'mean_std':
            return np.where(flat, x, scaled)
        scaled = np.float32(2) * scaled - np.float32(1)
        if self.mode == 'min_max':
            return np.where(flat, np.float32(0), scaled)
        return np.clip(np.where(flat, x, scaled), np.float32(-1), np.float32(1))

    def restore(self, y: np.ndarray) -> np.ndarray:
        """[..., size] of the network to the data's units; not for sin_cos."""
        y = np.asarray(y, np.float32)
        if self.mode == 'binary':
            return (y > 0.5).astype(np.float32)
        offset, span, _, _ = self._map
        if self.mode != 'mean_std':
            y = (y + np.float32(1)) / np.float32(2)
        return y * span + offset

    def middle(self) -> np.ndarray:
        """[size] a value in the middle of the data, or 0 where no statistic tells."""
        for low, high in (('mean', 'mean'), ('min', 'max'), ('q01', 'q99')):
            if low in self.statistics and high in self.statistics:
                return (self.statistics[low] + self.statistics[high]) / np.float32(2)
        return np.zeros(self.size, np.float32)

    @cached_property
    def _map(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """[size] each: offset, span, where there is none, and what divides (there 1)."""
        low, high = (self.statistics[name] for name in NEEDED[self.mode])
        span = high if self.mode == 'mean_std' else high - low
        flat = span == 0
        return low, span, flat, np.where(flat, np.float32(1), span)


@dataclass(frozen=True)
class Vector:
    """All parts of a state or of an action, in the order of training.

    Attributes:
        kind: 'state' or 'action'.
        width: of the network's vector, whose rest is zero: that is how it was trained, and no value
            of the robot stands there.
    """

    kind: str
    parts: tuple[Part, ...]
    width: int

    def __post_init__(self) -> None:
        needed = sum(part.width for part in self.parts)
        if needed > self.width:
            raise CheckpointError(
                f'{self.kind}: expected parts of at most {self.width} numbers together, as the '
                f'network takes them, found {needed} ('
                f'{", ".join(f"{part.key}: {part.width}" for part in self.parts)}); correct the '
                f'parts to those of the training data'
            )

    @cached_property
    def size(self) -> int:
        """The robot's numbers."""
        return sum(part.size for part in self.parts)

    @property
    def names(self) -> tuple[str, ...] | None:
        """One for each of the robot's numbers; None where nothing says."""
        found: list[str] = []
        for part in self.parts:
            if part.names is None:
                return None
            found += part.names
        return tuple(found)

    def normalize(self, x: np.ndarray) -> np.ndarray:
        """[..., size] of the robot to the network's [..., width] float32."""
        if x.shape[-1] != self.size:
            raise ValueError(f'{self.kind}: expected {self.size} numbers, found {x.shape[-1]}')
        values = np.zeros((*x.shape[:-1], self.width), np.float32)
        for part, own, place in self._runs:
            values[..., place] = part.normalize(x[..., own])
        return values

    def restore(self, y: np.ndarray) -> np.ndarray:
        """[..., >= size] of the network to [..., size] float32 of the robot."""
        return np.concatenate([part.restore(y[..., own]) for part, own, _ in self._runs], axis=-1)

    def middle(self) -> np.ndarray:
        """[size] a value in the middle of the data."""
        return np.concatenate([part.middle() for part in self.parts])

    @cached_property
    def _runs(self) -> tuple[tuple[Part, slice, slice], ...]:
        """Neighbours of one mode as one part, and its numbers: the robot's, the network's."""
        runs, size, width = [], 0, 0
        for _, parts in groupby(self.parts, lambda part: part.mode):
            for part in _joined(tuple(parts)):
                own, place = slice(size, size + part.size), slice(width, width + part.width)
                runs.append((part, own, place))
                size, width = own.stop, place.stop
        return tuple(runs)


def _joined(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """Parts of one mode as one: each number is normalised by its own statistics alone."""
    mode = parts[0].mode
    if len(parts) == 1 or mode == 'sin_cos':  # all sines of a part stand before its cosines
        return parts
    statistics = {
        name: np.concatenate([part.statistics[name] for part in parts]) for name in NEEDED[mode]
    }
    size = sum(part.size for part in parts)
    return (Part(', '.join(part.key for part in parts), mode, size, statistics=statistics),)
