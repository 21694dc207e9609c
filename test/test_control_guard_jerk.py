# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Motions of bounded acceleration become motions of bounded jerk, without a step anywhere."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantvla_ros.contract.types import JointLimit
from quantvla_ros.control.guard import Reason, check_points
from quantvla_ros.control.smoothing import (
    State,
    leading,
    smoothed,
    state_of,
    steps,
    window,
)
from quantvla_ros.control.trajectory import Trajectory

STEP = 0.0125
MOST = np.array([4.0, 2.0])  # rad/s^2
LIMITS = {
    'a': JointLimit(-50.0, 50.0, 50.0, acceleration=4.0, jerk=80.0),
    'b': JointLimit(-50.0, 50.0, 50.0, acceleration=2.0, jerk=60.0),
}
JOINTS = ('a', 'b')
COUNT = steps(window(LIMITS, JOINTS, MOST), STEP)


def motion_of(shares, position, velocity) -> Trajectory:
    """Even accelerations from a state on, each a share of the most allowed, then braked to rest."""
    positions, velocities = [np.asarray(position, float)], [np.asarray(velocity, float)]
    reach = MOST * STEP
    shares = [np.array(pair) for pair in shares]
    while shares or velocities[-1].any():
        v = velocities[-1]
        change = shares.pop(0) * reach if shares else np.clip(-v, -reach, reach)
        positions.append(positions[-1] + (v + change / 2.0) * STEP)
        velocities.append(v + change)
    if len(positions) == 1:  # it was at rest
        positions.append(positions[0])
        velocities.append(velocities[0])
    times = 0.3 + np.arange(len(positions)) * STEP
    return Trajectory(7, JOINTS, times, np.array(positions), np.array(velocities))


def pairs(low, high):
    return st.tuples(st.floats(low, high), st.floats(low, high))


@settings(max_examples=150, deadline=None)
@given(st.lists(pairs(-1.0, 1.0), max_size=40), pairs(-1.0, 1.0), pairs(-1.0, 1.0))
def test_whatever_accelerations_come_the_jerk_keeps_its_limit(shares, speed, share):
    before = State(np.array([0.5, -0.5]), np.array(speed), np.array(share) * MOST)
    start = leading(before, COUNT * STEP)
    y = smoothed(motion_of(shares, *start), before, COUNT)
    assert check_points(y, LIMITS).ok
    # It leaves from the very state it was asked to, and ends at rest.
    np.testing.assert_allclose(y.positions[0], before.position, atol=1e-9)
    np.testing.assert_allclose(y.velocities[0], before.velocity, atol=1e-9)
    after = state_of(y, y.stamp + round(y.times[0] * 1e9) + 1000)
    np.testing.assert_allclose(after.acceleration, before.acceleration, atol=0.02)
    np.testing.assert_allclose(y.velocities[-1], 0.0, atol=1e-9)


def test_the_same_motion_unsmoothed_breaks_the_jerk_limit():
    x = motion_of([(1.0, 1.0)] * 8, [0.0, 0.0], [0.0, 0.0])
    assert check_points(x, LIMITS).reason is Reason.JERK_LIMIT


def test_the_end_is_the_same_place_and_half_a_window_later_all_the_way():
    rest = State(np.zeros(2), np.zeros(2), np.zeros(2))
    x = motion_of([(1.0, 0.5)] * 60, [0.0, 0.0], [0.0, 0.0])
    y = smoothed(x, rest, COUNT)
    np.testing.assert_allclose(y.positions[-1], x.positions[-1], atol=1e-12)
    assert y.times[-1] == pytest.approx(x.times[-1] + COUNT * STEP)
    middle = round(0.5e9) + 7 + round(0.3e9)
    late = middle + round(COUNT * STEP * 0.5e9)
    np.testing.assert_allclose(
        state_of(y, late).velocity, state_of(x, middle).velocity, atol=1e-6
    )


def test_a_second_motion_joins_the_first_without_a_step():
    """As chunk follows chunk: the state of one is where the next one begins."""
    rest = State(np.zeros(2), np.zeros(2), np.zeros(2))
    first = smoothed(motion_of([(1.0, -1.0)] * 30, [0.0, 0.0], [0.0, 0.0]), rest, COUNT)
    cut = first.stamp + round((first.times[0] + 0.21) * 1e9)
    there = state_of(first, cut)
    second = smoothed(motion_of([(-1.0, 1.0)] * 30, *leading(there, COUNT * STEP)), there, COUNT)
    assert check_points(second, LIMITS).ok
    begins = state_of(second, second.stamp + round(second.times[0] * 1e9))
    for name in ('position', 'velocity', 'acceleration'):
        np.testing.assert_allclose(getattr(begins, name), getattr(there, name), atol=1e-6)


def test_without_a_limit_of_jerk_nothing_is_changed():
    free = {'a': JointLimit(-1.0, 1.0, 1.0), 'b': JointLimit(-1.0, 1.0, 1.0)}
    assert window(free, JOINTS, MOST) == 0.0
    x = motion_of([(1.0, 1.0)], [0.0, 0.0], [0.0, 0.0])
    assert smoothed(x, State(np.zeros(2), np.zeros(2), np.zeros(2)), 0) is x


def test_uneven_points_are_refused():
    x = motion_of([(1.0, 1.0)] * 4, [0.0, 0.0], [0.0, 0.0])
    x.times[2] += 0.004
    with pytest.raises(ValueError, match='even'):
        smoothed(x, State(np.zeros(2), np.zeros(2), np.zeros(2)), 3)
