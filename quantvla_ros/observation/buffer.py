# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The newest message of every stream, made into one observation when it is asked for.

Knows the contract, header stamps and a clock that it is told; knows nothing of rclpy, bags or
models. Live topics and bags go through this one class, so that both give the same observation.

`store` keeps a message and no more, so that a callback costs microseconds; pictures are decoded
in `observe`, once per message. A stream is known by its name in the contract: a camera's name,
'joint_states', a state part's name, 'language'.
"""
from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from quantvla_ros.contract.instruction import clean_instruction
from quantvla_ros.contract.types import JOINT_STREAM, LANGUAGE_STREAM, Contract
from quantvla_ros.errors import ObservationError
from quantvla_ros.observation.decode import decode_image
from quantvla_ros.observation.messages import NS_PER_S, header_stamp
from quantvla_ros.observation.selection import TIME_JUMP_NS, Entry, Selection
from quantvla_ros.observation.state import field_values, joint_positions
from quantvla_ros.observation.types import Fault, Observation, Reason, Refusal

# Pictures of a camera that are kept at most, in case that the newer ones turn out to be broken.
_KEPT = 8


@dataclass(frozen=True)
class Latest:
    """The newest message of a stream.

    Attributes:
        stamp: ns, from the header; of arrival where the type has none.
        received: ns, when it arrived.
    """

    message: Any
    stamp: int
    received: int


@dataclass(frozen=True)
class Broken:
    """Pictures of a camera that cannot be decoded.

    Attributes:
        count: those that an observation was to be made of.
        received: ns, when the last one arrived.
        detail: what was expected and found in it.
    """

    count: int
    received: int
    detail: str


@dataclass(frozen=True)
class _Command:
    text: str
    received: int | None  # ns; None for the contract's default


class ObservationBuffer:
    """Newest-wins buffers on header time, with age, skew and every refusal accounted for.

    `store` may be called from any thread while another calls `observe`.
    """

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._cameras = {camera.name: camera for camera in contract.cameras}
        self._parts = {part.name: part for part in contract.state}
        self._selection = Selection(contract)
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}
        self._earlier: dict[str, list[Entry]] = {}  # of cameras: fresh pictures, oldest first
        self._broken: dict[str, Broken] = {}
        self._command = self._default_command()
        self._clock = 0  # ns; the latest time that was told
        self._received: Counter[str] = Counter()
        self._dropped: Counter[tuple[str, Reason]] = Counter()
        self._zero_stamps: set[str] = set()
        self._left_out: dict[str, Fault] = {}
        self._distrusted: dict[str, Fault] = {}

    @property
    def streams(self) -> tuple[str, ...]:
        """All streams that `store` knows, in the order of the contract."""
        return (*self._selection.limits, LANGUAGE_STREAM)

    @property
    def instruction(self) -> str | None:
        """The command that the next observation will carry; None where there is none yet."""
        command = self._command
        return command.text if command else None

    def received(self) -> Mapping[str, int]:
        """Messages per stream so far, those dropped included."""
        with self._lock:
            return dict(self._received)

    def dropped(self) -> Mapping[tuple[str, Reason], int]:
        """Messages that were not taken, by stream and reason."""
        with self._lock:
            return dict(self._dropped)

    def broken(self, stream: str) -> Broken | None:
        """A camera's pictures that could not be decoded; None where there were none."""
        with self._lock:
            return self._broken.get(stream)

    def left_out(self) -> Mapping[str, Fault]:
        """Optional cameras that the latest observation lacks though they have sent, and why."""
        with self._lock:
            return dict(self._left_out)

    def reset(self) -> None:
        """Forget all messages and go back to the contract's default command; counts stay."""
        with self._lock:
            self._entries.clear()
            self._earlier.clear()
            self._broken.clear()
            self._zero_stamps.clear()
            self._left_out = {}
            self._distrusted = {}
            self._command = self._default_command()
            self._clock = 0

    def store(self, stream: str, message: Any, receive_ns: int) -> Fault | None:
        """Keep a message if it is the newest of its stream.

        Args:
            stream: name of the stream in the contract.
            message: from rclpy or rosbags; for 'language' a std_msgs/String or plain text.
            receive_ns: ns on the clock of `observe`, when it arrived.

        Returns:
            None where it was kept; otherwise why it was dropped.
        """
        if stream == LANGUAGE_STREAM:
            return self._store_command(message, receive_ns)
        if stream not in self._selection.limits:
            raise KeyError(f'no stream {stream!r} in {self._contract.source}: {self.streams}')
        stamp = header_stamp(message)
        with self._lock:
            self._received[stream] += 1
            self._follow_clock(receive_ns)
            if stamp == 0:
                self._zero_stamps.add(stream)
                return self._drop(Fault(Reason.ZERO_STAMP, stream))
            entry = Entry(message, receive_ns if stamp is None else stamp, receive_ns)
            kept = self._entries.get(stream)
            if kept is not None and entry.stamp <= kept.stamp:
                behind = kept.stamp - entry.stamp
                if behind <= TIME_JUMP_NS:
                    reason = Reason.OUT_OF_ORDER if behind else Reason.DUPLICATE
                    return self._drop(Fault(reason, stream, behind / NS_PER_S))
                self._forget_after(entry.stamp + TIME_JUMP_NS, stream)
            if kept is not None and stream in self._cameras and entry.stamp > kept.stamp:
                fresh = [
                    one for one in [*self._earlier.get(stream, []), kept]
                    if one.error is None and self._selection.is_fresh(stream, one, entry.stamp)
                ]
                self._earlier[stream] = fresh[1 - _KEPT :]
            self._entries[stream] = entry
            self._zero_stamps.discard(stream)
        return None

    def newest(self, stream: str) -> int | None:
        """ns; header stamp of the newest message of a stream, None where there is none."""
        with self._lock:
            if stream == LANGUAGE_STREAM:
                return self._command.received if self._command else None
            entry = self._entries.get(stream)
            return entry.stamp if entry else None

    def latest(self, stream: str) -> Latest | None:
        """The newest message of a stream that has stamps, None where there is none."""
        with self._lock:
            entry = self._entries.get(stream)
        return Latest(entry.message, entry.stamp, entry.received) if entry else None

    def distrust(self, faults: Iterable[Fault]) -> None:
        """Streams that are not to be used though they are fresh; in place of those before."""
        with self._lock:
            self._distrusted = {fault.stream: fault for fault in faults}

    def judge(self, now_ns: int) -> tuple[Fault, ...]:
        """As `check`, of optional cameras too, and without what only decoding would show."""
        _, _, faults, _, left_out = self._survey(now_ns)
        return (*faults, *left_out.values())

    def limit(self, stream: str) -> float:
        """s; how old a stream's newest message may be."""
        return self._selection.limits[stream] / NS_PER_S

    def check(self, now_ns: int) -> Refusal | None:
        """As `observe`, without decoding: what stands against an observation, None for nothing."""
        entries, _, faults, used, _ = self._survey(now_ns)
        faults += [
            Fault(Reason.UNUSABLE, stream, detail=str(entries[stream].error)) for stream in used
            if entries[stream].error is not None and not self._selection.is_optional(stream)
        ]
        return Refusal(tuple(faults)) if faults else None

    def observe(self, now_ns: int) -> Observation | Refusal:
        """The observation of this instant, or all that stands against one.

        Args:
            now_ns: ns on the clock of the header stamps (the node's clock, or a bag's time).
        """
        news = True
        while news:
            entries, command, faults, used, left_out = self._survey(now_ns)
            values: dict[str, np.ndarray] = {}
            failed: dict[str, ObservationError] = {}
            news = False
            for stream in [] if faults else used:  # what will not be used is not decoded
                known = entries[stream].error is not None
                try:
                    values[stream] = self._value(stream, entries[stream])
                except ObservationError as error:
                    failed[stream] = error
                    # Another look: the picture before it may do.
                    news = news or (stream in self._cameras and not known)
        for stream, why in failed.items():
            fault = Fault(Reason.UNUSABLE, stream, detail=str(why))
            if self._selection.is_optional(stream):
                left_out[stream] = fault
            else:
                faults.append(fault)
        with self._lock:
            self._left_out = left_out
        if faults:
            return Refusal(tuple(faults))
        assert command is not None
        stamps = {stream: entries[stream].stamp for stream in values}
        newest = max(stamps.values())
        if command.received is not None:
            stamps[LANGUAGE_STREAM] = command.received
        state = [values[JOINT_STREAM], *(values[part] for part in self._parts)]
        return Observation(
            stamp=newest,
            images={camera.slot: values[name] for name, camera in self._cameras.items()
                    if name in values},
            state=np.concatenate(state).astype(np.float32),
            instruction=command.text,
            stamps=stamps,
        )

    def _survey(self, now: int) -> tuple[
        dict[str, Entry], _Command | None, list[Fault], list[str], dict[str, Fault]
    ]:
        """What there is at this instant, and what `Selection` says of it."""
        with self._lock:
            self._follow_clock(now)
            entries = dict(self._entries)
            command = self._command
            zero_stamps = set(self._zero_stamps)
            distrusted = self._distrusted
        if now <= 0:
            return entries, command, [Fault(Reason.NO_CLOCK, 'clock')], [], {}
        chosen = self._selection.select(entries, zero_stamps, distrusted, now)
        whole = self._stand_ins(entries, now)
        if whole and not chosen.faults:
            fit = self._selection.select(entries | whole, zero_stamps, distrusted, now).used
            stood = entries | {stream: whole[stream] for stream in whole if stream in fit}
            other = self._selection.select(stood, zero_stamps, distrusted, now)
            if not other.faults:  # otherwise it is the broken picture that is to be named
                entries, chosen = stood, other
        if command is None:
            chosen.faults.append(Fault(Reason.NO_INSTRUCTION, LANGUAGE_STREAM))
        return entries, command, chosen.faults, chosen.used, chosen.left_out

    def _stand_ins(self, entries: Mapping[str, Entry], now: int) -> dict[str, Entry]:
        """Fresh pictures from before those that are known to be broken."""
        found: dict[str, Entry] = {}
        with self._lock:
            for stream, earlier in self._earlier.items():
                newest = entries.get(stream)
                if newest is not None and newest.error is not None:
                    for entry in earlier:
                        if entry.error is None and self._selection.is_fresh(stream, entry, now):
                            found[stream] = entry
        return found

    def _value(self, stream: str, entry: Entry) -> np.ndarray:
        """The entry's picture or numbers, made once."""
        if entry.error is not None:
            raise entry.error
        if entry.value is None:
            try:
                if stream in self._cameras:
                    entry.value = decode_image(entry.message, self._cameras[stream].type)
                elif stream == JOINT_STREAM:
                    entry.value = joint_positions(entry.message, self._contract.joint_states.joints)
                else:
                    entry.value = field_values(entry.message, self._parts[stream].fields)
            except ObservationError as error:
                entry.error = error
                with self._lock:
                    self._dropped[stream, Reason.UNUSABLE] += 1
                    if stream in self._cameras:
                        count = self._dropped[stream, Reason.UNUSABLE]
                        self._broken[stream] = Broken(count, entry.received, str(error))
                raise
        return entry.value

    def _store_command(self, message: Any, receive_ns: int) -> Fault | None:
        text = message if isinstance(message, str) else message.data
        with self._lock:
            self._received[LANGUAGE_STREAM] += 1
            self._follow_clock(receive_ns)
            try:
                clean = clean_instruction(text, self._contract.language.max_length)
            except ObservationError as error:  # the command before it stays in force
                return self._drop(
                    Fault(Reason.INSTRUCTION_REFUSED, LANGUAGE_STREAM, detail=str(error))
                )
            self._command = _Command(clean, receive_ns)
        return None

    def _default_command(self) -> _Command | None:
        default = self._contract.language.default
        return None if default is None else _Command(default, None)

    def _drop(self, fault: Fault) -> Fault:
        self._dropped[fault.stream, fault.reason] += 1
        return fault

    def _follow_clock(self, now: int) -> None:
        """Notice that the clock itself went back; stamps from before would all lie ahead of it."""
        if now < self._clock - TIME_JUMP_NS:
            self._forget_after(now + TIME_JUMP_NS, None)
            self._clock = now
        self._clock = max(self._clock, now)

    def _forget_after(self, stamp: int, cause: str | None) -> None:
        """Drop what was measured after `stamp`: it belongs to an earlier pass of time.

        What has come with the new time already stays; so does the command, which has no age.
        """
        for stream, entry in list(self._entries.items()):
            if entry.stamp > stamp or stream == cause:
                del self._entries[stream]
                self._earlier.pop(stream, None)
                self._dropped[stream, Reason.TIME_JUMP] += 1
