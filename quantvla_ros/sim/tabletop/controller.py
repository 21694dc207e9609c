# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""ros2_control's joint_trajectory_controller as seen from its topic, in plain Python.

What it keeps to (ros2_controllers, `joint_trajectory_controller/doc/userdoc.rst` and
`trajectory.rst`): stamp 0 means now; a trajectory that ends in the past is refused, the elapsed
points of another are passed over; names, lengths and strictly increasing times are checked; a new
trajectory replaces the running one from its stamp on, starting from where the joints are commanded
to be then; positions alone are joined linearly, with velocities by cubics; the last point is held.
Its last velocity must be zero unless allowed.

Where it differs, on purpose: a trajectory whose stamp lies ahead leaves the running one alone until
then; values that are not finite are refused, as the original does not; velocity and position limits
are enforced while sampling, as the hardware below the original does.

Knows times and arrays; knows nothing of ROS messages, clocks or the arm's geometry.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from quantvla_ros.sim.tabletop.kinematics import Limits

Rows = Sequence[Sequence[float]] | np.ndarray  # one row of numbers per point

_NS = 1_000_000_000
_STILL = 1e-5  # rad/s, below which a last velocity counts as zero


class Rejection(Enum):
    """Why a trajectory is refused, one sentence each."""

    NO_JOINTS = 'the trajectory names no joints'
    UNKNOWN_JOINT = 'the trajectory names a joint that this controller does not have'
    DUPLICATE_JOINT = 'the trajectory names a joint twice'
    MISSING_JOINT = 'the trajectory leaves out a joint; all must be given'
    NO_POINTS = 'the trajectory has no points'
    WRONG_LENGTH = 'a point does not have one number per joint, or a time or velocity is missing'
    NOT_FINITE = 'a point holds a value that is not a number or not finite'
    TIMES_NOT_INCREASING = 'the times from start are negative or do not strictly increase'
    ENDS_IN_PAST = 'the trajectory ends in the past'
    MOVES_AT_END = 'the last point has a velocity other than zero'


@dataclass(frozen=True)
class Reply:
    """The answer to a trajectory: `reason` is None where it was accepted.

    Attributes:
        dropped: elapsed points that were passed over.
        detail: the joint, point or number that the reason is about.
    """

    reason: Rejection | None = None
    detail: str = ''
    dropped: int = 0

    @property
    def accepted(self) -> bool:
        """Whether the trajectory will be followed."""
        return self.reason is None

    def __str__(self) -> str:
        if self.reason is None:
            return f'accepted, {self.dropped} elapsed points passed over'
        return f'{self.reason.value} ({self.detail})' if self.detail else self.reason.value


@dataclass
class _Trajectory:
    """Points still to come; the first one is where the trajectory takes over."""

    times: list[int]  # ns
    positions: np.ndarray  # [n, joints]
    velocities: np.ndarray | None  # [n, joints]

    def sample(self, now: int) -> np.ndarray:
        times = self.times
        if now >= times[-1]:
            return self.positions[-1]
        if now <= times[0]:
            return self.positions[0]
        after = int(np.searchsorted(times, now, 'right'))
        start, end = self.positions[after - 1], self.positions[after]
        span = (times[after] - times[after - 1]) / _NS
        part = (now - times[after - 1]) / _NS / span
        if self.velocities is None:
            return start + (end - start) * part
        return _cubic(start, end, self.velocities[after - 1] * span,
                      self.velocities[after] * span, part)

    def velocity(self, now: int) -> np.ndarray:
        """Velocity by which the trajectory goes on after `now`, rad/s."""
        times = self.times
        if not times[0] <= now < times[-1]:
            return np.zeros_like(self.positions[0])
        after = int(np.searchsorted(times, now, 'right'))
        start, end = self.positions[after - 1], self.positions[after]
        span = (times[after] - times[after - 1]) / _NS
        if self.velocities is None:
            return (end - start) / span
        part = (now - times[after - 1]) / _NS / span
        leaving, arriving = self.velocities[after - 1], self.velocities[after]
        return (6 * part * (1 - part) * (end - start) / span
                + (1 - part) * (1 - 3 * part) * leaving + part * (3 * part - 2) * arriving)


def _cubic(start: np.ndarray, end: np.ndarray, leaving: np.ndarray, arriving: np.ndarray,
           part: float) -> np.ndarray:
    """Hermite's cubic on [0, 1]."""
    square, cube = part * part, part ** 3
    return ((2 * cube - 3 * square + 1) * start + (cube - 2 * square + part) * leaving
            + (3 * square - 2 * cube) * end + (cube - square) * arriving)


class TrajectoryController:
    """Follows joint trajectories inside limits; holds before the first and after the last point.

    Args:
        joints: names, in the order of the positions that `sample` returns.
        limits: enforced while sampling; they never make a trajectory fail.
        positions: where the joints are now, rad; held until the first trajectory.
        now_ns: the time of `positions` on the clock of all later calls.
        allow_velocity_at_end: as the original's `allow_nonzero_velocity_at_trajectory_end`.
    """

    def __init__(self, joints: Sequence[str], limits: Limits, positions: Sequence[float],
                 now_ns: int = 0, *, allow_velocity_at_end: bool = False) -> None:
        self.joints = tuple(joints)
        if len(positions) != len(self.joints) or len(limits.lower) != len(self.joints):
            raise ValueError(f'expected {len(self.joints)} positions and limits, found '
                             f'{len(positions)} and {len(limits.lower)}')
        self._lower, self._upper = np.array(limits.lower), np.array(limits.upper)
        self._speed = np.array(limits.velocity)
        self._allow_velocity_at_end = allow_velocity_at_end
        self.reset(positions, now_ns)

    def reset(self, positions: Sequence[float], now_ns: int) -> None:
        """Forget every trajectory and hold these positions."""
        self._commanded = np.array(positions, float)
        self._time = now_ns
        # In the order of their first points; each is followed until the next one begins.
        self._queue: list[_Trajectory] = []

    @property
    def active(self) -> bool:
        """Whether a point is still to be reached after the last sampled time."""
        return any(trajectory.times[-1] > self._time for trajectory in self._queue)

    def accept(self, joint_names: Sequence[str], times_from_start: Sequence[float],
               positions: Rows, velocities: Rows | None, stamp_ns: int, now_ns: int) -> Reply:
        """Take a trajectory, or say why not; a refused one leaves the running one alone.

        Args:
            joint_names: all of the controller's joints, in any order.
            times_from_start: [n] s after the stamp.
            positions: [n, joints] rad, columns as in `joint_names`.
            velocities: [n, joints] rad/s, or None (or empty) for positions alone.
            stamp_ns: when it starts; 0 means now.
            now_ns: the present.
        """
        if velocities is not None and not len(velocities):
            velocities = None
        problem = (self._check_names(joint_names)
                   or self._check_points(times_from_start, positions, velocities))
        if problem is not None:
            return problem
        order = [list(joint_names).index(joint) for joint in self.joints]
        places = np.array(positions, float)[:, order]
        speeds = None if velocities is None else np.array(velocities, float)[:, order]
        if (speeds is not None and not self._allow_velocity_at_end
                and np.abs(speeds[-1]).max() > _STILL):
            joint = int(np.abs(speeds[-1]).argmax())
            return Reply(Rejection.MOVES_AT_END,
                         f'{self.joints[joint]}: {speeds[-1, joint]:.4g} rad/s')
        start = stamp_ns if stamp_ns else now_ns
        times = [start + round(time * _NS) for time in times_from_start]
        # A stamp of 0 cannot end in the past, not even with one point at time 0.
        if stamp_ns and times[-1] < now_ns:
            return Reply(Rejection.ENDS_IN_PAST, f'by {(now_ns - times[-1]) / _NS:.3f} s')
        first = next((i for i, time in enumerate(times) if time > now_ns), len(times) - 1)
        self._splice(_Trajectory(times[first:], places[first:],
                                 None if speeds is None else speeds[first:]),
                     max(start, now_ns), now_ns)
        return Reply(dropped=first)

    def sample(self, now_ns: int) -> np.ndarray:
        """Positions commanded at a time, [joints] rad, inside the limits.

        Time going backwards holds the last command.
        """
        if now_ns <= self._time:
            return self._commanded.copy()
        while len(self._queue) > 1 and now_ns >= self._queue[1].times[0]:
            self._queue.pop(0)
        if self._queue and now_ns >= self._queue[0].times[0]:
            reach = self._speed * ((now_ns - self._time) / _NS)
            wanted = np.clip(self._queue[0].sample(now_ns), self._lower, self._upper)
            self._commanded = np.clip(wanted, self._commanded - reach, self._commanded + reach)
        self._time = now_ns
        return self._commanded.copy()

    def _splice(self, new: _Trajectory, begin: int, now_ns: int) -> None:
        """Let `new` take over at `begin`, from where the joints are commanded to be then."""
        self.sample(now_ns)
        self._queue = [old for old in self._queue if old.times[0] < begin]
        before = self._queue[-1] if self._queue else None
        if new.times[0] > begin:
            place, speed = self._commanded, np.zeros(len(self.joints))
            if before is not None:
                speed = before.velocity(begin)
                # Now, limits may keep the command from where the trajectory would have it.
                place = before.sample(begin) if begin > now_ns else place
            new.times.insert(0, begin)
            new.positions = np.vstack([place, new.positions])
            if new.velocities is not None:
                new.velocities = np.vstack([speed, new.velocities])
        self._queue.append(new)

    def _check_names(self, names: Sequence[str]) -> Reply | None:
        if not len(names):
            return Reply(Rejection.NO_JOINTS)
        for name in names:
            if name not in self.joints:
                return Reply(Rejection.UNKNOWN_JOINT,
                             f'{name!r}; known are {", ".join(self.joints)}')
            if list(names).count(name) > 1:
                return Reply(Rejection.DUPLICATE_JOINT, name)
        missing = [joint for joint in self.joints if joint not in names]
        if missing:
            return Reply(Rejection.MISSING_JOINT, ', '.join(missing))
        return None

    def _check_points(self, times: Sequence[float], positions: Rows,
                      velocities: Rows | None) -> Reply | None:
        if not len(times) and not len(positions):
            return Reply(Rejection.NO_POINTS)
        if len(times) != len(positions):
            return Reply(Rejection.WRONG_LENGTH, f'{len(times)} times, {len(positions)} points')
        if velocities is not None and len(velocities) != len(positions):
            return Reply(Rejection.WRONG_LENGTH,
                         f'{len(positions)} points, {len(velocities)} of them with velocities')
        for name, rows in (('positions', positions), ('velocities', velocities)):
            for index, row in enumerate(rows if rows is not None else ()):
                if len(row) != len(self.joints):
                    return Reply(Rejection.WRONG_LENGTH, f'point {index} has {len(row)} {name} '
                                                         f'for {len(self.joints)} joints')
                if not np.isfinite(row).all():
                    return Reply(Rejection.NOT_FINITE, f'{name} of point {index}')
        if not np.isfinite(times).all():
            return Reply(Rejection.NOT_FINITE, 'time from start')
        for index, (before, time) in enumerate(zip((-np.inf, *times), times, strict=False)):
            if time < 0.0 or time <= before:
                return Reply(Rejection.TIMES_NOT_INCREASING, f'point {index} at {time} s')
        return None
