# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What is left in bag files that were cut off: a robot that lost power, a full disk, a bad copy.

Knows the two storage formats as far as this needs; knows nothing of message contents. Whole files
are read by the rosbags library, which refuses these.
Formats: MCAP, https://mcap.dev/spec; sqlite3 as rosbag2_storage_sqlite3 lays it out.
"""
from __future__ import annotations

import mmap
import shutil
import sqlite3
import struct
from binascii import crc32
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from lz4.frame import LZ4FrameDecompressor
from rosbags.interfaces import (
    Connection,
    ConnectionExtRosbag2,
    MessageDefinition,
    MessageDefinitionFormat,
)

from quantvla_ros.errors import BagError

try:  # Python 3.14; before that the backport, which rosbags depends on
    from compression import zstd
except ImportError:
    from backports import zstd

MCAP_MAGIC = b'\x89MCAP0\r\n'
SQLITE_MAGIC = b'SQLite format 3\0'
ZSTD_MAGIC = b'\x28\xb5\x2f\xfd'
LARGEST_CHUNK = 1 << 30  # bytes when unpacked; writers use some MB
SLICE = 1 << 16  # bytes; what a damaged stream may take with it when it ends

_FORMATS = {'ros2msg': MessageDefinitionFormat.MSG, 'ros2idl': MessageDefinitionFormat.IDL,
            'omgidl': MessageDefinitionFormat.IDL}
_RECORD = struct.Struct('<BQ')
_FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _DATA_END = 0x02, 0x03, 0x04, 0x05, 0x06, 0x0F
_MESSAGE_HEAD = struct.Struct('<HIQQ')  # channel, sequence, log time, publish time
_CHUNK_HEAD = struct.Struct('<QQQI')  # first time, last time, size when unpacked, checksum


class _Raw(NamedTuple):
    """One message of an MCAP file as it lies there."""

    channel: int
    time: int  # ns, when it was recorded
    data: bytes


class DamagedMcap:
    """An MCAP file without its end, read record by record from the start.

    Attributes:
        connections: topics found, with the number of messages that can be read.
        reason: where and why reading ends, in words; empty where it does not.
        note: what was lost on the way, which is nothing here.
    """

    note = ''

    def __init__(self, path: Path) -> None:
        """Scan the file once.

        Raises:
            BagError: it is no MCAP file.
        """
        self._path = path
        self._schemas: dict[int, tuple[str, MessageDefinition]] = {}
        self._channels: dict[int, tuple[str, int, str]] = {}  # topic, schema, encoding
        self.reason = ''
        counts = Counter(raw.channel for raw in self._scan())
        self.connections = [
            self._connection(channel, counts[channel]) for channel in sorted(self._channels)
        ]

    def messages(
        self, topics: Collection[str], after: int = -1
    ) -> Iterator[tuple[Connection, int, bytes]]:
        """Connection, time of recording (ns) and raw data, in the order of the file.

        Args:
            topics: names of the topics wanted.
            after: ns; only what was recorded later.
        """
        wanted = {c.id: c for c in self.connections if c.topic in topics}
        for raw in self._scan():
            if raw.channel in wanted and raw.time > after:
                yield wanted[raw.channel], raw.time, raw.data

    def close(self) -> None:
        """Nothing is held open between two scans."""

    def _connection(self, channel: int, count: int) -> Connection:
        topic, schema, encoding = self._channels[channel]
        name, definition = self._schemas.get(
            schema, ('', MessageDefinition(MessageDefinitionFormat.NONE, ''))
        )
        return Connection(channel, topic, name, definition, '', count,
                          ConnectionExtRosbag2(encoding, []), self)

    def _scan(self) -> Iterator[_Raw]:
        with self._path.open('rb') as file:
            size = file.seek(0, 2)
            if size < len(MCAP_MAGIC):
                raise BagError(f'{self._path}: expected an MCAP file, found {size} bytes')
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                if data[: len(MCAP_MAGIC)] != MCAP_MAGIC:
                    raise BagError(f'{self._path}: expected an MCAP file, found another format')
                yield from self._records(data, len(MCAP_MAGIC), size)

    def _records(self, data: mmap.mmap | bytes, position: int, size: int) -> Iterator[_Raw]:
        """Messages of the records in data[position:size]; tells where they stop making sense."""
        outermost = isinstance(data, mmap.mmap)
        while position + _RECORD.size <= size:
            kind, length = _RECORD.unpack_from(data, position)
            start, end = position + _RECORD.size, position + _RECORD.size + length
            if kind in (_FOOTER, _DATA_END) and end <= size:
                return
            if kind == 0 or (kind > _DATA_END and kind < 0x80):
                if outermost:
                    self.reason = f'damaged at byte {position} of {size}'
                return
            if end > size and not (kind == _CHUNK and outermost):
                break
            try:
                if kind == _CHUNK and outermost:
                    yield from self._chunk(data, start, min(end, size), whole=end <= size)
                elif kind == _MESSAGE:
                    channel, _, time, _ = _MESSAGE_HEAD.unpack_from(data, start)
                    yield _Raw(channel, time, bytes(data[start + _MESSAGE_HEAD.size : end]))
                elif kind == _SCHEMA:
                    self._take_schema(bytes(data[start:end]))
                elif kind == _CHANNEL:
                    self._take_channel(bytes(data[start:end]))
            except (struct.error, UnicodeDecodeError):
                self.reason = f'damaged at byte {position} of {size}'
                if not outermost:
                    return
            position = end
        if outermost:
            self.reason = self.reason or f'cut off after {min(position, size)} bytes'

    def _chunk(self, data: mmap.mmap | bytes, start: int, end: int, whole: bool) -> Iterator[_Raw]:
        """Messages of a chunk in the order of their times; `whole` is False where it is cut."""
        *_, size, checksum = _CHUNK_HEAD.unpack_from(data, start)
        compression, start = _text(data, start + _CHUNK_HEAD.size, end)
        start += 8  # the length of the records, which end tells as well
        records = _unpack(bytes(data[start:end]), compression, min(size, LARGEST_CHUNK))
        if whole and checksum and crc32(records) != checksum:
            self.reason = f'a chunk before byte {end} fails its checksum and is left out'
            return
        yield from sorted(self._records(records, 0, len(records)), key=lambda raw: raw.time)

    def _take_schema(self, body: bytes) -> None:
        (key,) = struct.unpack_from('<H', body)
        name, position = _text(body, 2, len(body))
        encoding, position = _text(body, position, len(body))
        text, _ = _text(body, position, len(body))
        kind = _FORMATS.get(encoding, MessageDefinitionFormat.NONE)
        self._schemas[key] = (name, MessageDefinition(kind, text))

    def _take_channel(self, body: bytes) -> None:
        key, schema = struct.unpack_from('<HH', body)
        topic, position = _text(body, 4, len(body))
        encoding, _ = _text(body, position, len(body))
        self._channels[key] = (topic, schema, encoding)


class DamagedSqlite:
    """A sqlite3 bag file of which pages are missing, read row by row.

    Attributes:
        connections: topics found, with the number of messages that are listed.
        reason: where and why the list ends, in words; empty where it does not.
        note: what of the listed messages was lost, when they have been read.
    """

    def __init__(self, path: Path) -> None:
        """Read topics and the list of messages.

        Raises:
            BagError: not even these can be read.
        """
        self.note = self.reason = ''
        try:
            self._base = sqlite3.connect(f'{path.resolve().as_uri()}?immutable=1', uri=True)
            # Without this, sqlite refuses a file that is shorter than its header says.
            self._base.execute('PRAGMA writable_schema=ON')
            topics = self._base.execute(
                'SELECT id, name, type, serialization_format FROM topics'
            ).fetchall()
        except sqlite3.DatabaseError as error:
            raise BagError(f'{path}: expected a sqlite3 bag, found {error}') from None
        self._rows: list[tuple[int, int, int]] = []  # time (ns), row, topic
        try:
            for row, time, topic in self._base.execute(
                'SELECT id, timestamp, topic_id FROM messages ORDER BY id'
            ):
                if isinstance(time, int) and isinstance(topic, int):  # sqlite has no types
                    self._rows.append((time, row, topic))
        except sqlite3.DatabaseError as error:
            self.reason = f'readable up to message {len(self._rows)} ({error})'
        self._rows.sort()
        definitions = self._definitions()
        counts = Counter(topic for _, _, topic in self._rows)
        nothing = MessageDefinition(MessageDefinitionFormat.NONE, '')
        self.connections = [
            Connection(key, name, kind, definitions.get(kind, nothing), '', counts[key],
                       ConnectionExtRosbag2(encoding, []), self)
            for key, name, kind, encoding in topics
        ]

    def messages(
        self, topics: Collection[str], after: int = -1
    ) -> Iterator[tuple[Connection, int, bytes]]:
        """Connection, time of recording (ns) and raw data, in the order of time."""
        wanted = {c.id: c for c in self.connections if c.topic in topics}
        lost = 0
        for time, row, topic in self._rows:
            if topic in wanted and time > after:
                try:
                    found = self._base.execute(
                        'SELECT data FROM messages WHERE id = ?', (row,)
                    ).fetchone()
                except sqlite3.DatabaseError:  # the row is listed, its pages are gone
                    found = None
                if found is None or not isinstance(found[0], bytes):
                    lost += 1
                    continue
                yield wanted[topic], time, found[0]
        if lost:
            self.note = f'{lost} messages are listed, but their data is gone'

    def close(self) -> None:
        """Close the file."""
        self._base.close()

    def _definitions(self) -> dict[str, MessageDefinition]:
        try:
            rows = self._base.execute(
                'SELECT topic_type, encoding, encoded_message_definition FROM message_definitions'
            ).fetchall()
        except sqlite3.DatabaseError:  # a table of newer bags only
            return {}
        return {name: MessageDefinition(_FORMATS[encoding], text)
                for name, encoding, text in rows if encoding in _FORMATS}


def recover_journal(path: Path, folder: Path) -> Path | None:
    """Finish what sqlite had begun when recording was killed, on a copy.

    Args:
        path: a .db3 file; its -wal or -journal beside it holds the last seconds.
        folder: where the copy goes.

    Returns:
        The whole copy; None where nothing is left to finish or it cannot be finished.
    """
    pending = [Path(f'{path}{end}') for end in ('-wal', '-journal')]
    pending = [file for file in pending if file.exists() and file.stat().st_size > 0]
    if not pending:
        return None
    for file in (path, *pending):
        shutil.copyfile(file, folder / file.name)
    copy = folder / path.name
    try:
        base = sqlite3.connect(copy)
        try:
            base.execute('PRAGMA wal_checkpoint(TRUNCATE)').fetchall()
            base.execute('PRAGMA journal_mode=DELETE').fetchall()
        finally:
            base.close()
    except sqlite3.DatabaseError:
        return None
    return copy


def unpack_file(path: Path, target: Path) -> bool:
    """Unpack a zstd file as far as it goes; whether it was whole."""
    decompressor = zstd.ZstdDecompressor()
    with path.open('rb') as source, target.open('wb') as sink:
        while block := source.read(SLICE):
            while block:
                if decompressor.eof:  # frames may follow one another
                    decompressor = zstd.ZstdDecompressor()
                try:
                    sink.write(decompressor.decompress(block))
                except zstd.ZstdError:
                    return False
                block = decompressor.unused_data if decompressor.eof else b''
    return decompressor.eof


def _unpack(data: bytes, compression: str, size: int) -> bytes:
    """Records of a chunk, as far as their compressed data goes; at most `size` bytes."""
    if compression == '':
        return data
    if compression not in ('zstd', 'lz4'):
        return b''
    decompressor = zstd.ZstdDecompressor() if compression == 'zstd' else LZ4FrameDecompressor()
    records = bytearray()
    for start in range(0, len(data), SLICE):
        try:
            records += decompressor.decompress(data[start : start + SLICE], size - len(records))
        except (zstd.ZstdError, RuntimeError, EOFError):  # lz4 raises plain RuntimeErrors
            break
        if decompressor.eof or len(records) >= size:
            break
    return bytes(records)


def _text(data: mmap.mmap | bytes, position: int, end: int) -> tuple[str, int]:
    """A string with its length before it, and the position after it."""
    (length,) = struct.unpack_from('<I', data, position)
    if position + 4 + length > end:
        raise struct.error('string reaches beyond its record')
    start = position + 4
    return bytes(data[start : start + length]).decode(), start + length
