# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A node as a process: it spins until it is told to stop, then stops in order.

rclpy's own signal handling invalidates every publisher at once, so that nothing could be sent any
more; here a signal only wakes the main thread, which does the rest. A second signal changes
nothing.
"""
from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from quantvla_ros.errors import QuantVLAError

_LAST_CALLBACKS = 8  # of what became due while the nodes stopped
_CYCLE = 0.2  # s between two looks at the stop signal where no callback is due


class Interrupted(Exception):
    """The user asked to stop a command that was waiting for something."""


class StopSignal:
    """Set by SIGINT or SIGTERM. Make it before anything slow is imported, in the main thread."""

    def __init__(self) -> None:
        # A pipe that is written and never read: whoever waits for it wakes, now or later. Python
        # itself writes to it when a signal arrives, in whichever thread that is: of two signals in
        # a row the second may reach another thread, take the first one with it, and leave the main
        # thread asleep. A lock (Event, Queue) would hang where two handlers meet.
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._previous_wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._previous = {
            number: signal.signal(number, _leave_it_to_the_pipe)
            for number in (signal.SIGINT, signal.SIGTERM)
        }

    def set(self) -> None:
        """Stop for a reason of our own."""
        with contextlib.suppress(BlockingIOError):  # full: it says so already
            os.write(self._writer, b'.')

    def is_set(self) -> bool:
        """Whether to stop."""
        return self.wait(0.0)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for it; True when it has come."""
        ready, _, _ = select.select([self._reader], [], [], timeout)
        return bool(ready)

    def restore(self) -> None:
        """Put the handlers back that were there before; the last call."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_wakeup)
        for end in (self._reader, self._writer):
            os.close(end)


def _leave_it_to_the_pipe(number: int, frame: object) -> None:
    """Python writes to the wake-up pipe only for signals that have a handler."""


class Stoppable(Protocol):
    """A node that ends in order. Both are called in the main thread.

    Attributes:
        crashed: to be called by a thread of the node that fails by a fault of ours; the process
            then stops in order and ends with that exception.
    """

    crashed: Callable[[Exception], None]

    def begin_stop(self) -> bool:
        """Hold, while callbacks still run; False where something runs that cannot be ended."""

    def end_stop(self) -> None:
        """Free everything; no callback runs any more."""


def run(
    make_nodes: Callable[[], Sequence[Any]],
    ros_arguments: Sequence[str],
    stop: StopSignal,
) -> int:
    """Spin nodes in one executor until `stop`; the exit status is 0 after an ordered stop.

    Args:
        make_nodes: makes the nodes, which are `Stoppable`, once rclpy is initialised.
        ros_arguments: `--ros-args ...`.
        stop: ends it.
    Raises:
        QuantVLAError: an argument or a parameter was refused.
    """
    import rclpy
    from rclpy.exceptions import ParameterException
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.signals import SignalHandlerOptions

    rclpy.init(args=list(ros_arguments), signal_handler_options=SignalHandlerOptions.NO)
    try:
        nodes = list(make_nodes())
    except ParameterException as error:
        rclpy.shutdown()
        raise QuantVLAError(f'parameters: {error}') from error
    # One thread: handing callbacks to a pool costs more than they do (docs/node.md).
    executor = SingleThreadedExecutor()
    failure: list[Exception] = []

    def crashed(error: Exception) -> None:
        failure.append(error)
        stop.set()

    for node in nodes:
        node.crashed = crashed
        executor.add_node(node)

    def spin() -> None:
        try:
            while not stop.is_set():
                executor.spin_once(timeout_sec=_CYCLE)
        except Exception as error:  # handed to the main thread
            crashed(error)

    spinning = threading.Thread(target=spin, name='executor', daemon=True)
    spinning.start()
    stop.wait()
    held = [node.begin_stop() for node in nodes]
    if not all(held):
        # Loading cannot be broken off, and nothing moves while it goes on.
        os._exit(0)
    spinning.join()
    for _ in range(_LAST_CALLBACKS):
        executor.spin_once(timeout_sec=0.0)  # results that a client waits for
    executor.shutdown()
    for node in nodes:
        node.end_stop()
        node.destroy_node()
    rclpy.shutdown()
    if failure:
        raise failure[0]
    return 0
