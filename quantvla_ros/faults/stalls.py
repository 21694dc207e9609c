# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""When the machine stood still: a virtual one without its processor, or one with too much to do.

A node that gets no input because nobody had time to send one holds, and rightly so; but then what
it does is not the answer to the fault that is played. A thread that only sleeps shows it: it wakes
late. Knows times; knows nothing of ROS.
"""
from __future__ import annotations

import threading
import time

# s that the thread is late; the inputs of the built-in arm may be 0.25 and 0.3 s old, and come
# every 0.1 s at least.
STALL = 0.15
_SLEEP = 0.02  # s


class Stalls:
    """Watches for them from its making until its end; a context manager."""

    def __init__(self) -> None:
        self._found: list[tuple[float, float]] = []  # (end, length), s of time.monotonic
        self._before: float | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name='stalls', daemon=True)

    def __enter__(self) -> Stalls:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closing.set()
        self._thread.join()

    def longest(self, since: float) -> float:
        """Length in s of the longest that ended after `since`; 0 where there was none."""
        return max((length for end, length in self._found if end > since), default=0.0)

    def look(self, now: float) -> None:
        """Take the time at which the thread woke."""
        late = 0.0 if self._before is None else now - self._before - _SLEEP
        if late > STALL:
            self._found.append((now, late))
        self._before = now

    def _watch(self) -> None:
        while not self._closing.wait(_SLEEP):
            self.look(time.monotonic())
