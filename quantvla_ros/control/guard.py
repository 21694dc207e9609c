# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What may leave the node: pure checks of a chunk, and of the motion made from it.

A chunk that fails is dropped whole, never clamped: a policy that asks for what the arm may not do
has lost the scene, and half of such a chunk is no better. Knows arrays and limits; knows nothing of
ROS, models, or what happens to a chunk that fails (see `nodes.supervisor`).
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np

from quantvla_ros.contract.types import JointLimit
from quantvla_ros.control.chunk import Chunk
from quantvla_ros.control.trajectory import Trajectory, peak_speeds

# Rounding of float32 policies and of times in nanoseconds; far below what any joint resolves.
_SLACK = 1e-6


class Reason(Enum):
    """Why a chunk was dropped."""

    NOT_FINITE = 'the policy returned a value that is not a finite number'
    POSITION_LIMIT = 'the chunk leaves the position limits of a joint'
    VELOCITY_LIMIT = 'the chunk moves a joint faster than its velocity limit'
    START_JUMP = 'the chunk starts too far from the measured joints'
    TOO_LATE = 'every point of the chunk was over before it could be sent'


@dataclass(frozen=True)
class Verdict:
    """Whether a chunk may be sent; if not, the first thing that forbids it.

    Attributes:
        reason: None for a chunk that may be sent.
        joint: name of the joint at fault.
        row: row of the chunk, or point of the trajectory.
        value, limit, unit: what was found and what is allowed.
    """

    reason: Reason | None = None
    joint: str = ''
    row: int = 0
    value: float = 0.0
    limit: float = 0.0
    unit: str = ''

    @property
    def ok(self) -> bool:
        """True for a chunk that may be sent."""
        return self.reason is None

    @property
    def sentence(self) -> str:
        """One sentence for the log, the status message and /diagnostics alike."""
        if self.reason is None:
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


def check(
    chunk: Chunk,
    limits: Mapping[str, JointLimit],
    measured: np.ndarray,
    start_tolerance: float,
    *,
    lead: float | None = None,
) -> Verdict:
    """Judge a chunk against the contract's limits and the joints it was computed from.

    Args:
        chunk: positions [steps, joints], rad or m.
        limits: by joint name; every joint of the chunk has one.
        measured: [joints] positions in the order of `chunk.joints`, rad or m.
        start_tolerance: largest |first row - measured| of any joint, rad or m.
        lead: s between the measurement and the first row; the control period by default.
    """
    positions = chunk.positions
    joints = [limits[name] for name in chunk.joints]
    units = [joint.unit for joint in joints]
    finite = np.isfinite(positions)
    if not finite.all():
        row, column = _first(~finite)
        return Verdict(
            Reason.NOT_FINITE, chunk.joints[column], row, float(positions[row, column]), 0.0,
            units[column],
        )
    lower = np.array([joint.lower for joint in joints])
    upper = np.array([joint.upper for joint in joints])
    outside = (positions < lower - _SLACK) | (positions > upper + _SLACK)
    if outside.any():
        row, column = _first(outside)
        value = float(positions[row, column])
        limit = lower[column] if value < lower[column] else upper[column]
        return Verdict(
            Reason.POSITION_LIMIT, chunk.joints[column], row, value, float(limit), units[column]
        )
    verdict = _start(chunk.joints, units, positions[0], measured, start_tolerance)
    if not verdict.ok:
        return verdict
    periods = np.full(len(positions), chunk.period)
    periods[0] = chunk.period if lead is None else lead
    steps = np.diff(positions, axis=0, prepend=measured[np.newaxis])
    speeds = np.abs(steps) / periods[:, np.newaxis]
    return _speed(chunk.joints, joints, speeds)


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
    joints = [limits[name] for name in trajectory.joints]
    units = [joint.unit for joint in joints]
    first = trajectory.positions[0]
    verdict = _start(trajectory.joints, units, expected, measured, start_tolerance)
    if not verdict.ok:
        return verdict
    lead = trajectory.times[0] - (measured_stamp - trajectory.stamp) * 1e-9
    speeds = np.concatenate(
        [np.abs(first - measured)[np.newaxis] / max(lead, 1e-9), peak_speeds(trajectory)]
    )
    return _speed(trajectory.joints, joints, speeds)


def _start(
    names: tuple[str, ...],
    units: list[str],
    wanted: np.ndarray,
    measured: np.ndarray,
    tolerance: float,
) -> Verdict:
    jump = np.abs(wanted - measured)
    column = int(np.argmax(jump))
    if jump[column] > tolerance + _SLACK:
        return Verdict(
            Reason.START_JUMP, names[column], 0, float(jump[column]), tolerance, units[column]
        )
    return PASSED


def _speed(names: tuple[str, ...], joints: list[JointLimit], speeds: np.ndarray) -> Verdict:
    """[points, joints] speeds, each up to its point, against the joints' limits."""
    allowed = np.array([joint.velocity for joint in joints])
    above = speeds > allowed * (1.0 + _SLACK)
    if not above.any():
        return PASSED
    row, column = _first(above)
    return Verdict(
        Reason.VELOCITY_LIMIT, names[column], row, float(speeds[row, column]),
        float(allowed[column]), f'{joints[column].unit}/s',
    )


def _first(wrong: np.ndarray) -> tuple[int, int]:
    row, column = np.argwhere(wrong)[0]
    return int(row), int(column)
