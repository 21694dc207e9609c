# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from conftest import ACTIVATE, CONFIGURE, DEACTIVATE, is_hold
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import String

from quantvla_ros.msg import PolicyStatus

ERROR, WARN, OK = b'\x02', b'\x01', b'\x00'


def holds(world) -> int:
    return sum(is_hold(message) for message in world.trajectories)


def test_a_dead_camera_holds_the_arm_is_named_and_the_arm_goes_on_when_it_is_back(world, active):
    world.command('move')
    world.camera_on = False
    world.until_state(PolicyStatus.HOLDING, 'eye')
    world.until(lambda: holds(world) == 1, 'a hold')
    world.until_state(PolicyStatus.HOLDING, 'eye: nothing new has arrived')
    world.until(
        lambda: world.diagnostics.get('policy: state') is not None
        and world.diagnostics['policy: state'].level == ERROR
        and 'eye' in world.diagnostics['policy: state'].message,
        '/diagnostics to name the camera',
    )
    sent = len(world.trajectories)
    world.camera_on = True
    world.until_state(PolicyStatus.RUNNING)
    world.until(lambda: len(world.trajectories) > sent, 'the next chunk')
    assert holds(world) == 1
    world.until(lambda: world.diagnostics['policy: state'].level == OK, '/diagnostics to be OK')


def test_dead_joint_states_hold_the_arm(world, active):
    world.command('move')
    world.joints_on = False
    world.until_state(PolicyStatus.HOLDING, 'joint_states')
    world.joints_on = True
    world.until_state(PolicyStatus.RUNNING)


def test_pictures_that_are_old_when_they_arrive_are_told_from_a_dead_camera(world, active):
    world.camera_on = False
    world.until_state(PolicyStatus.HOLDING)
    world.camera_delay = 0.95
    world.camera_on = True
    world.until_state(PolicyStatus.HOLDING, 'measured longer ago')


def test_an_image_that_cannot_be_decoded_holds_with_the_reason(world, active):
    world.camera_encoding = '16UC1'
    world.until_state(PolicyStatus.HOLDING, '16UC1')


@pytest.mark.parametrize(
    ('word', 'said', 'count'),
    [
        ('nan', 'not a finite number: b is nan in row 7', 'dropped_not_finite_count'),
        ('beyond', 'position limits of a joint: a 1.010 rad', 'dropped_limit_count'),
        ('fast', 'faster than its velocity limit: a 4.000 rad/s', 'dropped_limit_count'),
        ('jump', 'starts too far from the measured joints', 'dropped_start_jump_count'),
    ],
)
def test_a_bad_chunk_is_dropped_counted_and_named_and_good_ones_go_on(
    world, active, word, said, count
):
    world.command('move')
    world.until(lambda: world.chunks[-1].instruction == 'move', 'a chunk of that command')
    if word == 'beyond':
        world.position = {'a': 0.98, 'b': 0.1}  # from where the limit is in reach
    world.command(word)
    world.until_state(PolicyStatus.HOLDING, said)
    world.until(lambda: getattr(world.status, count) > 0, f'{count} to count it')
    world.until(lambda: holds(world) >= 1, 'a hold')
    assert all(chunk.instruction != word for chunk in world.chunks)
    world.command('stand')
    world.until_state(PolicyStatus.RUNNING)


def test_a_policy_that_raises_is_a_fault_until_the_node_is_activated_again(world, active):
    world.command('raise')
    world.until_state(PolicyStatus.FAULT, 'RuntimeError: the double raises')
    active.until_says('Traceback')
    assert world.transition(DEACTIVATE)
    world.command('stand')
    assert world.transition(ACTIVATE)
    world.until_state(PolicyStatus.RUNNING)


def test_commands_are_normalised_and_bad_ones_refused_with_a_reason(world, active):
    world.instruction.publish(String(data='  cafe\u0301\x07\n'))
    world.until(lambda: world.status.instruction == 'caf\u00e9', 'the command in normal form')
    refused = world.status.refused_message_count
    world.instruction.publish(String(data='x' * 61))
    world.until(lambda: world.status.refused_message_count > refused, 'the refusal')
    assert world.status.instruction == 'caf\u00e9'
    assert 'at most 60 characters, found 61' in active.output
    world.instruction.publish(String(data=' \t'))
    world.until(lambda: world.status.refused_message_count > refused + 1, 'the second refusal')


def test_a_command_that_was_latched_before_the_node_came_is_heard(world, policy):
    latched = world.node.create_publisher(
        String, 'instruction',
        QoSProfile(
            depth=1, reliability=ReliabilityPolicy.RELIABLE,
            durability=DurabilityPolicy.TRANSIENT_LOCAL,
        ),
    )
    latched.publish(String(data='stand'))
    policy()
    assert world.transition(CONFIGURE)
    world.until(lambda: world.status.instruction == 'stand', 'the latched command')


def test_a_reader_that_comes_late_gets_the_status(world, active):
    from conftest import World

    late = World()
    try:
        late.until(lambda: late.status is not None, 'the latched status')
        assert late.status.artifact_id == 'double'
    finally:
        late.close()


def test_inputs_nobody_publishes_and_commands_nobody_hears_are_said(world, policy):
    policy()
    assert world.transition(CONFIGURE)
    world.until(
        lambda: 'policy: input eye' in world.diagnostics
        and world.diagnostics['policy: input eye'].level == ERROR,
        '/diagnostics of the camera',
    )
    assert 'nothing has arrived' in world.diagnostics['policy: input eye'].message


def test_a_second_commander_is_said(world, active):
    from trajectory_msgs.msg import JointTrajectory

    rival = world.node.create_publisher(JointTrajectory, 'commands', 1)
    world.until(
        lambda: world.diagnostics.get('policy: commands') is not None
        and world.diagnostics['policy: commands'].level == WARN
        and 'command the same controller' in world.diagnostics['policy: commands'].message,
        '/diagnostics of the commands',
    )
    world.node.destroy_publisher(rival)


def test_time_from_nowhere_holds_a_node_that_runs_and_is_said(world, active):
    """One that is activated without a /clock is refused: test_watchdogs."""
    world.command('move')
    for simulated, state, reason in (
        (True, PolicyStatus.HOLDING, 'nothing publishes /clock'),
        (False, PolicyStatus.RUNNING, ''),
    ):
        parameter = Parameter(
            name='use_sim_time', value=ParameterValue(type=1, bool_value=simulated)
        )
        request = SetParameters.Request(parameters=[parameter])
        assert world.call(SetParameters, 'policy/set_parameters', request).results[0].successful
        world.until_state(state, reason)


def test_two_nodes_live_side_by_side_in_namespaces_with_remapped_topics(world, start):
    """Nothing but /diagnostics has an absolute name."""
    from conftest import CONTRACT, HERE, Process

    process: Process = start(
        str(HERE / 'policy_double.py'), '--ros-args', '-r', '__ns:=/left', '-r',
        'eye/image_raw:=/shared/eye', '-p', 'policy:=double', '-p', f'contract:={CONTRACT}',
    )
    from lifecycle_msgs.srv import ChangeState
    from sensor_msgs.msg import Image

    request = ChangeState.Request()
    request.transition.id = CONFIGURE
    assert world.call(ChangeState, '/left/policy/change_state', request).success, process.output
    camera = world.node.create_publisher(Image, '/shared/eye', 1)
    world.until(
        lambda: 'policy: input eye' in world.diagnostics
        and any(
            (value.key, value.value) == ('publishers', '1')
            for value in world.diagnostics['policy: input eye'].values
        ),
        'the remapped camera to be found',
    )
    topics = {name for name, _ in world.node.get_topic_names_and_types()}
    assert {'/left/joint_states', '/left/commands', '/left/policy/action_chunk'} <= topics
    world.node.destroy_publisher(camera)
