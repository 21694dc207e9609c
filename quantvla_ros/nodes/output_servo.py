# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""MoveIt Servo: a planned motion as a stream of speeds, JointJog or TwistStamped.

Servo integrates speeds and halts by itself where nothing has come for `incoming_command_timeout`
(0.1 s), judged by the stamp. So commands are stamped with the present, sent at an even rate while a
motion lasts and a little longer, and then not at all. Joint speeds are those of the plan and, since
Servo starts from where the arm is, a share of the way back to it (`streams.speeds`). Servo must
take speeds in rad/s and m/s: `command_in_type: speed_units`.

Nothing is sent before Servo has confirmed the type of command.
"""
from __future__ import annotations

import collections
import threading
from typing import Any

import numpy as np
from geometry_msgs.msg import TwistStamped
from rclpy.lifecycle import LifecycleNode
from rclpy.task import Future

from quantvla_ros.contract.types import TWIST_AXES, ActionKind, Contract, OutputKind
from quantvla_ros.control.limits import bounds
from quantvla_ros.control.smoothing import state_of
from quantvla_ros.control.streams import columns, speeds
from quantvla_ros.control.trajectory import Trajectory
from quantvla_ros.nodes.messages import time_message
from quantvla_ros.nodes.output import COMMAND_QOS, Surroundings
from quantvla_ros.nodes.output_messages import interface
from quantvla_ros.nodes.output_ticker import Ticker

JOINT_JOG, TWIST = 0, 1  # moveit_msgs/srv/ServoCommandType
_AFTER = 200_000_000  # ns; a motion's end is told for this long, then nothing is sent
_LATE = 2_000_000_000  # ns; until then it is told once, where a busy machine missed that time
_REMEMBERED = 256  # commands; more than are ever under way
_AGAIN = 50  # ticks between two requests for the type of command


class ServoOutput:
    """See the module.

    Args:
        node: publishes and calls.
        contract: kind, names, limits; joints of grippers that are commanded apart are left out.
        around: measured joints, and who wants to know of refusals.
    """

    def __init__(self, node: LifecycleNode, contract: Contract, around: Surroundings) -> None:
        output = contract.output
        assert output.servo is not None  # the contract's reader sees to it
        chosen = f'output.kind: {output.kind.value}'
        self._node, self._around = node, around
        self._frame = contract.action.frame_id
        self._twists = output.kind is OutputKind.TWIST
        apart = {gripper.joint for gripper in output.grippers}
        self._joints = tuple(
            name for part in contract.action.parts for name in part.names
            if name not in apart and (part.kind is ActionKind.TWIST) == self._twists
        )
        self._all = contract.action.names
        self._allowed = np.array([np.inf] * len(self._joints))
        if not self._twists or all(name in contract.limits for name in self._joints):
            self._allowed = bounds(contract.limits, self._joints).velocity
        switch = interface('moveit_msgs/srv/ServoCommandType', chosen)
        status = interface('moveit_msgs/msg/ServoStatus', chosen)
        if self._twists:
            self._message: Any = TwistStamped
            self.name = f'{output.servo}/delta_twist_cmds'
        else:
            self._message = interface('control_msgs/msg/JointJog', chosen)
            self.name = f'{output.servo}/delta_joint_cmds'
        self.topic_type = self._message
        self.problem = ''
        self._stamps: collections.deque[tuple[int, int]] = collections.deque(maxlen=_REMEMBERED)
        self._publisher = node.create_lifecycle_publisher(self._message, self.name, COMMAND_QOS)
        self._switch = node.create_client(switch, f'{output.servo}/switch_command_type')
        self._request = switch.Request(command_type=TWIST if self._twists else JOINT_JOG)
        self._status = node.create_subscription(
            status, f'{output.servo}/status', self._on_status, COMMAND_QOS
        )
        self._confirmed = self._asked = False
        self._patience = self._published = 0
        self._said = ''  # by Servo
        self._lock = threading.Lock()
        self._points: Trajectory | None = None
        self._told: Trajectory | None = None  # the motion whose end was told
        self._ticker = Ticker(self._tick, output.rate, 'servo', self._crashed)

    def send(self, points: Trajectory) -> None:
        """Stream this motion from now on."""
        with self._lock:
            self._points = columns(points, self._joints)

    hold = send

    def listeners(self) -> int:
        """Subscribers of the commands."""
        return self._publisher.get_subscription_count()

    def rivals(self) -> int:
        """Other publishers of the commands."""
        return max(0, self._node.count_publishers(self._node.resolve_topic_name(self.name)) - 1)

    def facts(self) -> dict[str, object]:
        """What Servo says, and what it was sent."""
        return {
            'type of command confirmed': self._confirmed,
            'commands streamed': self._published,
            'servo says': self._said,
        }

    def others_until(self, message: Any, now: int) -> int | None:
        """How long Servo follows a command of another's."""
        stamp = message.header.stamp
        return None if (stamp.sec, stamp.nanosec) in self._stamps else now + _AFTER

    def wait_until_received(self) -> None:
        """Let a hold be streamed to its end: Servo knows no more than the present speed."""
        with self._lock:
            points = self._points
        if points is None:
            return
        left = (points.end - self._node.get_clock().now().nanoseconds) * 1e-9
        # On a clock that stands still the time would not come.
        threading.Event().wait(min(max(left, 0.0) + 0.05, 2.0))

    def close(self) -> None:
        """Stop to stream, then destroy publisher, client and subscription."""
        self._ticker.close()
        self._node.destroy_lifecycle_publisher(self._publisher)
        self._node.destroy_client(self._switch)
        self._node.destroy_subscription(self._status)

    def _tick(self) -> None:
        if not self._publisher.is_activated:
            self._confirmed = self._asked = False  # it may be switched by others meanwhile
            return
        with self._lock:
            points = self._points
        if not self._ready() or points is None:
            return
        now = self._node.get_clock().now().nanoseconds
        if now > points.end + (_AFTER if self._told is points else _LATE):
            with self._lock:
                if self._points is points:
                    self._points = None
            return
        message = self._command(points, now)
        self._stamps.append((message.header.stamp.sec, message.header.stamp.nanosec))
        self._publisher.publish(message)
        self._published += 1
        if now >= points.end:
            self._told = points

    def _command(self, points: Trajectory, now: int) -> Any:
        message = self._message()
        message.header.stamp = time_message(now)
        message.header.frame_id = self._frame
        if self._twists:
            twist = dict(zip(self._joints, speeds(points, now, self._allowed), strict=True))
            for axes, vector in (
                (TWIST_AXES[:3], message.twist.linear), (TWIST_AXES[3:], message.twist.angular)
            ):
                vector.x, vector.y, vector.z = (float(twist[axis]) for axis in axes)
            return message
        measured = self._around.measured()
        if measured is None or now > points.end:
            speed = np.clip(state_of(points, now).velocity, -self._allowed, self._allowed)
        else:
            mine = [self._all.index(name) for name in self._joints]
            speed = speeds(
                points, now, self._allowed, measured.position[mine], measured.stamp
            )
        message.joint_names = list(self._joints)
        message.velocities = speed.tolist()
        return message

    def _ready(self) -> bool:
        """Whether Servo takes this type of command; asks it again and again until it does."""
        if self._confirmed:
            return True
        self._patience -= 1
        if self._asked and self._patience > 0:
            return False
        self._patience = _AGAIN
        if not self._switch.service_is_ready():
            self._say(f'no service {self._switch.srv_name}: is Servo running?')
            return False
        self._asked = True
        self._switch.call_async(self._request).add_done_callback(self._on_switched)
        return False

    def _on_switched(self, future: Future) -> None:
        reply = future.result()
        if reply is not None and reply.success:
            self._confirmed, self.problem = True, ''
            self._around.accepted()
        else:
            self._say('Servo refused to switch the type of command')

    def _say(self, problem: str) -> None:
        """A problem once, when it is new."""
        if problem != self.problem:
            self.problem = problem
            self._node.get_logger().warning(f'{self.name}: {problem}')
            self._around.refused(problem)

    def _on_status(self, message: Any) -> None:
        self._said = f'{message.code}: {message.message}' if message.code else 'no warning'

    def _crashed(self, error: Exception) -> None:
        self._node.crashed(error)
