# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Pictures that come again and again: held against a camera only where the arm moved meanwhile."""
from __future__ import annotations

import array
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_control_supervisor import CONTRACT, MS, stamp_of

from quantvla_ros.contract.types import Freshness
from quantvla_ros.observation.buffer import ObservationBuffer
from quantvla_ros.observation.frozen import FrozenCameras, FrozenPictures
from quantvla_ros.observation.types import Reason

S = 1_000_000_000


def picture(shade: int) -> array.array:
    return array.array('B', bytes([shade]) * 300)


def frozen(limit: float | None = 0.5, moved: float = 0.05) -> FrozenPictures:
    return FrozenPictures(Freshness(frozen=limit, moved=moved), [False, True])


def feed(watch, seconds, shade=lambda tick: 7, position=lambda tick: (0.0, 0.0), begin=0):
    for tick in range(begin, begin + round(seconds * 20)):
        watch.look('eye', (tick + 1) * 50 * MS, picture(shade(tick)), np.array(position(tick)))


def test_the_same_picture_while_the_arm_moves_is_a_frozen_camera():
    watch = frozen()
    feed(watch, 0.5, position=lambda tick: (0.01 * tick, 0.0))
    assert watch.fault('eye') is None  # not for longer than the limit
    feed(watch, 0.2, position=lambda tick: (0.01 * tick, 0.0), begin=10)
    fault = watch.fault('eye')
    assert fault is not None and fault.reason is Reason.FROZEN
    assert fault.measured == pytest.approx(0.65) and fault.limit == 0.5
    assert '0.13 rad' in fault.detail


def test_the_same_picture_of_an_arm_that_stands_is_a_picture_of_an_arm_that_stands():
    """A simulator's pictures have no noise."""
    watch = frozen()
    feed(watch, 60.0, position=lambda tick: (0.02 * (tick % 2), 0.0))
    assert watch.fault('eye') is None and watch.same_for('eye') > 59.0


def test_a_joint_that_came_back_has_moved():
    watch = frozen()
    feed(watch, 2.0, position=lambda tick: (0.3 if tick == 5 else 0.0, 0.0))
    assert watch.fault('eye') is not None


def test_a_continuous_joint_at_its_seam_has_not_moved():
    watch = frozen()
    feed(watch, 2.0, position=lambda tick: (0.0, 3.14 if tick % 2 else -3.14))
    assert watch.fault('eye') is None
    watch = FrozenPictures(Freshness(), [False, False])  # one with limits has, by a whole turn
    feed(watch, 2.0, position=lambda tick: (0.0, 3.14 if tick % 2 else -3.14))
    assert watch.fault('eye') is not None


def test_an_arm_that_is_first_measured_during_a_picture_has_not_moved_before():
    watch = frozen()
    for tick in range(40):
        where = None if tick < 20 else np.array([2.0, 0.0])
        watch.look('eye', (tick + 1) * 50 * MS, picture(7), where)
    assert watch.fault('eye') is None and watch.moved('eye') == 0.0
    watch.look('eye', 41 * 50 * MS, picture(7), None)
    watch.look('eye', 42 * 50 * MS, picture(7), np.array([2.1, 0.0]))
    assert watch.fault('eye') is not None


def test_one_other_picture_is_enough_to_begin_anew():
    watch = frozen()
    feed(watch, 2.0, position=lambda tick: (0.01 * tick, 0.0))
    assert watch.fault('eye') is not None
    feed(watch, 0.05, shade=lambda tick: 8, begin=40)
    assert watch.fault('eye') is None and watch.same_for('eye') == 0.0


def test_a_message_that_is_looked_at_twice_is_one_message():
    watch = frozen()
    for _ in range(100):
        watch.look('eye', 50 * MS, picture(1), np.array([1.0, 0.0]))
    assert watch.same_for('eye') == 0.0
    feed(watch, 2.0, begin=1)
    watch.look('eye', 41 * 50 * MS, picture(7), np.array([1.0, 0.0]))
    assert watch.fault('eye') is None  # the arm moved after the picture


def test_time_that_goes_back_begins_anew_and_null_switches_it_off():
    watch = frozen()
    feed(watch, 2.0, position=lambda tick: (0.01 * tick, 0.0))
    watch.look('eye', 10 * MS, picture(7), np.zeros(2))
    assert watch.fault('eye') is None
    watch = frozen(limit=None)
    feed(watch, 9.0, position=lambda tick: (0.01 * tick, 0.0))
    assert watch.fault('eye') is None


@given(st.lists(st.tuples(st.integers(0, 2), st.floats(-3.0, 3.0)), max_size=60))
@settings(max_examples=60)
def test_frozen_only_with_the_same_bytes_for_longer_than_the_limit_and_a_moved_joint(looks):
    watch, run = frozen(), []
    for tick, (shade, where) in enumerate(looks):
        stamp = (tick + 1) * 100 * MS
        watch.look('eye', stamp, picture(shade), np.array([where, 0.0]))
        if run and run[0][0] != shade:
            run = []
        run.append((shade, stamp, where))
        lasted = (run[-1][1] - run[0][1]) / S
        way = max(abs(where - run[0][2]) for _, _, where in run)
        assert (watch.fault('eye') is not None) == (lasted > 0.5 and way > 0.05)


class Seen:
    """A camera and joints into a buffer, and what is held against them."""

    def __init__(self) -> None:
        self.buffer = ObservationBuffer(CONTRACT)
        self.watch = FrozenCameras(CONTRACT, self.buffer)
        self.now = 100 * S
        self.buffer.store('language', 'go', self.now)
        self.reasons: set[Reason] = set()

    def pass_time(self, ms: int, shade: int, position: float, *, joints: bool = True) -> None:
        """A picture and, where the joints speak, a joint state every 50 ms."""
        for _ in range(ms // 50):
            self.now += 50 * MS
            if joints:
                self.buffer.store('joint_states', SimpleNamespace(
                    header=stamp_of(self.now), name=['a', 'b'], position=[position, 0.0]
                ), self.now)
            self.buffer.store('eye', SimpleNamespace(
                header=stamp_of(self.now), height=2, width=2, encoding='rgb8', is_bigendian=0,
                step=6, data=bytes([shade]) * 12,
            ), self.now)
            self.watch.look_at_all()
            refusal = self.buffer.check(self.now)
            self.reasons |= refusal.reasons if refusal else set()


def test_joints_that_went_silent_while_the_arm_moved_are_no_motion_during_a_later_picture():
    """A simulator's camera, whose pictures of an arm at rest are alike."""
    seen = Seen()
    seen.pass_time(200, 1, 0.0)
    for shade in range(2, 22):  # the arm moves on, and only the camera says so
        seen.pass_time(50, shade, 0.0, joints=False)
    seen.pass_time(600, 22, 0.3, joints=False)  # at rest, where nobody has measured it
    seen.pass_time(2000, 22, 0.3)  # measured there, far from where it was measured last
    assert Reason.STALE in seen.reasons  # the joints, meanwhile
    assert Reason.FROZEN not in seen.reasons and seen.watch.moved('eye') == 0.0
    assert seen.buffer.check(seen.now) is None


def test_a_camera_that_froze_while_the_joints_were_silent_is_found_when_they_are_back():
    seen = Seen()
    seen.pass_time(200, 1, 0.0)
    seen.pass_time(600, 1, 0.3, joints=False)
    assert Reason.FROZEN not in seen.reasons
    seen.pass_time(200, 1, 0.3)
    assert seen.watch.moved('eye') == pytest.approx(0.3)  # the picture came while the arm was at 0
    assert seen.buffer.check(seen.now).reasons == {Reason.FROZEN}
    seen.pass_time(50, 2, 0.3)
    assert seen.buffer.check(seen.now) is None


def test_joints_that_cannot_be_read_say_nothing_of_where_the_arm_is():
    seen = Seen()
    seen.pass_time(200, 1, 0.0)
    seen.pass_time(1000, 1, float('nan'))
    assert Reason.FROZEN not in seen.reasons and seen.watch.moved('eye') == 0.0
    assert seen.buffer.observe(seen.now).reasons == {Reason.UNUSABLE}
    seen.pass_time(1000, 1, 0.0)
    assert seen.buffer.check(seen.now) is None
