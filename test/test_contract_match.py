# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A policy that does not fit the robot is told so by name before anything moves."""
import pytest

from quantvla_ros.contract.load import load_contract
from quantvla_ros.contract.match import differences

SLOTS = ('observation.images.overhead', 'observation.images.wrist')
JOINTS = ('base_yaw', 'shoulder_pitch', 'elbow_pitch', 'wrist_pitch', 'gripper')


@pytest.fixture(scope='module')
def contract():
    from pathlib import Path

    return load_contract(
        Path(__file__).resolve().parents[1] / 'config' / 'contracts' / 'tabletop.yaml'
    )


def test_a_policy_made_for_the_contract_has_no_difference(contract):
    assert differences(contract, slots=SLOTS, state_names=JOINTS, action_names=JOINTS,
                       control_period=0.05) == []
    assert differences(contract, slots=SLOTS, state_size=5, action_size=5) == []
    assert differences(contract, slots=SLOTS[:1], optional_slots=SLOTS[1:]) == []


def test_a_slot_that_nothing_feeds_names_the_nearest_one(contract):
    lines = differences(contract, slots=('observation.images.overhead', 'observation.images.wrst'))
    assert len(lines) == 2
    assert "'observation.images.wrst'" in lines[0]
    assert "did you mean 'observation.images.wrist'?" in lines[0]
    assert lines[1].startswith('cameras.wrist: the policy has no slot')


def test_joints_in_another_order_are_a_difference(contract):
    # Same size and same names: only the order would send each joint to its neighbour's target.
    swapped = (JOINTS[1], JOINTS[0], *JOINTS[2:])
    (line,) = differences(contract, slots=SLOTS, state_names=JOINTS, action_names=swapped)
    assert line.startswith('action: same names in another order: number 0')


def test_lacking_and_spare_names_are_listed(contract):
    lines = differences(
        contract, slots=SLOTS, state_names=('base_yaww', *JOINTS[1:]), action_size=7
    )
    assert lines[0].startswith('state: the policy wants base_yaww')
    assert "did you mean 'base_yaw'?" in lines[0]
    assert lines[1].startswith('state: the contract has base_yaw')
    assert lines[2].startswith('action: the policy wants 7 numbers, the contract has 5')


def test_another_control_period_is_a_difference(contract):
    (line,) = differences(contract, slots=SLOTS, control_period=0.1)
    assert '0.1 s' in line and '0.05 s' in line and '2 times as fast' in line
