# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Cameras that send the same picture again and again, with stamps that are always new.

A sensor's noise makes no two pictures alike, but a simulator's may be alike while nothing moves. So
the same bytes for a while are held against a camera only where the arm moved meanwhile: while it
stands, an old picture does no harm. Knows bytes, stamps and joint positions; knows nothing of ROS.
"""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from quantvla_ros.contract.types import Freshness
from quantvla_ros.observation.types import Fault, Reason

_S = 1_000_000_000  # ns


@dataclass
class _Kept:
    """A picture, since when it has been coming, and how far the arm moved since then."""

    data: Any
    since: int  # ns; its first stamp
    last: int  # ns; its newest stamp
    position: np.ndarray | None
    moved: float = 0.0


class FrozenPictures:
    """Compares each camera's pictures with the one before.

    Args:
        freshness: limits of the contract.
        turning: [joints] bool, those that turn without end.
    """

    def __init__(self, freshness: Freshness, turning: Iterable[bool] = ()) -> None:
        self._limit, self._moved = freshness.frozen, freshness.moved
        self._turning = np.array(list(turning), dtype=bool)
        self._kept: dict[str, _Kept] = {}

    def look(self, camera: str, stamp: int, data: Any, position: np.ndarray | None) -> None:
        """Take a picture; one that has been taken already changes nothing.

        Args:
            camera: its name.
            stamp: ns; of the picture.
            data: its bytes, compressed or not, in anything that has a buffer.
            position: [joints] rad or m, where the arm is; None where that is not known.
        """
        kept = self._kept.get(camera)
        if kept is not None and kept.last == stamp:
            return
        if kept is None or stamp < kept.last or not _alike(kept.data, data):
            self._kept[camera] = _Kept(data, stamp, stamp, position)
            return
        kept.last = stamp
        if position is None:
            return
        if kept.position is None:
            kept.position = position
        way = np.abs(position - kept.position)
        if self._turning.any():
            turned = np.abs(np.mod(way + np.pi, 2.0 * np.pi) - np.pi)
            way = np.where(self._turning, turned, way)
        kept.moved = max(kept.moved, float(way.max(initial=0.0)))

    def same_for(self, camera: str) -> float:
        """For how many s a camera has sent the picture that it sent last."""
        kept = self._kept.get(camera)
        return (kept.last - kept.since) / _S if kept else 0.0

    def moved(self, camera: str) -> float:
        """How far, rad or m, a joint was from where it was when that picture came first."""
        kept = self._kept.get(camera)
        return kept.moved if kept else 0.0

    def fault(self, camera: str) -> Fault | None:
        """What is to be held against a camera."""
        same = self.same_for(camera)
        if self._limit is None or same <= self._limit or self.moved(camera) <= self._moved:
            return None
        return Fault(
            Reason.FROZEN, camera, same, self._limit,
            f'a joint moved by {self.moved(camera):.2f} rad or m meanwhile',
        )

    def forget(self) -> None:
        """Begin anew, as after a jump of the clock."""
        self._kept.clear()


def _alike(one: Any, other: Any) -> bool:
    first, second = np.frombuffer(one, np.uint8), np.frombuffer(other, np.uint8)
    return len(first) == len(second) and bool(np.array_equal(first, second))
