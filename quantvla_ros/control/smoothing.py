# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A motion of bounded acceleration becomes one of bounded jerk: its moving average over time.

With x a motion of even points between which the acceleration is constant (as `splice` makes them),
and T a whole number of their steps,

    y(t) = 1/T * integral of x from t - T to t

keeps what x keeps: positions, speeds and accelerations of y are averages of those of x. Its jerk is
(a(t) - a(t - T)) / T, at most 2 A / T for accelerations up to A; so T >= 2 A / J. Between two
points y is a cubic, so a controller's cubics through its positions and velocities are y itself.

What x was before its first point is chosen as the one parabola that y's position, velocity and
acceleration at that instant are averages of (`leading`): the joined motion has no step in any of
the three. y is T/2 behind x. Knows arrays; knows nothing of chunks or ROS.
"""
from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from quantvla_ros.contract.types import JointLimit
from quantvla_ros.control.trajectory import Trajectory


@dataclass(frozen=True)
class State:
    """A motion at one instant, [joints] each: rad, rad/s, rad/s^2 (m for prismatic joints)."""

    position: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray


def window(
    limits: Mapping[str, JointLimit], joints: tuple[str, ...], acceleration: np.ndarray
) -> float:
    """T in s: what the jerk limits of these joints need; 0 where none has one.

    Args:
        limits: by joint name.
        joints: the joints, which all share one T, so that their path stays one.
        acceleration: [joints] what the motion's accelerations keep below, rad/s^2 or m/s^2.
    """
    needed = [
        2.0 * float(most) / jerk
        for name, most in zip(joints, acceleration, strict=True)
        if (jerk := limits[name].jerk) is not None
    ]
    return max(needed, default=0.0)


def steps(window: float, step: float) -> int:
    """How many steps of `step` s the moving average goes over."""
    return math.ceil(window / step - 1e-9)


def leading(state: State, span: float) -> tuple[np.ndarray, np.ndarray]:
    """[joints] position and velocity of x where y is in this state.

    Args:
        state: of the motion that is commanded, y.
        span: s, T in whole steps.
    """
    position, velocity, acceleration = state.position, state.velocity, state.acceleration
    return (
        position + velocity * span / 2.0 + acceleration * span**2 / 12.0,
        velocity + acceleration * span / 2.0,
    )


def smoothed(motion: Trajectory, state: State, count: int) -> Trajectory:
    """The moving average y of a motion x.

    Args:
        motion: x: even points, the first one from `leading`, the last one at rest.
        state: of y at the first point.
        count: steps of the average; 0 returns x.
    Returns:
        As many points as x has and `count` more, the first one in `state`.
    Raises:
        ValueError: the points are not even in time.
    """
    if count == 0:
        return motion
    step = float(motion.times[1] - motion.times[0])
    if not np.allclose(np.diff(motion.times), step, rtol=0.0, atol=1e-6 * step):
        raise ValueError('expected points at even times')
    span = count * step
    # x before its first point, and at rest after its last.
    since = (np.arange(count) - count)[:, np.newaxis] * step
    first, speed = leading(state, span)
    acceleration = state.acceleration
    rest = np.repeat(motion.positions[-1:], count, axis=0)
    positions = np.concatenate(
        [first + speed * since + acceleration * since**2 / 2.0, motion.positions, rest]
    )
    velocities = np.concatenate(
        [speed + acceleration * since, motion.velocities, np.zeros_like(rest)]
    )
    # The integral of a cubic through two points with velocities, exactly.
    pieces = step * (positions[1:] + positions[:-1]) / 2.0
    pieces += step**2 * (velocities[:-1] - velocities[1:]) / 12.0
    integral = np.concatenate([np.zeros_like(positions[:1]), np.cumsum(pieces, axis=0)])
    y = (integral[count:] - integral[:-count]) / span
    speeds = (positions[count:] - positions[:-count]) / span
    times = motion.times[0] + np.arange(len(y)) * step
    return Trajectory(motion.stamp, motion.joints, times, y, speeds)


def state_of(motion: Trajectory, instant: int) -> State:
    """Where a motion is at `instant` ns, by its cubics; at rest beyond its ends."""
    time, times = (instant - motion.stamp) * 1e-9, motion.times
    still = np.zeros_like(motion.positions[0])
    if time >= times[-1]:
        return State(motion.positions[-1], still, still)
    if time < times[0]:
        return State(motion.positions[0], still, still)
    right = int(np.searchsorted(times, time, side='right'))
    span = times[right] - times[right - 1]
    s = (time - times[right - 1]) / span
    p0, p1 = motion.positions[right - 1 : right + 1]
    v0, v1 = motion.velocities[right - 1 : right + 1] * span
    a, b = v0 + v1 - 2.0 * (p1 - p0), 3.0 * (p1 - p0) - 2.0 * v0 - v1
    return State(
        p0 + s * (v0 + s * (b + s * a)),
        (v0 + s * (2.0 * b + s * 3.0 * a)) / span,
        (2.0 * b + s * 6.0 * a) / span**2,
    )
