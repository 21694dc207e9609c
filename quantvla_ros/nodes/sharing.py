# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the node hears of others on its controller: requests to pause, goals, other commands.

`control.sharing` decides what follows from it. The goals of all clients stand in the status topic
of the controller's action, which also a controller commanded by topic has; another publisher's
trajectories are heard on the command topic, where there is such a publisher, and told from ours by
what is in them.
"""
from __future__ import annotations

import threading
from typing import Any

from action_msgs.msg import GoalStatus, GoalStatusArray
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from std_srvs.srv import SetBool

from quantvla_ros.contract.types import Contract
from quantvla_ros.control.sharing import Pause, Sharing
from quantvla_ros.nodes.controller_facts import ControllerFacts
from quantvla_ros.nodes.outputs import Commands

QUIET = 0.5  # s
_RUNNING = (
    GoalStatus.STATUS_ACCEPTED, GoalStatus.STATUS_EXECUTING, GoalStatus.STATUS_CANCELING,
)
_STATUS_QOS = QoSProfile(
    reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL,
    history=HistoryPolicy.KEEP_LAST, depth=1,
)
_LISTEN = QoSProfile(
    reliability=ReliabilityPolicy.RELIABLE, history=HistoryPolicy.KEEP_LAST, depth=10
)


def action_of(contract: Contract) -> str | None:
    """The FollowJointTrajectory action of the controller that a contract's commands go to."""
    if contract.output.action is not None:
        return contract.output.action
    if contract.output.servo is not None:
        return None
    controller, _, last = contract.action.topic.rpartition('/')
    named = bool(controller) and last == 'joint_trajectory'
    return f'{controller}/follow_joint_trajectory' if named else None


class SharedController:
    """See the module.

    Args:
        node: subscribes and serves `~/pause`.
        contract: which controller.
        commands: ours, whose topic may have other publishers.
    """

    def __init__(self, node: LifecycleNode, contract: Contract, commands: Commands) -> None:
        self._node = node
        self._sharing = Sharing(QUIET)
        self._lock = threading.Lock()
        self._service = node.create_service(SetBool, '~/pause', self._on_pause)
        self._commands = commands
        self._listener: Any = None
        action = action_of(contract)
        self._status = None
        self.facts: ControllerFacts | None = None
        if action is not None:
            apart = {gripper.joint for gripper in contract.output.grippers}
            joints = [name for name in contract.action.names if name not in apart]
            self.facts = ControllerFacts(node, action.rpartition('/')[0], joints)
            self._status = node.create_subscription(
                GoalStatusArray, f'{action}/_action/status', self._on_goals, _STATUS_QOS
            )

    def sent_goal(self, goal: bytes) -> None:
        """One of our goals is about to go out."""
        with self._lock:
            self._sharing.sent_goal(goal)

    def rest(self, why: str) -> None:
        """A task has ended, `why` says how; '' once there is another command."""
        with self._lock:
            self._sharing.rest(why)

    def look(self) -> None:
        """Ask a new controller how it is set up, listen to another publisher; to be called often.

        Where there is none, nobody has to take our own commands out of the middleware again.
        """
        if self.facts is not None:
            self.facts.look()
        commands = self._commands
        if commands.arm.topic_type is None:
            return
        rivals = commands.rivals()
        if rivals and self._listener is None:
            self._node.get_logger().warning(
                f'{commands.name}: {rivals} other publisher(s) may command the same controller; '
                'the policy pauses while they do'
            )
            self._listener = self._node.create_subscription(
                commands.arm.topic_type, commands.name, self._on_command, _LISTEN
            )
        elif not rivals and self._listener is not None:
            self._node.destroy_subscription(self._listener)
            self._listener = None

    def judge(self, now: int) -> Pause | None:
        """Whether to pause at `now` ns, and why."""
        with self._lock:
            return self._sharing.judge(now)

    def forget(self) -> None:
        """The clock jumped."""
        with self._lock:
            self._sharing.forget()

    def close(self) -> None:
        """Free everything."""
        self._node.destroy_service(self._service)
        if self.facts is not None:
            self.facts.close()
        for subscription in (self._status, self._listener):
            if subscription is not None:
                self._node.destroy_subscription(subscription)

    def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        with self._lock:
            self._sharing.ask(request.data)
        response.success = True
        response.message = 'pauses' if request.data else 'goes on once the controller is free'
        return response

    def _on_goals(self, message: GoalStatusArray) -> None:
        running = [
            bytes(status.goal_info.goal_id.uuid)
            for status in message.status_list if status.status in _RUNNING
        ]
        with self._lock:
            self._sharing.goals(running)

    def _on_command(self, message: Any) -> None:
        now = self._node.get_clock().now().nanoseconds
        until = self._commands.arm.others_until(message, now)
        if until is not None:
            with self._lock:
                self._sharing.command(until)
