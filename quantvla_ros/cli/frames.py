# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The frames of several bags, with progress, and an account of what was left out of each."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from quantvla_ros.cli.progress import ProgressLine
from quantvla_ros.contract.types import Contract
from quantvla_ros.errors import BagError
from quantvla_ros.observation.bag_files import bag_hash
from quantvla_ros.observation.replay import Frame, Replay, replay
from quantvla_ros.quantization.coverage import Loss, Readings

READING = 'reading bags'

_NO_COMMAND = 'it names no full command (a joint missing, NaN, or times in disorder)'


class Reading:
    """Collects the account of reading bags, and reads on where one of them gives nothing.

    Attributes:
        hashes: of the bags that were read, by a name of each.
    """

    def __init__(self) -> None:
        self.hashes: dict[str, str] = {}
        self._messages = self._instants = self._observations = 0
        self._broken: list[Loss] = []
        self._refused: list[Loss] = []
        self._left_out: dict[str, str] = {}
        self._faults: list[str] = []

    def account(self) -> Readings:
        """What was read so far."""
        return Readings(
            messages=self._messages,
            broken=tuple(self._broken),
            instants=self._instants,
            observations=self._observations,
            refused=tuple(self._refused),
            bags_left_out=dict(self._left_out),
            faults=tuple(self._faults),
        )

    def distinct(self, bags: Sequence[Path], progress: ProgressLine) -> list[tuple[str, Path]]:
        """The bags with a name for each; a copy of another one is left out with a word.

        Raises:
            BagError: a path leads nowhere: a slip of the hand, not a damaged recording.
        """
        for bag in bags:
            if not bag.exists():
                raise BagError(f'{bag}: expected a bag, found nothing; check the path')
        named: list[tuple[str, Path]] = []
        for index, bag in enumerate(bags):
            progress('checking bags', index, len(bags))
            digest = bag_hash(bag)
            name = _unique(bag.resolve().name, {*self.hashes, *self._left_out})
            twin = next((other for other, found in self.hashes.items() if found == digest), None)
            if twin is not None:
                self._leave_out(name, f'the same recording as {twin}, counted once', progress)
                continue
            self.hashes[name] = digest
            named.append((name, bag))
        progress('checking bags', len(bags), len(bags))
        return named

    def failed(self, name: str, error: BagError, progress: ProgressLine) -> None:
        """A bag gave nothing."""
        self.hashes.pop(name, None)
        self._leave_out(name, str(error), progress)

    def add(self, name: str, frames: Replay) -> None:
        """A bag has been read to its end."""
        health, topics = frames.health, frames.topic_of
        self._messages += sum(health.read.values()) + sum(health.undecodable.values())
        self._instants += frames.pictures
        self._observations += frames.frames
        self._faults += health.warnings
        broken = [(t, r.value, n) for (t, r), n in health.undecodable.items()]
        broken += [(topics.get(s, s), r.value, n) for (s, r), n in frames.dropped().items()]
        if frames.commands.unusable:
            topic = frames.command_topic or 'commands'
            broken.append((topic, _NO_COMMAND, frames.commands.unusable))
        self._broken += [Loss(name, *entry) for entry in broken]
        self._refused += [Loss(name, s, r.value, n) for (s, r), n in frames.refused.items()]

    def _leave_out(self, name: str, reason: str, progress: ProgressLine) -> None:
        self._left_out[name] = reason
        progress.note(f'{name}: left out: {reason}')


def frames_of(
    bags: Sequence[Path],
    contract: Contract,
    progress: ProgressLine,
    *,
    namespace: str = '',
    need_actions: bool = False,
    reading: Reading | None = None,
) -> Iterator[tuple[Replay, Frame]]:
    """Every frame of every bag, with the replay it comes from.

    Args:
        bags: folders or files.
        contract: of the robot that recorded them.
        progress: told of every frame.
        namespace: that relative topics were recorded under.
        need_actions: whether a bag without recorded commands is a fault.
        reading: collects the account; with it, a bag that gives nothing is left out with a word as
            long as another one gives something, and copies of a bag are read once.

    Raises:
        BagError: a bag (with `reading`: every bag) cannot be read, lacks a topic, or gives no
            observation.
    """
    named = (
        [(str(bag), bag) for bag in bags] if reading is None else reading.distinct(bags, progress)
    )
    sizes = [_bytes(bag) for _, bag in named]
    pictures = 0  # of the bags that are read
    fault: BagError | None = None
    for index, (name, bag) in enumerate(named):
        try:
            with replay(bag, contract, namespace=namespace, need_actions=need_actions) as frames:
                # Bags to come hold as many pictures per byte as those that are known.
                known = pictures + frames.expected
                total = known * sum(sizes) // max(sum(sizes[: index + 1]), 1)
                for frame in frames:
                    done = pictures + frames.pictures
                    progress(READING, done, max(total, done))
                    yield frames, frame
                pictures = known
                if frames.refused:
                    reasons = '; '.join(
                        f'{count} times {stream}: {reason.value}'
                        for (stream, reason), count in frames.refused.most_common(3)
                    )
                    progress.note(f'{bag}: {frames.frames} observations; left out {reasons}')
                if reading is not None:
                    reading.add(name, frames)
        except BagError as error:
            if reading is None:
                raise
            fault = fault or error
            reading.failed(name, error, progress)
    if fault is not None and pictures == 0:
        raise fault


def _bytes(bag: Path) -> int:
    files = bag.iterdir() if bag.is_dir() else [bag]
    return sum(file.stat().st_size for file in files if file.is_file())


def _unique(name: str, taken: set[str]) -> str:
    """A name for a bag that no other bag has."""
    number, unique = 2, name
    while unique in taken:
        unique, number = f'{name} ({number})', number + 1
    return unique
