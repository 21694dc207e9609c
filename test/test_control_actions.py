# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from quantvla_ros.contract.types import ActionKind, ActionPart, ActionSpace, JointLimit
from quantvla_ros.control import actions, guard, trajectory
from quantvla_ros.control.actions import check_supported
from quantvla_ros.control.chunk import Chunk
from quantvla_ros.errors import ContractError

LIMITS = {
    name: JointLimit(-9.0, 9.0, velocity=1.5) for name in ('a', 'b', 'c')
} | {'fingers': JointLimit(0.0, 0.08, velocity=1.5, unit='m')}


def joint_positions(raw, action, measured):
    """A period in which the fingers get all the way."""
    return actions.joint_positions(raw, action, measured, LIMITS, 0.1)


def space(*parts: ActionPart) -> ActionSpace:
    return ActionSpace(parts, 'commands', 'base_link', 0.3)


GRIPPER = ActionPart(
    ActionKind.GRIPPER, ('fingers',), 'm', model_range=(-1.0, 1.0), joint_range=(0.0, 0.08)
)


def test_positions_deltas_and_gripper_side_by_side():
    action = space(
        ActionPart(ActionKind.JOINT_POSITION, ('a', 'b'), 'rad'),
        ActionPart(ActionKind.JOINT_DELTA, ('c',), 'rad'),
        GRIPPER,
    )
    raw = np.array([[0.1, 0.2, 0.01, -1.0], [0.3, 0.4, 0.02, 0.0]], dtype=np.float32)
    joints = joint_positions(raw, action, np.array([9.0, 9.0, 0.5, 0.04]))
    np.testing.assert_allclose(joints, [[0.1, 0.2, 0.51, 0.0], [0.3, 0.4, 0.52, 0.04]], atol=1e-7)
    assert joints.dtype == np.float64


def test_every_delta_counts_from_the_same_measurement():
    action = space(ActionPart(ActionKind.JOINT_DELTA, ('a',), 'rad'))
    raw = np.array([[0.1], [0.1]])
    assert joint_positions(raw, action, np.array([1.0])).ravel().tolist() == [1.1, 1.1]


def test_a_gripper_saturates_at_its_travel_but_stays_not_finite():
    raw = np.array([[-1.5], [3.0], [np.nan]])
    joints = joint_positions(raw, space(GRIPPER), np.array([0.0])).ravel()
    assert joints[:2].tolist() == [0.0, 0.08] and np.isnan(joints[2])


def test_an_infinite_number_for_the_gripper_is_no_wish_to_open_it():
    # As a wish it would be clipped to fully open, and a policy that is broken would go on.
    found = joint_positions(np.array([[np.inf], [-np.inf]]), space(GRIPPER), np.zeros(1))
    assert np.isnan(found).all()


def test_a_gripper_whose_model_counts_the_other_way_round():
    part = ActionPart(
        ActionKind.GRIPPER, ('fingers',), 'm', model_range=(1.0, 0.0), joint_range=(0.0, 0.08)
    )
    joints = joint_positions(np.array([[1.0], [0.0]]), space(part), np.array([0.0])).ravel()
    assert joints.tolist() == [0.0, 0.08]


def test_a_twist_is_refused_by_name():
    names = ('vx', 'vy', 'vz', 'wx', 'wy', 'wz')
    with pytest.raises(ContractError, match=r'parts\[0\].*twist.*vx'):
        check_supported(space(ActionPart(ActionKind.TWIST, names, 'm/s')))


def test_a_gripper_without_its_ranges_is_refused():
    with pytest.raises(ContractError, match=r'fingers.*model_range'):
        check_supported(space(ActionPart(ActionKind.GRIPPER, ('fingers',), 'm')))


def test_a_chunk_of_another_width_is_refused():
    action = space(ActionPart(ActionKind.JOINT_POSITION, ('a',), 'rad'))
    with pytest.raises(ValueError, match='expected a chunk'):
        joint_positions(np.zeros((4, 2)), action, np.zeros(1))


def test_a_gripper_that_switches_at_once_gets_there_at_the_speed_it_has():
    """Many policies say only open or shut: dropping those chunks would never let them grasp."""
    action = space(GRIPPER)
    limits = {'fingers': JointLimit(0.0, 0.08, velocity=0.3, unit='m')}
    raw = np.array([[-1.0]] * 2 + [[1.0]] * 8)
    rows = actions.joint_positions(raw, action, np.array([0.0]), limits, 0.05)
    np.testing.assert_allclose(np.diff(rows[1:6].ravel()), 0.3 * 0.05 * 2 / 3)
    assert rows[-1, 0] == pytest.approx(0.08)
    chunk = Chunk(1, 0.05, ('fingers',), rows)
    measured = np.array([0.0])
    assert guard.check(chunk, limits, measured, 0.3).ok
    points = trajectory.from_chunk(chunk, limits, measured)
    assert guard.check_motion(points, limits, measured, 1, measured, 0.3).ok


def test_a_gripper_starts_from_where_it_is_when_the_chunk_arrives():
    """While the policy thought, the old chunk has moved it: the rows that are over do not count."""
    limits = {'fingers': JointLimit(0.0, 0.08, velocity=0.3, unit='m')}
    raw = np.full((8, 1), 1.0)
    now = np.array([0.03])
    rows = actions.joint_positions(raw, space(GRIPPER), now, limits, 0.05, over=3)
    np.testing.assert_allclose(rows[:4], 0.03)
    np.testing.assert_allclose(np.diff(rows[3:6].ravel()), 0.01)
    raw[1] = np.nan  # one that is over is still no number a policy may give
    rows = actions.joint_positions(raw, space(GRIPPER), now, limits, 0.05, over=3)
    assert np.isnan(rows[1])


def test_gripper_columns():
    action = space(ActionPart(ActionKind.JOINT_POSITION, ('a', 'b'), 'rad'), GRIPPER)
    assert actions.gripper_columns(action).tolist() == [False, False, True]
