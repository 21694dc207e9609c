# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantvla_ros.contract.types import JointLimit
from quantvla_ros.control.chunk import Chunk
from quantvla_ros.control.guard import Reason, admit, check, check_motion, check_points, slowed
from quantvla_ros.control.trajectory import Trajectory, ahead, expected, from_chunk, sample

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


# The whole chunk: acceleration, jerk, whole turns, and slower where it nearly fits.

FULL = {
    'shoulder': JointLimit(-1.0, 1.0, 2.0, acceleration=8.0, jerk=200.0),
    'elbow': JointLimit(0.0, 0.5, 1.0, unit='m', acceleration=5.0, jerk=100.0),
}


def full(rows, stretch=1.0, lead=None):
    return check(chunk_of(rows), FULL, HOME, 0.3, stretch=stretch, lead=lead)


def test_rows_that_accelerate_too_much_drop_the_chunk_where_no_two_are_too_fast():
    verdict = full(ramp(0.02, 0.02, 0.05, 0.02))  # 0.03 rad of change in 0.05 s twice: 12 rad/s^2
    assert (verdict.reason, verdict.joint) == (Reason.ACCELERATION_LIMIT, 'shoulder')
    assert verdict.value == pytest.approx(12.0) and verdict.unit == 'rad/s^2'


def test_rows_whose_acceleration_turns_too_fast_drop_the_chunk():
    # 7.2 rad/s^2, then as much the other way: 288 rad/s^3.
    verdict = full(ramp(0.02, 0.02, 0.038, 0.02))
    assert verdict.reason is Reason.JERK_LIMIT and verdict.value == pytest.approx(288.0)


def test_without_limits_of_acceleration_a_chunk_may_accelerate_at_will():
    assert judge(ramp(0.02, 0.02, 0.09, 0.02)).ok


@pytest.mark.parametrize(('rows', 'factor'), [
    (ramp(0.02, 0.02, 0.05, 0.02), None),  # jerk 480 over 200 rad/s^3: the cube root of 2.4
    (ramp(0.08, 0.11, 0.12, 0.11), 1.2),  # 2.4 over 2 rad/s
])
def test_a_little_too_much_is_taken_slower_along_the_same_path(rows, factor):
    assert not full(rows).ok
    chunk = chunk_of(rows)
    now = chunk.stamp + 120_000_000
    admitted = admit(chunk, FULL, HOME, 0.3, now, stretch=1.5)
    assert admitted.verdict.ok
    if factor is not None:
        assert admitted.verdict.stretch == pytest.approx(factor)
    assert 'times as long' in admitted.verdict.sentence
    np.testing.assert_array_equal(admitted.chunk.positions, chunk.positions)  # the same path
    # Slower, it needs no further slowing; and no faster pace would do.
    assert check(admitted.chunk, FULL, HOME, 0.3, lead=np.inf).stretch == 1.0
    faster = slowed(chunk, admitted.verdict.stretch * 0.99, now)
    assert not check(faster, FULL, HOME, 0.3, lead=np.inf).ok
    # What is due now is due now at either pace.
    def due(chunk):
        return (now - chunk.stamp) * 1e-9 / chunk.period

    assert due(admitted.chunk) == pytest.approx(due(chunk), abs=1e-6)


def test_far_too_much_is_dropped_and_not_slowed():
    chunk = chunk_of(ramp(0.1, 0.16, 0.1))
    admitted = admit(chunk, LIMITS, HOME, 0.3, chunk.stamp, stretch=1.5)
    assert admitted.verdict.reason is Reason.VELOCITY_LIMIT
    assert admitted.verdict.value == pytest.approx(3.2)  # what was asked for, not what was left


def test_a_position_outside_is_dropped_however_slow_the_chunk_may_be():
    rows = ramp(0.05, 0.05)
    rows[1, 1] = 0.501
    assert full(rows, stretch=4.0, lead=np.inf).reason is Reason.POSITION_LIMIT


TURNING = {'wrist': JointLimit(-np.inf, np.inf, 2.0, continuous=True)}


def turning(rows, measured, tolerance=0.2):
    chunk = Chunk(0, PERIOD, ('wrist',), np.array(rows, dtype=np.float64)[:, np.newaxis])
    return admit(chunk, TURNING, np.array([measured]), tolerance, 0)


def test_a_continuous_joint_goes_the_shortest_way_around():
    """pi and -pi are the same angle: a policy that says one is no jump from the other."""
    rows = np.array([-3.1, -3.05, -3.0])
    admitted = turning(rows, 3.15)
    assert admitted.verdict.ok
    np.testing.assert_allclose(admitted.chunk.positions[:, 0], rows + 2 * np.pi)


def test_a_continuous_joint_may_pass_pi_within_a_chunk_and_be_turns_away():
    admitted = turning([3.1, 3.13, -3.13, -3.1], 3.08 + 6 * np.pi)
    assert admitted.verdict.ok
    rows = admitted.chunk.positions[:, 0]
    assert np.abs(np.diff(rows)).max() < 0.05
    assert abs(rows[0] - (3.08 + 6 * np.pi)) < 0.05


def test_a_continuous_joint_half_a_turn_away_is_a_jump():
    assert turning([0.0, 0.0], np.pi).verdict.reason is Reason.START_JUMP


def test_a_joint_that_does_not_turn_without_end_is_never_moved_by_turns():
    chunk = chunk_of(ramp(0.05, 0.05))
    far = HOME + np.array([2 * np.pi, 0.0])
    assert admit(chunk, LIMITS, far, 0.3, 0).verdict.reason is Reason.START_JUMP


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=2, max_size=2),
             min_size=1, max_size=12),
    st.floats(1.0, 4.0),
)
def test_whatever_numbers_come_what_is_admitted_keeps_every_limit(rows, stretch):
    chunk = chunk_of(rows)
    admitted = admit(chunk, FULL, HOME, 0.3, chunk.stamp, stretch=stretch, lead=np.inf)
    if not admitted.verdict.ok:
        assert admitted.verdict.reason is not None and admitted.verdict.sentence
        return
    used = admitted.chunk
    assert np.isfinite(used.positions).all()
    assert used.period <= chunk.period * stretch * (1 + 1e-9)
    for column, name in enumerate(JOINTS):
        limit, path = FULL[name], used.positions[:, column]
        assert limit.lower - 1e-6 <= path.min() and path.max() <= limit.upper + 1e-6
        for order, allowed in ((1, limit.velocity), (2, limit.acceleration), (3, limit.jerk)):
            values = np.abs(np.diff(path, n=order)) / used.period**order
            assert values.max(initial=0.0) <= allowed * 1.002


# The motion by itself.

def points_of(times, positions, velocities):
    return Trajectory(0, JOINTS, np.array(times), np.array(positions), np.array(velocities))


def test_a_cubic_that_leaves_a_position_limit_between_two_points_is_found():
    still = [[0.0, 0.45], [0.0, 0.45]]
    verdict = check_points(points_of([0.0, 0.4], still, [[0.0, 0.9], [0.0, -0.9]]), LIMITS)
    assert (verdict.reason, verdict.joint) == (Reason.POSITION_LIMIT, 'elbow')


def test_a_joint_outside_its_limits_may_come_back_and_go_no_further():
    limits = {'shoulder': LIMITS['shoulder'], 'elbow': LIMITS['elbow']}
    rest = [[0.0, 0.0], [0.0, 0.0]]
    assert check_points(points_of([0.0, 0.5], [[1.1, 0.2], [0.9, 0.2]], rest), limits).ok
    assert not check_points(points_of([0.0, 0.5], [[1.1, 0.2], [1.2, 0.2]], rest), limits).ok


def test_a_step_of_the_acceleration_is_a_jerk_only_where_jerk_is_limited():
    # Even acceleration, then as much braking: no jerk within a segment, all of it between.
    motion = points_of(
        [0.0, 0.2, 0.4], [[0.0, 0.2], [0.1, 0.2], [0.2, 0.2]], [[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]]
    )
    gentle = {'shoulder': JointLimit(-1.0, 1.0, 2.0, acceleration=5.01), 'elbow': LIMITS['elbow']}
    assert check_points(motion, gentle).ok
    gentle['shoulder'] = JointLimit(-1.0, 1.0, 2.0, acceleration=5.01, jerk=5000.0)
    assert check_points(motion, gentle).reason is Reason.JERK_LIMIT
    gentle['shoulder'] = JointLimit(-1.0, 1.0, 2.0, acceleration=4.9)
    assert check_points(motion, gentle).reason is Reason.ACCELERATION_LIMIT


@pytest.mark.parametrize('bad', [np.nan, np.inf])
@pytest.mark.parametrize('where', ['times', 'positions', 'velocities'])
def test_a_motion_with_a_number_that_is_none_never_passes(where, bad):
    motion = points_of([0.0, 0.2], [[0.0, 0.2], [0.1, 0.2]], [[0.0, 0.0], [0.0, 0.0]])
    getattr(motion, where)[-1] = bad
    assert check_points(motion, LIMITS).reason is Reason.NOT_FINITE
