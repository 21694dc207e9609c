# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A machine that stands still is no fault of the node; a fault of the node is one nevertheless."""
from __future__ import annotations

import time
from dataclasses import replace

import pytest

from quantvla_ros.faults.results import Result, show
from quantvla_ros.faults.stalls import Stalls

FAILED = Result(1, 'a camera dies', 'hold', 'HOLDS', ('the arm still moves',))
PASSED = Result(1, 'a camera dies', 'hold', 'HOLDS', ())


def watched(*awake: float) -> Stalls:
    """Whose thread woke at these times."""
    stalls = Stalls()
    for now in awake:
        stalls.look(now)
    return stalls


def test_a_thread_that_wakes_late_shows_how_long_the_machine_stood_still():
    stalls = watched(5.0, 5.02, 5.05, 5.57, 5.6, 5.85)
    assert stalls.longest(0.0) == pytest.approx(0.5)
    assert stalls.longest(5.57) == pytest.approx(0.23)
    assert stalls.longest(5.85) == 0.0
    assert watched(5.0, 5.1, 5.25).longest(0.0) == 0.0  # a busy machine


def test_it_watches_until_its_end():
    with Stalls() as stalls:
        thread = stalls._thread
        assert thread.is_alive()
    assert not thread.is_alive()


@pytest.fixture
def fairly(monkeypatch):
    """Plays a case that comes out as given, one result after the other; and how often it was."""
    pytest.importorskip('rclpy', reason='needs ROS 2: . scripts/env.sh')
    pytest.importorskip('quantvla_ros.msg', reason='needs the built messages: scripts/setup.sh')
    from quantvla_ros.faults import runner

    def fairly(results: list[Result], stood_still: bool) -> Result:
        stalls = Stalls()

        def play(stage, case):
            now = time.monotonic()
            for at in (now, now + 0.5) if stood_still else (now, now + 0.02):
                stalls.look(at)
            return results.pop(0)

        monkeypatch.setattr(runner, 'play', play)
        return runner.play_fairly(None, None, stalls)

    return fairly


def test_a_case_that_failed_while_the_machine_stood_still_is_played_once_more(fairly):
    results = [FAILED, PASSED]
    result = fairly(results, stood_still=True)
    assert result.passed and not results
    assert result.excused == FAILED.problems and result.stood_still == pytest.approx(0.48, abs=0.01)
    assert 'played twice, as the machine stood still for 0.48 s; the first time: the arm' in show(
        [result]
    )


def test_what_fails_twice_or_on_a_machine_with_time_has_failed(fairly):
    assert not fairly([FAILED, FAILED], stood_still=True).passed
    results = [FAILED, PASSED]
    assert not fairly(results, stood_still=False).passed and results == [PASSED]


def test_commands_beyond_a_limit_are_not_excused(fairly):
    results = [replace(FAILED, asked=1.2), PASSED]
    assert not fairly(results, stood_still=True).passed and results == [PASSED]


def test_what_passed_is_not_played_again(fairly):
    results = [PASSED, FAILED]
    assert fairly(results, stood_still=True) == PASSED and results == [FAILED]
