# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Between our arrays and ROS messages. Knows message classes; knows nothing of nodes or topics."""
from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration, Time
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from quantvla_ros.control.chunk import Chunk
from quantvla_ros.control.trajectory import Trajectory
from quantvla_ros.errors import ContractError

_NS = 1_000_000_000


def message_class(type_name: str) -> Any:
    """The class of 'package/msg/Name'.

    Raises:
        ContractError: the package is not installed, or has no such message.
    """
    package, folder, name = type_name.split('/')
    try:
        return getattr(importlib.import_module(f'{package}.{folder}'), name)
    except (ImportError, AttributeError):
        raise ContractError(
            f'{type_name}: expected an installed message type, found none; install the package '
            f'{package} and source its workspace'
        ) from None


def time_message(nanoseconds: int) -> Time:
    """builtin_interfaces/Time of ns since the epoch."""
    return Time(sec=nanoseconds // _NS, nanosec=nanoseconds % _NS)


def duration_message(seconds: float) -> Duration:
    """builtin_interfaces/Duration of seconds, negative ones too."""
    nanoseconds = round(seconds * _NS)
    return Duration(sec=nanoseconds // _NS, nanosec=nanoseconds % _NS)


def trajectory_message(points: Trajectory, frame_id: str) -> JointTrajectory:
    """What a joint_trajectory_controller takes."""
    message = JointTrajectory(joint_names=list(points.joints))
    message.header.stamp = time_message(points.stamp)
    message.header.frame_id = frame_id
    message.points = [
        JointTrajectoryPoint(
            positions=position.tolist(),
            velocities=velocity.tolist(),
            time_from_start=duration_message(float(time)),
        )
        for time, position, velocity in zip(
            points.times, points.positions, points.velocities, strict=True
        )
    ]
    return message


def chunk_trajectory(chunk: Chunk, frame_id: str) -> JointTrajectory:
    """All rows of a chunk, each at the time it is meant for; positions only."""
    message = JointTrajectory(joint_names=list(chunk.joints))
    message.header.stamp = time_message(chunk.stamp)
    message.header.frame_id = frame_id
    message.points = [
        JointTrajectoryPoint(
            positions=row.tolist(), time_from_start=duration_message((index + 1) * chunk.period)
        )
        for index, row in enumerate(chunk.positions)
    ]
    return message


def trajectory_arrays(
    message: JointTrajectory,
) -> tuple[tuple[str, ...], np.ndarray, np.ndarray, np.ndarray | None, int]:
    """Names, times [points] s, positions and velocities [points, joints], header stamp in ns.

    Velocities are None where the points carry none. Lengths are for the controller to check.

    Raises:
        ValueError: the points differ in length, so that they are no array.
    """
    points = message.points
    times = np.array([p.time_from_start.sec + p.time_from_start.nanosec * 1e-9 for p in points])
    positions = np.array([list(p.positions) for p in points], dtype=np.float64)
    given = [len(p.velocities) for p in points]
    velocities = None
    if any(given):
        velocities = np.array([list(p.velocities) for p in points], dtype=np.float64)
    stamp = message.header.stamp.sec * _NS + message.header.stamp.nanosec
    return tuple(message.joint_names), times, positions, velocities, stamp


def diagnostic(
    level: bytes, name: str, hardware_id: str, message: str, values: Mapping[str, object]
) -> DiagnosticStatus:
    """One entry of a DiagnosticArray."""
    return DiagnosticStatus(
        level=level,
        name=name,
        hardware_id=hardware_id,
        message=message,
        values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
    )
