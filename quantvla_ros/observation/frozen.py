# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Cameras that send the same picture again and again, with stamps that are always new.

A sensor's noise makes no two pictures alike, but a simulator's may be alike while nothing moves. So
the same bytes for a while are held against a camera only where the arm moved meanwhile: while it
stands, an old picture does no harm. Knows bytes, stamps and joint positions, and the buffer that
they come into; knows nothing of ROS.
"""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from quantvla_ros.contract.types import JOINT_STREAM, Contract, Freshness
from quantvla_ros.errors import ObservationError
from quantvla_ros.observation.buffer import ObservationBuffer
from quantvla_ros.observation.state import joint_positions
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


class FrozenCameras(FrozenPictures):
    """The same for all cameras of a contract, whose pictures and joints come into a buffer.

    Args:
        contract: which cameras, which joints, and the limits.
        buffer: told of those that are not to be trusted.
    """

    def __init__(self, contract: Contract, buffer: ObservationBuffer) -> None:
        joints, limits = contract.joint_states.joints, contract.limits
        super().__init__(
            contract.freshness, [name in limits and limits[name].continuous for name in joints]
        )
        self._cameras = [camera.name for camera in contract.cameras]
        self._joints, self._buffer = joints, buffer
        self._seen: dict[str, int] = {}

    def look_at_all(self) -> None:
        """Compare each new picture with the one before; to be called many times a second."""
        faults: list[Fault] = []
        for camera in self._cameras:
            latest = self._buffer.latest(camera)
            if latest is not None and self._seen.get(camera) != latest.stamp:
                self._seen[camera] = latest.stamp
                self.look(
                    camera, latest.stamp, latest.message.data, self._positions(latest.stamp)
                )
            fault = self.fault(camera)
            if fault is not None:
                faults.append(fault)
        self._buffer.distrust(faults)

    def _positions(self, stamp: int) -> np.ndarray | None:
        """[joints] rad or m, where the arm was about `stamp` ns; None where that is not known.

        Joints that went silent while the arm moved on would make a picture of the arm at rest one
        during which it moved, as soon as they are back.
        """
        latest = self._buffer.latest(JOINT_STREAM)
        limit = self._buffer.limit(JOINT_STREAM)
        if latest is None or abs(stamp - latest.stamp) > limit * _S:
            return None
        try:
            return joint_positions(latest.message, self._joints)
        except ObservationError:  # the buffer names it
            return None


def _alike(one: Any, other: Any) -> bool:
    first, second = np.frombuffer(one, np.uint8), np.frombuffer(other, np.uint8)
    return len(first) == len(second) and bool(np.array_equal(first, second))
