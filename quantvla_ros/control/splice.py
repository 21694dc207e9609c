# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""From the motion that is commanded now onto a new chunk, inside the limits whatever the chunk is.

A chunk is a path: rows at even times, joined by cubics. The command follows it as a point that can
only accelerate so much: from where it is and as fast as it goes now, towards the path with the law
of a critically damped spring, whose pull is capped. Between two points of the result the
acceleration is constant, so a controller's cubic through positions and velocities is that very
parabola, and what holds for the points holds between them:

- speed and acceleration never exceed their limits, for they are clipped last;
- positions stay inside their limits, for a speed from which the joint could no longer stop before
  its limit is never taken (the invariant set of a double integrator);
- the last point is at rest: the path's clock is slowed to a stop over its last rows, same path, and
  what is left is braked.

These hold by construction where the start keeps them; how near the command comes to the chunk does
not, and is the guard's to judge. Knows arrays and times; knows nothing of chunks' origin or ROS.
"""
from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from quantvla_ros.control.limits import Bounds
from quantvla_ros.control.trajectory import Trajectory

# s between two points, at most; two for each row of a chunk at least, eight at most.
_SPACING = 0.0125
# s between two points of a stop, at most: nearer than those of any motion that it is made from.
_BRAKING = 0.005
# The spring's frequency times the period between rows: an offset dies out within four rows or so.
STIFFNESS = 0.8
# Part of the acceleration limit that may be spent on coming back to the path, and on its last rows.
_SHARE = 0.5
# s in which a joint reaches its velocity limit, where nothing says how it may accelerate.
_RISE = 0.1


@dataclass(frozen=True)
class Clock:
    """How far a motion's path has been gone at a time: even, then slower, then not at all.

    Attributes:
        slows: ns; from here on it slows down. Until then it is the time itself.
        way: ns of the path that are left then; they take twice as long.
        starts: ns; until then the arm stands, and nothing of any path is gone.
    """

    slows: int
    way: int
    starts: int = 0

    def at(self, instant: int) -> int:
        """ns; the path's time at `instant` ns."""
        if instant <= self.starts:
            return 0
        past = instant - self.slows
        if past <= 0:
            return instant
        if past >= 2 * self.way:
            return self.slows + self.way
        return self.slows + past - round(past * past / (4 * self.way))


@dataclass(frozen=True)
class Motion:
    """What is commanded from an instant on.

    Attributes:
        points: the first one is where it takes over, the last one at rest.
        clock: of the chunk it follows.
    """

    points: Trajectory
    clock: Clock


def standing(points: Trajectory) -> Motion:
    """A trajectory that follows no chunk, such as a hold: its clock goes on to its end."""
    return Motion(points, Clock(points.end, 0))


class Path:
    """Rows of a chunk, joined by cubics that stay between them (Fritsch and Carlson, as in
    `trajectory`), to be evaluated at any time.

    Args:
        rows: [n + 1, joints], the first at time 0.
        period: s between rows.
    """

    def __init__(self, rows: np.ndarray, period: float) -> None:
        self.rows, self.period = rows, period
        slopes = np.diff(rows, axis=0) / period
        before, after = slopes[:-1], slopes[1:]
        bound = 3.0 * np.minimum(np.abs(before), np.abs(after))
        inner = np.where(
            before * after > 0.0, np.clip((before + after) / 2.0, -bound, bound), 0.0
        )
        self.tangents = np.concatenate([slopes[:1], inner, slopes[-1:]])

    @property
    def length(self) -> float:
        """s, to the last row."""
        return (len(self.rows) - 1) * self.period

    def at(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[times, joints] positions and velocities; at rest beyond either end."""
        inside = (times >= 0.0) & (times <= self.length)
        where = np.clip(times, 0.0, self.length) / self.period
        left = np.minimum(where.astype(int), len(self.rows) - 2)
        s = (where - left)[:, np.newaxis]
        p0, p1 = self.rows[left], self.rows[left + 1]
        v0, v1 = self.tangents[left] * self.period, self.tangents[left + 1] * self.period
        rise = p1 - p0
        a, b = v0 + v1 - 2.0 * rise, 3.0 * rise - 2.0 * v0 - v1
        positions = p0 + s * (v0 + s * (b + s * a))
        velocities = (v0 + s * (2.0 * b + s * 3.0 * a)) / self.period
        return positions, np.where(inside[:, np.newaxis], velocities, 0.0)


def spacing(period: float) -> float:
    """Seconds between the points of a motion whose chunk has rows `period` s apart."""
    return period / min(max(math.ceil(period / _SPACING - 1e-9), 2), 8)


def braking_spacing(within: float) -> float:
    """Seconds between the points of a stop that takes `within` s."""
    return within / math.ceil(within / _BRAKING - 1e-9)


def accelerations(bounds: Bounds) -> np.ndarray:
    """[joints] accelerations that a splice keeps to, rad/s^2 or m/s^2."""
    given = bounds.acceleration
    return np.where(np.isfinite(given), given, bounds.velocity / _RISE)


def state_at(trajectory: Trajectory, instant: int) -> tuple[np.ndarray, np.ndarray]:
    """[joints] position and velocity of a trajectory's cubics at `instant` ns.

    Before its first point as in it, after the last one at rest.
    """
    time, times = (instant - trajectory.stamp) * 1e-9, trajectory.times
    if time >= times[-1]:
        return trajectory.positions[-1], np.zeros_like(trajectory.positions[-1])
    if time <= times[0]:
        return trajectory.positions[0], trajectory.velocities[0]
    right = int(np.searchsorted(times, time, side='right'))
    span = times[right] - times[right - 1]
    s = (time - times[right - 1]) / span
    p0, p1 = trajectory.positions[right - 1 : right + 1]
    v0, v1 = trajectory.velocities[right - 1 : right + 1] * span
    rise = p1 - p0
    a, b = v0 + v1 - 2.0 * rise, 3.0 * rise - 2.0 * v0 - v1
    return p0 + s * (v0 + s * (b + s * a)), (v0 + s * (2.0 * b + s * 3.0 * a)) / span


def splice(
    path: Path,
    gone: float,
    position: np.ndarray,
    velocity: np.ndarray,
    bounds: Bounds,
    *,
    stamp: int,
    instant: int,
) -> Motion:
    """Leave the present motion at `instant` for what is left of a path, and stop at its end.

    Args:
        path: of the new chunk.
        gone: s of the path that are over at `instant`; less than its length.
        position, velocity: [joints] of the command at `instant`.
        bounds: of the columns; never exceeded where the start does not.
        stamp: ns; what the result's times count from.
        instant: ns.
    Returns:
        The first point is the start itself.
    """
    step = spacing(path.period)
    acceleration = accelerations(bounds)
    way = _slow_way(path, gone, acceleration)
    even = path.length - way - gone  # s, at full pace
    times = np.arange(1, int(np.ceil((even + 2.0 * way) / step)) + 1) * step
    wanted, speeds = path.at(gone + _slowed(times, even, way))
    speeds = speeds * _pace(times, even, way)[:, np.newaxis]
    follower = _Follower(
        position, velocity, bounds, acceleration, step, STIFFNESS / path.period
    )
    before, before_speed = (values[0] for values in path.at(np.array([gone])))
    for index in range(len(times)):
        follower.towards(before, before_speed, speeds[index])
        before, before_speed = wanted[index], speeds[index]
    while follower.moves:
        follower.brake()
    points = _trajectory(follower, bounds.joints, stamp, instant)
    return Motion(points, Clock(instant + round(even * 1e9), round(way * 1e9)))


def braked(
    position: np.ndarray,
    velocity: np.ndarray,
    bounds: Bounds,
    *,
    stamp: int,
    instant: int,
    within: float,
) -> Trajectory:
    """Leave the present motion at `instant` for a stop: each joint slows evenly.

    Args:
        position, velocity: [joints] of the command at `instant`.
        bounds: of the columns; never exceeded where the start does not.
        stamp: ns; what the result's times count from.
        instant: ns.
        within: s that it takes; less before a position limit, more where a joint may not brake so
            hard.
    Returns:
        The first point is the start itself.
    """
    step = braking_spacing(within)
    speed = np.abs(velocity)
    room = np.where(velocity > 0.0, bounds.upper - position, position - bounds.lower)
    with np.errstate(divide='ignore', invalid='ignore'):
        before_limit = speed**2 / (2.0 * np.maximum(room - speed * step / 2.0, 0.0))
    needed = np.fmax(speed / within, np.where(speed > 0.0, before_limit, 0.0))
    acceleration = np.minimum(needed, accelerations(bounds))
    follower = _Follower(position, velocity, bounds, acceleration, step, 1.0)
    follower.brake()
    while follower.moves:
        follower.brake()
    return _trajectory(follower, bounds.joints, stamp, instant)


def _trajectory(
    follower: _Follower, joints: tuple[str, ...], stamp: int, instant: int
) -> Trajectory:
    """Where a follower has been."""
    times = (instant - stamp) * 1e-9 + np.arange(len(follower.positions)) * follower.step
    return Trajectory(
        stamp, joints, times, np.array(follower.positions), np.array(follower.velocities)
    )


class _Follower:
    """A point per joint that accelerates within its limits; see the module."""

    def __init__(
        self,
        position: np.ndarray,
        velocity: np.ndarray,
        bounds: Bounds,
        acceleration: np.ndarray,
        step: float,
        frequency: float,
    ) -> None:
        self.positions, self.velocities = [position], [velocity]
        self.step = step
        self._bounds, self._frequency = bounds, frequency
        self._reach, self._margin, self._double = (
            acceleration * step, 1.5 * acceleration * step, 2.0 * acceleration
        )
        # Farther off the path it is not pulled harder: it comes at an even speed.
        self._pull = _SHARE * acceleration / frequency**2
        self._decay = float(np.exp(-frequency * step))

    @property
    def moves(self) -> bool:
        """Whether any joint does."""
        return bool((self.velocities[-1] != 0.0).any())

    def towards(self, path: np.ndarray, speed: np.ndarray, next_speed: np.ndarray) -> None:
        """One step, the path being here and this fast now, and that fast after it."""
        # The spring's exact answer after one step, of the offset and of how it changes now.
        offset = _within(path - self.positions[-1], -self._pull, self._pull)
        closing = speed - self.velocities[-1]
        slope = closing + self._frequency * offset
        relative = (closing - self._frequency * slope * self.step) * self._decay
        self._take(next_speed - relative)

    def brake(self) -> None:
        """One step nearer to rest, as fast as is allowed."""
        v = self.velocities[-1]
        self._go(_within(np.zeros_like(v), v - self._reach, v + self._reach))

    def _take(self, wanted: np.ndarray) -> None:
        """Take a speed as far as the limits let it, and go."""
        p, v, bounds = self.positions[-1], self.velocities[-1], self._bounds
        highest = np.minimum(bounds.velocity, self._stoppable(bounds.upper - p, v))
        lowest = np.maximum(-bounds.velocity, -self._stoppable(p - bounds.lower, -v))
        # Acceleration last: where limits contradict each other, brake as hard as is allowed.
        speed = _within(wanted, lowest, highest)
        self._go(_within(speed, v - self._reach, v + self._reach))

    def _go(self, speed: np.ndarray) -> None:
        way = (self.velocities[-1] + speed) * (self.step / 2.0)
        self.positions.append(self.positions[-1] + way)
        self.velocities.append(speed)

    def _stoppable(self, room: np.ndarray, speed: np.ndarray) -> np.ndarray:
        """The largest next speed towards a limit `room` away from which a joint stops before it.

        Way of this step and of braking after it, a step at a time, and a step's to spare, since
        the next splice may begin within one: (v + w) dt / 2 + w^2 / 2a + w dt <= room.
        """
        left = np.maximum(room - speed * (self.step / 2.0), 0.0)
        return np.sqrt(self._margin**2 + self._double * left) - self._margin


def _within(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """As np.clip, several times as fast for a handful of numbers."""
    return np.minimum(np.maximum(values, low), high)


def _slow_way(path: Path, gone: float, acceleration: np.ndarray) -> float:
    """Seconds of path over which its clock is stopped, so that no joint brakes too hard."""
    way = path.period
    for _ in range(2):  # once more, for what is faster farther back
        times = np.linspace(path.length - way, path.length, 8)
        fastest = np.abs(path.at(times)[1]).max(axis=0)
        needed = fastest / (2.0 * _SHARE * acceleration)
        way = min(max(path.period, float(needed.max())), path.length - gone)
    return way


def _slowed(times: np.ndarray, even: float, way: float) -> np.ndarray:
    """Seconds of path gone after `times` s, slowing evenly to a stop after `even` s."""
    past = np.clip(times - even, 0.0, 2.0 * way)
    return np.minimum(times, even) + past - past**2 / (4.0 * max(way, 1e-9))


def _pace(times: np.ndarray, even: float, way: float) -> np.ndarray:
    """What the path's clock runs at after `times` s: 1, then down to 0."""
    past = np.clip(times - even, 0.0, 2.0 * way)
    return 1.0 - past / (2.0 * max(way, 1e-9))


def next_point(points: Trajectory, instant: int) -> int:
    """In ns, when the next point is reached; `instant` where none is left.

    Motions are left at their points: between two a controller's cubic is the motion itself.
    """
    left = np.flatnonzero(points.times >= (instant - points.stamp) * 1e-9 - 1e-9)
    return points.stamp + round(float(points.times[left[0]]) * 1e9) if left.size else instant


def led_to(old: Trajectory, new: Trajectory, now: int) -> Trajectory:
    """The new points, and before them those that the old motion still passes.

    Without them a controller would go to the first new point by a cubic of its own.
    """
    shift = (old.stamp - new.stamp) * 1e-9
    times = old.times + shift
    passed = (times > (now - new.stamp) * 1e-9 + 1e-6) & (times < new.times[0] - 1e-6)
    return replace(
        new,
        times=np.concatenate([times[passed], new.times]),
        positions=np.concatenate([old.positions[passed], new.positions]),
        velocities=np.concatenate([old.velocities[passed], new.velocities]),
    )
