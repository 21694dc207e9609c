# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Whether a joint_trajectory_controller that is commanded by topic still tells of its state.

One that is deactivated keeps its subscription but falls silent. What it says is not read, only that
it says something, a few times a second: its messages may come at the rate of its control loop, and
as callbacks they would cost the executor more than all inputs together.
"""
from __future__ import annotations

from rclpy.lifecycle import LifecycleNode

from quantvla_ros.errors import ContractError
from quantvla_ros.nodes.messages import message_class
from quantvla_ros.nodes.unread import Unread

_NAMES = ('controller_state', 'state')  # the second: Humble


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
        self._heard: Unread | None = None
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
            if count and self._heard is None:
                self._listen(topic)
            tellers += count
        if self._heard is not None and self._heard.has_come():
            self.told = steady
        return tellers

    def close(self) -> None:
        """Destroy the subscription."""
        if self._heard is not None:
            self._heard.close()
            self._heard = None

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
        self._heard = Unread(self._node, kind, topic)
