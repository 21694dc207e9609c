# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""All that an arm and a policy node say, each with the time at which it was heard.

Times are seconds of the monotonic clock, which no fault touches.
"""
from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from quantvla_ros.control.trajectory import Trajectory
from quantvla_ros.faults.measure import Motion, Said, differences
from quantvla_ros.msg import ActionChunk, PolicyStatus
from quantvla_ros.nodes.messages import trajectory_arrays
from quantvla_ros.nodes.states import State
from quantvla_ros.observation.messages import nanoseconds

# As the node offers it, but for the depth: two changes in a row are both heard.
LATCHED = QoSProfile(
    reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL,
    history=HistoryPolicy.KEEP_LAST, depth=20,
)
_KEPT = 20  # messages of each kind, however old
_NAME = 'policy: '  # begins the entries of the node in /diagnostics
_LEVELS = {b'\x00': 'OK', b'\x01': 'WARN', b'\x02': 'ERROR', b'\x03': 'STALE'}


class Record:
    """See the module.

    Args:
        node: subscribes to what the policy node says.
        joints: names, in the order of all positions here.
        now: clock of the arm and the node, ns.

    Attributes:
        said: changes of state or reason.
        status: the newest.
        diagnostics: (time, entry, level, message) of the policy node.
        trajectories: (time, ns of the clock, message) that were commanded.
        chunks: (time, message).
    """

    def __init__(self, node: Node, joints: tuple[str, ...], now: Callable[[], int]) -> None:
        self._names, self._now = joints, now
        # Time, stamp in ns, positions, and velocities where the driver fills them in.
        self._joints: list[tuple[float, int, list[float], list[float] | None]] = []
        self.said: list[Said] = []
        self.status: PolicyStatus | None = None
        self.diagnostics: list[tuple[float, str, str, str]] = []
        self.trajectories: list[tuple[float, int, JointTrajectory]] = []
        self.chunks: list[tuple[float, ActionChunk]] = []
        node.create_subscription(PolicyStatus, 'policy/status', self._on_status, LATCHED)
        node.create_subscription(ActionChunk, 'policy/action_chunk', self._on_chunk, 10)
        node.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)

    def forget(self, before: float) -> None:
        """Drop what was heard before, s; the newest of everything stays."""
        for entries in (self._joints, self.diagnostics, self.trajectories, self.chunks):
            old = bisect_left(entries, before, key=lambda entry: entry[0])
            # In place: another thread appends.
            del entries[: max(0, min(old, len(entries) - _KEPT))]
        old = bisect_left(self.said, before, key=lambda entry: entry.time)
        del self.said[: max(0, min(old, len(self.said) - 1))]

    def motion(self, since: float, until: float) -> Motion:
        """What the arm did in [since, until], s."""
        begin = bisect_left(self._joints, since, key=lambda entry: entry[0])
        entries = [entry for entry in self._joints[begin:] if entry[0] <= until]
        shape = (-1, len(self._names))
        times = np.array([entry[0] for entry in entries])
        positions = np.array([entry[2] for entry in entries]).reshape(shape)
        given = [entry[3] for entry in entries]
        if any(row is None for row in given):
            stamps = np.array([entry[1] for entry in entries]) * 1e-9
            velocities = differences(stamps, positions)
        else:
            velocities = np.array(given).reshape(shape)
        return Motion(times, positions, velocities, self._names)

    @property
    def position(self) -> list[float]:
        """Where the joints were last, rad or m."""
        return self._joints[-1][2]

    def speed(self) -> float:
        """Of the fastest joint now, rad/s or m/s; 0 where nothing was heard for a while."""
        now = time.monotonic()
        motion = self.motion(now - 0.1, now)
        return float(np.abs(motion.velocities[-1]).max()) if len(motion.times) else 0.0

    def commands(self, since: float, until: float) -> tuple[list[Trajectory], float]:
        """What was commanded in [since, until], s, and the command before that.

        Returns:
            The commands, and how late the latest of them was heard: s after its first point.
        """
        first = max(0, bisect_left(self.trajectories, since, key=lambda entry: entry[0]) - 1)
        found, late = [], 0.0
        for at, heard, message in self.trajectories[first:]:
            if at > until or not message.points:
                continue
            names, times, positions, velocities, stamp = trajectory_arrays(message)
            if velocities is not None:
                found.append(Trajectory(stamp or heard, names, times, positions, velocities))
                late = max(late, (heard - found[-1].stamp) * 1e-9 - float(times[0]))
        return found, late

    def lasts(self) -> float | None:
        """For how many s the last command was to last when it was heard; None without one."""
        if not self.trajectories or not self.trajectories[-1][2].points:
            return None
        _, heard, message = self.trajectories[-1]
        last = message.points[-1].time_from_start
        stamp = nanoseconds(message.header.stamp)
        return (stamp + nanoseconds(last) - (heard if stamp else 0)) * 1e-9

    def on_joints(self, message: JointState) -> None:
        """Take joint states as the arm publishes them, before any fault on the way."""
        names = list(message.name)
        try:
            columns = [names.index(name) for name in self._names]
        except ValueError:
            return  # of another part of the robot
        velocity = list(message.velocity)
        self._joints.append((
            time.monotonic(), nanoseconds(message.header.stamp),
            [message.position[column] for column in columns],
            [velocity[column] for column in columns] if len(velocity) == len(names) else None,
        ))

    def on_trajectory(self, message: JointTrajectory) -> None:
        """Take a command."""
        self.trajectories.append((time.monotonic(), self._now(), message))

    def _on_status(self, message: PolicyStatus) -> None:
        self.status = message
        state, said = State(message.state).name, self.said
        if not said or (said[-1].state, said[-1].reason) != (state, message.reason):
            said.append(Said(time.monotonic(), state, message.reason))

    def _on_chunk(self, message: ActionChunk) -> None:
        self.chunks.append((time.monotonic(), message))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        now = time.monotonic()
        for status in message.status:
            if status.name.startswith(_NAME):
                level = _LEVELS.get(bytes(status.level), '?')
                self.diagnostics.append((now, status.name, level, status.message))
