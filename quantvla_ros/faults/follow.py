# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A controller's FollowJointTrajectory action in front of the simulated arm, which can refuse.

The arm has a topic and no action; a goal that is accepted is passed on to the topic and succeeds
when its trajectory is over. As with joint_trajectory_controller a new goal ends the running one.
Made, and closed, in the thread that spins its node.
"""
from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.node import Node
from trajectory_msgs.msg import JointTrajectory

from quantvla_ros.nodes.output_messages import interface
from quantvla_ros.observation.messages import nanoseconds

_CYCLE = 0.01  # s
_REPLACED = 'the next goal has come'
_DONE = ''


class FollowController:
    """See the module.

    Args:
        node: has the action's server.
        name: of the action.
        follow: takes the trajectory of a goal.

    Attributes:
        refuses: so many goals from now on are not accepted.
        gives_up: while set, a goal is accepted, not followed, and aborted with these words.
    """

    def __init__(
        self, node: Node, name: str, follow: Callable[[JointTrajectory], None]
    ) -> None:
        self._kind = interface('control_msgs/action/FollowJointTrajectory', 'this case')
        self._node, self._follow = node, follow
        self.refuses, self.gives_up = 0.0, ''
        self._running: tuple[float, Any] | None = None  # when it is over, s; handle of the goal
        self._server = ActionServer(
            node, self._kind, name, execute_callback=partial(self._finish, _DONE),
            goal_callback=self._on_goal, handle_accepted_callback=self._on_accepted,
            cancel_callback=lambda handle: CancelResponse.ACCEPT,
        )
        self._timer = node.create_timer(_CYCLE, self._look)

    def close(self) -> None:
        """Go away; what runs is followed to its end by the arm."""
        self._node.destroy_timer(self._timer)
        self._server.destroy()

    def _on_goal(self, request: Any) -> GoalResponse:
        if self.refuses > 0:
            self.refuses -= 1
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    def _on_accepted(self, handle: Any) -> None:
        if self.gives_up:
            handle.execute(partial(self._finish, self.gives_up))
            return
        self._end(_REPLACED)
        message = handle.request.trajectory
        stamp = nanoseconds(message.header.stamp)
        over = nanoseconds(message.points[-1].time_from_start) * 1e-9
        if stamp:
            over += (stamp - self._node.get_clock().now().nanoseconds) * 1e-9
        self._running = (time.monotonic() + over, handle)
        self._follow(message)

    def _look(self) -> None:
        if self._running is not None and time.monotonic() >= self._running[0]:
            self._end(_DONE)

    def _end(self, how: str) -> None:
        running, self._running = self._running, None
        if running is not None:
            running[1].execute(partial(self._finish, how))

    def _finish(self, how: str, handle: Any) -> Any:
        """End a goal; called by the executor, as rclpy wants it."""
        result = self._kind.Result()
        if how == _DONE:
            handle.succeed()
            return result
        handle.abort()
        replaced = how == _REPLACED
        result.error_code = (
            result.INVALID_GOAL if replaced else result.PATH_TOLERANCE_VIOLATED
        )
        result.error_string = how
        return result
