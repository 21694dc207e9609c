# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Topics into a rosbag (MCAP): messages are written as they arrive, still serialized.

Written with the rosbags library, so that it needs no rosbag2 beside rclpy.
"""
from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from quantvla_ros.contract.types import JOINT_STATE, JOINT_TRAJECTORY, STRING, Contract
from quantvla_ros.nodes.messages import message_class
from quantvla_ros.nodes.share import share

_OWN = 'quantvla_ros/msg/'
# Best effort hears every publisher; a recorder that is behind must not hold one up.
_LISTEN = QoSProfile(
    reliability=ReliabilityPolicy.BEST_EFFORT, history=HistoryPolicy.KEEP_LAST, depth=50
)
_LATCHED = QoSProfile(
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
    history=HistoryPolicy.KEEP_LAST,
    depth=50,
)
_ENDLESS = QosTime(2147483647, 4294967295)


def contract_topics(contract: Contract) -> list[tuple[str, str]]:
    """(topic, type) of everything that a contract names: inputs, command and instruction."""
    topics = [(camera.topic, camera.type) for camera in contract.cameras]
    topics.append((contract.joint_states.topic, JOINT_STATE))
    topics += [(part.topic, part.type) for part in contract.state]
    topics += [(contract.language.topic, STRING), (contract.action.topic, JOINT_TRAJECTORY)]
    return list(dict.fromkeys(topics))


class Recorder:
    """Records from its making to `close`; a context manager.

    Args:
        node: subscribes.
        path: folder of the bag; must not exist.
        topics: (topic, type); types of this package among them.
        latched: topics whose publishers are transient local, to be heard from before the recording.
        now: clock of the bag's times, ns.

    Attributes:
        counts: messages by topic.
    """

    def __init__(
        self,
        node: Node,
        path: Path,
        topics: Sequence[tuple[str, str]],
        *,
        now: Callable[[], int],
        latched: Sequence[str] = (),
    ) -> None:
        self._node, self._now = node, now
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        typestore = get_typestore(Stores.ROS2_KILTED)
        for type_name in {name for _, name in topics if name.startswith(_OWN)}:
            text = share(f'msg/{type_name.removeprefix(_OWN)}.msg').read_text(encoding='utf-8')
            typestore.register(get_types_from_msg(text, type_name))
        self._writer: Writer | None = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self._writer.open()
        self._subscriptions = []
        for topic, type_name in topics:
            # Full names, as ros2 bag writes them.
            name = node.resolve_topic_name(topic)
            connection = self._writer.add_connection(
                name, type_name, typestore=typestore, offered_qos_profiles=[_qos(topic in latched)]
            )
            self._subscriptions.append(
                node.create_subscription(
                    message_class(type_name), topic, self._callback(topic, connection),
                    _LATCHED if topic in latched else _LISTEN, raw=True,
                )
            )

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening and finish the bag. A second call does nothing."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []
        with self._lock:
            writer, self._writer = self._writer, None
            if writer is not None:
                writer.close()

    def _callback(self, topic: str, connection: Any) -> Callable[[bytes], None]:
        def callback(data: bytes) -> None:
            with self._lock:
                if self._writer is not None:
                    self._writer.write(connection, self._now(), data)
                    self.counts[topic] += 1

        return callback


def _qos(latched: bool) -> Qos:
    durability = QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE
    return Qos(
        QosHistory.KEEP_LAST, 50, QosReliability.RELIABLE, durability, _ENDLESS, _ENDLESS,
        QosLiveliness.AUTOMATIC, _ENDLESS, False,
    )
