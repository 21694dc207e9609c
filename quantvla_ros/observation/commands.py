# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Recorded commands as a function of time: what the arm was told at an instant, by joint name.

Knows JointState and JointTrajectory messages and the contract's action space; knows nothing of
bags or pictures. The convention is the chunk's: the command of instant t says where the joints
are to be one control period later, so row i of a chunk made at t is the command of t + i periods.
"""
from __future__ import annotations

import bisect
from typing import NamedTuple, cast

import numpy as np

from quantvla_ros.contract.types import ActionKind, Contract
from quantvla_ros.errors import ObservationError
from quantvla_ros.observation.messages import (
    NS_PER_S,
    JointState,
    JointTrajectory,
    header_stamp,
    nanoseconds,
)
from quantvla_ros.observation.state import joint_positions, named_values


class _Trajectory(NamedTuple):
    times: np.ndarray  # [points] ns
    positions: np.ndarray  # [points, joints]


class RecordedCommands:
    """All commands of a recording, in the order of their stamps.

    Attributes:
        joints: the columns: all joints that the contract's action moves.
        unusable: messages that name no full command (a joint missing, NaN, times in disorder).
        replaced: messages with the stamp of another one; the one recorded later counts.
    """

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._period = round(contract.control_period * NS_PER_S)
        # The answer to an observation is given a little after it.
        self._grace = self._period // 2
        self._hold = 2 * self._period  # how long a command is in force when none follows
        self.joints = tuple(
            name for part in contract.action.parts if part.kind is not ActionKind.TWIST
            for name in part.names
        )
        self.unusable = 0
        self.replaced = 0
        self._by_stamp: dict[int, np.ndarray | _Trajectory] = {}
        self._stamps: list[int] | None = None

    def __len__(self) -> int:
        return len(self._by_stamp)

    def add(self, message: JointState | JointTrajectory, time: int) -> None:
        """Take a message recorded at `time` (ns), in the order of recording."""
        stamp = header_stamp(message) or time  # zero means now, to a trajectory controller
        command: np.ndarray | _Trajectory
        try:
            command = (
                self._trajectory(cast(JointTrajectory, message), stamp)
                if hasattr(message, 'points')
                else joint_positions(cast(JointState, message), self.joints)
            )
        except ObservationError:
            self.unusable += 1
            return
        self.replaced += stamp in self._by_stamp
        self._by_stamp[stamp] = command
        self._stamps = None

    def at(self, instant: int) -> np.ndarray | None:
        """The command of an instant.

        Joint positions: the command nearest to it. A trajectory: the newest one, at the position
        it has one control period later. Two control periods after its end a command is over.

        Args:
            instant: ns.

        Returns:
            [joints] float64, rad or m; None where nothing was commanded then.
        """
        if self._stamps is None:
            self._stamps = sorted(self._by_stamp)
        after = bisect.bisect_right(self._stamps, instant + self._grace)
        if after == 0:
            return None
        stamp = self._stamps[after - 1]
        command = self._by_stamp[stamp]
        if isinstance(command, _Trajectory):
            when = instant + self._period
            if when - command.times[-1] > self._hold:
                return None
            return np.array([np.interp(when, command.times, column)
                             for column in command.positions.T])
        while after > 1 and abs(self._stamps[after - 2] - instant) <= abs(stamp - instant):
            after -= 1
            stamp = self._stamps[after - 1]
        if instant - stamp > self._hold:
            return None
        nearest = self._by_stamp[stamp]
        assert isinstance(nearest, np.ndarray)
        return nearest

    def action(self, instant: int, state: np.ndarray) -> np.ndarray | None:
        """The command of an instant in the policy's numbers.

        Args:
            instant: ns.
            state: [state] the observation that the action answers; deltas start from it.

        Returns:
            [action] float32 in the order of the contract; None where nothing was commanded then,
            or where a part is a twist, which joint commands do not tell.
        """
        parts = self._contract.action.parts
        command = self.at(instant)
        if command is None or any(part.kind is ActionKind.TWIST for part in parts):
            return None
        columns = {name: index for index, name in enumerate(self.joints)}
        measured = {name: index for index, name in enumerate(self._contract.state_names)}
        numbers: list[float] = []
        for part in parts:
            for name in part.names:
                position = float(command[columns[name]])
                if part.kind is ActionKind.JOINT_DELTA:
                    position -= float(state[measured[name]])
                elif part.kind is ActionKind.GRIPPER:
                    assert part.model_range is not None and part.joint_range is not None
                    (closed, opened), (low, high) = part.model_range, part.joint_range
                    position = closed + (position - low) * (opened - closed) / (high - low)
                numbers.append(position)
        return np.array(numbers, np.float32)

    def _trajectory(self, message: JointTrajectory, stamp: int) -> _Trajectory:
        if len(message.points) == 0:
            raise ObservationError('expected points, found an empty trajectory')
        times = np.array([stamp + nanoseconds(point.time_from_start) for point in message.points],
                         np.float64)
        if (np.diff(times) <= 0).any():
            raise ObservationError('expected increasing times, found points in disorder')
        positions = [named_values(message.joint_names, point.positions, self.joints, 'position')
                     for point in message.points]
        return _Trajectory(times, np.stack(positions))
