# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""From a chunk to the points a joint_trajectory_controller takes, and to a hold.

The controller joins points that carry velocities by cubics, drops those whose time has passed, and
refuses a trajectory whose last velocity is not zero. So the rows still ahead of now are sent, with
central differences as velocities and a stop at the end. Velocities are kept where the cubic stays
between its two points (Fritsch and Carlson, SIAM J. Numer. Anal. 17, 1980), so that a chunk inside
the position limits is followed inside them.

Knows arrays and times; knows nothing of ROS or of models.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from quantvla_ros.contract.types import JointLimit
from quantvla_ros.control.chunk import Chunk

# The last segment may be stretched by this factor at most to come to rest within the limits. From
# the mean speed to rest a cubic peaks at 4/3 of the mean, from rest to rest at 3/2.
_LONGEST_STOP = 2.0


@dataclass(frozen=True)
class Trajectory:
    """Timed points with velocities, the last one at rest.

    Attributes:
        stamp: ns; what `times` count from.
        joints: names of the columns.
        times: [points] s after `stamp`, strictly increasing.
        positions: [points, joints] rad or m.
        velocities: [points, joints] rad/s or m/s.
    """

    stamp: int
    joints: tuple[str, ...]
    times: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray

    @property
    def end(self) -> int:
        """ns; when the arm is at rest at the last point."""
        return self.stamp + round(float(self.times[-1]) * 1e9)


def from_chunk(
    chunk: Chunk, limits: Mapping[str, JointLimit], start: np.ndarray, *, late_by: float = 0.0
) -> Trajectory:
    """All rows of a chunk as points, with velocities and a stop at the end.

    Args:
        chunk: positions [steps, joints].
        limits: by joint name; the stop is made long enough for their velocities.
        start: [joints] positions at the chunk's stamp: row -1, so to say.
        late_by: s that every row is put off, for a chunk that starts an arm at rest.
    """
    steps = len(chunk.positions)
    times = (np.arange(steps) + 1.0) * chunk.period + late_by
    velocities = _velocities(
        np.concatenate([[late_by], times]), np.concatenate([start[np.newaxis], chunk.positions])
    )[1:]
    allowed = np.array([limits[name].velocity for name in chunk.joints])
    velocities = np.clip(velocities, -allowed, allowed)
    trajectory = Trajectory(chunk.stamp, chunk.joints, times, chunk.positions, velocities)
    return _with_longer_stop(trajectory, allowed)


def expected(
    chunk: Chunk, start: np.ndarray, instant: int, *, late_by: float = 0.0
) -> np.ndarray:
    """[joints] where a chunk has the joints at `instant` ns, rad or m; see `from_chunk`."""
    times = np.arange(len(chunk.positions) + 1) * chunk.period + late_by
    rows = np.concatenate([start[np.newaxis], chunk.positions])
    time = (instant - chunk.stamp) * 1e-9
    return np.array([np.interp(time, times, column) for column in rows.T])


def ahead(
    trajectory: Trajectory,
    limits: Mapping[str, JointLimit],
    measured: np.ndarray,
    measured_stamp: int,
    now: int,
    *,
    margin: float,
) -> Trajectory | None:
    """The points that can still be reached: not over by `now` + margin, and not too far to get to.

    The old chunk goes on while a policy thinks, so the arm may be off the new one when it arrives;
    a first point that would need more than the velocity limit is skipped for the next one.

    Args:
        trajectory: points of the whole chunk.
        limits: by joint name.
        measured: [joints] the newest measured positions, rad or m.
        measured_stamp: ns; when they were measured.
        now: ns.
        margin: s; a point nearer than this would be over before the controller has it.
    Returns:
        The rest, with the same stamp; None where no point is left in time. Where none is within
        reach all points in time are returned, for the guard to name what is wrong with them.
    """
    elapsed = (now - trajectory.stamp) * 1e-9 + margin
    in_time = np.flatnonzero(trajectory.times > elapsed)
    if in_time.size == 0:
        return None
    allowed = np.array([limits[name].velocity for name in trajectory.joints])
    lead = trajectory.times[in_time] - (measured_stamp - trajectory.stamp) * 1e-9
    needed = np.abs(trajectory.positions[in_time] - measured) / np.maximum(lead, 1e-9)[:, None]
    reachable = (needed <= allowed).all(axis=1)
    first = in_time[np.argmax(reachable)]
    return replace(
        trajectory,
        times=trajectory.times[first:],
        positions=trajectory.positions[first:],
        velocities=trajectory.velocities[first:],
    )


def hold(
    joints: tuple[str, ...],
    position: np.ndarray,
    velocity: np.ndarray,
    limits: Mapping[str, JointLimit],
    now: int,
    *,
    stop_time: float,
) -> Trajectory:
    """Come to rest from the measured motion, evenly, and stay: one point `stop_time` from now.

    From speed v to rest in T at constant deceleration a joint travels v T / 2. The point is kept
    inside the position limits, yet never nearer to the middle than the joint already is.

    Args:
        joints: names of the columns.
        position, velocity: [joints] as measured, rad and rad/s (m and m/s).
        limits: by joint name.
        now: ns.
        stop_time: s.
    """
    lower = np.array([limits[name].lower for name in joints])
    upper = np.array([limits[name].upper for name in joints])
    allowed = np.array([limits[name].velocity for name in joints])
    travel = np.clip(velocity, -allowed, allowed) * stop_time / 2.0
    # A joint that already stands outside its limits is held where it is.
    rest = np.clip(position + travel, np.minimum(lower, position), np.maximum(upper, position))
    return Trajectory(
        now, joints, np.array([stop_time]), rest[np.newaxis], np.zeros((1, len(joints)))
    )


def stop_time(
    joints: tuple[str, ...],
    velocity: np.ndarray,
    limits: Mapping[str, JointLimit],
    *,
    shortest: float,
) -> float:
    """Seconds that a hold from this motion takes: as long as the slowest joint to brake needs.

    Args:
        joints: names of the columns.
        velocity: [joints] rad/s or m/s.
        limits: by joint name; a joint without one for acceleration brakes within `shortest`.
        shortest: s that it takes at least.
    """
    needed = [
        min(abs(float(speed)), limits[name].velocity) / allowed
        for name, speed in zip(joints, velocity, strict=True)
        if (allowed := limits[name].acceleration) is not None
    ]
    return max([shortest, *needed])


def sample(trajectory: Trajectory, instant: int) -> np.ndarray:
    """[joints] positions at `instant` ns, as a controller's cubic between points would give them.

    Before the first point the first position, after the last one the last.
    """
    time = (instant - trajectory.stamp) * 1e-9
    times = trajectory.times
    if time <= times[0]:
        return trajectory.positions[0]
    if time >= times[-1]:
        return trajectory.positions[-1]
    right = int(np.searchsorted(times, time, side='right'))
    span = times[right] - times[right - 1]
    s = (time - times[right - 1]) / span
    p0, p1 = trajectory.positions[right - 1 : right + 1]
    v0, v1 = trajectory.velocities[right - 1 : right + 1] * span
    rise = p1 - p0
    return p0 + s * (v0 + s * (3 * rise - 2 * v0 - v1 + s * (v0 + v1 - 2 * rise)))


def peak_speeds(trajectory: Trajectory) -> np.ndarray:
    """[points - 1, joints] largest speed of the cubic between each two points, rad/s or m/s."""
    span = np.diff(trajectory.times)[:, np.newaxis]
    mean = np.diff(trajectory.positions, axis=0) / span
    v0, v1 = trajectory.velocities[:-1], trajectory.velocities[1:]
    # The speed over s in [0, 1] is v0 + s b + s^2 a.
    a = 3.0 * (v0 + v1) - 6.0 * mean
    b = 6.0 * mean - 4.0 * v0 - 2.0 * v1
    with np.errstate(divide='ignore', invalid='ignore'):
        s = -b / (2.0 * a)
    inside = np.isfinite(s) & (s > 0.0) & (s < 1.0)
    s = np.where(inside, s, 0.0)
    middle = np.abs(v0 + s * (b + s * a))
    return np.maximum(np.maximum(np.abs(v0), np.abs(v1)), middle)


def accelerations(trajectory: Trajectory) -> tuple[np.ndarray, np.ndarray]:
    """[points - 1, joints] twice: acceleration of the cubic after each point and before the next.

    In between it changes evenly, so it is largest at one of the two.
    """
    span = np.diff(trajectory.times)[:, np.newaxis]
    mean = np.diff(trajectory.positions, axis=0) / span
    v0, v1 = trajectory.velocities[:-1], trajectory.velocities[1:]
    return (6.0 * mean - 4.0 * v0 - 2.0 * v1) / span, (2.0 * v0 + 4.0 * v1 - 6.0 * mean) / span


def turning_points(trajectory: Trajectory) -> np.ndarray:
    """[2 (points - 1), joints] where the cubics turn between two points; their start else."""
    span = np.diff(trajectory.times)[:, np.newaxis]
    p0 = trajectory.positions[:-1]
    rise = np.diff(trajectory.positions, axis=0)
    v0, v1 = trajectory.velocities[:-1] * span, trajectory.velocities[1:] * span
    # The speed over s in [0, 1] is v0 + 2 b s + 3 a s^2.
    a, b = v0 + v1 - 2.0 * rise, 3.0 * rise - 2.0 * v0 - v1
    root = np.sqrt(np.maximum(b * b - 3.0 * a * v0, 0.0))
    # Roots of a quadratic without the loss of digits where a is small.
    q = -(b + np.copysign(root, b))
    found = []
    with np.errstate(divide='ignore', invalid='ignore'):
        for s in (q / (3.0 * a), v0 / q):
            s = np.where(np.isfinite(s) & (s > 0.0) & (s < 1.0), s, 0.0)
            found.append(p0 + s * (v0 + s * (b + s * a)))
    return np.concatenate(found)


def _velocities(times: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """[points, joints] central differences that keep every cubic between its two points; last 0."""
    slopes = np.diff(positions, axis=0) / np.diff(times)[:, np.newaxis]
    before, after = slopes[:-1], slopes[1:]
    central = (positions[2:] - positions[:-2]) / (times[2:] - times[:-2])[:, np.newaxis]
    bound = 3.0 * np.minimum(np.abs(before), np.abs(after))
    inner = np.where(before * after > 0.0, np.clip(central, -bound, bound), 0.0)
    ends = np.zeros((1, positions.shape[1]))
    return np.concatenate([slopes[:1], inner, ends])


def _with_longer_stop(trajectory: Trajectory, allowed: np.ndarray) -> Trajectory:
    """Give the last segment the time to come to rest below the velocity limits.

    A chunk that is already above them row by row is left for the guard.
    """
    if len(trajectory.times) < 2:
        return trajectory
    span = trajectory.times[-1] - trajectory.times[-2]
    for factor in np.linspace(1.0, _LONGEST_STOP, 11):
        times = trajectory.times.copy()
        times[-1] = trajectory.times[-2] + factor * span
        candidate = replace(trajectory, times=times)
        if (peak_speeds(candidate)[-1] <= allowed).all():
            return candidate
    return trajectory
