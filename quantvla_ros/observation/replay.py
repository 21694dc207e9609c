# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A recorded bag as observations and actions, made by the code that makes them on the robot.

Knows bags, the contract and `ObservationBuffer`, which it feeds in the order of recording with
the bag's time as the clock; knows nothing of ROS at run time or of models.
"""
from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from quantvla_ros.contract.instruction import clean_instruction
from quantvla_ros.contract.types import (
    JOINT_STATE,
    JOINT_STREAM,
    JOINT_TRAJECTORY,
    LANGUAGE_STREAM,
    STRING,
    Contract,
)
from quantvla_ros.errors import BagError, ObservationError
from quantvla_ros.observation.bags import Bag, BagHealth
from quantvla_ros.observation.buffer import TIME_JUMP_NS, ObservationBuffer
from quantvla_ros.observation.commands import RecordedCommands
from quantvla_ros.observation.messages import NS_PER_S
from quantvla_ros.observation.types import Observation, Reason, Refusal


@dataclass(frozen=True)
class Frame:
    """One instant of a recording.

    Attributes:
        observation: as the policy would have seen it.
        action: [action] float32, the recorded command of that instant in the policy's numbers;
            None where nothing was commanded.
        episode: bag and number; a new one begins with another command or a gap of over 1 s.
        time: ns, when the picture was recorded.
    """

    observation: Observation
    action: np.ndarray | None
    episode: str
    time: int


class Replay(Iterator[Frame]):
    """The frames of one bag, and the account of what was left out.

    Attributes:
        frames: frames given so far.
        pictures: pictures of the first required camera looked at so far.
        refused: instants without an observation, by stream and reason.
        commands: the recorded commands.
    """

    def __init__(
        self,
        bag: str | Path,
        contract: Contract,
        *,
        every: int = 1,
        namespace: str = '',
        need_actions: bool = False,
    ) -> None:
        """Open the bag and read its commands.

        Raises:
            BagError: the bag cannot be read or lacks a topic.
        """
        if every < 1:
            raise ValueError(f'every must be 1 or more, not {every}')
        self.frames = 0
        self.pictures = 0
        self.refused: Counter[tuple[str, Reason]] = Counter()
        self._contract = contract
        self._every = every
        self._period = round(contract.control_period * NS_PER_S)
        self._trigger = next(camera.name for camera in contract.cameras if camera.required)
        self._bag = Bag(bag)
        try:
            self._streams = self._find_streams(namespace)
            self._command_topic = self._find_commands(namespace, need_actions)
            self.commands = RecordedCommands(contract)
            self._changes: list[int] = []  # ns, when another command was given
            self._read_commands()
        except BaseException:
            self._bag.close()
            raise
        self._buffer = ObservationBuffer(contract)
        self._run = self._replay()

    def __iter__(self) -> Replay:
        return self

    def __next__(self) -> Frame:
        return next(self._run)

    def __enter__(self) -> Replay:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the bag; done by itself when the last frame was given."""
        self._run.close()
        self._bag.close()

    @property
    def health(self) -> BagHealth:
        """How whole the bag was found."""
        return self._bag.health

    @property
    def expected(self) -> int:
        """Pictures of the first required camera in the whole bag."""
        topics = [topic for topic, streams in self._streams.items() if self._trigger in streams]
        return sum(self._bag.topics[topic].count for topic in topics)

    @property
    def topic_of(self) -> Mapping[str, str]:
        """The topic of the bag that feeds each stream of the contract."""
        return {stream: topic for topic, streams in self._streams.items() for stream in streams}

    @property
    def command_topic(self) -> str | None:
        """The topic of the recorded commands; None where there are none."""
        return self._command_topic

    def dropped(self) -> Mapping[tuple[str, Reason], int]:
        """Messages that did not count (out of order, duplicate, ...), by stream and reason."""
        return self._buffer.dropped()

    def recorded_chunk(self, frame: Frame, steps: int) -> np.ndarray | None:
        """The actions that were recorded from a frame on, as a policy would have chunked them.

        Args:
            frame: of this replay.
            steps: rows wanted.

        Returns:
            [n, action] float32, n <= steps: it ends where the commands or the instruction end;
            row i is meant for `frame.observation.stamp + (i + 1) * control_period`. None where
            not even one was recorded.
        """
        start = frame.observation.stamp
        later = bisect.bisect_right(self._changes, frame.time)
        end = self._changes[later] if later < len(self._changes) else None
        rows = []
        for step in range(steps):
            instant = start + step * self._period
            if end is not None and instant >= end:
                break
            action = self.commands.action(instant, frame.observation.state)
            if action is None:
                break
            rows.append(action)
        return np.stack(rows) if rows else None

    def _find_streams(self, namespace: str) -> dict[str, list[str]]:
        """Streams of the contract by topic of the bag."""
        contract = self._contract
        wanted = [(c.name, c.topic, c.type, c.required) for c in contract.cameras]
        wanted.append((JOINT_STREAM, contract.joint_states.topic, JOINT_STATE, True))
        wanted += [(part.name, part.topic, part.type, True) for part in contract.state]
        language = contract.language
        wanted.append((LANGUAGE_STREAM, language.topic, STRING, language.default is None))
        streams: dict[str, list[str]] = {}
        types: dict[str, str] = {}
        for stream, name, kind, required in wanted:
            topic = resolve_topic(name, namespace)
            if required or topic in self._bag.topics:
                streams.setdefault(topic, []).append(stream)
            if required or (topic in self._bag.topics and self._bag.topics[topic].count):
                types[topic] = kind
        self._bag.require(types)
        return streams

    def _find_commands(self, namespace: str, needed: bool) -> str | None:
        action = self._contract.action
        name, kind = action.topic, JOINT_TRAJECTORY
        if action.recorded_topic is not None:
            name, kind = action.recorded_topic, JOINT_STATE
        topic = resolve_topic(name, namespace)
        if not needed and (topic not in self._bag.topics or not self._bag.topics[topic].count):
            return None
        self._bag.require({topic: kind})
        return topic

    def _read_commands(self) -> None:
        """A first pass over the small messages, since an action may come after its picture."""
        languages = {t for t, streams in self._streams.items() if LANGUAGE_STREAM in streams}
        topics = languages | ({self._command_topic} if self._command_topic else set())
        if not topics:
            return
        text = self._contract.language.default
        for recorded in self._bag.messages(topics):
            if recorded.topic == self._command_topic:
                self.commands.add(recorded.message, recorded.time)
                continue
            try:
                clean = clean_instruction(
                    recorded.message.data, self._contract.language.max_length
                )
            except ObservationError:
                continue
            if clean != text:
                text = clean
                self._changes.append(recorded.time)

    def _replay(self) -> Generator[Frame, None, None]:
        taken = 0  # pictures that counted
        episode = 0
        before: tuple[str, int] | None = None  # instruction and stamp of the frame before
        for recorded in self._bag.messages(self._streams):
            trigger = False
            for stream in self._streams[recorded.topic]:
                fault = self._buffer.store(stream, recorded.message, recorded.time)
                if stream == self._trigger:
                    self.pictures += 1
                    if fault is None:
                        trigger = taken % self._every == 0
                        taken += 1
                    else:
                        self.refused[stream, fault.reason] += 1
            if not trigger:
                continue
            result = self._buffer.observe(recorded.time)
            if isinstance(result, Refusal):
                self.refused.update((fault.stream, fault.reason) for fault in result.faults)
                continue
            if before is not None and (
                result.instruction != before[0]
                or abs(result.stamp - before[1]) > TIME_JUMP_NS + self._every * self._period
            ):
                episode += 1
            before = (result.instruction, result.stamp)
            self.frames += 1
            yield Frame(
                observation=result,
                action=self.commands.action(result.stamp, result.state),
                episode=f'{self._bag.name}/{episode}',
                time=recorded.time,
            )
        self._bag.close()
        if self.frames == 0:
            reasons = '; '.join(
                f'{count} times {stream}: {reason.value}'
                for (stream, reason), count in self.refused.most_common(3)
            )
            raise BagError(
                f'{self._bag.path}: expected observations, found none in {self.pictures} pictures '
                f'of {self._trigger} ({reasons or "no picture can be read"}); '
                'correct topics and freshness in the contract, or record again'
            )


def replay(
    bag: str | Path,
    contract: Contract,
    *,
    every: int = 1,
    namespace: str = '',
    need_actions: bool = False,
) -> Replay:
    """The frames of a bag: one for each picture of the contract's first required camera.

    Args:
        bag: folder or file.
        contract: what the recorded robot offers.
        every: take each n-th picture only.
        namespace: that relative topics of the contract were recorded under.
        need_actions: whether a bag without the command topic is a fault.

    Returns:
        An iterator of frames, which also accounts for what was left out.

    Raises:
        BagError: the bag cannot be read or lacks a topic; at the end of iteration, where not one
            observation could be made.
    """
    return Replay(bag, contract, every=every, namespace=namespace, need_actions=need_actions)


def resolve_topic(name: str, namespace: str = '') -> str:
    """The full name of a contract's topic in a namespace, as ROS 2 resolves it."""
    if name.startswith('/'):
        return name
    return '/' + '/'.join(part for part in (*namespace.split('/'), name) if part)
