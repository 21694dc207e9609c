# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The trajectory topic of a joint_trajectory_controller, through a lifecycle publisher.

An inactive node cannot command anything even by mistake of ours. The stamp is the observation's,
points have velocities, and those whose time has passed are dropped just before publishing.
"""
from __future__ import annotations

import collections
from typing import Any

from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode
from trajectory_msgs.msg import JointTrajectory

from quantvla_ros.control.streams import remaining
from quantvla_ros.control.trajectory import Trajectory
from quantvla_ros.nodes.messages import trajectory_message
from quantvla_ros.nodes.output import ACKNOWLEDGED, COMMAND_QOS

try:
    from rclpy.event_handler import PublisherEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks

_NS = 1_000_000_000
_REMEMBERED = 64  # messages; more than are ever under way
_Key = tuple[int, int, int, tuple[float, ...]]


def _key(message: JointTrajectory) -> _Key:
    """What tells one trajectory from another."""
    stamp = message.header.stamp
    first = tuple(message.points[0].positions) if message.points else ()
    return stamp.sec, stamp.nanosec, len(message.points), first


class TrajectoryOutput:
    """See the module.

    Args:
        node: publishes.
        topic: of the controller.
        frame_id: of the header.
    """

    def __init__(self, node: LifecycleNode, topic: str, frame_id: str) -> None:
        self._node, self.name, self._frame = node, topic, frame_id
        self.topic_type = JointTrajectory
        self.problem = ''
        self.incompatible = ''
        self._sent: collections.deque[_Key] = collections.deque(maxlen=_REMEMBERED)
        self._publisher = node.create_lifecycle_publisher(
            JointTrajectory, topic, COMMAND_QOS,
            event_callbacks=PublisherEventCallbacks(incompatible_qos=self._incompatible),
        )

    def send(self, points: Trajectory) -> None:
        """Publish what is left of a motion."""
        now = self._node.get_clock().now().nanoseconds
        message = trajectory_message(remaining(points, now), self._frame)
        self._sent.append(_key(message))
        self._publisher.publish(message)

    hold = send

    def listeners(self) -> int:
        """Subscribers of the topic."""
        return self._publisher.get_subscription_count()

    def rivals(self) -> int:
        """Other publishers of the topic."""
        return max(0, self._node.count_publishers(self._node.resolve_topic_name(self.name)) - 1)

    def facts(self) -> dict[str, object]:
        """Nothing further: the controller does not answer on this topic."""
        return {}

    def others_until(self, message: JointTrajectory, now: int) -> int | None:
        """The end of another's trajectory."""
        if _key(message) in self._sent:
            return None
        stamp = message.header.stamp.sec * _NS + message.header.stamp.nanosec
        if not message.points:
            return now
        last = message.points[-1].time_from_start
        return (stamp or now) + last.sec * _NS + last.nanosec

    def wait_until_received(self) -> None:
        """Wait for the acknowledgement of the middleware."""
        if self.listeners():
            self._publisher.wait_for_all_acked(Duration(seconds=ACKNOWLEDGED))

    def close(self) -> None:
        """Destroy the publisher."""
        self._node.destroy_lifecycle_publisher(self._publisher)

    def _incompatible(self, event: Any) -> None:
        from rclpy.qos import qos_policy_name_from_kind

        self.incompatible = qos_policy_name_from_kind(event.last_policy_kind).lower()
        self.problem = f'the {self.incompatible} of a subscriber does not fit'
