# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Which messages make an observation: fresh enough, and measured together.

Knows a contract's age limits and stamps; knows nothing of what messages hold, of threads or of
clocks. `ObservationBuffer` keeps the messages and asks here.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from quantvla_ros.contract.types import JOINT_STREAM, Contract
from quantvla_ros.errors import ObservationError
from quantvla_ros.observation.messages import NS_PER_S
from quantvla_ros.observation.types import Fault, Reason

# A step back by more than this is a new pass of time (bag loop, simulator reset), not disorder;
# a message that is this old already when it arrives comes from another clock, not a slow link.
TIME_JUMP_NS = NS_PER_S


@dataclass
class Entry:
    """A stored message; `value` and `error` are filled when it is first asked for.

    Attributes:
        stamp: ns, from the header; of arrival where the type has none.
        received: ns, when it arrived.
    """

    message: Any
    stamp: int
    received: int
    value: np.ndarray | None = None
    error: ObservationError | None = None


@dataclass(frozen=True)
class Selected:
    """What is said of the newest message of each stream.

    Attributes:
        faults: of streams that are required.
        used: streams that make the observation.
        left_out: optional cameras that have sent and cannot be used.
    """

    faults: list[Fault]
    used: list[str]
    left_out: dict[str, Fault]


class Selection:
    """The rules of one contract.

    Attributes:
        limits: ns by stream, how old a message may be; in the order of the contract.
        skew: ns that messages may lie apart, or ahead of the clock.
    """

    def __init__(self, contract: Contract) -> None:
        fresh = contract.freshness
        self.skew = _ns(fresh.skew)
        limits = {camera.name: _ns(fresh.cameras) for camera in contract.cameras}
        limits[JOINT_STREAM] = _ns(fresh.joint_states)
        self.limits = limits | {part.name: _ns(fresh.state) for part in contract.state}
        self._optional = {camera.name for camera in contract.cameras if not camera.required}

    def is_optional(self, stream: str) -> bool:
        """Whether an observation may do without."""
        return stream in self._optional

    def is_fresh(self, stream: str, entry: Entry, now: int) -> bool:
        """Whether a message is no older than its stream's may be."""
        return now - entry.stamp <= self.limits[stream]

    def select(
        self, entries: Mapping[str, Entry], zero_stamps: set[str],
        distrusted: Mapping[str, Fault], now: int,
    ) -> Selected:
        """Choose among the newest messages.

        Args:
            zero_stamps: streams whose last message had none.
            distrusted: streams that are not to be used though they are fresh, and why.
            now: ns, on the clock of the stamps.
        """
        faults: list[Fault] = []
        used: list[str] = []
        left_out: dict[str, Fault] = {}
        for stream in self.limits:
            entry = entries.get(stream)
            fault = self._age_fault(stream, entry, stream in zero_stamps, now)
            fault = fault or distrusted.get(stream)
            if fault is None:
                used.append(stream)
            elif not self.is_optional(stream):
                faults.append(fault)
            elif fault.reason is not Reason.MISSING:
                left_out[stream] = fault
        required = [stream for stream in used if not self.is_optional(stream)]
        if fault := self._skew_fault(required, entries):
            return Selected([*faults, fault], used, left_out)
        kept = list(required)
        for stream in used:
            if stream not in required:
                if fault := self._skew_fault([*kept, stream], entries):
                    left_out[stream] = fault
                else:
                    kept.append(stream)
        return Selected(faults, [stream for stream in used if stream in kept], left_out)

    def _age_fault(
        self, stream: str, entry: Entry | None, zero_stamp: bool, now: int
    ) -> Fault | None:
        limit = self.limits[stream]
        if entry is None:
            return Fault(Reason.ZERO_STAMP if zero_stamp else Reason.MISSING, stream)
        age = now - entry.stamp
        if -self.skew <= age <= limit:
            return None
        if age < 0:
            reason, limit = Reason.CLOCK_SKEW, self.skew
        elif entry.received - entry.stamp > TIME_JUMP_NS:
            reason = Reason.CLOCK_SKEW
        elif zero_stamp:
            reason = Reason.ZERO_STAMP
        else:
            reason = Reason.STALE if now - entry.received > limit else Reason.LATE
        return Fault(reason, stream, age / NS_PER_S, limit / NS_PER_S)

    def _skew_fault(self, streams: Iterable[str], entries: Mapping[str, Entry]) -> Fault | None:
        ordered = sorted(streams, key=lambda stream: entries[stream].stamp)
        if not ordered:
            return None
        oldest, newest = ordered[0], ordered[-1]
        apart = entries[newest].stamp - entries[oldest].stamp
        if apart <= self.skew:
            return None
        return Fault(
            Reason.OUT_OF_STEP, f'{oldest}, {newest}', apart / NS_PER_S, self.skew / NS_PER_S
        )


def _ns(seconds: float) -> int:
    return round(seconds * NS_PER_S)
