# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Topics passed on under another name, and what can go wrong on the way.

The policy node hears and commands `faults/NAME` in place of NAME; a relay joins the two, so that
neither the arm nor the node knows of it. Without a fault the bytes go through as they are.
"""
from __future__ import annotations

import itertools
from array import array
from collections.abc import Callable
from copy import copy, deepcopy
from typing import Any

import cv2
import numpy as np
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image

from quantvla_ros.contract.types import IMAGE
from quantvla_ros.nodes.messages import time_message
from quantvla_ros.observation.decode import decode_image
from quantvla_ros.observation.messages import nanoseconds

PREFIX = 'faults/'
BEST_EFFORT = QoSProfile(
    reliability=ReliabilityPolicy.BEST_EFFORT, history=HistoryPolicy.KEEP_LAST, depth=5
)
RELIABLE = QoSProfile(
    reliability=ReliabilityPolicy.RELIABLE, history=HistoryPolicy.KEEP_LAST, depth=10
)
# Takes a message and returns those to publish in its place.
Fault = Callable[[Any], list[Any]]


class Relay:
    """One topic.

    Args:
        node: subscribes and publishes.
        source, target: topics.
        kind: message class.
        hear, offer: QoS of the subscription and of the publisher.
        heard: called with every message before any fault; messages are decoded for it.

    Attributes:
        fault: what happens on the way; None: nothing.
    """

    def __init__(
        self,
        node: Node,
        source: str,
        target: str,
        kind: Any,
        hear: QoSProfile,
        offer: QoSProfile,
        heard: Callable[[Any], None] | None = None,
    ) -> None:
        self._node, self._source, self._kind = node, source, kind
        self._heard = heard
        self.fault: Fault | None = None
        self._publisher = node.create_publisher(kind, target, offer)
        self._subscription: Any = None
        self._hear = hear
        self.open()

    def open(self, qos: QoSProfile | None = None) -> None:
        """Listen, if need be with another QoS."""
        if self._subscription is None:
            self._subscription = self._node.create_subscription(
                self._kind, self._source, self._on_bytes, qos or self._hear, raw=True
            )

    def close(self) -> None:
        """Go away as a subscriber; the publisher stays."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            self._node.destroy_subscription(subscription)

    def publish(self, message: Any) -> None:
        """Publish a message of our own at the far end."""
        self._publisher.publish(message)

    def take(self, message: Any) -> None:
        """Pass on a message that came another way, as if it had been heard."""
        if self._heard is not None:
            self._heard(message)
        self._publisher.publish(message)

    def _on_bytes(self, data: bytes) -> None:
        fault = self.fault
        if fault is None and self._heard is None:
            self._publisher.publish(data)
            return
        message = deserialize_message(data, self._kind)
        if self._heard is not None:
            self._heard(message)
        if fault is None:
            self._publisher.publish(data)
            return
        for faulty in fault(message):
            self._publisher.publish(faulty)


class CompressedRelay(Relay):
    """A camera's raw pictures as JPEG, as a compressing image_transport would send them.

    Args:
        node: subscribes and publishes.
        source: topic of the raw pictures.
        topic: of the compressed ones.
    """

    def __init__(self, node: Node, source: str, topic: str) -> None:
        self.topic = topic
        super().__init__(
            node, source, PREFIX + topic, CompressedImage, BEST_EFFORT, BEST_EFFORT
        )

    def open(self, qos: QoSProfile | None = None) -> None:
        """Listen to raw pictures."""
        if self._subscription is None:
            self._subscription = self._node.create_subscription(
                Image, self._source, self._on_picture, qos or self._hear
            )

    def close(self) -> None:
        """Go away altogether."""
        super().close()
        self._node.destroy_publisher(self._publisher)

    def _on_picture(self, picture: Image) -> None:
        pixels = decode_image(picture, IMAGE)
        _, data = cv2.imencode('.jpg', cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
        message = CompressedImage(header=picture.header, format='rgb8; jpeg compressed bgr8')
        message.data = array('B', data.tobytes())
        for one in [message] if self.fault is None else self.fault(message):
            self._publisher.publish(one)


def dropped(message: Any) -> list[Any]:
    """Nothing arrives."""
    return []


def frozen() -> Fault:
    """The first picture again and again, with fresh stamps."""
    kept: list[Any] = []

    def fault(message: Any) -> list[Any]:
        kept.append(message.data) if not kept else None
        message.data = kept[0]
        return [message]

    return fault


def stamped(seconds: float) -> Fault:
    """Stamps that are off by so many seconds."""

    def fault(message: Any) -> list[Any]:
        message.header.stamp = time_message(
            max(nanoseconds(message.header.stamp) + round(seconds * 1e9), 1)
        )
        return [message]

    return fault


def unstamped(message: Any) -> list[Any]:
    """Stamps that are left at zero."""
    message.header.stamp = time_message(0)
    return [message]


def encoded(encoding: str) -> Fault:
    """Pictures that say they are of another encoding."""

    def fault(message: Any) -> list[Any]:
        message.encoding = encoding
        return [message]

    return fault


def cut_off(message: Any) -> list[Any]:
    """Pictures with less data than their sizes say."""
    message.data = message.data[: len(message.data) // 2]
    return [message]


def cut_off_now_and_then() -> Fault:
    """Every second picture with half of its data."""
    count = itertools.count()

    def fault(message: Any) -> list[Any]:
        return cut_off(message) if next(count) % 2 else [message]

    return fault


def scrambled(message: Any) -> list[Any]:
    """Pictures whose bytes are none of any format."""
    message.data = array('B', bytes(255 - byte for byte in message.data))
    return [message]


def without_pixels(message: Any) -> list[Any]:
    """Pictures of no size."""
    message.height = message.width = message.step = 0
    message.data = array('B')
    return [message]


def halved(message: Any) -> list[Any]:
    """Every second pixel of a picture with one byte per channel."""
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
    channels = message.step // message.width
    pixels = rows[:, : message.width * channels].reshape(message.height, message.width, channels)
    pixels = np.ascontiguousarray(pixels[::2, ::2])
    message.height, message.width = pixels.shape[:2]
    message.step = message.width * channels
    message.data = array('B', pixels.tobytes())
    return [message]


def repeated(times: int) -> Fault:
    """Every message so many times, as from a queue that was held up; stamps a microsecond apart."""

    def fault(message: Any) -> list[Any]:
        stamp = nanoseconds(message.header.stamp)
        many = []
        for index in range(times):
            one = copy(message)
            one.header = deepcopy(message.header)
            one.header.stamp = time_message(stamp + index * 1000)
            many.append(one)
        return many

    return fault


def lacking(message: Any) -> list[Any]:
    """Joint states without their first joint."""
    message.name = list(message.name)[1:]
    message.position = message.position[1:]
    message.velocity = message.velocity[1:]
    message.effort = message.effort[1:]
    return [message]


def disordered(message: Any) -> list[Any]:
    """Joint states the other way around, with a joint that nobody asked for in front."""
    message.name = ['a_joint_of_another_arm', *reversed(message.name)]
    message.position = array('d', [9.9, *reversed(message.position)])
    message.velocity = array('d', [9.9, *reversed(message.velocity)])
    message.effort = array('d')
    return [message]


def not_a_number(message: Any) -> list[Any]:
    """Joint states whose first position is no number."""
    message.position[0] = float('nan')
    return [message]


def without_velocities(message: Any) -> list[Any]:
    """Joint states without velocities."""
    message.velocity = array('d')
    return [message]
