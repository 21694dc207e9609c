# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""When to look again: plan anew after some periods of the running chunk, in time for its end.

A clock comes in as numbers, so a test drives it without waiting. Knows times; knows nothing of ROS,
observations or models.
"""
from __future__ import annotations

import math
from collections import deque

import numpy as np

_NS = 1e9


class Latencies:
    """Durations of the last inferences. The warm-up is not one of them.

    Attributes:
        count: how many there have been in all.
    """

    def __init__(self, window: int = 200) -> None:
        self._recent: deque[float] = deque(maxlen=window)
        self.count = 0

    def add(self, seconds: float) -> None:
        """Note one inference."""
        self._recent.append(seconds)
        self.count += 1

    @property
    def last(self) -> float:
        """s; 0 before the first."""
        return self._recent[-1] if self._recent else 0.0

    def percentile(self, percent: float) -> float:
        """s, over the window; 0 before the first."""
        return float(np.percentile(self._recent, percent)) if self._recent else 0.0


class Schedule:
    """Decides when an inference is due and whether a chunk is still running.

    The next inference is due `execute_steps` periods after the running chunk's first row counts,
    or earlier where the measured latency would otherwise outlast the chunk. It is taken with the
    camera picture that arrives nearest to that instant, so that the picture is new when it is used.

    Args:
        period: s between two rows.
        execute_steps: periods of a chunk to run before the next look.
        chunk_size: rows of a chunk.
    """

    def __init__(self, period: float, execute_steps: int, chunk_size: int) -> None:
        self._period = period
        self.execute_steps = execute_steps
        self._chunk_size = chunk_size
        self._start: int | None = None  # ns; the instant row -1 of the running chunk stands for
        self._end = 0  # ns; when the running chunk is at rest
        self._camera = -1  # ns; the newest picture the last inference used
        self.latencies = Latencies()

    @property
    def steps(self) -> int:
        """Periods between two looks, shortened where the policy is slow."""
        reserve = math.ceil(self.latencies.percentile(90.0) / self._period) + 1
        return max(1, min(self.execute_steps, self._chunk_size - reserve))

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
        period = round(self._period * _NS)
        target = self._start + self.steps * period
        if now >= target + period // 2:
            return True
        # A picture from within half a period of the target is the one to use.
        return now >= target - period // 2 and camera >= target - period // 2

    def looked(self, camera: int) -> None:
        """An inference began with pictures of this stamp (ns)."""
        self._camera = camera

    def started(self, start: int, end: int) -> None:
        """A chunk was sent: row -1 stands for `start` ns and the arm is at rest at `end` ns."""
        self._start, self._end = start, end

    def put_off(self, now: int) -> None:
        """A chunk was dropped: look again after one period."""
        self._start = now - (self.steps - 1) * round(self._period * _NS)
        self._end = now

    def stopped(self) -> None:
        """Nothing runs any more: the next look is due with the next picture."""
        self._start, self._end = None, 0

    def reset(self) -> None:
        """Forget times, as after a jump of the clock. The latencies stay."""
        self.stopped()
        self._camera = -1

    def running(self, now: int) -> bool:
        """Whether the last chunk still moves the arm."""
        return self._start is not None and now < self._end
