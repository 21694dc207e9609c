# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from quantvla_ros.contract.types import JointLimit
from quantvla_ros.control.chunk import Chunk
from quantvla_ros.control.trajectory import ahead, from_chunk, hold, peak_speeds, sample

JOINTS = ('a',)
LIMITS = {'a': JointLimit(-1.0, 1.0, velocity=2.0)}
STAMP = 5_000_000_000
MS = 1_000_000
START = np.array([0.0])


def chunk_of(*positions: float) -> Chunk:
    return Chunk(STAMP, 0.05, JOINTS, np.array(positions)[:, np.newaxis])


def test_row_i_is_meant_for_the_observation_plus_i_plus_1_periods():
    points = from_chunk(chunk_of(0.01, 0.02, 0.03), LIMITS, START)
    assert points.stamp == STAMP
    np.testing.assert_allclose(points.times, [0.05, 0.10, 0.15])


def test_velocities_are_central_differences_and_the_last_is_zero():
    points = from_chunk(chunk_of(0.01, 0.03, 0.06, 0.10), LIMITS, START)
    np.testing.assert_allclose(points.velocities[:, 0], [0.3, 0.5, 0.7, 0.0])


def test_a_turning_joint_stands_still_at_the_turn():
    points = from_chunk(chunk_of(0.05, 0.0, 0.05), LIMITS, START)
    np.testing.assert_allclose(points.velocities[:2, 0], 0.0)


def test_a_joint_at_its_limit_is_not_carried_past_it_by_the_cubic():
    points = from_chunk(chunk_of(0.9, 0.99, 1.0, 1.0, 0.98), LIMITS, np.array([0.81]))
    instants = np.linspace(STAMP + 50 * MS, points.end, 500)
    path = [sample(points, int(instant))[0] for instant in instants]
    assert max(path) <= 1.0 + 1e-12


def test_the_stop_at_the_end_takes_longer_where_it_would_be_too_fast():
    fast = from_chunk(chunk_of(0.1, 0.2, 0.3), LIMITS, START)  # 2 rad/s, the limit itself
    assert peak_speeds(fast).max() <= 2.0
    assert fast.times[-1] > 0.15
    assert fast.positions[-1, 0] == 0.3
    slow = from_chunk(chunk_of(0.05, 0.1, 0.15), LIMITS, START)
    assert slow.times[-1] == pytest.approx(0.15)


def test_elapsed_points_are_dropped():
    points = from_chunk(chunk_of(0.01, 0.02, 0.03, 0.04), LIMITS, START)
    now = STAMP + 110 * MS
    rest = ahead(points, LIMITS, np.array([0.022]), now, now, margin=0.0)
    np.testing.assert_allclose(rest.times, [0.15, 0.20])
    assert rest.stamp == STAMP


def test_a_point_nearer_than_the_margin_counts_as_elapsed():
    points = from_chunk(chunk_of(0.01, 0.02, 0.03, 0.04), LIMITS, START)
    now = STAMP + 96 * MS
    assert ahead(points, LIMITS, np.array([0.02]), now, now, margin=0.0).times[0] == 0.1
    assert ahead(points, LIMITS, np.array([0.02]), now, now, margin=0.005).times[0] > 0.1


def test_nothing_is_left_of_a_chunk_that_is_over():
    points = from_chunk(chunk_of(0.01, 0.02), LIMITS, START)
    now = STAMP + 101 * MS
    assert ahead(points, LIMITS, START, now, now, margin=0.0) is None


def test_a_first_point_out_of_reach_is_skipped_for_one_within():
    # 20 ms to the next row, 0.1 rad away: 5 rad/s. The one after that is reached at 1.7 rad/s.
    points = from_chunk(chunk_of(0.1, 0.12, 0.14), LIMITS, np.array([0.08]))
    now = STAMP + 30 * MS
    assert ahead(points, LIMITS, START, now, now, margin=0.0).times[0] == pytest.approx(0.10)


def test_a_chunk_put_off_starts_with_its_first_row():
    points = from_chunk(chunk_of(0.01, 0.02, 0.03), LIMITS, START, late_by=0.12)
    np.testing.assert_allclose(points.times, [0.17, 0.22, 0.27])
    assert points.stamp == STAMP


def test_hold_slows_down_evenly_from_the_measured_speed():
    points = hold(JOINTS, np.array([0.2]), np.array([1.0]), LIMITS, STAMP, stop_time=0.3)
    assert points.positions[0, 0] == pytest.approx(0.2 + 1.0 * 0.3 / 2)
    assert points.velocities[0, 0] == 0.0 and points.times[0] == 0.3


def test_hold_stays_inside_the_limits_and_never_pulls_a_joint_back_to_them():
    near = hold(JOINTS, np.array([0.95]), np.array([1.0]), LIMITS, STAMP, stop_time=0.3)
    assert near.positions[0, 0] == 1.0
    for outside in (1.2, -1.2):
        beyond = hold(JOINTS, np.array([outside]), np.array([0.0]), LIMITS, STAMP, stop_time=0.3)
        assert beyond.positions[0, 0] == outside


def test_a_chunk_of_one_row_is_a_stop_there():
    points = from_chunk(chunk_of(0.01), LIMITS, START)
    assert points.velocities.tolist() == [[0.0]]
