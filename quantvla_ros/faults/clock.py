# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Simulated time that can jump and fall silent."""
from __future__ import annotations

import threading
import time
from typing import Any

from rosgraph_msgs.msg import Clock

from quantvla_ros.faults.relay import BEST_EFFORT
from quantvla_ros.nodes.messages import time_message

_TICK = 0.01  # s of simulated time


class SimulatedClock:
    """/clock from a thread of its own: the machine's time and an offset.

    Args:
        node: publishes.

    Attributes:
        offset: ns that simulated time is ahead.
        silent: while set, nothing is published.
        now: ns; published last.
    """

    def __init__(self, node: Any) -> None:
        self._node = node
        self.offset, self.silent, self.now = 0, False, 0
        self._publisher: Any = None
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def running(self) -> bool:
        """Whether there is simulated time."""
        return self._thread is not None

    def start(self) -> None:
        """Begin, at the machine's time."""
        self.offset, self.silent = 0, False
        self._closing.clear()
        self._publisher = self._node.create_publisher(Clock, '/clock', BEST_EFFORT)
        self._thread = threading.Thread(target=self._run, name='clock', daemon=True)
        self._thread.start()

    def jump(self, seconds: float) -> None:
        """Jump."""
        self.offset += round(seconds * 1e9)

    def close(self) -> None:
        """Stop, if it was started."""
        if self._thread is not None:
            self._closing.set()
            self._thread.join()
            self._thread = None
            self._node.destroy_publisher(self._publisher)

    def _run(self) -> None:
        while not self._closing.wait(_TICK):
            if not self.silent:
                self.now = time.time_ns() + self.offset
                self._publisher.publish(Clock(clock=time_message(self.now)))


