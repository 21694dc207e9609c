# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What /diagnostics is told of a chunk's rows and of the delay: by what the arm really did."""
import pytest
from test_control_supervisor import MS, PERIOD, ROWS, bench, running, still

from quantvla_ros.control.schedule import Delays, Schedule
from quantvla_ros.control.splice import state_at

__all__ = ['bench', 'running']  # fixtures


def follow(bench, ms: int) -> None:
    """Let time pass for an arm that does what it is told."""
    for _ in range(ms // 10):
        points = bench.chunks[-1].points
        b, a = state_at(points, bench.now + 10 * MS)[0]
        bench.position.update(a=float(a), b=float(b))
        bench.pass_time(10)


def infer(bench, latency_ms: int) -> None:
    work = bench.supervisor.plan()
    assert work is not None
    rows = still(bench.position, 0.02)
    follow(bench, latency_ms)
    bench.supervisor.deliver(work, rows, latency_ms * 1e-3)


def test_rows_that_were_over_and_rows_that_ran_are_counted_for_each_chunk(running):
    spent = running.schedule.spent
    assert (spent.over.count, spent.over.last, spent.run.count) == (1, 0.0, 0)
    follow(running, 400)
    infer(running, 100)
    # Its look was 400 ms into the first chunk, and 110 to 123 ms later it took over.
    assert spent.over.last == 2.0
    assert (spent.run.count, spent.run.last) == (1, 10.0)
    follow(running, 300)
    infer(running, 100)
    assert spent.over.last == 2.0
    # From row 2 of the second chunk on: 400 ms.
    assert spent.run.count == 2 and spent.run.last == pytest.approx(8.0, abs=1.0)
    assert spent.over.count == 3


def test_a_chunk_that_ran_to_its_end_ran_with_all_its_rows(running):
    follow(running, ROWS * 50 + 200)
    infer(running, 100)
    assert running.schedule.spent.run.last == ROWS
    assert running.schedule.spent.over.last == 0.0  # the arm stood meanwhile


def test_a_chunk_that_a_hold_broke_off_is_not_counted(running):
    for _ in range(40):
        running.pass_time(10, camera=False)  # a dead camera
    assert len(running.holds) == 1
    running.pass_time(1000)
    while running.supervisor.plan() is None:  # the recovery time
        running.pass_time(10)
    running.pass_time(PERIOD // MS)
    infer(running, 0)
    assert len(running.chunks) == 2
    assert running.schedule.spent.run.count == 0 and running.schedule.spent.over.count == 2


def test_what_a_delay_was_measured_from_is_said_and_the_first_one_is_set_aside():
    delays = Delays(window=3)
    assert delays.count == 0
    delays.add(9.0)
    assert (delays.count, delays.percentile(50.0)) == (1, 9.0)  # better than nothing
    for seconds in (0.1, 0.2, 0.3, 0.4):
        delays.add(seconds)
    assert (delays.count, delays.percentile(50.0)) == (3, pytest.approx(0.3))


def test_a_chunk_must_last_for_the_measured_delay_the_margin_and_a_row():
    schedule = Schedule(0.05, 8, ROWS)
    schedule.delays.add(0.33)
    assert schedule.needed == 9 and schedule.threshold == 9
    schedule.delays.add(0.01)
    assert schedule.needed == 3 and schedule.threshold == 8  # half a chunk is run in any case
