# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A subscription that no executor reads: whoever has it asks whether something has come.

For topics of which only that matters, and that may send more often than everything else, or that
must be heard while the executor is busy.
"""
from __future__ import annotations

from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy

_LATEST = QoSProfile(
    reliability=ReliabilityPolicy.BEST_EFFORT, history=HistoryPolicy.KEEP_LAST, depth=1
)


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


class Unread:
    """See the module. Used by one thread.

    Args:
        node: subscribes.
        kind: class of the messages.
        topic: its name.
    """

    def __init__(self, node: Node, kind: Any, topic: str) -> None:
        self._node = node
        self._subscription: Any = node.create_subscription(
            kind, topic, lambda message: None, _LATEST, callback_group=_Never(), raw=True
        )

    def has_come(self) -> bool:
        """Whether there was a message since the last question."""
        with self._subscription.handle:
            taken = self._subscription.handle.take_message(self._subscription.msg_type, True)
        return taken is not None

    def close(self) -> None:
        """Destroy the subscription."""
        self._node.destroy_subscription(self._subscription)
