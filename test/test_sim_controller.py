# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""joint_trajectory_controller's rules, one test per rule."""
import numpy as np
import pytest

from quantvla_ros.sim.tabletop.controller import Rejection, TrajectoryController
from quantvla_ros.sim.tabletop.kinematics import Limits

S = 1_000_000_000  # ns
MS = 1_000_000
NOW = 100 * S
NAMES = ('a', 'b')
FAST = Limits((-10.0, -10.0), (10.0, 10.0), (1000.0, 1000.0))


@pytest.fixture
def controller() -> TrajectoryController:
    return TrajectoryController(NAMES, FAST, (0.0, 0.0), NOW)


def send(controller, times, a, velocities=None, stamp=0, now=NOW):
    """A trajectory of joint `a`; `b` does the opposite."""
    return controller.accept(NAMES, times, [[p, -p] for p in a],
                             None if velocities is None else [[v, -v] for v in velocities],
                             stamp, now)


def at(controller, seconds: float) -> float:
    first, second = controller.sample(NOW + round(seconds * S))
    assert second == pytest.approx(-first)
    return first


def test_it_holds_where_it_is_before_the_first_trajectory(controller):
    assert at(controller, 5.0) == 0.0
    assert not controller.active


def test_stamp_zero_means_now_and_positions_alone_are_joined_linearly(controller):
    assert send(controller, [1.0, 2.0], [1.0, 3.0]).accepted
    reached = [at(controller, t) for t in (0.25, 1.0, 1.5, 2.0)]
    assert reached == pytest.approx([0.25, 1.0, 2.0, 3.0])


def test_the_last_point_is_held(controller):
    send(controller, [1.0], [1.0])
    assert at(controller, 0.5) == pytest.approx(0.5)
    assert controller.active
    assert at(controller, 9.0) == pytest.approx(1.0)
    assert not controller.active


def test_velocities_make_cubics_that_pass_through_points_with_their_velocity(controller):
    send(controller, [1.0, 2.0], [1.0, 2.0], velocities=[0.5, 0.0])
    assert at(controller, 0.5) == pytest.approx(0.5 * 1.0 - 0.125 * 0.5)
    before, point, after = (at(controller, t) for t in (0.999, 1.0, 1.001))
    assert point == pytest.approx(1.0)
    assert (after - before) / 0.002 == pytest.approx(0.5, abs=0.01)
    near_end, end = at(controller, 1.999), at(controller, 2.0)
    assert (end - near_end) / 0.001 == pytest.approx(0.0, abs=0.01)


def test_points_in_the_past_are_passed_over(controller):
    reply = send(controller, [0.1, 0.2, 0.4], [5.0, 6.0, 1.0], stamp=NOW - 300 * MS)
    assert reply.accepted and reply.dropped == 2
    # From where it is now, not from the elapsed points, to the one still ahead.
    assert at(controller, 0.05) == pytest.approx(0.5)
    assert at(controller, 0.1) == pytest.approx(1.0)


def test_a_trajectory_that_ends_in_the_past_is_refused_and_the_running_one_goes_on(controller):
    send(controller, [1.0], [1.0])
    reply = send(controller, [0.1, 0.2], [5.0, 6.0], stamp=NOW - 300 * MS)
    assert reply.reason is Rejection.ENDS_IN_PAST
    assert '0.100 s' in str(reply)
    assert at(controller, 0.5) == pytest.approx(0.5)


def test_a_new_trajectory_replaces_the_running_one_from_where_that_is(controller):
    send(controller, [1.0], [1.0])
    assert at(controller, 0.5) == pytest.approx(0.5)
    send(controller, [0.5], [0.0], now=NOW + 500 * MS)
    assert at(controller, 0.75) == pytest.approx(0.25)
    assert at(controller, 2.0) == pytest.approx(0.0)


def test_a_new_trajectory_with_a_stamp_ahead_leaves_the_old_one_alone_until_then(controller):
    send(controller, [1.0], [1.0])
    send(controller, [0.5], [0.0], stamp=NOW + 500 * MS)
    assert at(controller, 0.4) == pytest.approx(0.4)
    assert at(controller, 0.5) == pytest.approx(0.5)
    assert at(controller, 0.75) == pytest.approx(0.25)


def test_a_stamp_ahead_without_a_running_trajectory_waits(controller):
    send(controller, [0.5], [1.0], stamp=NOW + 500 * MS)
    assert at(controller, 0.5) == 0.0
    assert controller.active
    assert at(controller, 0.75) == pytest.approx(0.5)


def test_a_later_command_for_now_replaces_one_that_was_waiting(controller):
    send(controller, [0.5], [1.0], stamp=NOW + 500 * MS)
    send(controller, [1.0], [-1.0])
    assert at(controller, 1.0) == pytest.approx(-1.0)
    assert at(controller, 3.0) == pytest.approx(-1.0)


def test_a_command_for_now_replaces_the_running_and_the_waiting_one(controller):
    send(controller, [4.0], [4.0])
    send(controller, [0.5], [9.0], stamp=NOW + 2 * S)
    assert at(controller, 0.5) == pytest.approx(0.5)
    send(controller, [0.5], [0.0], now=NOW + 500 * MS)
    assert at(controller, 1.0) == pytest.approx(0.0)
    assert at(controller, 3.0) == pytest.approx(0.0)


def test_splicing_with_velocities_keeps_the_running_velocity(controller):
    send(controller, [1.0], [1.0])
    at(controller, 0.5)
    send(controller, [0.5], [1.0], velocities=[0.0], now=NOW + 500 * MS)
    before = at(controller, 0.5)
    assert (at(controller, 0.501) - before) / 0.001 == pytest.approx(1.0, abs=0.02)


def test_columns_are_mapped_by_name(controller):
    assert controller.accept(('b', 'a'), [1.0], [[2.0, 1.0]], None, 0, NOW).accepted
    assert controller.sample(NOW + S) == pytest.approx([1.0, 2.0])


@pytest.mark.parametrize('names, reason', [
    ((), Rejection.NO_JOINTS),
    (('a', 'x'), Rejection.UNKNOWN_JOINT),
    (('a', 'a'), Rejection.DUPLICATE_JOINT),
    (('a',), Rejection.MISSING_JOINT),
])
def test_wrong_joints_are_refused_by_name(controller, names, reason):
    reply = controller.accept(names, [1.0], [[1.0] * len(names)], None, 0, NOW)
    assert reply.reason is reason and not reply.accepted
    assert at(controller, 2.0) == 0.0


@pytest.mark.parametrize('times, positions, velocities, reason', [
    ([], [], None, Rejection.NO_POINTS),
    ([1.0, 2.0], [[1, 1]], None, Rejection.WRONG_LENGTH),
    ([1.0], [[1, 1, 1]], None, Rejection.WRONG_LENGTH),
    ([1.0], [[]], None, Rejection.WRONG_LENGTH),
    ([1.0, 2.0], [[1, 1], [2]], None, Rejection.WRONG_LENGTH),
    ([1.0], [[1, 1]], [[0]], Rejection.WRONG_LENGTH),
    ([1.0, 2.0], [[1, 1], [2, 2]], [[0, 0]], Rejection.WRONG_LENGTH),
    ([1.0], [[1, float('nan')]], None, Rejection.NOT_FINITE),
    ([1.0], [[1, float('inf')]], None, Rejection.NOT_FINITE),
    ([1.0], [[1, 1]], [[0, float('nan')]], Rejection.NOT_FINITE),
    ([float('nan')], [[1, 1]], None, Rejection.NOT_FINITE),
    ([1.0, 1.0], [[1, 1], [2, 2]], None, Rejection.TIMES_NOT_INCREASING),
    ([2.0, 1.0], [[1, 1], [2, 2]], None, Rejection.TIMES_NOT_INCREASING),
    ([-1.0, 1.0], [[1, 1], [2, 2]], None, Rejection.TIMES_NOT_INCREASING),
    ([1.0], [[1, 1]], [[0, 0.5]], Rejection.MOVES_AT_END),
])
def test_malformed_points_are_refused_and_nothing_moves(controller, times, positions, velocities,
                                                        reason):
    reply = controller.accept(NAMES, times, positions, velocities, 0, NOW)
    assert reply.reason is reason
    assert reason.value in str(reply)
    assert at(controller, 3.0) == 0.0


def test_a_last_velocity_is_taken_where_it_is_allowed():
    controller = TrajectoryController(NAMES, FAST, (0.0, 0.0), NOW, allow_velocity_at_end=True)
    assert send(controller, [1.0], [1.0], velocities=[1.0]).accepted
    assert at(controller, 2.0) == pytest.approx(1.0)


def test_velocity_limits_hold_while_sampling_and_the_target_is_reached_late():
    limits = Limits((-10.0, -10.0), (10.0, 10.0), (1.0, 2.0))
    controller = TrajectoryController(NAMES, limits, (0.0, 0.0), NOW)
    controller.accept(NAMES, [0.1], [[1.0, 1.0]], None, 0, NOW)
    last = np.zeros(2)
    for tick in range(1, 200):
        now = controller.sample(NOW + tick * 10 * MS)
        assert (np.abs(now - last) <= np.array([0.01, 0.02]) + 1e-12).all()
        last = now
    assert last == pytest.approx([1.0, 1.0])


def test_a_point_at_time_zero_is_approached_at_the_velocity_limit_not_jumped_to():
    controller = TrajectoryController(NAMES, Limits((-9, -9), (9, 9), (1, 1)), (0.0, 0.0), NOW)
    assert send(controller, [0.0], [1.0]).accepted
    assert at(controller, 0.1) == pytest.approx(0.1)
    assert at(controller, 2.0) == pytest.approx(1.0)


def test_position_limits_hold_while_sampling():
    controller = TrajectoryController(NAMES, Limits((-1, -1), (1, 1), (99, 99)), (0.0, 0.0), NOW)
    send(controller, [1.0], [3.0])
    assert at(controller, 0.9) == pytest.approx(1.0)


def test_time_going_backwards_holds_the_last_command(controller):
    send(controller, [1.0], [1.0])
    assert at(controller, 0.5) == pytest.approx(0.5)
    assert at(controller, 0.2) == pytest.approx(0.5)
    assert at(controller, 0.6) == pytest.approx(0.6)


def test_reset_forgets_everything(controller):
    send(controller, [1.0], [1.0])
    controller.reset((0.3, -0.3), NOW)
    assert at(controller, 5.0) == pytest.approx(0.3)


def test_a_stream_of_chunks_stamped_at_their_observation_gives_one_smooth_line(controller):
    # Chunks of 8 rows every 4 periods, each arriving 2 periods after its observation.
    period, line = 50 * MS, lambda t: 0.4 * t
    for tick in range(0, 200):
        now = NOW + tick * 10 * MS
        if tick % 20 == 10:
            stamp = now - 2 * period
            times = [(i + 1) * 0.05 for i in range(8)]
            places = [line((stamp - NOW) / S + t) for t in times]
            assert send(controller, times, places, stamp=stamp, now=now).dropped == 2
        position = controller.sample(now)[0]
        if tick >= 15:
            assert position == pytest.approx(line((now - NOW) / S), abs=1e-9)
