# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest

from quantvla_ros.control.measured import MeasuredJoints
from quantvla_ros.control.schedule import Latencies, Schedule

MS = 1_000_000
PERIOD = 50 * MS


def running(start: int = 1000 * MS, execute: int = 8, rows: int = 16) -> Schedule:
    schedule = Schedule(0.05, execute, rows)
    schedule.looked(start)
    schedule.started(start, start + rows * PERIOD)
    return schedule


def test_the_first_picture_is_looked_at_at_once():
    assert Schedule(0.05, 8, 16).due(0, 0)


def test_the_same_picture_is_never_looked_at_twice():
    schedule = Schedule(0.05, 8, 16)
    schedule.looked(10)
    assert not schedule.due(10**12, 10)
    assert schedule.due(10**12, 11)


def test_the_next_look_comes_after_the_steps_to_execute_with_a_new_picture():
    schedule = running()
    start = 1000 * MS
    assert not schedule.due(start + 350 * MS, start + 350 * MS)
    assert schedule.due(start + 390 * MS, start + 380 * MS)  # a picture near the instant
    assert not schedule.due(start + 400 * MS, start + 370 * MS)  # an older one: wait for the next
    assert schedule.due(start + 425 * MS, start + 370 * MS)  # but not for ever


def test_a_slow_policy_is_asked_earlier_so_that_the_chunk_does_not_run_out():
    schedule = running(execute=12)
    assert schedule.steps == 12
    for _ in range(20):
        schedule.delays.add(0.33)
    # 0.33 s and the margin of 0.05 s are 8 periods, and over one more the chunk would slow down.
    assert schedule.steps == 16 - 9


def test_a_policy_slower_than_its_chunk_is_asked_with_every_period():
    schedule = running()
    for _ in range(5):
        schedule.delays.add(10.0)
    assert schedule.steps == 1


def test_the_first_delay_after_a_start_counts_only_until_there_is_another():
    """Memory, caches and graphs of a new shape make it longer than any that follow."""
    schedule = running(execute=12)
    schedule.reset()
    schedule.delays.add(0.5)
    assert schedule.delay == 0.5
    schedule.delays.add(0.1)
    assert schedule.delay == 0.1
    schedule.reset()
    schedule.delays.add(3.0)
    assert schedule.delay == 0.1


def test_a_dropped_chunk_puts_the_next_look_off_by_a_period():
    schedule = running()
    now = 5000 * MS
    schedule.put_off(now)
    assert not schedule.running(now)
    assert not schedule.due(now, now)
    assert schedule.due(now + PERIOD, now + PERIOD)


def test_a_chunk_runs_until_its_end_and_a_stop_ends_it():
    schedule = running()
    assert schedule.running(1799 * MS) and not schedule.running(1800 * MS)
    schedule.stopped()
    assert not schedule.running(1001 * MS) and schedule.due(1001 * MS, 1001 * MS)


def test_after_a_reset_older_pictures_count_again():
    schedule = running(start=9_000 * MS)
    schedule.reset()
    assert schedule.due(10 * MS, 10 * MS)


def test_latencies_over_the_last_ones():
    latencies = Latencies(window=3)
    assert latencies.percentile(99) == 0.0
    for value in (9.0, 1.0, 2.0, 3.0):
        latencies.add(value)
    assert (latencies.last, latencies.percentile(50), latencies.count) == (3.0, 2.0, 4)


def test_joints_are_found_by_name_in_any_order_among_others():
    joints = MeasuredJoints(('a', 'b'))
    assert joints.store(5, ['x', 'b', 'a'], [9.0, 2.0, 1.0], [9.0, 0.2, 0.1])
    np.testing.assert_allclose(joints.latest.position, [1.0, 2.0])
    np.testing.assert_allclose(joints.latest.velocity, [0.1, 0.2])


def test_a_message_without_a_joint_or_with_nan_changes_nothing():
    joints = MeasuredJoints(('a', 'b'))
    assert not joints.store(5, ['a'], [1.0], [])
    assert not joints.store(5, ['a', 'b'], [1.0, math.nan], [])
    assert not joints.store(5, ['a', 'b'], [1.0], [])
    assert joints.latest is None


def test_missing_velocities_come_from_positions():
    joints = MeasuredJoints(('a',))
    for step in range(4):
        joints.store(step * 10 * MS, ['a'], [0.02 * step], [])
    assert joints.latest.velocity[0] == pytest.approx(2.0)


def test_nan_velocities_count_as_missing():
    joints = MeasuredJoints(('a',))
    joints.store(0, ['a'], [0.0], [math.nan])
    assert joints.latest.velocity[0] == 0.0
    joints.store(10 * MS, ['a'], [0.01], [math.nan])
    assert joints.latest.velocity[0] == pytest.approx(1.0)


def test_a_clock_that_goes_back_gives_no_absurd_velocity():
    joints = MeasuredJoints(('a',))
    joints.store(10**10, ['a'], [1.0], [])
    joints.store(10**10 + 10 * MS, ['a'], [1.02], [])
    joints.store(10 * MS, ['a'], [0.0], [])
    assert joints.latest.velocity[0] == 0.0  # not the one from before
    joints.store(20 * MS, ['a'], [0.01], [])
    assert joints.latest.velocity[0] == pytest.approx(1.0)
