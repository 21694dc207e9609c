# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A policy of twists on the whole node: MoveIt Servo is told speeds, and no way out of the box."""
from __future__ import annotations

import pytest
from conftest import ACTIVATE, CONFIGURE, CONTRACT, DEACTIVATE, HERE, stop
from geometry_msgs.msg import PoseStamped, TwistStamped
from std_msgs.msg import Float64MultiArray

from quantvla_ros.msg import PolicyStatus
from quantvla_ros.nodes.messages import time_message

pytest.importorskip('moveit_msgs', reason='needs moveit_msgs: scripts/setup.sh --test')

from moveit_msgs.srv import ServoCommandType

AXIS = '{velocity: 0.3, acceleration: 2.0}'
ACTION = """\
  parts:
    - {kind: twist}
    - {kind: gripper, names: [b], unit: rad, model_range: [0, 1], joint_range: [0.0, 1.0]}
  workspace: {lower: [-1.0, -1.0, 0.0], upper: [1.0, 1.0, 0.5], pose_topic: tool}
limits:
""" + ''.join(f'  {axis}: {AXIS}\n' for axis in ('vx', 'vy', 'vz', 'wx', 'wy', 'wz'))
OUTPUT = """\
output:
  kind: servo_twist
  servo: servo
  grippers: [{joint: b, kind: position, topic: fingers}]
"""


class Servo:
    """What MoveIt Servo offers, and what it heard; and the pose of its end effector."""

    def __init__(self, world) -> None:
        self.world, self.height, self.poses = world, 0.2, 0
        self.twists: list[TwistStamped] = []
        self.fingers: list[Float64MultiArray] = []
        node = world.node
        node.create_service(ServoCommandType, 'servo/switch_command_type', self._switch)
        node.create_subscription(
            TwistStamped, 'servo/delta_twist_cmds',
            lambda m: world._note(self.twists.append, m), 50,
        )
        node.create_subscription(
            Float64MultiArray, 'fingers', lambda m: world._note(self.fingers.append, m), 50
        )
        self._pose = node.create_publisher(PoseStamped, 'tool', 5)
        node.create_timer(0.02, self._publish)

    def _publish(self) -> None:
        pose = PoseStamped()
        pose.header.frame_id = 'base_link'
        pose.header.stamp = time_message(self.world.now())
        pose.pose.position.z = self.height
        self._pose.publish(pose)
        self.poses += 1

    def _switch(self, request, response):
        response.success = request.command_type == ServoCommandType.Request.TWIST
        return response


@pytest.fixture
def servo(world) -> Servo:
    return Servo(world)


@pytest.fixture
def process(world, servo, start, tmp_path):
    text = CONTRACT.read_text()
    parts = '  parts: [{kind: joint_position, names: [a, b], unit: rad}]\nlimits:\n'
    assert parts in text
    path = tmp_path / 'contract.yaml'
    # The end effector's pose is as fresh as the joint states.
    path.write_text(text.replace(parts, ACTION) + OUTPUT)
    given = {'policy': 'double', 'contract': path, 'recovery_time': 0.2}
    arguments = [part for name, value in given.items() for part in ('-p', f'{name}:={value}')]
    process = start(str(HERE / 'twist_double.py'), '--ros-args', *arguments)
    assert world.transition(CONFIGURE), process.output
    world.camera_on = world.joints_on = True
    assert world.transition(ACTIVATE)
    return process


def test_servo_is_told_the_speeds_of_the_policy_and_a_stop_at_the_end(world, servo, process):
    world.command('up')
    world.until_state(PolicyStatus.RUNNING)
    world.until(
        lambda: servo.twists and servo.twists[-1].twist.linear.z > 0.09, 'the speed of the policy'
    )
    assert servo.twists[-1].header.frame_id == 'base_link'
    assert max(twist.twist.linear.z for twist in servo.twists) <= 0.3
    assert all(twist.twist.angular.x == 0.0 for twist in servo.twists)
    world.until(lambda: servo.fingers, 'the gripper')
    assert world.transition(DEACTIVATE)
    world.until(lambda: abs(servo.twists[-1].twist.linear.z) < 1e-6, 'a stop')
    assert stop(process) == 0, process.output


def test_a_way_out_of_the_workspace_is_not_taken(world, servo, process):
    servo.height = 0.48  # 0.02 m are left, and the chunk goes 0.08 m
    world.until(lambda: servo._pose.get_subscription_count() == 1, 'an ear for the pose')
    before = servo.poses
    world.until(lambda: servo.poses > before + 10, 'poses that the node has heard')
    world.command('up')
    world.until_state(PolicyStatus.HOLDING, 'out of its workspace: z')
    assert all(twist.twist.linear.z <= 0.0 for twist in servo.twists)
    servo.height = 0.1
    world.until_state(PolicyStatus.RUNNING)
