# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The shape of the messages that become an observation: rclpy's and rosbags' alike.

Protocols only: what is read from a message, by the names of the ROS 2 interfaces. Knows nothing of
rclpy or rosbags; both fit without conversion.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

NS_PER_S = 1_000_000_000


class Time(Protocol):
    """builtin_interfaces/msg/Time and Duration."""

    sec: int
    nanosec: int


class Header(Protocol):
    """std_msgs/msg/Header."""

    stamp: Time
    frame_id: str


class Image(Protocol):
    """sensor_msgs/msg/Image; data: array('B'), bytes or a uint8 array."""

    header: Header
    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: Any


class CompressedImage(Protocol):
    """sensor_msgs/msg/CompressedImage."""

    header: Header
    format: str
    data: Any


class JointState(Protocol):
    """sensor_msgs/msg/JointState: rad or m, rad/s or m/s."""

    header: Header
    name: Sequence[str]
    position: Sequence[float]


class JointTrajectoryPoint(Protocol):
    """trajectory_msgs/msg/JointTrajectoryPoint."""

    positions: Sequence[float]
    time_from_start: Time


class JointTrajectory(Protocol):
    """trajectory_msgs/msg/JointTrajectory."""

    header: Header
    joint_names: Sequence[str]
    points: Sequence[JointTrajectoryPoint]


class String(Protocol):
    """std_msgs/msg/String."""

    data: str


def nanoseconds(time: Time) -> int:
    """A stamp or a duration as ns."""
    return int(time.sec) * NS_PER_S + int(time.nanosec)


def header_stamp(message: object) -> int | None:
    """The header stamp in ns; None where the message's type has no header."""
    header = getattr(message, 'header', None)
    return None if header is None else nanoseconds(header.stamp)
