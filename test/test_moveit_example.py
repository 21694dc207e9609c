# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The MoveIt example's files fit each other: what one names, the others have."""
import ast
from pathlib import Path

import yaml

from quantvla_ros.contract.load import load_contract
from quantvla_ros.contract.types import ActionKind, GripperKind, OutputKind

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / 'config' / 'moveit'
CONTRACT = load_contract(CONFIG / 'contract.yaml')
CONTROLLERS = yaml.safe_load((CONFIG / 'ros2_controllers.yaml').read_text())
MOVEIT = yaml.safe_load((CONFIG / 'moveit_controllers.yaml').read_text())
ARM = CONTROLLERS['panda_arm_controller']['ros__parameters']
SIMPLE = MOVEIT['moveit_simple_controller_manager']


def test_policy_moveit_and_controller_name_the_same_joints():
    (arm,) = (p for p in CONTRACT.action.parts if p.kind is ActionKind.JOINT_POSITION)
    assert list(arm.names) == ARM['joints'] == SIMPLE['panda_arm_controller']['joints']
    (hand,) = CONTRACT.output.grippers
    assert [hand.joint] == SIMPLE['panda_hand_controller']['joints']
    assert hand.joint == CONTROLLERS['panda_hand_controller']['ros__parameters']['joint']


def test_policy_and_moveit_command_the_same_controllers():
    assert CONTRACT.output.kind is OutputKind.TRAJECTORY
    assert CONTRACT.action.topic == 'panda_arm_controller/joint_trajectory'
    (hand,) = CONTRACT.output.grippers
    entry = SIMPLE['panda_hand_controller']
    assert hand.kind is GripperKind.COMMAND and entry['type'] == 'GripperCommand'
    assert hand.name == f'panda_hand_controller/{entry["action_ns"]}'
    assert SIMPLE['panda_arm_controller']['action_ns'] == 'follow_joint_trajectory'
    types = CONTROLLERS['controller_manager']['ros__parameters']
    for name in SIMPLE['controller_names']:
        assert name in types and name in CONTROLLERS


def test_the_controller_is_set_up_for_chunks_that_take_over_in_motion():
    assert ARM['interpolate_from_desired_state'] is True
    assert 'velocity' in ARM['state_interfaces']


def test_every_joint_of_the_arm_has_all_limits_and_the_jerk_reaches_them_in_50_ms():
    for name in ARM['joints']:
        limit = CONTRACT.limits[name]
        assert limit.acceleration is not None and limit.jerk is not None
        assert limit.acceleration / limit.jerk == 0.05


def test_the_launch_file_starts_the_controllers_that_the_files_configure():
    tree = ast.parse((ROOT / 'launch' / 'moveit.launch.py').read_text())
    named = next(
        ast.literal_eval(node.value) for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == 'CONTROLLERS'
    )
    assert set(named) <= set(CONTROLLERS['controller_manager']['ros__parameters'])
    assert set(SIMPLE['controller_names']) <= set(named)
