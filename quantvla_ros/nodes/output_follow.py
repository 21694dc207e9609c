# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The FollowJointTrajectory action of a controller: each motion is a goal, and has a result.

A new goal takes over from the running one, which the controller ends for it: that is no fault and
is counted apart. What ends otherwise without success is told in the controller's own words, with
the name of its error code.
"""
from __future__ import annotations

import threading
import uuid
from functools import partial
from typing import Any

from action_msgs.msg import GoalStatus
from rclpy.action import ActionClient
from rclpy.lifecycle import LifecycleNode
from rclpy.task import Future
from unique_identifier_msgs.msg import UUID

from quantvla_ros.contract.types import Output
from quantvla_ros.control.streams import remaining
from quantvla_ros.control.trajectory import Trajectory
from quantvla_ros.nodes.messages import duration_message, trajectory_message
from quantvla_ros.nodes.output import ACKNOWLEDGED, Surroundings
from quantvla_ros.nodes.output_messages import interface

# control_msgs/action/FollowJointTrajectory, in words.
ERRORS = {
    0: 'SUCCESSFUL',
    -1: 'INVALID_GOAL',
    -2: 'INVALID_JOINTS',
    -3: 'OLD_HEADER_TIMESTAMP',
    -4: 'PATH_TOLERANCE_VIOLATED',
    -5: 'GOAL_TOLERANCE_VIOLATED',
}
_STATUS = {
    GoalStatus.STATUS_SUCCEEDED: 'succeeded',
    GoalStatus.STATUS_CANCELED: 'canceled',
    GoalStatus.STATUS_ABORTED: 'aborted',
}


def result_sentence(status: int, error_code: int, error_string: str) -> str:
    """How a goal ended, in words; '' where it did as it was told.

    A controller that reports success in one and not in the other has not done it.
    """
    if status == GoalStatus.STATUS_SUCCEEDED and error_code == 0:
        return ''
    ended = _STATUS.get(status, f'ended with status {status}')
    code = ERRORS.get(error_code, f'error code {error_code}')
    text = f'goal {ended}: {code}'
    return f'{text} ({error_string})' if error_string else text


class FollowOutput:
    """See the module.

    Args:
        node: has the action client.
        output: of the contract.
        frame_id: of the trajectory's header.
        around: measured joints, and who wants to know of refusals.

    Attributes:
        goals, accepted, succeeded, superseded, failed: counts of goals.
        tracking: [rad or m] largest distance between desired and actual in the newest feedback.
    """

    def __init__(
        self, node: LifecycleNode, output: Output, frame_id: str, around: Surroundings
    ) -> None:
        assert output.action is not None  # the contract's reader sees to it
        chosen = 'output.kind: follow_joint_trajectory'
        self._type = interface('control_msgs/action/FollowJointTrajectory', chosen)
        self._tolerance = interface('control_msgs/msg/JointTolerance', chosen)
        self._node, self.name, self._frame = node, output.action, frame_id
        self._limits, self._around = output.tolerances, around
        self._client = ActionClient(node, self._type, output.action)
        self.topic_type = None
        self.problem = ''
        self.goals = self.accepted = self.succeeded = self.superseded = self.failed = 0
        self.tracking = 0.0
        self._lock = threading.Lock()
        self._newest: Any = None  # handle of the newest goal that was accepted
        self._answered = threading.Event()
        self._answered.set()
        self._callbacks: int | None = None  # the thread that they come from
        self._closed = False

    def send(self, points: Trajectory) -> None:
        """Send what is left of a motion as the newest goal."""
        if not self._client.server_is_ready():
            self.problem = f'no action server at {self.name}'
            self._tell(self.problem)
            return
        now = self._node.get_clock().now().nanoseconds
        goal = self._type.Goal(trajectory=trajectory_message(remaining(points, now), self._frame))
        limits = self._limits
        for name, limit in (('path_tolerance', limits.path), ('goal_tolerance', limits.goal)):
            if limit is not None:
                setattr(goal, name, [
                    self._tolerance(name=joint, position=limit) for joint in points.joints
                ])
        if limits.goal_time is not None:
            goal.goal_time_tolerance = duration_message(limits.goal_time)
        with self._lock:
            self.goals += 1
            number = self.goals
            self._answered.clear()
        identity = uuid.uuid4().bytes
        self._around.sent_goal(identity)
        future = self._client.send_goal_async(
            goal, feedback_callback=self._on_feedback, goal_uuid=UUID(uuid=list(identity))
        )
        future.add_done_callback(partial(self._on_answer, number))

    hold = send

    def cancel(self) -> None:
        """Ask the controller to end the newest goal; how it stops then is its own matter."""
        with self._lock:
            handle = self._newest
        if handle is not None:
            handle.cancel_goal_async()

    def listeners(self) -> int:
        """1 where the action is there."""
        return int(self._client.server_is_ready())

    def rivals(self) -> int:
        """Other clients are seen by their goals, not here; see `sharing`."""
        return 0

    def facts(self) -> dict[str, object]:
        """Counts of goals, and how far the arm is off."""
        return {
            'goals sent': self.goals,
            'goals accepted': self.accepted,
            'goals done': self.succeeded,
            'goals replaced by the next': self.superseded,
            'goals refused or failed': self.failed,
            'largest distance from the desired position': f'{self.tracking:.4f}',
        }

    def others_until(self, message: Any, now: int) -> int | None:
        """There is no topic."""
        return None

    def wait_until_received(self) -> None:
        """Wait for the answer to the newest goal, where its callback can come meanwhile."""
        if threading.get_ident() != self._callbacks and self.listeners():
            self._answered.wait(ACKNOWLEDGED)

    def close(self) -> None:
        """Destroy the client; a goal that runs is followed to its end, which is at rest."""
        self._closed = True
        self._client.destroy()

    def _on_answer(self, number: int, future: Future) -> None:
        self._callbacks = threading.get_ident()
        if self._closed:
            return
        handle = future.result()
        with self._lock:
            newest = number == self.goals
            if newest:
                self._answered.set()
        if handle is None or not handle.accepted:
            self._fail('the controller refused the goal; its log says why')
            return
        with self._lock:
            self.accepted += 1
            if newest:
                self._newest = handle
                self.problem = ''
        handle.get_result_async().add_done_callback(partial(self._on_result, number))

    def _on_result(self, number: int, future: Future) -> None:
        reply = future.result()
        with self._lock:
            newest = number == self.goals
            if newest:
                self._newest = None
        if reply is None:
            return  # the client was destroyed
        sentence = result_sentence(
            reply.status, reply.result.error_code, reply.result.error_string
        )
        if not sentence:
            self.succeeded += 1
        elif not newest and reply.result.error_code in (0, -1):
            self.superseded += 1  # ended for the next one
        else:
            self._fail(sentence)
            return
        # Not before: a controller may take one goal after the other and follow none.
        self._around.accepted()

    def _on_feedback(self, message: Any) -> None:
        error = message.feedback.error.positions
        self.tracking = max((abs(value) for value in error), default=0.0)

    def _fail(self, sentence: str) -> None:
        self.failed += 1
        self.problem = sentence
        self._node.get_logger().warning(f'{self.name}: {sentence}')
        self._tell(sentence)

    def _tell(self, sentence: str) -> None:
        self._around.refused(sentence)
        self._around.not_followed(sentence)
