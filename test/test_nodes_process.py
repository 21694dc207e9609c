# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The stop signal of a process: heard once, and never a reason to hang."""
import signal
import sys
import threading

import pytest

from quantvla_ros.nodes.process import StopSignal


@pytest.fixture
def stop():
    stop = StopSignal()
    yield stop
    stop.restore()


def test_a_signal_within_the_handler_of_another_does_not_hang(stop):
    # `ros2 launch` forwards the Ctrl-C that the terminal has sent already: the second signal may
    # come at any line of the first one's handler.
    def within(frame, event, argument):
        sys.settrace(None)
        stop._handle(signal.SIGINT, None)
        sys.settrace(within)
        return within

    def twice():
        sys.settrace(within)
        stop._handle(signal.SIGINT, None)
        sys.settrace(None)

    thread = threading.Thread(target=twice, daemon=True)
    thread.start()
    thread.join(5.0)
    assert not thread.is_alive()
    assert stop.is_set()


def test_all_who_wait_are_woken(stop):
    woken = []
    threads = [threading.Thread(target=lambda: woken.append(stop.wait(10.0))) for _ in range(3)]
    for thread in threads:
        thread.start()
    signal.raise_signal(signal.SIGTERM)
    for thread in threads:
        thread.join(10.0)
    assert woken == [True] * 3
    assert stop.wait()


def test_waiting_without_a_signal_ends_with_the_time(stop):
    assert not stop.wait(0.01)
    assert not stop.is_set()
