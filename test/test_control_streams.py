# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What of a planned motion goes to whom, and when."""
import numpy as np
import pytest

from quantvla_ros.control.streams import CORRECTION, columns, heading, remaining, speeds
from quantvla_ros.control.trajectory import Trajectory

STAMP = 5_000_000_000
MS = 1_000_000


def motion(finger, arm=None) -> Trajectory:
    """Points every 50 ms; the arm's velocities by differences, the finger rests at each."""
    finger = np.array(finger, dtype=np.float64)
    arm = np.zeros_like(finger) if arm is None else np.array(arm, dtype=np.float64)
    positions = np.stack([arm, finger], axis=1)
    velocities = np.diff(positions, axis=0, append=positions[-1:]) / 0.05 * [1.0, 0.0]
    times = (np.arange(len(finger)) + 1) * 0.05
    return Trajectory(STAMP, ('arm', 'finger'), times, positions, velocities)


def test_points_whose_time_has_passed_are_left_out_and_the_stamp_stays():
    points = motion([0.1, 0.2, 0.3])
    rest = remaining(points, STAMP + 60 * MS)
    np.testing.assert_allclose(rest.times, [0.10, 0.15])
    np.testing.assert_allclose(rest.positions[:, 1], [0.2, 0.3])
    assert rest.stamp == STAMP and len(rest.velocities) == 2
    assert remaining(points, STAMP) is points


def test_of_a_motion_that_is_over_the_end_remains():
    assert remaining(motion([0.1, 0.2]), STAMP + 10_000 * MS).positions[:, 1].tolist() == [0.2]


def test_columns_are_found_by_name():
    some = columns(motion([0.1, 0.2], arm=[1.0, 2.0]), ['finger', 'arm'])
    assert some.joints == ('finger', 'arm')
    assert some.positions[:, 0].tolist() == [0.1, 0.2]
    assert some.positions[:, 1].tolist() == [1.0, 2.0]


def test_a_gripper_that_closes_over_several_points_is_told_its_end_at_once():
    points = motion([1.0, 1.0, 0.8, 0.5, 0.2, 0.0, 0.0])
    assert heading(points, 'finger', STAMP + 60 * MS) == 1.0  # not yet on its way
    for ms in (110, 160, 210, 260):
        assert heading(points, 'finger', STAMP + ms * MS) == 0.0
    assert heading(points, 'finger', STAMP + 900 * MS) == 0.0


def test_a_gripper_that_turns_back_is_told_where_it_turns():
    points = motion([0.5, 0.3, 0.1, 0.4, 0.9, 0.9])
    assert heading(points, 'finger', STAMP + 60 * MS) == 0.1
    assert heading(points, 'finger', STAMP + 160 * MS) == 0.9


def test_speeds_are_the_plans_where_the_arm_keeps_to_it():
    points = motion([0.0, 0.0, 0.0, 0.0], arm=[0.0, 0.05, 0.10, 0.15])
    speed = speeds(points, STAMP + 120 * MS, np.array([9.0, 9.0]))
    np.testing.assert_allclose(speed, [1.0, 0.0], atol=1e-9)


def test_an_arm_behind_its_plan_is_sped_up_and_one_ahead_slowed_within_the_limits():
    points = motion([0.0] * 4, arm=[0.0, 0.05, 0.10, 0.15])
    now = STAMP + 120 * MS
    allowed = np.array([9.0, 9.0])
    behind = speeds(points, now, allowed, np.array([0.02, 0.0]), now)
    assert behind[0] == pytest.approx(1.0 + CORRECTION * (0.07 - 0.02))
    ahead = speeds(points, now, allowed, np.array([0.12, 0.0]), now)
    assert ahead[0] == pytest.approx(1.0 - CORRECTION * 0.05)
    assert speeds(points, now, np.array([1.02, 9.0]), np.array([-5.0, 0.0]), now)[0] == 1.02


def test_a_late_measurement_is_held_against_the_plan_of_its_own_time():
    """Against the present plan a moving arm would always seem to lag, and be driven too fast."""
    points = motion([0.0] * 4, arm=[0.0, 0.05, 0.10, 0.15])
    now = STAMP + 140 * MS
    speed = speeds(points, now, np.array([9.0, 9.0]), np.array([0.05, 0.0]), STAMP + 100 * MS)
    assert speed[0] == pytest.approx(1.0)


def test_after_its_end_a_plan_stands_still():
    points = motion([0.0, 0.0], arm=[0.0, 0.05])
    assert speeds(points, STAMP + 500 * MS, np.array([9.0, 9.0])).tolist() == [0.0, 0.0]
