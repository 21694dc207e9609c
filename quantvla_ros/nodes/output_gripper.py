# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A gripper that is commanded apart from the arm: a topic of its own, or the GripperCommand action.

A trajectory controller gets the gripper's part of each motion. The others know only where to go: a
forward controller is told the planned position of the present at an even rate, an action the end of
the way that the gripper is on, once. A hold lets a gripper be: it may hold something.
"""
from __future__ import annotations

import threading
from functools import partial
from typing import Any

from rclpy.action import ActionClient
from rclpy.lifecycle import LifecycleNode
from rclpy.task import Future
from std_msgs.msg import Float64MultiArray

from quantvla_ros.contract.types import GripperKind, GripperOutput
from quantvla_ros.control.smoothing import state_of
from quantvla_ros.control.streams import columns, heading
from quantvla_ros.control.trajectory import Trajectory
from quantvla_ros.nodes.output import COMMAND_QOS, Surroundings
from quantvla_ros.nodes.output_messages import interface
from quantvla_ros.nodes.output_ticker import Ticker
from quantvla_ros.nodes.output_trajectory import TrajectoryOutput

_RATE = 50.0  # Hz


def gripper_output(
    node: LifecycleNode, gripper: GripperOutput, frame_id: str, around: Surroundings
) -> TrajectoryGripper | PositionGripper | CommandGripper:
    """The way to a gripper that the contract chose."""
    if gripper.kind is GripperKind.TRAJECTORY:
        return TrajectoryGripper(node, gripper, frame_id)
    kind = PositionGripper if gripper.kind is GripperKind.POSITION else CommandGripper
    return kind(node, gripper, around)


class TrajectoryGripper(TrajectoryOutput):
    """A joint_trajectory_controller of the gripper's own."""

    def __init__(self, node: LifecycleNode, gripper: GripperOutput, frame_id: str) -> None:
        super().__init__(node, gripper.name, frame_id)
        self._joint = gripper.joint

    def send(self, points: Trajectory) -> None:
        """Publish the gripper's part of a motion."""
        super().send(columns(points, [self._joint]))

    def hold(self, points: Trajectory) -> None:
        """Nothing: the gripper ends what it was told."""


class _Streamed:
    """What the two others share: the present motion, looked at by a ticker.

    Args:
        node: of the ticker.
        gripper: whose joint.
    """

    def __init__(self, node: LifecycleNode, gripper: GripperOutput) -> None:
        self._node, self.name, self._joint = node, gripper.name, gripper.joint
        self.topic_type = None
        self.problem = ''
        self._lock = threading.Lock()
        self._points: Trajectory | None = None

    def send(self, points: Trajectory) -> None:
        """Follow this motion from now on."""
        with self._lock:
            self._points = points

    def hold(self, points: Trajectory) -> None:
        """Nothing further: the gripper stays where it was told to go."""
        with self._lock:
            self._points = None

    def others_until(self, message: Any, now: int) -> int | None:
        """Others may use the gripper: its motion is no reason to pause."""
        return None

    def wait_until_received(self) -> None:
        """Nothing to wait for: a hold sends nothing."""

    def _present(self) -> tuple[Trajectory | None, int]:
        with self._lock:
            return self._points, self._node.get_clock().now().nanoseconds

    def _crashed(self, error: Exception) -> None:
        self._node.crashed(error)


class PositionGripper(_Streamed):
    """A forward controller's topic of positions."""

    def __init__(
        self, node: LifecycleNode, gripper: GripperOutput, around: Surroundings
    ) -> None:
        super().__init__(node, gripper)
        self._publisher = node.create_lifecycle_publisher(
            Float64MultiArray, gripper.name, COMMAND_QOS
        )
        self._ticker = Ticker(self._tick, _RATE, f'gripper {gripper.joint}', self._crashed)

    def listeners(self) -> int:
        """Subscribers of the topic."""
        return self._publisher.get_subscription_count()

    def rivals(self) -> int:
        """Other publishers of the topic."""
        return max(0, self._node.count_publishers(self._node.resolve_topic_name(self.name)) - 1)

    def facts(self) -> dict[str, object]:
        """Nothing further."""
        return {}

    def close(self) -> None:
        """Stop to stream and destroy the publisher."""
        self._ticker.close()
        self._node.destroy_lifecycle_publisher(self._publisher)

    def _tick(self) -> None:
        points, now = self._present()
        if points is not None:
            position = state_of(columns(points, [self._joint]), now).position[0]
            self._publisher.publish(Float64MultiArray(data=[float(position)]))


class CommandGripper(_Streamed):
    """The action control_msgs/GripperCommand: one goal per way.

    Attributes:
        goals, failed: counts.
    """

    def __init__(
        self, node: LifecycleNode, gripper: GripperOutput, around: Surroundings
    ) -> None:
        super().__init__(node, gripper)
        self._gripper, self._around = gripper, around
        self._type = interface(
            'control_msgs/action/GripperCommand', 'output.grippers: gripper_command'
        )
        self._client = ActionClient(node, self._type, gripper.name)
        self._target: float | None = None
        self._closed = False
        self.goals = self.failed = 0
        self._ticker = Ticker(self._tick, _RATE, f'gripper {gripper.joint}', self._crashed)

    def listeners(self) -> int:
        """1 where the action is there."""
        return int(self._client.server_is_ready())

    def rivals(self) -> int:
        """Not seen from here."""
        return 0

    def facts(self) -> dict[str, object]:
        """Counts of goals, and where the last one went."""
        return {
            'gripper goals': self.goals, 'gripper goals failed': self.failed,
            'gripper target': self._target,
        }

    def close(self) -> None:
        """Send nothing more; the gripper keeps what it holds."""
        self._ticker.close()
        self._closed = True
        self._client.destroy()

    def _tick(self) -> None:
        points, now = self._present()
        if points is None:
            return
        target = heading(points, self._joint, now)
        if self._target is not None and abs(target - self._target) <= self._gripper.tolerance:
            return
        if not self._client.server_is_ready():
            self._fail(f'no action server at {self.name}')
            return
        self._target, self.goals, self.problem = target, self.goals + 1, ''
        goal = self._type.Goal()
        goal.command.position = target
        goal.command.max_effort = self._gripper.max_effort
        self._client.send_goal_async(goal).add_done_callback(partial(self._on_answer, self.goals))

    def _on_answer(self, number: int, future: Future) -> None:
        if self._closed:
            return
        handle = future.result()
        if handle is None or not handle.accepted:
            if number == self.goals:
                self._target = None  # told again at the next look
            self._fail('the gripper refused the goal')
            return
        handle.get_result_async().add_done_callback(partial(self._on_result, number))

    def _on_result(self, number: int, future: Future) -> None:
        reply = future.result()
        if reply is None or number != self.goals:
            return  # closed, or replaced by the next goal
        # Fingers around an object stall before their goal: that is what they are for.
        if not (reply.result.reached_goal or reply.result.stalled):
            self._fail('the gripper neither reached its goal nor stalled on the way')

    def _fail(self, problem: str) -> None:
        if problem != self.problem:
            self.problem = problem
            self.failed += 1
            self._node.get_logger().warning(f'{self.name}: {problem}')
            self._around.refused(problem)
