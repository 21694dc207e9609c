# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from quantvla_ros.contract.types import ActionKind, ActionPart, ActionSpace
from quantvla_ros.control.actions import check_supported, joint_positions
from quantvla_ros.errors import ContractError


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
    joints = joint_positions(raw, action, np.array([9.0, 9.0, 0.5, 9.0]))
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
