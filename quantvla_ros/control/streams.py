# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What of a planned motion goes to whom, and when: what is left of it, whose joints, how fast now.

For outputs that cannot take a trajectory as it is. Knows arrays and times; knows nothing of ROS.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from quantvla_ros.control.smoothing import state_of
from quantvla_ros.control.trajectory import Trajectory

# 1/s; a joint that is off its plan is brought back within half a second or so. Much faster than
# that the delay between a measurement and the arm's answer would make it swing.
CORRECTION = 2.0
# Least part of a joint's travel that counts as moving.
_STILL = 1e-6


def remaining(points: Trajectory, now: int) -> Trajectory:
    """The points whose time has not passed; of one that is over, the last.

    Args:
        points: strictly increasing times.
        now: ns.
    """
    left = np.flatnonzero(points.times > (now - points.stamp) * 1e-9)
    first = left[0] if left.size else len(points.times) - 1
    if first == 0:
        return points
    return replace(
        points, times=points.times[first:], positions=points.positions[first:],
        velocities=points.velocities[first:],
    )


def columns(points: Trajectory, joints: Sequence[str]) -> Trajectory:
    """The same motion of some of its joints."""
    chosen = [points.joints.index(name) for name in joints]
    return replace(
        points, joints=tuple(joints), positions=points.positions[:, chosen],
        velocities=points.velocities[:, chosen],
    )


def heading(points: Trajectory, joint: str, now: int) -> float:
    """Where a joint is going: the end of the way that it is on at `now` ns, rad or m.

    A gripper that closes over several points is told once to close, not once per point. A joint
    that stands goes where it is.
    """
    column = points.joints.index(joint)
    here = state_of(columns(points, [joint]), now).position[0]
    time = max((now - points.stamp) * 1e-9, float(points.times[0]))
    ahead = points.positions[points.times > time, column]
    way = np.diff(ahead, prepend=here)
    still = _STILL * max(1e-3, float(np.abs(points.positions[:, column]).max(initial=0.0)))
    direction = 0.0
    for step, position in zip(way, ahead, strict=True):
        if abs(step) <= still:
            break
        if direction and np.sign(step) != direction:
            break
        direction, here = float(np.sign(step)), position
    return float(here)


def speeds(
    points: Trajectory,
    now: int,
    allowed: np.ndarray,
    measured: np.ndarray | None = None,
    measured_stamp: int = 0,
) -> np.ndarray:
    """[joints] speeds that follow a plan: its own, and back to it where the joints are off.

    Args:
        points: the plan.
        now: ns.
        allowed: [joints] limits, rad/s or m/s; the correction never exceeds them.
        measured: [joints] positions at `measured_stamp` ns; None for the plan's own speeds.
    """
    speed = state_of(points, now).velocity
    if measured is not None:
        off = state_of(points, measured_stamp).position - measured
        speed = speed + CORRECTION * off
    return np.clip(speed, -allowed, allowed)
