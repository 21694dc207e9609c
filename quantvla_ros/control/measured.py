# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The newest measured positions and velocities of the joints a policy moves.

Joints are found by name in every message. Where a driver leaves velocities empty they are taken
from two positions. Knows sequences of numbers; knows nothing of ROS messages or of limits.
"""
from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# s; two positions nearer than this give a velocity that is mostly noise, two further apart one that
# is over.
_NEAREST, _FURTHEST = 0.002, 0.2


@dataclass(frozen=True)
class Measured:
    """Joints at one instant.

    Attributes:
        stamp: ns.
        position: [joints] rad or m.
        velocity: [joints] rad/s or m/s.
    """

    stamp: int
    position: np.ndarray
    velocity: np.ndarray


class MeasuredJoints:
    """Keeps the newest measurement of `joints`. Safe between threads."""

    def __init__(self, joints: tuple[str, ...]) -> None:
        self._joints = joints
        self._lock = threading.Lock()
        self._latest: Measured | None = None
        self._older: Measured | None = None  # what a velocity is taken against

    @property
    def latest(self) -> Measured | None:
        """The newest measurement, None before the first."""
        with self._lock:
            return self._latest

    def store(
        self,
        stamp: int,
        names: Sequence[str],
        positions: Sequence[float],
        velocities: Sequence[float],
    ) -> bool:
        """Take one joint-state message; False where it lacks a joint or a finite position.

        Such a message is left to the observation buffer to name; here it only changes nothing.
        """
        columns = {name: index for index, name in enumerate(names)}
        try:
            indices = [columns[name] for name in self._joints]
            position = np.array([positions[index] for index in indices], dtype=np.float64)
        except (KeyError, IndexError):
            return False
        if not np.isfinite(position).all():
            return False
        given = len(velocities) == len(names)
        velocity = np.array([velocities[i] if given else math.nan for i in indices])
        with self._lock:
            older = self._older
            if older is not None and stamp < older.stamp:
                older = None  # the clock went back
            if not np.isfinite(velocity).all():
                velocity = self._difference(older, stamp, position)
            self._latest = Measured(stamp, position, velocity)
            if older is None or stamp - older.stamp >= _NEAREST * 1e9:
                self._older = self._latest
        return True

    def clear(self) -> None:
        """Forget everything, as after a jump of the clock."""
        with self._lock:
            self._latest = self._older = None

    def _difference(self, older: Measured | None, stamp: int, position: np.ndarray) -> np.ndarray:
        if older is None:
            return np.zeros_like(position)
        elapsed = (stamp - older.stamp) * 1e-9
        if elapsed > _FURTHEST:
            return np.zeros_like(position)
        if elapsed < _NEAREST:
            return older.velocity
        return (position - older.position) / elapsed
