# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Twists as displacements, and the box that the end effector may not leave."""
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_control_supervisor import CONTRACT, MS, Bench

from quantvla_ros.contract.types import (
    TWIST_AXES,
    ActionKind,
    ActionPart,
    ActionSpace,
    JointLimit,
    Workspace,
)
from quantvla_ros.control.actions import twist_columns
from quantvla_ros.control.chunk import Chunk
from quantvla_ros.control.guard import Reason, check, check_points
from quantvla_ros.control.streams import columns, speeds
from quantvla_ros.control.told import ToldJoints
from quantvla_ros.control.twist import check_workspace, displacements
from quantvla_ros.nodes.states import State
from quantvla_ros.nodes.supervisor import Supervisor, Tuning

BOX = Workspace((0.2, -0.4, 0.0), (0.7, 0.4, 0.6), 'pose')
HERE = np.array([0.6, 0.0, 0.3])
FREE = np.inf


def forward(speed: float, rows: int = 8) -> np.ndarray:
    twists = np.zeros((rows, 6))
    twists[:, 0] = speed
    return twists


def test_displacements_are_the_way_gone_by_the_end_of_each_row():
    path = displacements(forward(0.2, 3), 0.05)
    np.testing.assert_allclose(path[:, 0], [0.01, 0.02, 0.03])
    with pytest.raises(ValueError, match='6'):
        displacements(np.zeros((3, 5)), 0.05)


def test_limits_of_speed_acceleration_and_jerk_hold_for_twists_as_for_joints():
    limits = {axis: JointLimit(-FREE, FREE, 0.3, 'm', acceleration=1.0) for axis in TWIST_AXES}

    def judge(twists):
        chunk = Chunk(0, 0.05, TWIST_AXES, displacements(twists, 0.05))
        return check(chunk, limits, np.zeros(6), 0.1)

    assert judge(forward(0.29)).ok
    assert judge(forward(0.31)).reason is Reason.VELOCITY_LIMIT
    jump = forward(0.1)
    jump[4:, 0] = 0.16  # 1.2 m/s^2
    assert judge(jump).reason is Reason.ACCELERATION_LIMIT


def test_a_way_out_of_the_box_is_named_with_its_axis_and_row():
    path = displacements(forward(0.3, 10), 0.05)  # 0.15 m, and 0.1 m are left
    verdict = check_workspace(path, HERE, BOX)
    assert (verdict.reason, verdict.joint, verdict.row) == (Reason.WORKSPACE, 'x', 6)
    assert verdict.limit == 0.7 and '0.705 m' in verdict.sentence
    assert check_workspace(path[:6], HERE, BOX).ok


def test_rotations_are_no_way_through_space():
    twists = np.zeros((8, 6))
    twists[:, 3:] = 2.0
    assert check_workspace(displacements(twists, 0.05), HERE, BOX).ok


def test_an_end_effector_outside_may_come_back_and_go_no_further_out():
    outside = np.array([0.75, 0.0, 0.3])
    assert check_workspace(displacements(forward(-0.1), 0.05), outside, BOX).ok
    assert check_workspace(displacements(forward(0.01), 0.05), outside, BOX).reason


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_a_number_that_is_none_is_outside(bad):
    path = displacements(forward(0.1), 0.05)
    path[3, 2] = bad
    assert check_workspace(path, HERE, BOX).reason is Reason.WORKSPACE


@given(st.lists(st.tuples(*[st.floats(-1.0, 1.0)] * 3), min_size=1, max_size=20))
def test_what_passes_never_leaves_the_box(speeds):
    twists = np.zeros((len(speeds), 6))
    twists[:, :3] = speeds
    path = displacements(twists, 0.05)
    if check_workspace(path, HERE, BOX).ok:
        places = HERE + np.cumsum(np.array(speeds), axis=0) * 0.05
        assert (places >= np.array(BOX.lower) - 1e-5).all()
        assert (places <= np.array(BOX.upper) + 1e-5).all()


# A twist all the way: from the policy's numbers to speeds for Servo.

FINGER = ActionPart(ActionKind.GRIPPER, ('b',), 'rad', (0.0, 1.0), (0.0, 1.0))
AXIS = JointLimit(-FREE, FREE, 0.3, 'm', acceleration=1.0, jerk=20.0)


class Arm:
    """A policy node's supervisor whose policy gives twists, and where its end effector is."""

    def __init__(self, workspace=None) -> None:
        action = ActionSpace(
            (ActionPart(ActionKind.TWIST, TWIST_AXES, 'm/s, rad/s'), FINGER), 'commands', 'base',
            0.3, workspace=workspace,
        )
        limits = {**CONTRACT.limits, **dict.fromkeys(TWIST_AXES, AXIS)}
        limits['b'] = JointLimit(0.0, 1.0, 4.0)
        self.contract = replace(CONTRACT, action=action, limits=limits)
        bench = self.bench = Bench()
        bench.joints = ToldJoints(
            action.names, twist_columns(action), lambda stamp: bench.supervisor.commanded(stamp)
        )
        bench.supervisor = Supervisor(
            self.contract, bench.buffer, bench.joints, bench.schedule, Tuning(0.3, 0.5), bench,
            lambda: bench.now,
        )
        bench.supervisor.activate()
        bench.pass_time(50)

    def infer(self, twist, finger=0.0):
        """The next chunk, of one twist."""
        for _ in range(100):
            work = self.bench.supervisor.plan()
            if work is not None:
                raw = np.tile([*twist, finger], (16, 1)).astype(np.float32)
                return self.bench.supervisor.deliver(work, raw, 0.0)
            self.bench.pass_time(10)
        raise AssertionError(self.bench.status)

    def speed(self, ms: int) -> np.ndarray:
        """[6] what Servo is told this many ms from now."""
        points = columns(self.bench.chunks[-1].points, TWIST_AXES)
        return speeds(points, self.bench.now + ms * MS, np.full(6, 0.3))


FORWARD = (0.2, 0.0, -0.1, 0.0, 0.0, 0.05)


def test_twists_go_out_as_the_policy_gives_them_and_go_on_with_the_next_chunk():
    arm = Arm()
    arm.infer(FORWARD)
    assert arm.bench.status.state is State.RUNNING
    assert check_points(arm.bench.chunks[-1].points, arm.contract.limits).ok
    # Way that was lost while it sped up is not made up for: a twist is a speed, not a place.
    np.testing.assert_allclose(arm.speed(500), FORWARD, atol=0.005)
    assert max(arm.speed(ms)[0] for ms in range(0, 700, 20)) < 0.205
    before = arm.speed(0)
    arm.infer((0.1, 0.0, 0.0, 0.0, 0.0, 0.0))
    assert len(arm.bench.chunks) == 2 and not arm.bench.holds
    np.testing.assert_allclose(arm.speed(12)[:3], [0.2, 0.0, -0.1], atol=0.02)  # no step
    np.testing.assert_allclose(arm.speed(500), [0.1, 0, 0, 0, 0, 0], atol=0.005)
    assert np.abs(before).max() <= 0.3
    for ms in range(20, 500, 20):  # nor is the end effector drawn back to where it once was
        assert 0.095 < arm.speed(ms)[0] < 0.22


def test_a_dead_camera_brakes_a_twist_to_rest_within_its_limits():
    arm = Arm()
    arm.infer(FORWARD)
    arm.bench.pass_time(900, camera=False)
    (hold,) = arm.bench.holds
    assert check_points(hold, arm.contract.limits).ok
    assert not hold.velocities[-1].any()


def test_a_twist_out_of_the_workspace_is_dropped_and_one_back_into_it_is_not():
    arm = Arm(Workspace((0.2, -0.4, 0.0), (0.7, 0.4, 0.6), 'pose'))
    arm.bench.supervisor.watch_end_effector(lambda: np.array([0.65, 0.0, 0.3]))
    arm.infer(FORWARD)  # 0.2 m/s for 0.8 s, and 0.05 m are left
    assert 'out of its workspace: x' in arm.bench.status.sentence and not arm.bench.chunks
    arm.infer((-0.2, 0.0, 0.0, 0.0, 0.0, 0.0))
    assert arm.bench.status.state is State.RUNNING and len(arm.bench.chunks) == 1


def test_with_a_workspace_and_no_pose_nothing_moves():
    arm = Arm(BOX)
    arm.infer((0.0, 0.0, 0.01, 0.0, 0.0, 0.0))
    assert 'out of its workspace' in arm.bench.status.sentence and not arm.bench.sent
