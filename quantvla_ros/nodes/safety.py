# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The emergency stop's topic and the service `~/reset`.

Best effort hears every publisher, so the emergency stop should be published again and again, not
once. It is a convenience on the way of the commands and no safety function: what cuts the power is
not this node.
"""
from __future__ import annotations

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
        self._service = node.create_service(Trigger, '~/reset', self._on_reset)
        topic = contract.safety.emergency_stop
        self._subscription = None
        if topic is not None:
            self._subscription = node.create_subscription(
                Bool, topic, lambda message: supervisor.emergency(message.data), _LISTEN
            )

    def close(self) -> None:
        """Free everything."""
        self._node.destroy_service(self._service)
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        reason = self._supervisor.reset()
        response.success = reason is None
        response.message = reason or 'nothing is latched any more'
        return response
