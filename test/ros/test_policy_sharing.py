# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The node beside others: pauses, the emergency stop, ~/reset, limits that only get narrower."""
from __future__ import annotations

import pytest
from action_msgs.msg import GoalInfo, GoalStatus, GoalStatusArray
from conftest import ACTIVATE, CONFIGURE, CONTRACT, DEACTIVATE, stop
from rcl_interfaces.msg import Parameter as RosParameter
from rcl_interfaces.msg import ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import Bool
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from quantvla_ros.msg import PolicyStatus

OK, WARN = b'\x00', b'\x01'


@pytest.fixture
def running(world, policy, tmp_path):
    """A node that moves the arm on its own, with an emergency stop and a named controller."""
    text = CONTRACT.read_text().replace('topic: commands', 'topic: arm/joint_trajectory')
    path = tmp_path / 'contract.yaml'
    path.write_text(text.replace(
        'safety: {not_finite_latch: 1000', 'safety: {emergency_stop: stop, not_finite_latch: 2'
    ))
    process = policy(path)
    world.node.create_subscription(
        JointTrajectory, 'arm/joint_trajectory',
        lambda m: world._note(world.trajectories.append, m), 10,
    )
    assert world.transition(CONFIGURE), process.output
    world.camera_on = world.joints_on = True
    assert world.transition(ACTIVATE)
    world.command('stand')
    world.until_state(PolicyStatus.RUNNING)
    world.until(lambda: world.trajectories, 'a trajectory')
    return process


def pause(world, asked: bool) -> None:
    assert world.call(SetBool, 'policy/pause', SetBool.Request(data=asked)).success


def test_pause_holds_and_its_end_goes_on(world, running):
    pause(world, True)
    world.until_state(PolicyStatus.PAUSED, 'on request')
    chunks = len(world.chunks)
    pause(world, False)
    world.until_state(PolicyStatus.RUNNING)
    world.until(lambda: len(world.chunks) > chunks, 'a chunk')
    assert stop(running) == 0, running.output


def test_another_clients_goal_on_the_controller_pauses_without_a_hold(world, running):
    statuses = world.node.create_publisher(
        GoalStatusArray, 'arm/follow_joint_trajectory/_action/status',
        QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL),
    )
    goal = GoalStatus(status=GoalStatus.STATUS_EXECUTING, goal_info=GoalInfo())
    goal.goal_info.goal_id.uuid[:] = range(16)
    statuses.publish(GoalStatusArray(status_list=[goal]))
    world.until_state(PolicyStatus.PAUSED, "another client's goal")
    sent = len(world.trajectories)
    assert world.transition(DEACTIVATE)  # nor does it hold at its end
    world.until_state(PolicyStatus.INACTIVE)
    assert len(world.trajectories) == sent
    assert world.transition(ACTIVATE)
    world.until_state(PolicyStatus.PAUSED)
    goal.status = GoalStatus.STATUS_SUCCEEDED
    statuses.publish(GoalStatusArray(status_list=[goal]))
    world.until_state(PolicyStatus.RUNNING)


def test_a_trajectory_of_another_publisher_pauses_until_its_end(world, running):
    rival = world.node.create_publisher(JointTrajectory, 'arm/joint_trajectory', 10)
    running.until_says('the policy pauses while they do')
    world.until(lambda: rival.get_subscription_count() >= 2, 'two ears')
    point = JointTrajectoryPoint(positions=[0.1, 0.1], velocities=[0.0, 0.0])
    point.time_from_start.sec = 1
    rival.publish(JointTrajectory(joint_names=['a', 'b'], points=[point]))
    world.until_state(PolicyStatus.PAUSED, "another publisher's trajectory")
    world.until_state(PolicyStatus.RUNNING)


def test_diagnostics_say_how_the_controller_is_set_up_and_what_to_set(world, running):
    def shown():
        return world.diagnostics.get('policy: controller')

    world.until(lambda: shown() is not None and 'tells nothing' in shown().message, 'the entry')
    assert shown().level == OK
    controller = Node('arm')
    controller.declare_parameter('joints', ['a', 'b'])
    controller.declare_parameter('interpolate_from_desired_state', False)
    world._executor.add_node(controller)
    world.until(lambda: shown().level == WARN, 'advice')
    assert 'interpolate_from_desired_state: false' in shown().message
    assert 'set it to true' in shown().message
    values = {value.key: value.value for value in shown().values}
    assert values['controller'].endswith('arm') and values['joints'] == "['a', 'b']"
    assert values['interpolate_from_desired_state'] == 'False'
    world._executor.remove_node(controller)
    controller.destroy_node()
    world.until(lambda: shown().level == OK, 'nothing to say of one that is gone')


def test_the_emergency_stop_latches_until_it_is_released_and_reset(world, running):
    button = world.node.create_publisher(Bool, 'stop', 1)
    pressed = True
    # Best effort: said again and again, as by a button.
    world.node.create_timer(0.1, lambda: button.publish(Bool(data=pressed)))
    world.until_state(PolicyStatus.FAULT, 'emergency stop')
    answer = world.call(Trigger, 'policy/reset', Trigger.Request())
    assert not answer.success and 'still pressed' in answer.message
    pressed = False
    for _ in range(500):  # as soon as the node has heard of it
        if world.call(Trigger, 'policy/reset', Trigger.Request()).success:
            break
    world.until_state(PolicyStatus.RUNNING)


def test_a_streak_of_bad_chunks_latches_until_reset(world, running):
    world.command('nan')
    world.until_state(PolicyStatus.FAULT, 'not finite numbers several times in a row')
    world.command('stand')
    assert world.call(Trigger, 'policy/reset', Trigger.Request()).success
    world.until_state(PolicyStatus.RUNNING)


def test_limits_only_get_narrower_while_the_node_is_active(world, running):
    def share(value: float):
        parameter = RosParameter(
            name='limit_share', value=ParameterValue(type=3, double_value=value)
        )
        request = SetParameters.Request(parameters=[parameter])
        return world.call(SetParameters, 'policy/set_parameters', request).results[0]

    assert share(0.2).successful
    refused = share(0.5)
    assert not refused.successful and 'narrowed' in refused.reason
    assert not share(1.5).successful
    world.command('move')  # 0.2 rad/s, where 0.4 is left of 2.0
    world.until_state(PolicyStatus.RUNNING)
    assert world.transition(DEACTIVATE)
    assert share(1.0).successful
