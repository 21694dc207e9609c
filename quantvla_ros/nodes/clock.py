# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Whether a node that follows /clock has one: asked before it is activated.

Without one its time stands at zero and every age is unknown. Later on the watchdog `clock` looks
after it.
"""
from __future__ import annotations

import threading
import time

from rclpy.node import Node
from rosgraph_msgs.msg import Clock

from quantvla_ros.nodes.unread import Unread

PATIENCE = 5.0  # s, of a steady clock: a simulator's publisher is discovered within two
_LOOK = 0.02  # s
_TOPIC = '/clock'


def missing_clock(
    node: Node, stopping: threading.Event, patience: float = PATIENCE
) -> str | None:
    """Why the node has no time, after waiting for one; None where it has.

    A simulation that is paused has a publisher: its time is taken as it stands. The node's own
    subscription hears nothing meanwhile where this is called by its executor.

    Args:
        node: its parameter use_sim_time says whether it follows /clock.
        stopping: ends the waiting.
        patience: s.
    """
    if not node.get_parameter('use_sim_time').value or _has_time(node):
        return None
    node.get_logger().info(f'waits for {_TOPIC}, {patience:g} s at most')
    clock = Unread(node, Clock, _TOPIC)
    try:
        until = time.monotonic() + patience
        while time.monotonic() < until and not stopping.wait(_LOOK):
            if clock.has_come() or _has_time(node):
                return None
        publishers = _publishers(node)
    finally:
        clock.close()
    found = f'{publishers} publisher(s) that said nothing' if publishers else 'no publisher'
    return (
        f'use_sim_time is set, but nothing publishes /clock: expected a message within '
        f'{patience:g} s, found {found}; start the simulator, or play the bag with --clock, and '
        'activate again; for a real robot set use_sim_time to false'
    )


def _has_time(node: Node) -> bool:
    """Whether it has heard of a time, and from somebody who is still there."""
    return node.get_clock().now().nanoseconds > 0 and _publishers(node) > 0


def _publishers(node: Node) -> int:
    return node.count_publishers(node.resolve_topic_name(_TOPIC))
