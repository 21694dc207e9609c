# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What may leave the node: pure checks of a whole chunk, and of the motion made from it.

A chunk that asks for a little more than the joints may do is taken slower, along the same path
(`admit`): with its rows a factor k further apart in time, speeds are 1/k, accelerations 1/k^2 and
jerks 1/k^3 of what they were, so the factor needed is known beforehand. One that asks for much more
is dropped whole: a policy that does so has lost the scene, and half of such a chunk is no better.
Positions are never moved: outside its limits a chunk is dropped. What is made of a chunk is judged
once more, as the controller will follow it (`check_motion`).

Knows arrays and limits; knows nothing of ROS, models, or what happens to a chunk that fails.
"""
from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from quantvla_ros.contract.types import JointLimit
from quantvla_ros.control.chunk import Chunk
from quantvla_ros.control.limits import Bounds, bounds
from quantvla_ros.control.trajectory import Trajectory, accelerations, peak_speeds, turning_points

# Rounding of float32 policies and of times in nanoseconds; far below what any joint resolves.
_SLACK = 1e-6
# Of accelerations and jerks, which are differences of differences of such numbers.
_ROUGH = 1e-3
_TURN = 2.0 * math.pi
_CYCLE = 1e-3  # s, of a fast controller


class Reason(Enum):
    """Why a chunk was dropped."""

    NOT_FINITE = 'the policy returned a value that is not a finite number'
    POSITION_LIMIT = 'the chunk leaves the position limits of a joint'
    VELOCITY_LIMIT = 'the chunk moves a joint faster than its velocity limit'
    START_JUMP = 'the chunk starts too far from the measured joints'
    TOO_LATE = 'every point of the chunk was over before it could be sent'
    ACCELERATION_LIMIT = 'the chunk accelerates a joint beyond its limit'
    JERK_LIMIT = 'the chunk changes the acceleration of a joint faster than its limit'
    WORKSPACE = 'the chunk leads the end effector out of its workspace'


@dataclass(frozen=True)
class Verdict:
    """Whether a chunk may be sent; if not, the first thing that forbids it.

    Attributes:
        reason: None for a chunk that may be sent.
        joint: name of the joint at fault.
        row: row of the chunk, or point of the trajectory.
        value, limit, unit: what was found and what is allowed.
        stretch: times as long as planned that the chunk has to take to keep the limits; 1 as it is.
    """

    reason: Reason | None = None
    joint: str = ''
    row: int = 0
    value: float = 0.0
    limit: float = 0.0
    unit: str = ''
    stretch: float = 1.0

    @property
    def ok(self) -> bool:
        """True for a chunk that may be sent."""
        return self.reason is None

    @property
    def sentence(self) -> str:
        """One sentence for the log, the status message and /diagnostics alike."""
        if self.reason is None:
            if self.stretch > 1.0:
                return f'the chunk is within all limits, taken {self.stretch:.2f} times as long'
            return 'the chunk is within all limits'
        if self.reason is Reason.TOO_LATE:
            return f'{self.reason.value}: it came {self.value:.3f} s late'
        if self.reason is Reason.NOT_FINITE:
            return f'{self.reason.value}: {self.joint} is {self.value} in row {self.row}'
        return (
            f'{self.reason.value}: {self.joint} {self.value:.3f} {self.unit} in row {self.row}, '
            f'limit {self.limit:.3f} {self.unit}'
        )


PASSED = Verdict()


@dataclass(frozen=True)
class Admitted:
    """What `admit` made of a chunk.

    Attributes:
        verdict: whether it may be used.
        chunk: the one to use: near the measured joints by whole turns, and slower where needed.
    """

    verdict: Verdict
    chunk: Chunk


def admit(
    chunk: Chunk,
    limits: Mapping[str, JointLimit],
    measured: np.ndarray,
    start_tolerance: float,
    now: int,
    *,
    stretch: float = 1.0,
    lead: float | None = None,
) -> Admitted:
    """Judge a chunk, and make the one of it that keeps the limits where it nearly does.

    Args:
        chunk, limits, measured, start_tolerance, lead: as for `check`.
        now: ns; the row that is due now is due now at any pace.
        stretch: largest factor by which the chunk may be slowed; 1 for never.
    """
    chunk = unwound(chunk, limits, measured)
    verdict = check(chunk, limits, measured, start_tolerance, lead=lead, stretch=stretch)
    if verdict.ok and verdict.stretch > 1.0:
        chunk = slowed(chunk, verdict.stretch, now)
    return Admitted(verdict, chunk)


def check(
    chunk: Chunk,
    limits: Mapping[str, JointLimit],
    measured: np.ndarray,
    start_tolerance: float,
    *,
    lead: float | None = None,
    stretch: float = 1.0,
) -> Verdict:
    """Judge a chunk against the contract's limits and the joints it was computed from.

    Args:
        chunk: positions [steps, joints], rad or m.
        limits: by joint name; every joint of the chunk has one.
        measured: [joints] positions in the order of `chunk.joints`, rad or m.
        start_tolerance: largest |first row - measured| of any joint, rad or m; of continuous joints
            the shortest way around counts.
        lead: s between the measurement and the first row; the control period by default, inf where
            what is made of the chunk does not go to the first row within a period.
        stretch: largest factor by which the chunk may be slowed; `Verdict.stretch` is the one that
            is needed.
    """
    bound = bounds(limits, chunk.joints)
    positions = chunk.positions
    finite = np.isfinite(positions)
    if not finite.all():
        row, column = _first(~finite)
        return Verdict(
            Reason.NOT_FINITE, chunk.joints[column], row, float(positions[row, column]), 0.0,
            bound.units[column],
        )
    verdict = _positions(positions, bound)
    if not verdict.ok:
        return verdict
    start = measured + _shortest(positions[0] - measured, bound)
    verdict = _start(bound, start, measured, start_tolerance)
    if not verdict.ok:
        return verdict
    period = chunk.period
    steps = _shortest(np.diff(positions, axis=0, prepend=positions[:1]), bound)
    steps[0] = start - measured
    periods = np.full(len(positions), period)
    periods[0] = period if lead is None else lead
    rates = steps / periods[:, np.newaxis]
    # The way to the first row is no part of the path: its pace says nothing of the chunk's bends.
    second = np.diff(rates[1:], axis=0) / period
    third = np.diff(second, axis=0) / period
    return _slow_enough(bound, np.abs(rates), np.abs(second), np.abs(third), stretch)


def unwound(chunk: Chunk, limits: Mapping[str, JointLimit], measured: np.ndarray) -> Chunk:
    """The same chunk with its continuous joints the shortest way from the measured ones.

    A policy's angles may lie whole turns from the joint's, and go from pi to -pi between two rows.
    """
    bound = bounds(limits, chunk.joints)
    if not bound.continuous.any() or not np.isfinite(chunk.positions).all():
        return chunk
    positions = chunk.positions.astype(np.float64)
    turned = np.unwrap(positions[:, bound.continuous], axis=0)
    turned -= _TURN * np.round((turned[0] - measured[bound.continuous]) / _TURN)
    positions[:, bound.continuous] = turned
    return replace(chunk, positions=positions)


def slowed(chunk: Chunk, factor: float, now: int) -> Chunk:
    """The same path, `factor` times as slow; the row that is due at `now` ns stays due then."""
    return replace(
        chunk,
        stamp=now - round((now - chunk.stamp) * factor),
        period=chunk.period * factor,
    )


def check_motion(
    trajectory: Trajectory,
    limits: Mapping[str, JointLimit],
    measured: np.ndarray,
    measured_stamp: int,
    expected: np.ndarray,
    start_tolerance: float,
) -> Verdict:
    """Judge what is about to be sent: the points still ahead, joined by the controller's cubics.

    A cubic may run faster between two points than their mean speed, by up to a half; and the arm
    may be elsewhere than the chunk has it by now. So the last check is on the motion itself.

    Args:
        trajectory: the points to send.
        limits: by joint name.
        measured: [joints] the newest measured positions, rad or m.
        measured_stamp: ns; when they were measured.
        expected: [joints] where the chunk has the joints then.
        start_tolerance: largest |expected - measured| of any joint, rad or m.
    """
    bound = bounds(limits, trajectory.joints)
    first = trajectory.positions[0]
    verdict = _start(
        bound, measured + _shortest(expected - measured, bound), measured, start_tolerance
    )
    if not verdict.ok:
        return verdict
    lead = trajectory.times[0] - (measured_stamp - trajectory.stamp) * 1e-9
    way = np.abs(_shortest(first - measured, bound))
    speeds = np.concatenate([way[np.newaxis] / max(lead, 1e-9), peak_speeds(trajectory)])
    verdict = _slow_enough(
        bound, speeds, np.zeros((0, len(first))), np.zeros((0, len(first))), 1.0
    )
    return verdict if not verdict.ok else check_points(trajectory, limits)


def check_points(trajectory: Trajectory, limits: Mapping[str, JointLimit]) -> Verdict:
    """Judge a motion by itself, followed by the controller's cubics from its first point on.

    Finite, inside every position limit between the points too, and within the limits of velocity,
    acceleration and, where there is one, jerk: no step of the acceleration from point to point
    then. A joint that starts outside its position limits may stay there and come back, no further.
    """
    bound = bounds(limits, trajectory.joints)
    for values in (trajectory.positions, trajectory.velocities):
        if not np.isfinite(values).all():
            row, column = _first(~np.isfinite(values))
            return Verdict(
                Reason.NOT_FINITE, bound.joints[column], row, float(values[row, column]), 0.0,
                bound.units[column],
            )
    if not np.isfinite(trajectory.times).all() or (np.diff(trajectory.times) <= 0.0).any():
        return Verdict(Reason.NOT_FINITE, 'time', 0, math.nan)
    first = trajectory.positions[0]
    room = replace(
        bound, lower=np.minimum(bound.lower, first), upper=np.maximum(bound.upper, first)
    )
    verdict = _positions(np.concatenate([trajectory.positions, turning_points(trajectory)]), room)
    if not verdict.ok or len(trajectory.times) < 2:
        return verdict
    leaving, arriving = accelerations(trajectory)
    span = np.diff(trajectory.times)[:, np.newaxis]
    # A step of the acceleration between two segments takes a controller one cycle.
    steps = np.abs(leaving[1:] - arriving[:-1]) / _CYCLE
    jerks = np.concatenate([np.abs(arriving - leaving) / span, steps])
    return _slow_enough(
        bound, peak_speeds(trajectory), np.maximum(np.abs(leaving), np.abs(arriving)), jerks, 1.0
    )


def _positions(positions: np.ndarray, bound: Bounds) -> Verdict:
    outside = (positions < bound.lower - _SLACK) | (positions > bound.upper + _SLACK)
    if not outside.any():
        return PASSED
    row, column = _first(outside)
    value = float(positions[row, column])
    limit = bound.lower[column] if value < bound.lower[column] else bound.upper[column]
    return Verdict(
        Reason.POSITION_LIMIT, bound.joints[column], row, value, float(limit), bound.units[column]
    )


def _start(bound: Bounds, wanted: np.ndarray, measured: np.ndarray, tolerance: float) -> Verdict:
    jump = np.abs(wanted - measured)
    column = int(np.argmax(jump))
    if not jump[column] <= tolerance + _SLACK:  # nor where a number is none
        return Verdict(
            Reason.START_JUMP, bound.joints[column], 0, float(jump[column]), tolerance,
            bound.units[column],
        )
    return PASSED


def _slow_enough(
    bound: Bounds,
    speeds: np.ndarray,
    seconds: np.ndarray,
    thirds: np.ndarray,
    stretch: float,
) -> Verdict:
    """[points, joints] speeds, accelerations and jerks, against the limits and how far they bend.

    Row i of the second and third differences lies i + 1 and i + 1 rows after the first.
    """
    needed = 1.0
    for values, allowed, power, slack, reason, per in (
        (speeds, bound.velocity, 1, _SLACK, Reason.VELOCITY_LIMIT, '/s'),
        (seconds, bound.acceleration, 2, _ROUGH, Reason.ACCELERATION_LIMIT, '/s^2'),
        (thirds, bound.jerk, 3, _ROUGH, Reason.JERK_LIMIT, '/s^3'),
    ):
        excess = values / allowed
        above = ~(excess <= stretch**power * (1.0 + slack))
        if above.any():
            row, column = _first(above)
            return Verdict(
                reason, bound.joints[column], row, float(values[row, column]),
                float(allowed[column]), f'{bound.units[column]}{per}',
            )
        if (excess > 1.0 + slack).any():
            needed = max(needed, float(excess.max()) ** (1.0 / power))
    return PASSED if needed == 1.0 else Verdict(stretch=needed)


def _shortest(ways: np.ndarray, bound: Bounds) -> np.ndarray:
    """[..., joints] the same ways, of continuous joints without whole turns."""
    return np.where(bound.continuous, ways - _TURN * np.round(ways / _TURN), ways)


def _first(wrong: np.ndarray) -> tuple[int, int]:
    row, column = np.argwhere(wrong)[0]
    return int(row), int(column)
