# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The trajectory topic of a joint_trajectory_controller, through a lifecycle publisher.

An inactive node cannot command anything even by mistake of ours. The stamp is the observation's,
points have velocities, and those whose time has passed are dropped just before publishing.
"""
from __future__ import annotations

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


class TrajectoryOutput:
    """See the module.

    Args:
        node: publishes.
        topic: of the controller.
        frame_id: of the header.
    """

    def __init__(self, node: LifecycleNode, topic: str, frame_id: str) -> None:
        self._node, self.name, self._frame = node, topic, frame_id
        self.problem = ''
        self.incompatible = ''
        self._publisher = node.create_lifecycle_publisher(
            JointTrajectory, topic, COMMAND_QOS,
            event_callbacks=PublisherEventCallbacks(incompatible_qos=self._incompatible),
        )

    def send(self, points: Trajectory) -> None:
        """Publish what is left of a motion."""
        now = self._node.get_clock().now().nanoseconds
        self._publisher.publish(trajectory_message(remaining(points, now), self._frame))

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
        self._node.get_logger().warning(
            f'{self.name}: a subscriber cannot hear the commands, its '
            f'{self.incompatible} does not fit: offered are RELIABLE, VOLATILE'
        )
