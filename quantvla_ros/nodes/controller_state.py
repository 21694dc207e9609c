# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Whether a joint_trajectory_controller that is commanded by topic still tells of its state.

One that is deactivated keeps its subscription but falls silent. What it says is not read, only that
it says something, a few times a second: its messages may come at the rate of its control loop, and
as callbacks they would cost the executor more than all inputs together.
"""
from __future__ import annotations

from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy

from quantvla_ros.errors import ContractError
from quantvla_ros.nodes.messages import message_class

_LATEST = QoSProfile(
    reliability=ReliabilityPolicy.BEST_EFFORT, history=HistoryPolicy.KEEP_LAST, depth=1
)
_NAMES = ('controller_state', 'state')  # the second: Humble


class _Never(CallbackGroup):
    """Leaves its messages in the middleware, for whoever asks."""

    def can_execute(self, entity: Any) -> bool:
        """Never."""
        return False

    def beginning_execution(self, entity: Any) -> bool:
        """Never."""
        return False

    def ending_execution(self, entity: Any) -> None:
        """Never comes."""


class ControllerState:
    """See the module. Used by one thread.

    Args:
        node: subscribes.
        commands: where the commands go; nothing is looked for where that is no such controller's.

    Attributes:
        told: s of a steady clock, when a message was last found; None before the first.
    """

    def __init__(self, node: LifecycleNode, commands: str) -> None:
        self._node = node
        controller, _, last = commands.rpartition('/')
        self._topics = [
            node.resolve_topic_name(f'{controller}/{name}') for name in _NAMES
        ] if last == 'joint_trajectory' and controller else []
        self._subscription: Any = None
        self._unknown = ''
        self.told: float | None = None

    def look(self, steady: float) -> int:
        """How many tell of the state; to be called several times a second.

        Args:
            steady: s.
        """
        tellers = 0
        for topic in self._topics:
            count = self._node.count_publishers(topic)
            if count and self._subscription is None:
                self._listen(topic)
            tellers += count
        if self._take():
            self.told = steady
        return tellers

    def close(self) -> None:
        """Destroy the subscription."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None

    def _listen(self, topic: str) -> None:
        """Subscribe with the publisher's own type, where that is installed."""
        types = {info.topic_type for info in self._node.get_publishers_info_by_topic(topic)}
        if len(types) != 1 or self._unknown in types:
            return
        (name,) = types
        try:
            kind = message_class(name)
        except ContractError:  # then only its coming and going is seen
            self._unknown = name
            return
        self._subscription = self._node.create_subscription(
            kind, topic, lambda message: None, _LATEST, callback_group=_Never(), raw=True
        )

    def _take(self) -> bool:
        """Whether there was a new message."""
        subscription = self._subscription
        if subscription is None:
            return False
        with subscription.handle:
            return subscription.handle.take_message(subscription.msg_type, True) is not None
