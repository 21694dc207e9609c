# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Recorded messages of a rosbag2 bag, whatever its storage and however it ended.

Reads through the rosbags library: MCAP and sqlite3, zstd by file, message or chunk, split bags, a
folder or a single file. What is damaged is read as far as it goes (see `damaged`) and told in a
`BagHealth`. Knows message types; knows nothing of contracts or observations.
"""
from __future__ import annotations

import hashlib
import heapq
import logging
import struct
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, NamedTuple, Protocol

import apsw
import yaml
from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader, ReaderError
from rosbags.serde import SerdeError

from quantvla_ros.errors import BagError
from quantvla_ros.observation.damaged import (
    MCAP_MAGIC,
    SQLITE_MAGIC,
    ZSTD_MAGIC,
    DamagedMcap,
    DamagedSqlite,
    recover_journal,
    unpack_file,
    zstd,
)
from quantvla_ros.observation.definitions import message_types

LARGEST_MESSAGE = 1 << 28  # bytes; a zstd message that unpacks to more is taken as damaged

_STORAGE_SUFFIXES = ('.mcap', '.db3')
_PACKED_SUFFIXES = ('.zstd', '.zst')
# What rosbags lets through from damaged files besides its own error: it parses while it goes.
_DAMAGE = (ReaderError, apsw.Error, zstd.ZstdError, struct.error, ValueError, TypeError, KeyError,
           IndexError, EOFError, OverflowError, RuntimeError, AssertionError, MemoryError, OSError)

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


class _File(Protocol):
    """One storage file."""

    connections: list[Connection]
    note: str

    def messages(
        self, topics: Collection[str], after: int = -1
    ) -> Iterator[tuple[Connection, int, bytes]]: ...

    def close(self) -> None: ...


class _WholeFile:
    """A storage file as rosbags reads it; from a damaged chunk on, as `damaged` does."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader = Reader(path)
        self._reader.open()
        self.connections = list(self._reader.connections)
        self.note = ''

    def messages(
        self, topics: Collection[str], after: int = -1
    ) -> Iterator[tuple[Connection, int, bytes]]:
        wanted = [c for c in self.connections if c.topic in topics]
        if not wanted:  # an empty list means all of them to rosbags
            return
        last = after
        try:
            for connection, time, data in self._reader.messages(wanted):
                if not isinstance(time, int) or not isinstance(data, bytes):  # sqlite has no types
                    raise ValueError('a message without time or data')
                last = time
                yield connection, time, data
            return
        except _DAMAGE as error:
            self.note = f'damaged after time {last} ns ({_one_line(error)})'
        if self._path.suffix == '.mcap':
            yield from DamagedMcap(self._path).messages(topics, last)

    def close(self) -> None:
        self._reader.close()


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
        self._files: list[_File] = []
        try:
            promised = self._open_files()
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

    def _open_files(self) -> dict[str, int]:
        """Open all storage files; messages per topic that the metadata promises."""
        if not self.path.exists():
            raise BagError(f'{self.path}: expected a bag, found nothing; check the path')
        paths, promised = self._listed_files() if self.path.is_dir() else ([self.path], {})
        for path in paths:
            try:
                self._files.append(self._open_file(path))
            except BagError as error:
                if path == self.path:
                    raise
                self._warn(str(error))
        if not self._files:
            raise BagError(
                f'{self.path}: expected a readable bag, found none: '
                f'{"; ".join(self._warnings) or "an empty folder"}'
            )
        return promised

    def _listed_files(self) -> tuple[list[Path], dict[str, int]]:
        """Storage files of the folder, and messages per topic, from metadata.yaml."""
        present = sorted(  # in no order that matters: messages are merged by their times
            path for path in self.path.iterdir()
            if path.suffix in _STORAGE_SUFFIXES
            or (path.suffix in _PACKED_SUFFIXES and Path(path.stem).suffix in _STORAGE_SUFFIXES)
        )
        metadata = self.path / 'metadata.yaml'
        if not metadata.exists():
            if present:
                self._warn(f'{self.path}: no metadata.yaml (recording did not end well?); '
                           f'reading {len(present)} files by name')
            return present, {}
        try:
            content = yaml.safe_load(metadata.read_text())['rosbag2_bagfile_information']
            # Old bags list paths, not names; files may have been moved with their folder.
            listed = [self.path / Path(name).name for name in content['relative_file_paths']]
            promised = {
                entry['topic_metadata']['name']: int(entry['message_count'])
                for entry in content['topics_with_message_count']
            }
        except (OSError, yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError) as e:
            self._warn(f'{metadata}: expected the description of a bag, found a damaged one '
                       f'({_one_line(e)}); reading {len(present)} files by name')
            return present, {}
        for path in listed:
            if path not in present:
                self._warn(f'{path}: listed in metadata.yaml, but not there')
        for path in present:
            if path not in listed:
                self._warn(f'{path}: not listed in metadata.yaml; read all the same')
        return present, promised

    def _open_file(self, path: Path) -> _File:
        if path.suffix in _PACKED_SUFFIXES:
            unpacked = Path(self._folder.name) / path.stem
            if not unpack_file(path, unpacked):
                self._warn(f'{path}: the zstd data is cut off or damaged; read as far as it goes')
            path = unpacked
        with path.open('rb') as stream:
            head = stream.read(16)
        damaged: type[DamagedMcap] | type[DamagedSqlite]
        if head.startswith(MCAP_MAGIC):
            damaged, suffix = DamagedMcap, '.mcap'
        elif head.startswith(SQLITE_MAGIC):
            damaged, suffix = DamagedSqlite, '.db3'
            if (copy := recover_journal(path, Path(self._folder.name))) is not None:
                self._warn(f'{path}: recording was killed; its last messages come from the '
                           'journal beside it')
                path = copy
        else:
            what = 'an empty file' if not head else f'a file that begins with {head[:8].hex()}'
            if head.startswith(b'#ROSBAG'):
                what = 'a ROS 1 bag (rosbags-convert makes a ROS 2 bag of it)'
            raise BagError(f'{path}: expected an MCAP or sqlite3 bag, found {what}')
        if path.suffix != suffix:
            raise BagError(f'{path}: expected a name with {suffix}, found {path.name}; rename it')
        try:
            return _WholeFile(path)
        except _DAMAGE as error:
            file = damaged(path)
            self._warn(f'{path}: damaged ({file.reason or _one_line(error)}); '
                       'read as far as it goes')
            return file

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


def bag_hash(path: str | Path) -> str:
    """SHA-256 (hex) of a bag's storage files, by name: equal for copies of the bag."""
    path = Path(path)
    files = [path] if path.is_file() else sorted(
        file for file in path.iterdir()
        if file.suffix in (*_STORAGE_SUFFIXES, *_PACKED_SUFFIXES)
    )
    total = hashlib.sha256()
    for file in files:
        digest = hashlib.sha256()
        with file.open('rb') as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
        total.update(digest.digest())
    return total.hexdigest()


def _one_line(error: BaseException) -> str:
    return ' '.join(str(error).split()) or type(error).__name__
