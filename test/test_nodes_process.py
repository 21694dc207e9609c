# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The stop signal of a process: heard once, and never a reason to hang."""
import signal
import subprocess
import sys
import threading

import pytest

from quantvla_ros.nodes.process import StopSignal


@pytest.fixture
def stop():
    stop = StopSignal()
    yield stop
    stop.restore()


def test_two_signals_in_a_row_end_a_wait():
    # `ros2 launch` forwards the Ctrl-C that the terminal has sent already. In a process of its own:
    # the signals must meet the main thread while it waits.
    program = (
        'import os, signal, threading\n'
        'from quantvla_ros.nodes.process import StopSignal\n'
        'stop = StopSignal()\n'
        'def kill():\n'
        '    stop.wait(0.02)\n'
        '    os.kill(os.getpid(), signal.SIGINT)\n'
        '    os.kill(os.getpid(), signal.SIGTERM)\n'
        'threading.Thread(target=kill, daemon=True).start()\n'
        'assert stop.wait()\n'
    )
    for _ in range(5):
        subprocess.run([sys.executable, '-c', program], check=True, timeout=30)


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
