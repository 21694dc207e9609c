# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantvla_ros.contract.types import JointLimit
from quantvla_ros.control.chunk import Chunk
from quantvla_ros.control.guard import Reason, check, check_motion
from quantvla_ros.control.trajectory import ahead, expected, from_chunk, sample

JOINTS = ('shoulder', 'elbow')
LIMITS = {
    'shoulder': JointLimit(-1.0, 1.0, velocity=2.0),
    'elbow': JointLimit(0.0, 0.5, velocity=1.0, unit='m'),
}
PERIOD = 0.05
HOME = np.array([0.0, 0.25])


def chunk_of(rows) -> Chunk:
    return Chunk(1_000_000_000, PERIOD, JOINTS, np.array(rows, dtype=np.float64))


def ramp(*steps: float) -> np.ndarray:
    """Rows of a chunk that moves the shoulder by these steps from home."""
    return np.stack([np.cumsum(steps), np.full(len(steps), 0.25)], axis=1)


def judge(rows, measured=HOME, tolerance=0.3):
    return check(chunk_of(rows), LIMITS, measured, tolerance)


def test_a_chunk_within_all_limits_passes():
    assert judge(ramp(0.05, 0.05, 0.05)).ok


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_one_number_that_is_not_finite_drops_the_chunk_and_is_named(bad):
    rows = ramp(0.05, 0.05, 0.05)
    rows[2, 1] = bad
    verdict = judge(rows)
    assert (verdict.reason, verdict.joint, verdict.row) == (Reason.NOT_FINITE, 'elbow', 2)
    assert str(bad) in verdict.sentence


def test_a_row_a_little_outside_a_position_limit_drops_the_chunk():
    rows = np.array([[0.0, 0.46], [0.0, 0.50], [0.0, 0.501]])
    verdict = judge(rows, measured=np.array([0.0, 0.42]))
    assert (verdict.reason, verdict.joint, verdict.row) == (Reason.POSITION_LIMIT, 'elbow', 2)
    assert verdict.limit == 0.5
    assert '0.501 m' in verdict.sentence and 'limit 0.500 m' in verdict.sentence


def test_the_lower_limit_counts_as_well():
    verdict = judge([[-1.2, 0.25]], measured=np.array([-1.1, 0.25]))
    assert (verdict.reason, verdict.limit) == (Reason.POSITION_LIMIT, -1.0)


def test_rows_that_follow_each_other_too_fast_drop_the_chunk():
    verdict = judge(ramp(0.05, 0.12, 0.05))
    assert (verdict.reason, verdict.joint, verdict.row) == (Reason.VELOCITY_LIMIT, 'shoulder', 1)
    assert verdict.value == pytest.approx(2.4) and verdict.unit == 'rad/s'


def test_the_way_from_the_measured_joints_to_the_first_row_counts_with_its_time():
    rows = ramp(0.12, 0.0)
    assert judge(rows).reason is Reason.VELOCITY_LIMIT
    assert check(chunk_of(rows), LIMITS, HOME, 0.3, lead=0.1).ok


def test_a_start_far_from_the_measured_joints_is_a_jump_whatever_its_time():
    verdict = check(chunk_of(ramp(0.31, 0.0)), LIMITS, HOME, 0.3, lead=10.0)
    assert (verdict.reason, verdict.joint) == (Reason.START_JUMP, 'shoulder')
    assert verdict.value == pytest.approx(0.31)


def test_exactly_at_the_limits_passes():
    assert judge([[0.1, 0.3], [0.2, 0.35], [0.3, 0.40]]).ok


def motion(rows, measured=HOME, stamp=1_000_000_000):
    chunk = chunk_of(rows)
    return check_motion(
        from_chunk(chunk, LIMITS, HOME), LIMITS, measured, stamp, expected(chunk, HOME, stamp), 0.3
    )


def test_a_cubic_that_overshoots_the_speed_between_rows_is_found():
    # 1.9 rad/s from row to row, but at rest on both sides: the cubic peaks at half as much again.
    rows = ramp(0.0, 0.0, 0.095, 0.0, 0.0)
    assert judge(rows).ok
    verdict = motion(rows)
    assert (verdict.reason, verdict.row) == (Reason.VELOCITY_LIMIT, 2)
    assert verdict.value == pytest.approx(1.5 * 1.9)


def test_an_arm_that_has_moved_away_since_the_observation_is_a_jump():
    assert motion(ramp(0.05, 0.05)).ok
    assert motion(ramp(0.05, 0.05), np.array([-0.31, 0.25])).reason is Reason.START_JUMP


def test_an_arm_that_is_where_the_chunk_has_it_by_now_is_no_jump():
    """Late in a fast chunk the arm is far from the first row, and right."""
    rows = ramp(*[0.09] * 8)
    late = 1_000_000_000 + 300_000_000
    points = ahead(from_chunk(chunk_of(rows), LIMITS, HOME), LIMITS, rows[5], late, late, margin=0)
    there = expected(chunk_of(rows), HOME, late)
    np.testing.assert_allclose(there, rows[5])
    assert check_motion(points, LIMITS, rows[5], late, there, 0.05).ok
    assert check_motion(points, LIMITS, rows[3], late, there, 0.05).reason is Reason.START_JUMP


def test_a_first_point_that_comes_too_soon_for_the_way_is_too_fast():
    late = 1_000_000_000 + 45_000_000  # 5 ms before the first row, and 0.05 rad from it
    assert motion(ramp(0.05, 0.05), stamp=late).reason is Reason.VELOCITY_LIMIT


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(-0.07, 0.07), st.floats(-0.03, 0.03)), min_size=2, max_size=20
    ),
    st.floats(0.0, 0.3),
)
def test_what_passes_is_followed_inside_every_limit(steps, delay):
    """The promise to the arm: sampled finely, a motion that passed breaks no limit."""
    rows = HOME + np.cumsum(steps, axis=0)
    chunk = chunk_of(rows)
    if not check(chunk, LIMITS, HOME, 0.3).ok:
        return
    now = chunk.stamp + round(delay * 1e9)
    measured = HOME if delay < PERIOD else rows[min(int(delay / PERIOD) - 1, len(rows) - 1)]
    points = ahead(from_chunk(chunk, LIMITS, HOME), LIMITS, measured, now, now, margin=0.0)
    there = expected(chunk, HOME, now)
    if points is None or not check_motion(points, LIMITS, measured, now, there, 0.3).ok:
        return
    instants = np.linspace(points.stamp + points.times[0] * 1e9, points.end, 400)
    path = np.array([sample(points, int(instant)) for instant in instants])
    for column, name in enumerate(JOINTS):
        limit = LIMITS[name]
        assert path[:, column].min() >= limit.lower - 1e-6
        assert path[:, column].max() <= limit.upper + 1e-6
        if len(points.times) > 1:
            speed = np.abs(np.diff(path[:, column]) / np.diff(instants * 1e-9))
            assert speed.max() <= limit.velocity * (1 + 1e-3)
