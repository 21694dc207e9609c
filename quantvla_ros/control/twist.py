# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""End-effector twists as a path of displacements, so that all that joints have holds for them too.

The displacement of an axis is the integral of its speed: a coordinate without position limits, its
speed, acceleration and jerk are those of the end effector. Guard, splice and smoothing work on it
as on joints; MoveIt Servo gets its speeds back. Rotations are integrated axis by axis, which is
right for what is limited (their speeds), and is never used as a pose. Where the end effector may
be is judged in the frame of the twist, from its measured position. Knows arrays; knows nothing of
ROS.
"""
from __future__ import annotations

import numpy as np

from quantvla_ros.contract.types import Workspace
from quantvla_ros.control.guard import PASSED, Reason, Verdict

AXES = 6
_SLACK = 1e-6  # m


def displacements(twists: np.ndarray, period: float) -> np.ndarray:
    """[steps, 6] where each axis has got to by the end of each row, m and rad, from 0 before it.

    Args:
        twists: [steps, 6] m/s and rad/s, each held for one period.
        period: s.
    Raises:
        ValueError: the twists have another shape.
    """
    if twists.ndim != 2 or twists.shape[1] != AXES:
        raise ValueError(f'expected twists [steps, {AXES}], found {twists.shape}')
    return np.cumsum(twists.astype(np.float64), axis=0) * period


def gone_by(twists: np.ndarray, period: float, gone: float) -> np.ndarray:
    """[6] how far a chunk of twists has led after `gone` s, m and rad.

    Args:
        twists: [steps, 6] m/s and rad/s.
        period, gone: s.
    """
    path = np.concatenate([np.zeros((1, AXES)), displacements(twists, period)])
    times = np.arange(len(path)) * period
    return np.array([np.interp(gone, times, column) for column in path.T])


def check_workspace(
    path: np.ndarray, position: np.ndarray, workspace: Workspace
) -> Verdict:
    """Judge where displacements lead the end effector.

    An end effector outside its box may come back, and go no further out.

    Args:
        path: [steps, 3 or more] displacements, of which the first three are along x, y, z: m.
        position: [3] of the end effector where the displacements are 0, in the twist's frame, m.
        workspace: the box.
    """
    places = position + path[:, :3]
    lower = np.minimum(workspace.lower, position) - _SLACK
    upper = np.maximum(workspace.upper, position) + _SLACK
    # A number that is none is outside as well.
    outside = ~((places >= lower) & (places <= upper))
    if not outside.any():
        return PASSED
    row, column = (int(index) for index in np.argwhere(outside)[0])
    value = float(places[row, column])
    side = workspace.lower if value < workspace.lower[column] else workspace.upper
    return Verdict(Reason.WORKSPACE, 'xyz'[column], row, value, float(side[column]), 'm')
