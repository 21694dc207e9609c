# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The contract's limits beyond velocity, its outputs, what latches, the workspace."""
import math
import re

import pytest

from quantvla_ros.contract.load import contract_hash, parse_contract
from quantvla_ros.contract.types import GripperKind, OutputKind, Safety, Tolerances
from quantvla_ros.errors import ContractError

GOOD = """\
contract: 1
robot: bench
control_period: 0.05
cameras:
  front: {topic: front/image, type: sensor_msgs/msg/Image, slot: observation.images.front}
joint_states: {topic: joint_states, joints: [shoulder, wrist, finger]}
language: {topic: instruction}
action:
  topic: arm/joint_trajectory
  frame_id: base
  start_tolerance: 0.2
  parts:
    - {kind: joint_position, names: [shoulder, wrist], unit: rad}
    - {kind: gripper, names: [finger], unit: m, model_range: [0, 1], joint_range: [0.0, 0.04]}
limits:
  shoulder: {lower: -1.0, upper: 1.0, velocity: 2.0, acceleration: 5.0, jerk: 80.0}
  wrist: {continuous: true, velocity: 3.0}
  finger: {lower: 0.0, upper: 0.05, velocity: 0.1, unit: m}
output:
  kind: follow_joint_trajectory
  action: arm/follow_joint_trajectory
  path_tolerance: 0.1
  goal_time: 0.5
  grippers:
    - {joint: finger, kind: gripper_command, action: hand/gripper_cmd, max_effort: 20.0}
safety: {stretch: 2.0, not_finite_latch: 2, emergency_stop: /emergency_stop}
"""
JOG = """\
output:
  kind: servo_joint_jog
  servo: servo_node
  grippers: [{joint: finger, kind: position, topic: hand/commands}]
"""
TWIST = """\
contract: 1
robot: bench
control_period: 0.05
cameras:
  front: {topic: front/image, type: sensor_msgs/msg/Image, slot: observation.images.front}
joint_states: {topic: joint_states, joints: [shoulder]}
language: {topic: instruction}
action:
  topic: arm/joint_trajectory
  frame_id: base
  start_tolerance: 0.2
  workspace: {lower: [0.2, -0.4, 0.0], upper: [0.7, 0.4, 0.6], pose_topic: tool_pose}
  parts: [{kind: twist}]
limits:
  vx: {velocity: 0.3, acceleration: 1.0, jerk: 20.0}
  vy: {velocity: 0.3}
  vz: {velocity: 0.3}
  wx: {velocity: 1.0}
  wy: {velocity: 1.0}
  wz: {velocity: 1.0}
output: {kind: servo_twist, servo: servo_node, rate: 100.0}
"""


def part(text: str, name: str) -> str:
    return re.search(rf'^{name}:.*?(?=^\w|\Z)', text, re.S | re.M).group(0)


def test_limits_outputs_and_safety_are_read_as_written():
    contract = parse_contract(GOOD)
    shoulder, wrist, finger = (contract.limits[n] for n in ('shoulder', 'wrist', 'finger'))
    assert (shoulder.acceleration, shoulder.jerk) == (5.0, 80.0)
    assert (finger.acceleration, finger.jerk) == (None, None)
    assert wrist.continuous and (wrist.lower, wrist.upper) == (-math.inf, math.inf)
    output = contract.output
    assert output.kind is OutputKind.FOLLOW and output.action == 'arm/follow_joint_trajectory'
    assert output.tolerances == Tolerances(0.1, None, 0.5)
    (gripper,) = output.grippers
    assert (gripper.joint, gripper.kind) == ('finger', GripperKind.COMMAND)
    assert gripper.max_effort == 20.0
    assert gripper.tolerance == pytest.approx(0.001)  # a fiftieth of its travel
    assert contract.safety == Safety(2.0, 2, Safety.rejection_latch, '/emergency_stop')


def test_what_is_left_out_is_the_trajectory_topic_and_the_default_safety():
    text = GOOD.replace(part(GOOD, 'output'), '').replace(part(GOOD, 'safety'), '')
    contract = parse_contract(text)
    assert contract.output.kind is OutputKind.TRAJECTORY and not contract.output.grippers
    assert contract.safety == Safety()
    assert contract_hash(contract) != contract_hash(parse_contract(GOOD))


def test_servo_takes_joints_with_the_gripper_apart_and_twists_with_a_workspace():
    contract = parse_contract(GOOD.replace(part(GOOD, 'output'), JOG))
    assert contract.output.kind is OutputKind.JOINT_JOG and contract.output.servo == 'servo_node'
    contract = parse_contract(TWIST)
    assert contract.output.kind is OutputKind.TWIST and contract.output.rate == 100.0
    assert contract.action.workspace.lower == (0.2, -0.4, 0.0)
    assert contract.action.workspace.pose_topic == 'tool_pose'
    assert contract.limits['vx'].unit == 'm' and contract.limits['wz'].unit == 'rad'


@pytest.mark.parametrize(('text', 'old', 'new', 'parts'), [
    (GOOD, 'acceleration: 5.0', 'acceleration: 0', ['limits.shoulder.acceleration', 'rad/s^2']),
    (GOOD, 'jerk: 80.0', 'jerk: .inf', ['limits.shoulder.jerk', 'finite']),
    (GOOD, 'velocity: 0.1, unit: m', 'velocity: 0.1, unit: m, jrk: 1', ["did you mean 'jerk'?"]),
    (GOOD, 'continuous: true', 'continuous: false', ['limits.wrist.continuous', 'lower and upper']),
    (GOOD, 'continuous: true', 'continuous: true, lower: 0.0', ["unknown key 'lower'"]),
    (GOOD, 'continuous: true', 'continuous: true, unit: m', ['limits.wrist.unit', 'rad']),
    (GOOD, 'kind: follow_joint_trajectory', 'kind: follow_trajectory',
     ["did you mean 'follow_joint_trajectory'?"]),
    (GOOD, '  action: arm/follow_joint_trajectory\n', '', ["the key 'action'"]),
    (GOOD, '  kind: follow_joint_trajectory\n', '', ['output.action', 'unknown key']),
    (GOOD, 'kind: follow_joint_trajectory', 'kind: servo_twist', ["unknown key 'action'"]),
    (GOOD, 'path_tolerance: 0.1', 'path_tolerance: -1', ['output.path_tolerance']),
    (GOOD, 'joint: finger', 'joint: fingr', ["did you mean 'finger'?"]),
    (GOOD, 'joint: finger', 'joint: shoulder', ['output.grippers[0].joint', 'finger']),
    (GOOD, 'action: hand/gripper_cmd', 'topic: hand/gripper_cmd', ["'topic'"]),
    (GOOD, 'kind: gripper_command', 'kind: gripper', ['output.grippers[0].kind']),
    (GOOD, 'stretch: 2.0', 'stretch: 0.5', ['safety.stretch', '[1, 4]']),
    (GOOD, 'not_finite_latch: 2', 'not_finite_latch: 0', ['safety.not_finite_latch']),
    (GOOD, 'emergency_stop: /emergency_stop', 'emergency_stop: joint_states',
     ['safety.emergency_stop', 'joint_states.topic']),
    (GOOD.replace(part(GOOD, 'output'), JOG),
     '  grippers: [{joint: finger, kind: position, topic: hand/commands}]\n', '',
     ['an entry in grippers for finger', 'moves the arm alone']),
    (GOOD.replace(part(GOOD, 'output'), JOG), 'servo: servo_node', 'servo: servo_node\n  rate: 5',
     ['output.rate', '[20, 1000] Hz']),
    (TWIST, 'kind: servo_twist, servo: servo_node, rate: 100.0', 'kind: trajectory',
     ['servo_twist', "'trajectory'"]),
    (TWIST, 'upper: [0.7, 0.4, 0.6]', 'upper: [0.7, -0.4, 0.6]', ['workspace.upper', 'in y']),
    (TWIST, 'upper: [0.7, 0.4, 0.6]', 'upper: [0.7, 0.4]', ['three numbers']),
    (TWIST, '  wy: {velocity: 1.0}\n', '', ['limits.wy', 'every axis']),
    (TWIST, ', pose_topic: tool_pose', '', ["the key 'pose_topic'"]),
    (TWIST, 'vx: {velocity: 0.3', 'vx: {lower: 0.0, velocity: 0.3', ["unknown key 'lower'"]),
])
def test_a_wrong_output_is_refused_in_one_line(text, old, new, parts):
    assert old in text
    with pytest.raises(ContractError) as caught:
        parse_contract(text.replace(old, new, 1), 'c.yaml')
    message = str(caught.value)
    assert re.match(r'c\.yaml:\d+: .+: expected .+, found .+', message) and '\n' not in message
    for expected in parts:
        assert expected in message, message


def test_two_ways_to_one_gripper_are_refused():
    text = GOOD.replace(
        '    - {joint: finger,', '    - {joint: finger, kind: position, topic: x}\n'
        '    - {joint: finger,',
    )
    with pytest.raises(ContractError, match='a second time'):
        parse_contract(text)


def test_a_workspace_without_a_twist_is_refused():
    text = GOOD.replace('  parts:', '  workspace: {lower: [0, 0, 0], upper: [1, 1, 1], '
                        'pose_topic: pose}\n  parts:')
    with pytest.raises(ContractError, match='only where a part is a twist'):
        parse_contract(text)
