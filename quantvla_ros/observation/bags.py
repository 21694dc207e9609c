# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Recorded messages of a rosbag2 bag, whatever its storage and however it ended.

Split bags in one order of time, messages packed with zstd or not. What is damaged is read as far as
it goes and told in a `BagHealth`. Knows message types; knows nothing of how storage files are found
and opened (see `bag_files`), of contracts or of observations.
"""
from __future__ import annotations

import heapq
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, NamedTuple

from rosbags.interfaces import Connection
from rosbags.serde import SerdeError

from quantvla_ros.errors import BagError
from quantvla_ros.observation.bag_files import StorageFile, open_files
from quantvla_ros.observation.damaged import ZSTD_MAGIC, zstd
from quantvla_ros.observation.definitions import message_types

LARGEST_MESSAGE = 1 << 28  # bytes; a zstd message that unpacks to more is taken as damaged

_log = logging.getLogger(__name__)


class Undecodable(Enum):
    """Why a message of the bag could not be read, one sentence each."""

    NOT_CDR = 'it is not in CDR, the format of ROS 2 messages'
    UNKNOWN_TYPE = 'its type is unknown and the bag holds no definition of it'
    COMPRESSION = 'its zstd data is damaged'
    DAMAGED = 'its bytes do not fit its type'


class Recorded(NamedTuple):
    """One message of a bag."""

    topic: str
    type: str
    time: int  # ns, when it was recorded
    message: Any


@dataclass(frozen=True)
class Topic:
    """A topic of a bag."""

    type: str
    count: int  # messages that can be read


@dataclass(frozen=True)
class BagHealth:
    """How whole a bag was found, as far as it has been read.

    Attributes:
        warnings: faults of its files, one sentence each.
        read: messages read, by topic.
        undecodable: messages that could not be read, by topic and reason.
    """

    warnings: tuple[str, ...]
    read: Mapping[str, int]
    undecodable: Mapping[tuple[str, Undecodable], int]

    @property
    def whole(self) -> bool:
        """Whether nothing was amiss."""
        return not self.warnings and not self.undecodable

    def __str__(self) -> str:
        lost = [f'{count} messages of {topic} cannot be read: {reason.value}'
                for (topic, reason), count in sorted(
                    self.undecodable.items(), key=lambda item: (item[0][0], item[0][1].name))]
        return '; '.join([*self.warnings, *lost]) or 'whole'


class Bag:
    """A bag opened for reading; use it in a with statement.

    Attributes:
        path: the folder or file.
        name: its name, for episodes and messages.
        topics: what can be read, by topic.
    """

    def __init__(self, path: str | Path) -> None:
        """Open the bag.

        Raises:
            BagError: nothing of it can be read.
        """
        self.path = Path(path)
        self.name = self.path.name.split('.')[0] if self.path.is_file() else self.path.name
        self._warnings: list[str] = []
        self._read: Counter[str] = Counter()
        self._undecodable: Counter[tuple[str, Undecodable]] = Counter()
        self._folder = TemporaryDirectory(prefix='quantvla_bag_')
        self._files: list[StorageFile] = []
        try:
            folder = Path(self._folder.name)
            promised = open_files(self.path, folder, self._files, self._warn)
            if not self._files:
                raise BagError(
                    f'{self.path}: expected a readable bag, found none: '
                    f'{"; ".join(self._warnings) or "an empty folder"}'
                )
        except BaseException:
            self.close()
            raise
        self.topics = self._topics()
        for topic, count in promised.items():
            found = self.topics[topic].count if topic in self.topics else 0
            if found < count:
                self._warn(f'{self.path}: metadata.yaml lists {count} messages of {topic}, '
                           f'the files hold {found}')
        connections = [c for file in self._files for c in file.connections]
        self._typestore, self._unknown, faults = message_types(connections)
        for fault in faults:
            self._warn(f'{self.path}: {fault}')

    def __enter__(self) -> Bag:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all files and remove what was unpacked."""
        while self._files:
            self._files.pop().close()
        self._folder.cleanup()

    @property
    def health(self) -> BagHealth:
        """What was amiss so far; final when `messages` has come to its end."""
        notes = tuple(f'{self.path}: {file.note}' for file in self._files if file.note)
        seen = dict.fromkeys((*self._warnings, *notes))
        return BagHealth(tuple(seen), dict(self._read), dict(self._undecodable))

    def require(self, topics: Mapping[str, str]) -> None:
        """Make sure of topics before anything is read.

        Args:
            topics: message type by topic.

        Raises:
            BagError: topics that the bag lacks or has with another type, and what it has.
        """
        lacking = [topic for topic in topics
                   if topic not in self.topics or self.topics[topic].count == 0]
        if lacking:
            present = ', '.join(
                f'{name} ({topic.count} of {topic.type})' for name, topic in self.topics.items()
            )
            raise BagError(
                f'{self.path}: expected messages of {", ".join(lacking)}, found '
                f'{present or "no topic"}; correct the topics or the namespace of the contract'
            )
        for topic, kind in topics.items():
            if self.topics[topic].type != kind:
                raise BagError(
                    f'{self.path}: expected {kind} on {topic}, found {self.topics[topic].type}; '
                    'correct the type in the contract'
                )

    def messages(self, topics: Iterable[str] | None = None) -> Iterator[Recorded]:
        """Messages in the order of recording; those that cannot be read are counted.

        Args:
            topics: names of the topics wanted; all where None.
        """
        wanted = set(self.topics if topics is None else topics)
        # Counts of this pass: a second pass over the same messages must not add to the first.
        read: Counter[str] = Counter()
        undecodable: Counter[tuple[str, Undecodable]] = Counter()
        streams = [file.messages(wanted) for file in self._files]
        for connection, time, data in heapq.merge(*streams, key=lambda item: item[1]):
            topic = connection.topic
            result = self._decode(connection, data)
            if isinstance(result, Undecodable):
                undecodable[topic, result] += 1
                self._undecodable |= undecodable
                continue
            read[topic] += 1
            self._read[topic] = max(self._read[topic], read[topic])
            yield Recorded(topic, connection.msgtype, time, result)
        for (topic, reason), count in undecodable.items():
            _log.warning('%s: %d messages of %s cannot be read: %s', self.path, count, topic,
                         reason.value)
        for file in self._files:
            if file.note:
                self._warn(f'{self.path}: {file.note}')

    def _decode(self, connection: Connection, data: bytes) -> Any:
        """The message, or why there is none."""
        if getattr(connection.ext, 'serialization_format', 'cdr') != 'cdr':
            return Undecodable.NOT_CDR
        if connection.msgtype in self._unknown:
            return Undecodable.UNKNOWN_TYPE
        # rosbag2 packs single messages where told to; CDR itself begins with a zero byte.
        if bytes(data[:4]) == ZSTD_MAGIC:
            decompressor = zstd.ZstdDecompressor()
            try:
                data = decompressor.decompress(data, LARGEST_MESSAGE)
            except zstd.ZstdError:
                return Undecodable.COMPRESSION
            if not decompressor.eof:
                return Undecodable.COMPRESSION
        try:
            return self._typestore.deserialize_cdr(data, connection.msgtype)
        except KeyError:  # a type within the type has no definition
            return Undecodable.UNKNOWN_TYPE
        except (SerdeError, IndexError, TypeError, OverflowError, MemoryError):
            return Undecodable.DAMAGED

    def _topics(self) -> dict[str, Topic]:
        topics: dict[str, Topic] = {}
        for connection in (c for file in self._files for c in file.connections):
            known = topics.get(connection.topic, Topic(connection.msgtype, 0))
            topics[connection.topic] = Topic(known.type, known.count + connection.msgcount)
        return topics

    def _warn(self, text: str) -> None:
        if text not in self._warnings:
            self._warnings.append(text)
            _log.warning('%s', text)
