# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The subscriptions that feed a policy: callbacks store and count, nothing more.

What arrives at which rate, what was lost on the way and which publishers offer a QoS that does not
fit is kept per topic, for /diagnostics.
"""
from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message

from quantvla_ros.contract.types import (
    IMAGE,
    JOINT_STATE,
    JOINT_STREAM,
    LANGUAGE_STREAM,
    STRING,
    Contract,
)
from quantvla_ros.control.measured import MeasuredJoints
from quantvla_ros.nodes.messages import message_class
from quantvla_ros.observation.buffer import ObservationBuffer
from quantvla_ros.observation.messages import nanoseconds

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

# The newest message is all that counts; joint states come in bursts when the machine is busy.
_CAMERA = QoSProfile(
    reliability=ReliabilityPolicy.BEST_EFFORT, history=HistoryPolicy.KEEP_LAST, depth=1
)
_STATE = QoSProfile(
    reliability=ReliabilityPolicy.BEST_EFFORT, history=HistoryPolicy.KEEP_LAST, depth=5
)
_COMMAND = QoSProfile(
    reliability=ReliabilityPolicy.RELIABLE, history=HistoryPolicy.KEEP_LAST, depth=5
)
_LATCHED = QoSProfile(
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
)
_WINDOW = 3.0  # s over which a rate is taken

# topic by full name, a message as it came, ns of the node's clock when it did.
Tap = Callable[[str, bytes, int], None]


@dataclass
class Input:
    """One topic and what has been heard on it.

    Attributes:
        stream: name in the contract.
        topic, type: as in the contract.
        required: whether there is no observation without it.
        count: messages so far.
        lost: messages that the middleware says were lost.
        incompatible: QoS policy that keeps a publisher from being heard; empty for none.
        size: bytes of the last message's data, 0 where it has none.
        qos: what we ask for.
    """

    stream: str
    topic: str
    type: str
    required: bool
    count: int = 0
    lost: int = 0
    incompatible: str = ''
    size: int = 0
    qos: QoSProfile = field(default_factory=lambda: _CAMERA)
    arrivals: deque[float] = field(default_factory=lambda: deque(maxlen=512))

    def rate(self) -> float:
        """Messages per second over the last seconds; 0 where there were fewer than two."""
        since = time.monotonic() - _WINDOW
        recent = [arrival for arrival in tuple(self.arrivals) if arrival >= since]
        if len(recent) < 2:
            return 0.0
        return (len(recent) - 1) / max(recent[-1] - recent[0], 1e-9)


class Inputs:
    """All subscriptions that a contract asks for.

    Args:
        node: subscribes; its topics are relative to the node's namespace.
        contract: which topics.
        buffer: takes every message.
        joints: takes joint states as well.
        now: the node's clock, ns.
        heard: called after a camera picture or a command was stored.
        tap: given every message as it came, before it is stored.
    """

    def __init__(
        self,
        node: Node,
        contract: Contract,
        buffer: ObservationBuffer,
        joints: MeasuredJoints,
        now: Callable[[], int],
        heard: Callable[[], None],
        tap: Tap | None = None,
    ) -> None:
        self._node, self._now, self._heard, self._tap = node, now, heard, tap
        self._buffer, self._joints = buffer, joints
        self._subscriptions: list[Any] = []
        self.all: list[Input] = []
        for camera in contract.cameras:
            entry = Input(camera.name, camera.topic, camera.type, camera.required)
            self._subscribe(entry, _CAMERA, self._camera_callback(entry))
        entry = Input(JOINT_STREAM, contract.joint_states.topic, JOINT_STATE, True)
        self._subscribe(entry, _STATE, self._joints_callback(entry))
        for part in contract.state:
            entry = Input(part.name, part.topic, part.type, True)
            self._subscribe(entry, _STATE, self._state_callback(entry))
        entry = Input(LANGUAGE_STREAM, contract.language.topic, STRING, False)
        self._subscribe(entry, _COMMAND, self._language_callback(entry))
        self._language = entry
        self._latched: Any = None

    def hear_latched(self) -> None:
        """Take a command that was latched before this node came. To be called now and then.

        Only a transient-local reader is given it, and such a reader cannot hear a volatile
        publisher, which would be told so; hence one only where somebody latches. Its words come
        twice then, which changes nothing.
        """
        if self._latched is not None:
            return
        publishers = self._node.get_publishers_info_by_topic(
            self._node.resolve_topic_name(self._language.topic)
        )
        if any(p.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for p in publishers):
            self._latched = self._listen(
                self._language, _LATCHED, self._language_callback(self._language),
                SubscriptionEventCallbacks(incompatible_qos=lambda event: None),
            )
            self._subscriptions.append(self._latched)

    def close(self) -> None:
        """Destroy the subscriptions."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()

    def publishers(self, entry: Input) -> int:
        """How many publishers there are on the topic of an input."""
        # Resolved by us: the graph is asked without remappings.
        return self._node.count_publishers(self._node.resolve_topic_name(entry.topic))

    def _subscribe(
        self, entry: Input, qos: QoSProfile, callback: Callable[[Any, int], None]
    ) -> None:
        entry.qos = qos

        def incompatible(event: Any) -> None:
            entry.incompatible = _policy_name(event.last_policy_kind)

        def lost(event: Any) -> None:
            entry.lost = event.total_count

        self._subscriptions.append(
            self._listen(
                entry, qos, callback,
                SubscriptionEventCallbacks(incompatible_qos=incompatible, message_lost=lost),
            )
        )
        self.all.append(entry)

    def _listen(
        self, entry: Input, qos: QoSProfile, callback: Callable[[Any, int], None], events: Any
    ) -> Any:
        """A subscription; `callback` is given each message and when it arrived, ns."""
        kind, tap = message_class(entry.type), self._tap
        topic = self._node.resolve_topic_name(entry.topic)

        def heard(message: Any) -> None:
            callback(message, self._now())

        def heard_raw(data: bytes) -> None:
            assert tap is not None
            received = self._now()
            tap(topic, data, received)
            callback(deserialize_message(data, kind), received)

        return self._node.create_subscription(
            kind, entry.topic, heard if tap is None else heard_raw, qos, event_callbacks=events,
            raw=tap is not None,
        )

    def _note(self, entry: Input) -> None:
        entry.count += 1
        entry.arrivals.append(time.monotonic())

    def _camera_callback(self, entry: Input) -> Callable[[Any, int], None]:
        def callback(message: Any, received: int) -> None:
            self._note(entry)
            entry.size = len(message.data)
            self._buffer.store(entry.stream, message, received)
            self._heard()

        return callback

    def _joints_callback(self, entry: Input) -> Callable[[Any, int], None]:
        def callback(message: Any, received: int) -> None:
            self._note(entry)
            self._buffer.store(entry.stream, message, received)
            self._joints.store(
                nanoseconds(message.header.stamp), message.name, message.position, message.velocity
            )

        return callback

    def _state_callback(self, entry: Input) -> Callable[[Any, int], None]:
        def callback(message: Any, received: int) -> None:
            self._note(entry)
            self._buffer.store(entry.stream, message, received)

        return callback

    def _language_callback(self, entry: Input) -> Callable[[Any, int], None]:
        def callback(message: Any, received: int) -> None:
            self._note(entry)
            before = self._buffer.instruction
            fault = self._buffer.store(entry.stream, message, received)
            logger = self._node.get_logger()
            if fault is not None:
                logger.warning(str(fault))
            elif self._buffer.instruction != before:
                logger.info(f'new command: {self._buffer.instruction!r}')
            self._heard()

        return callback


def is_raw_image(entry: Input) -> bool:
    """Whether the input carries pictures that may be larger than the middleware's buffers."""
    return entry.type == IMAGE


def _policy_name(kind: Any) -> str:
    from rclpy.qos import qos_policy_name_from_kind

    return qos_policy_name_from_kind(kind).lower()
