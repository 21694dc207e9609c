# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""When to look again, by the schedule chosen and by how long it has taken from look to chunk.

A clock comes in as numbers, so a test drives it without waiting. Knows times; knows nothing of ROS,
observations or models.
"""
from __future__ import annotations

import math
from collections import deque

import numpy as np

from quantvla_ros.control.modes import ASYNC, Mode, Scheduling

_NS = 1e9


class Recent:
    """The last numbers of a kind.

    Args:
        window: how many.

    Attributes:
        count: how many there have been in all.
    """

    def __init__(self, window: int) -> None:
        self._recent: deque[float] = deque(maxlen=window)
        self.count = 0

    def add(self, number: float) -> None:
        """Note one."""
        self._recent.append(number)
        self.count += 1

    @property
    def last(self) -> float:
        """The newest; 0 before the first."""
        return self._recent[-1] if self._recent else 0.0

    def percentile(self, percent: float) -> float:
        """Over the window; 0 before the first."""
        return float(np.percentile(self._recent, percent)) if self._recent else 0.0


class Latencies(Recent):
    """Durations of the last inferences, s. The warm-up is not one of them."""

    def __init__(self, window: int = 200) -> None:
        super().__init__(window)


class Rows:
    """What became of the rows of the last chunks that were sent.

    Attributes:
        over: of each chunk, rows whose time had passed when it took over: they are never sent.
        run: of each chunk, rows that ran after those until the next one took over; one that was
            broken off by a hold is not counted.
    """

    def __init__(self, window: int = 50) -> None:
        self.over, self.run = Recent(window), Recent(window)


class Delays:
    """How long chunks took from the stamp of their observation to when they took over.

    The first one after a start is set aside as soon as there is another: memory, caches and
    graphs of a new shape make it longer than any that follow.
    """

    def __init__(self, window: int = 50) -> None:
        self._recent: deque[float] = deque(maxlen=window)
        self._first: float | None = None
        self._begins = True
        self._known: dict[float, float] = {}  # percentiles, asked for at every look at the clock

    @property
    def count(self) -> int:
        """How many a percentile is of: none but the first, or those of the window."""
        return len(self._recent) or int(self._first is not None)

    def begin(self) -> None:
        """The next one is a first one."""
        self._begins = True

    def add(self, seconds: float) -> None:
        """Note one."""
        if self._begins:
            self._first, self._begins = seconds, False
        else:
            self._recent.append(seconds)
            self._known.clear()

    def percentile(self, percent: float) -> float:
        """s, over the window; the first one where there is no other, 0 before that."""
        if not self._recent:
            return self._first or 0.0
        if percent not in self._known:
            self._known[percent] = float(np.percentile(self._recent, percent))
        return self._known[percent]


class Schedule:
    """Decides when an inference is due and whether a chunk is still running.

    `async` and `rtc`: due `execute_steps` periods after the running chunk's first row counts, or
    earlier: as soon as what is left of the chunk falls below the measured delay (a percentile and a
    margin). It is taken with the camera picture that arrives nearest to that instant, so that the
    picture is new when it is used. `sync`: due with the first picture of the arm at rest.
    `ensemble`: due at every period.

    Args:
        period: s between two rows.
        execute_steps: periods of a chunk to run before the next look.
        chunk_size: rows of a chunk.
        settings: which schedule, and its numbers.
    """

    def __init__(
        self, period: float, execute_steps: int, chunk_size: int,
        settings: Scheduling = ASYNC,
    ) -> None:
        self._period = period
        self.execute_steps = execute_steps
        self.chunk_size = chunk_size
        self.settings = settings
        self._start: int | None = None  # ns; the instant row -1 of the running chunk stands for
        self._end = 0  # ns; when the running chunk is at rest
        self._camera = -1  # ns; the newest picture the last inference used
        self.latencies = Latencies()
        self.delays = Delays()
        self.spent = Rows()

    @property
    def rows(self) -> int:
        """Rows of a chunk that may run: in `sync`, those after which the arm stops to look."""
        if self.settings.mode is Mode.SYNC:
            return max(1, min(self.execute_steps, self.chunk_size))
        return self.chunk_size

    @property
    def delay(self) -> float:
        """Seconds from an observation to its chunk, as it must be expected."""
        return self.delays.percentile(self.settings.percentile)

    @property
    def threshold(self) -> int:
        """Periods that a chunk must still last when the next look begins."""
        return max(self.needed, self.chunk_size - self.execute_steps)

    @property
    def needed(self) -> int:
        """Periods that pass from a look until its chunk has taken over, as must be expected."""
        # One more: over the last row a chunk without a successor is slowed to a stop.
        return math.ceil((self.delay + self.settings.margin) / self._period) + 1

    @property
    def steps(self) -> int:
        """Periods between two looks, shortened where the policy is slow."""
        if self.settings.mode is Mode.ENSEMBLE:
            return 1
        return max(1, self.chunk_size - self.threshold)

    def due(self, now: int, camera: int) -> bool:
        """Whether to infer now.

        Args:
            now: ns.
            camera: ns; stamp of the newest picture of the camera that is furthest behind.
        """
        if camera <= self._camera:
            return False  # nothing new to look at
        if self._start is None:
            return True
        if self.settings.mode is Mode.SYNC:
            return now >= self._end and camera >= self._end
        period = round(self._period * _NS)
        target = self._start + self.steps * period
        if self.settings.mode is Mode.ENSEMBLE:
            target = self._camera + period  # the next look never waits for the last one's chunk
        if now >= target + period // 2:
            return True
        # A picture from within half a period of the target is the one to use.
        return now >= target - period // 2 and camera >= target - period // 2

    def spare(self, now: int) -> float:
        """Seconds for which no inference is due after `now` ns; 0 where the next picture asks."""
        if self._start is None:
            return 0.0
        period = round(self._period * _NS)
        target = self._start + self.steps * period - period // 2
        if self.settings.mode is Mode.SYNC:
            target = self._end
        elif self.settings.mode is Mode.ENSEMBLE:
            target = self._camera + period // 2
        return max(0.0, (target - now) * 1e-9)

    def looked(self, camera: int) -> None:
        """An inference began with pictures of this stamp (ns)."""
        self._camera = camera

    def started(self, start: int, end: int) -> None:
        """A chunk was sent: row -1 stands for `start` ns and the arm is at rest at `end` ns."""
        self._start, self._end = start, end

    def put_off(self, now: int) -> None:
        """A chunk was dropped: look again after one period."""
        period = round(self._period * _NS)
        self._start = now - (self.steps - 1) * period
        self._end = now
        if self.settings.mode is Mode.SYNC:
            self._end = now + period // 2

    def stopped(self) -> None:
        """Nothing runs any more: the next look is due with the next picture."""
        self._start, self._end = None, 0

    def reset(self) -> None:
        """Forget times, as after a jump of the clock. The latencies stay."""
        self.stopped()
        self._camera = -1
        self.delays.begin()

    def running(self, now: int) -> bool:
        """Whether the last chunk still moves the arm."""
        return self._start is not None and now < self._end
