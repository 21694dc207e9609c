# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A thread that does one thing at an even rate: for commands that are streamed.

Its own thread rather than a timer: it goes on while the executor is busy, and its pace is that of
a monotonic clock, also where the node's time stands still.
"""
from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Ticker:
    """Calls `tick` at `rate` until it is closed.

    Args:
        tick: what to do.
        rate: Hz.
        name: of the thread.
        crashed: told of a fault of ours, which ends the thread.
    """

    def __init__(
        self, tick: Callable[[], None], rate: float, name: str,
        crashed: Callable[[Exception], None],
    ) -> None:
        self._tick, self._period, self._crashed = tick, 1.0 / rate, crashed
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        due = time.monotonic()
        try:
            while not self._closing.wait(max(0.0, due - time.monotonic())):
                self._tick()
                # What was missed is not made up for.
                due = max(due + self._period, time.monotonic())
        except Exception as error:  # an arm that is told nothing any more must not go unnoticed
            self._crashed(error)
