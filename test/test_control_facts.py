# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a controller's parameters mean for chunks of ours."""
from pathlib import Path

import pytest
import yaml

from quantvla_ros.control.controller_facts import ASKED, advice

JOINTS = ('a', 'b')
GOOD = {
    'joints': ['b', 'a'],
    'interpolate_from_desired_state': True,
    'allow_partial_joints_goal': False,
    'state_interfaces': ['position', 'velocity'],
}


def test_a_controller_that_is_set_up_as_we_say_needs_no_advice():
    assert advice(GOOD, JOINTS) == []
    assert advice({}, JOINTS) == []  # one that says nothing is left alone


def test_the_controller_of_the_moveit_example_needs_no_advice():
    path = Path(__file__).resolve().parents[1] / 'config/moveit/ros2_controllers.yaml'
    found = yaml.safe_load(path.read_text())['panda_arm_controller']['ros__parameters']
    assert advice({k: v for k, v in found.items() if k in ASKED}, found['joints']) == []


@pytest.mark.parametrize(('change', 'part'), [
    ({'joints': ['a']}, 'no b and refuses'),
    ({'joints': ['a', 'b', 'c']}, 'we send no c'),
    ({'interpolate_from_desired_state': False}, 'step back at every seam'),
    ({'state_interfaces': ['position']}, 'add velocity'),
])
def test_what_is_wrong_is_named_with_what_to_set(change, part):
    (line,) = advice(GOOD | change, JOINTS)
    assert part in line and line.split(':')[0] in ASKED


def test_joints_that_may_be_left_out_are_no_fault():
    assert not advice(
        GOOD | {'joints': ['a', 'b', 'c'], 'allow_partial_joints_goal': True}, JOINTS
    )


def test_an_older_controller_is_known_by_its_own_name_for_it():
    old = {k: v for k, v in GOOD.items() if k != 'interpolate_from_desired_state'}
    assert advice(old | {'open_loop_control': True}, JOINTS) == []
    assert 'open_loop_control: false' in advice(old | {'open_loop_control': False}, JOINTS)[0]
    # Where it has both, the newer one counts.
    assert advice(GOOD | {'open_loop_control': False}, JOINTS) == []
