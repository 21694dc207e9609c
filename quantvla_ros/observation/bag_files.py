# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The storage files of a bag: which there are, and what can be read of each, whole or damaged.

Reads through the rosbags library: MCAP and sqlite3, zstd by file or chunk, a folder or a single
file; what it refuses goes to `damaged`. Knows files and metadata.yaml; knows nothing of what is in
a message.
"""
from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Protocol

import apsw
import yaml
from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader, ReaderError

from quantvla_ros.errors import BagError
from quantvla_ros.observation.damaged import (
    MCAP_MAGIC,
    SQLITE_MAGIC,
    DamagedMcap,
    DamagedSqlite,
    recover_journal,
    unpack_file,
    zstd,
)

_STORAGE_SUFFIXES = ('.mcap', '.db3')
_PACKED_SUFFIXES = ('.zstd', '.zst')
# What rosbags lets through from damaged files besides its own error: it parses while it goes.
_DAMAGE = (ReaderError, apsw.Error, zstd.ZstdError, struct.error, ValueError, TypeError, KeyError,
           IndexError, EOFError, OverflowError, RuntimeError, AssertionError, MemoryError, OSError)


class StorageFile(Protocol):
    """One storage file.

    Attributes:
        connections: its topics, with how many messages can be read of each.
        note: what was found damaged on the way; empty: nothing.
    """

    connections: list[Connection]
    note: str

    def messages(
        self, topics: Collection[str], after: int = -1
    ) -> Iterator[tuple[Connection, int, bytes]]:
        """Messages of `topics` with the times, ns, of their recording; `after`: only later ones."""

    def close(self) -> None:
        """Free the file."""


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


def open_files(
    path: Path, folder: Path, files: list[StorageFile], warn: Callable[[str], None]
) -> dict[str, int]:
    """Open all storage files of a bag that can be read.

    Args:
        path: the bag's folder, or its only file.
        folder: an empty one for what has to be unpacked.
        files: where they go, one by one: so they can be closed also where the next one fails.
        warn: told, in a sentence, of what is amiss or cannot be read.

    Returns:
        Messages by topic that the metadata promises.

    Raises:
        BagError: there is no such path, or it is a file that cannot be read.
    """
    if not path.exists():
        raise BagError(f'{path}: expected a bag, found nothing; check the path')
    paths, promised = _listed_files(path, warn) if path.is_dir() else ([path], {})
    for file in paths:
        try:
            files.append(_open_file(file, folder, warn))
        except BagError as error:
            if file == path:
                raise
            warn(str(error))
    return promised


def _listed_files(bag: Path, warn: Callable[[str], None]) -> tuple[list[Path], dict[str, int]]:
    """Storage files of the folder, and messages per topic, from metadata.yaml."""
    present = sorted(  # in no order that matters: messages are merged by their times
        path for path in bag.iterdir()
        if path.suffix in _STORAGE_SUFFIXES
        or (path.suffix in _PACKED_SUFFIXES and Path(path.stem).suffix in _STORAGE_SUFFIXES)
    )
    metadata = bag / 'metadata.yaml'
    if not metadata.exists():
        if present:
            warn(f'{bag}: no metadata.yaml (recording did not end well?); '
                 f'reading {len(present)} files by name')
        return present, {}
    try:
        content = yaml.safe_load(metadata.read_text())['rosbag2_bagfile_information']
        # Old bags list paths, not names; files may have been moved with their folder.
        listed = [bag / Path(name).name for name in content['relative_file_paths']]
        promised = {
            entry['topic_metadata']['name']: int(entry['message_count'])
            for entry in content['topics_with_message_count']
        }
    except (OSError, yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError) as e:
        warn(f'{metadata}: expected the description of a bag, found a damaged one '
             f'({_one_line(e)}); reading {len(present)} files by name')
        return present, {}
    for path in listed:
        if path not in present:
            warn(f'{path}: listed in metadata.yaml, but not there')
    for path in present:
        if path not in listed:
            warn(f'{path}: not listed in metadata.yaml; read all the same')
    return present, promised


def _open_file(path: Path, folder: Path, warn: Callable[[str], None]) -> StorageFile:
    if path.suffix in _PACKED_SUFFIXES:
        unpacked = folder / path.stem
        if not unpack_file(path, unpacked):
            warn(f'{path}: the zstd data is cut off or damaged; read as far as it goes')
        path = unpacked
    with path.open('rb') as stream:
        head = stream.read(16)
    damaged: type[DamagedMcap] | type[DamagedSqlite]
    if head.startswith(MCAP_MAGIC):
        damaged, suffix = DamagedMcap, '.mcap'
    elif head.startswith(SQLITE_MAGIC):
        damaged, suffix = DamagedSqlite, '.db3'
        if (copy := recover_journal(path, folder)) is not None:
            warn(f'{path}: recording was killed; its last messages come from the journal beside it')
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
        warn(f'{path}: damaged ({file.reason or _one_line(error)}); read as far as it goes')
        return file


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
