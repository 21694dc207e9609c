# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The emergency stop's topic, the service `~/reset`, and where the end effector is.

Best effort hears every publisher, so the emergency stop should be published again and again, not
once. It is a convenience on the way of the commands and no safety function: what cuts the power is
not this node.
"""
from __future__ import annotations

import numpy as np
from geometry_msgs.msg import PoseStamped
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from quantvla_ros.contract.types import Contract
from quantvla_ros.nodes.supervisor import Supervisor

_LISTEN = QoSProfile(
    reliability=ReliabilityPolicy.BEST_EFFORT, history=HistoryPolicy.KEEP_LAST, depth=5
)


class Safety:
    """See the module.

    Args:
        node: subscribes and serves.
        contract: names the topic, where there is one.
        supervisor: is told.
    """

    def __init__(self, node: LifecycleNode, contract: Contract, supervisor: Supervisor) -> None:
        self._node, self._supervisor = node, supervisor
        self._wrong_frame: str | None = None
        self._service = node.create_service(Trigger, '~/reset', self._on_reset)
        self._contract = contract
        self._pose: PoseStamped | None = None
        self._poses = None
        workspace = contract.action.workspace
        if workspace is not None:
            self._poses = node.create_subscription(
                PoseStamped, workspace.pose_topic, self._on_pose, _LISTEN
            )
            supervisor.watch_end_effector(self.end_effector)
        topic = contract.safety.emergency_stop
        self._subscription = None
        if topic is not None:
            self._subscription = node.create_subscription(
                Bool, topic, lambda message: supervisor.emergency(message.data), _LISTEN
            )

    def end_effector(self) -> np.ndarray:
        """[3] where it is, m; NaN where no pose has come, or none in the right frame and time."""
        pose = self._pose
        if pose is None:
            return np.full(3, np.nan)
        stamp = pose.header.stamp.sec * 1_000_000_000 + pose.header.stamp.nanosec
        age = (self._node.get_clock().now().nanoseconds - stamp) * 1e-9
        if not -self._contract.freshness.skew <= age <= self._contract.freshness.state:
            return np.full(3, np.nan)
        place = pose.pose.position
        return np.array([place.x, place.y, place.z])

    def close(self) -> None:
        """Free everything."""
        self._node.destroy_service(self._service)
        for subscription in (self._subscription, self._poses):
            if subscription is not None:
                self._node.destroy_subscription(subscription)

    def _on_pose(self, message: PoseStamped) -> None:
        frame = self._contract.action.frame_id
        if message.header.frame_id == frame:
            self._pose = message
        elif self._wrong_frame != message.header.frame_id:
            self._wrong_frame = message.header.frame_id
            self._node.get_logger().warning(
                f'the pose of the end effector is given in {self._wrong_frame!r}, expected '
                f'{frame!r}, the frame of the workspace'
            )

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        reason = self._supervisor.reset()
        response.success = reason is None
        response.message = reason or 'nothing is latched any more'
        return response
