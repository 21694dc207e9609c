# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Watchdogs: each has a name, a number and a limit, and is said once when its state changes.

Those that need a memory are here as state machines: the clock that stands still or jumps, the
controller that goes away, the stamps of another clock, the GPU that is lost. Silence is judged on
a monotonic clock, the age of messages on the node's. Knows numbers and exceptions; knows nothing
of ROS or torch.
"""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

_S = 1_000_000_000  # ns
# s between two looks at the node's clock that count as a jump beyond what a steady clock says.
JUMP = 1.0
# Simulated seconds that may pass in a real one; faster than that is a jump.
FASTEST = 20.0
# s; two clocks nearer than this are meant to be the same one.
_ALIKE = 60.0
# s since the epoch; a stamp before 2001 comes from a simulator, which begins at zero.
_FIRST_WALL = 1_000_000_000


class Level(Enum):
    """How bad it is, in the order of DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2


class Watchdog(Enum):
    """What is watched, one sentence each; the name in /diagnostics is the member's in lower case.

    One per input has the input's name after its own.
    """

    AGE = 'the newest message of an input is fresh'
    FROZEN = 'the pictures of a camera change while the arm moves'
    SKEW = 'the inputs were measured at the same time'
    STAMPS = "the inputs' stamps and this clock go together"
    CLOCK = 'the clock goes on'
    JUMP = 'the clock does not jump'
    CONTROLLER = 'the controller takes the commands'
    INFERENCE = 'an inference comes back'
    DEVICE = 'the device that the policy runs on works'
    QOS = "the other side's quality of service fits"

    def of(self, stream: str = '') -> str:
        """Its name, with the stream's."""
        return f'{self.name.lower()} {stream}'.rstrip()


@dataclass(frozen=True)
class Reading:
    """What a watchdog shows at one instant.

    Attributes:
        name: of the watchdog.
        number, limit: in `unit`; the limit is the largest number that is well.
        level: None where there is nothing to judge yet.
        sentence: what is wrong, or how it is.
    """

    name: str
    number: float
    limit: float
    unit: str
    level: Level | None
    sentence: str

    @property
    def line(self) -> str:
        """For the log."""
        unit = f' {self.unit}' if self.unit else ''
        return (
            f'watchdog {self.name}: {self.sentence} '
            f'({self.number:.3g}{unit}, limit {self.limit:g}{unit})'
        )


@dataclass
class _Shown:
    reading: Reading
    well_since: float | None = None


class Changes:
    """What is shown of the readings: bad at once, well again only after a while.

    So one that comes and goes is said once, and a report once a second misses none.

    Args:
        settle: s for which a reading must be better before it is shown so.
    """

    def __init__(self, settle: float = 2.0) -> None:
        self._settle = settle
        self._shown: dict[str, _Shown] = {}

    @property
    def shown(self) -> tuple[Reading, ...]:
        """The newest readings; of one that was bad a moment ago, that one."""
        return tuple(shown.reading for shown in self._shown.values())

    def take(self, readings: Iterable[Reading], steady: float) -> list[Reading]:
        """Take new readings; those whose level has changed, to be said.

        Args:
            readings: all of this instant; what is not among them any more is forgotten.
            steady: s of a monotonic clock.
        """
        said = []
        before, self._shown = self._shown, {}
        for reading in readings:
            shown = self._shown[reading.name] = before.get(reading.name, _Shown(reading))
            old, new = _rank(shown.reading), _rank(reading)
            if reading.name not in before:
                old = 0
            if new < old:
                if shown.well_since is None:
                    shown.well_since = steady
                if steady - shown.well_since < self._settle:
                    continue
            shown.well_since = None
            shown.reading = reading
            if new != old:
                said.append(reading)
        return said


def _rank(reading: Reading) -> int:
    return 0 if reading.level is None else reading.level.value


@dataclass
class ClockWatch:
    """Whether the node's clock goes on, and evenly.

    Attributes:
        timeout: s of a monotonic clock for which it may stand still.
        simulated: whether it follows /clock, which may be faster or slower than real time.
        still: s for which it has stood.
        jump: s of the last jump, negative where it went back; 0 before the first.
        jumps: how many there have been.
    """

    timeout: float
    simulated: bool
    still: float = 0.0
    jump: float = 0.0
    jumps: int = 0
    _now: int | None = field(default=None, repr=False)
    _steady: int = field(default=0, repr=False)
    _moved: int = field(default=0, repr=False)

    def look(self, now: int, steady: int) -> float:
        """Take the time.

        Args:
            now: ns of the node's clock.
            steady: ns of a monotonic clock.
        Returns:
            s by which it jumped since the last look, negative for back; 0 where it did not.
        """
        before, elapsed = self._now, (steady - self._steady) / _S
        self._now, self._steady = now, steady
        if before is None or now != before:
            self._moved = steady
        self.still = (steady - self._moved) / _S
        if before is None or before <= 0:  # the first /clock is no jump
            return 0.0
        advance = (now - before) / _S
        slack = elapsed * FASTEST if self.simulated else elapsed
        jump = 0.0
        if advance < -JUMP:
            jump = advance
        elif advance > slack + JUMP:
            jump = advance - elapsed
        if jump:
            self.jump, self.jumps = jump, self.jumps + 1
        return jump

    @property
    def stands(self) -> bool:
        """Whether it has stood still for too long."""
        return self.still > self.timeout

    @property
    def sentence(self) -> str:
        """How it is."""
        if not self.stands:
            return 'goes on'
        if self._now is not None and self._now <= 0:
            return 'the clock stands at zero: use_sim_time is set, but nothing publishes /clock'
        if self.simulated:
            return 'the clock stands still: /clock has ended, or the simulation is paused'
        return 'the clock stands still'


@dataclass
class ControllerWatch:
    """Whether the controller is still there. One that never was is no fault: it may come yet.

    Attributes:
        timeout: s of a monotonic clock for which it may be away.
        away: s for which it has been away.
        seen: whether it has been there.
        unheard: whether nobody took the commands at the last look, though it has been there: what
            is told now is lost, and the arm ends elsewhere than it is told.
    """

    timeout: float
    away: float = 0.0
    seen: bool = False
    unheard: bool = False
    _there: float = field(default=0.0, repr=False)
    _tells: bool = field(default=False, repr=False)

    def look(
        self, listeners: int, tellers: int, steady: float, told: float | None = None
    ) -> None:
        """Take what the graph shows.

        Args:
            listeners: who take the commands. A tool that displays them is one, too; hence
            tellers: publishers of the controller's own state; 0 where it has none. Once there was
                one, the controller is there only while there is one.
            steady: s of a monotonic clock.
            told: when it said of its state last; None where that has never been heard.
        """
        self._tells = self._tells or tellers > 0
        if listeners > 0 and (tellers > 0 or not self._tells):
            self.seen, self._there = True, steady if told is None else told
        self.away = steady - self._there if self.seen else 0.0
        self.unheard = self.seen and listeners == 0

    @property
    def lost(self) -> bool:
        """Whether nothing should be told any more."""
        return self.gone or self.unheard

    @property
    def gone(self) -> bool:
        """Whether it was there and has been away for too long."""
        return self.seen and self.away > self.timeout

    @property
    def sentence(self) -> str:
        """How it is."""
        if not self.seen:
            return 'nobody takes the commands yet'
        if self.gone:
            return 'the controller has gone away'
        return 'nobody takes the commands any more' if self.unheard else 'takes the commands'


def whose_clock(stamp: int, received: int, wall: int) -> str:
    """In words, by which clock something was stamped that is not this node's.

    Args:
        stamp: ns.
        received: ns of the node's clock when it arrived.
        wall: ns of the wall clock then.
    """
    simulated = abs(received - wall) > _ALIKE * _S
    if simulated and abs(stamp - wall) <= _ALIKE * _S:
        return (
            'is stamped by the wall clock, but this node follows /clock: set use_sim_time for its '
            'publisher'
        )
    if not simulated and stamp < _FIRST_WALL * _S:
        return (
            "is stamped by a simulator's clock, but this node follows the wall clock: set "
            'use_sim_time for this node'
        )
    return 'is stamped by another clock: synchronise the clocks of the two machines'


_LOST = frozenset({'OutOfMemoryError', 'AcceleratorError'})  # torch's, by name
_LOST_WORDS = (
    'cuda error', 'cudaerror', 'cuda out of memory', 'triton error [cuda]', 'cublas_status',
    'cudnn_status', 'cusolver_status', 'device-side assert', 'hip error',
)
_LONGEST = 300  # characters of torch's advice


def device_failure(error: BaseException) -> str | None:
    """What happened to the GPU in one line; None where an exception is not about the GPU.

    After most errors of CUDA every further call of the process fails, too; after one that ran out
    of memory the next inference would. An exception that was raised for another one counts as that.
    """
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        text = str(cause)
        names = {kind.__name__ for kind in type(cause).__mro__}
        if names & _LOST or any(word in text.lower() for word in _LOST_WORDS):
            first = text.strip().partition('\n')[0][:_LONGEST]
            return f'{type(cause).__name__}: {first}'
        cause = cause.__cause__ or cause.__context__
    return None
