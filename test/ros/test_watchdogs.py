# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The watchdogs in the node's own process: what trips, what is said, what follows."""
from __future__ import annotations

import pytest
from conftest import ACTIVATE, CONFIGURE, DEACTIVATE, is_hold, stop
from lifecycle_msgs.srv import ChangeState
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from quantvla_ros.msg import PolicyStatus
from quantvla_ros.nodes.messages import time_message

S = 1_000_000_000
OK, WARN, ERROR = b'\x00', b'\x01', b'\x02'


def watchdog(world, name: str):
    return world.diagnostics.get(f'policy: watchdog {name}')


def until_watchdog(world, name: str, level: bytes) -> dict[str, str]:
    """Its values, once it has that level."""
    world.until(
        lambda: (found := watchdog(world, name)) is not None and found.level == level,
        f'watchdog {name} at level {level!r}',
    )
    return {value.key: value.value for value in watchdog(world, name).values}


def test_every_watchdog_has_a_name_a_number_and_a_limit(world, active):
    world.until(lambda: watchdog(world, 'controller') is not None, 'the watchdogs')
    for name in (
        'age eye', 'age joint_states', 'frozen eye', 'skew', 'stamps', 'clock', 'jump',
        'controller', 'inference', 'device', 'qos eye', 'qos joint_states', 'qos language',
        'qos commands',
    ):
        values = until_watchdog(world, name, OK)
        float(values['number'])
        assert values['limit'] and values['unit']
    assert 'watchdog' not in active.output  # nothing to say


def test_a_frozen_picture_holds_a_moving_arm_and_a_new_one_lets_it_go_on(world, active):
    world.camera_frozen = True
    world.until(
        lambda: (found := watchdog(world, 'frozen eye')) is not None
        and float(found.values[0].value) > 0.5,
        'the same picture for longer than the limit',
    )
    assert watchdog(world, 'frozen eye').level == OK  # the arm stands
    assert world.status.state == PolicyStatus.RUNNING
    world.position = {'a': 0.3, 'b': 0.1}  # by another's hand, as far as the node can know
    world.until_state(PolicyStatus.HOLDING, 'the camera is frozen')
    values = until_watchdog(world, 'frozen eye', ERROR)
    assert float(values['number']) > float(values['limit']) == 0.5
    world.camera_frozen = False
    world.until_state(PolicyStatus.RUNNING)
    until_watchdog(world, 'frozen eye', OK)
    said = [line for line in active.output.splitlines() if 'watchdog frozen eye' in line]
    assert len(said) == 2, said


def test_a_publisher_that_cannot_be_heard_is_counted_said_once_and_forgotten_when_it_goes(
    world, policy
):
    process = policy()
    command = world.node.create_publisher(
        String, 'instruction', QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT),
    )
    assert world.transition(CONFIGURE)
    values = until_watchdog(world, 'qos language', WARN)
    assert float(values['number']) == 1.0
    assert 'RELIABLE' in watchdog(world, 'qos language').message
    world.node.destroy_publisher(command)
    until_watchdog(world, 'qos language', OK)
    said = [line for line in process.output.splitlines() if 'watchdog qos language' in line]
    assert len(said) == 2, said


def test_a_subscriber_that_cannot_hear_the_commands_is_counted(world, active):
    deaf = world.node.create_subscription(
        JointTrajectory, 'commands', lambda message: None,
        QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL),
    )
    values = until_watchdog(world, 'qos commands', WARN)
    assert float(values['number']) == 1.0
    world.node.destroy_subscription(deaf)
    until_watchdog(world, 'qos commands', OK)
    world.until(lambda: world.diagnostics['policy: commands'].level == OK, 'the commands to be OK')


def test_a_lost_gpu_holds_latches_and_asks_for_a_restart(world, active):
    world.command('move')
    world.until(lambda: world.chunks[-1].instruction == 'move', 'a chunk of that command')
    world.command('lose the GPU')
    world.until_state(PolicyStatus.FAULT, 'the process has to be started again')
    assert 'illegal memory access' in world.status.reason
    until_watchdog(world, 'device', ERROR)
    answer = world.call(Trigger, 'policy/reset', Trigger.Request())
    assert not answer.success and 'cannot mend' in answer.message
    sent = len(world.trajectories)
    assert world.transition(DEACTIVATE) and world.transition(ACTIVATE)
    world.command('stand')
    world.until_state(PolicyStatus.FAULT, 'the process has to be started again')
    assert all(is_hold(message) for message in world.trajectories[sent:])
    assert stop(active) == 0, active.output


def test_a_controller_that_goes_away_ends_the_commands_until_it_is_back(world, policy, tmp_path):
    from conftest import CONTRACT

    path = tmp_path / 'contract.yaml'
    path.write_text(CONTRACT.read_text().replace('topic: commands', 'topic: arm/joint_trajectory'))
    process = policy(path, controller_timeout=0.3)
    taken: list[JointTrajectory] = []

    def controller():
        return world.node.create_subscription(
            JointTrajectory, 'arm/joint_trajectory', lambda m: world._note(taken.append, m), 10
        )

    subscription = controller()
    assert world.transition(CONFIGURE), process.output
    world.camera_on = world.joints_on = True
    assert world.transition(ACTIVATE)
    world.command('move')
    world.until(lambda: taken, 'a trajectory')
    world.node.destroy_subscription(subscription)
    world.until_state(PolicyStatus.HOLDING, 'the controller has gone away')
    until_watchdog(world, 'controller', ERROR)
    chunks = len(world.chunks)
    before = len(taken)
    subscription = controller()
    world.until_state(PolicyStatus.RUNNING)
    world.until(lambda: len(world.chunks) > chunks and len(taken) > before, 'the next chunk')
    world.node.destroy_subscription(subscription)


def test_a_controller_that_listens_but_says_no_more_is_gone(world, policy, tmp_path):
    """One that was deactivated."""
    from conftest import CONTRACT

    path = tmp_path / 'contract.yaml'
    path.write_text(CONTRACT.read_text().replace('topic: commands', 'topic: arm/joint_trajectory'))
    process = policy(path, controller_timeout=0.5)
    subscription = world.node.create_subscription(
        JointTrajectory, 'arm/joint_trajectory', lambda message: None, 10
    )
    state = world.node.create_publisher(String, 'arm/controller_state', 10)  # of whatever type
    active = [True]
    timer = world.node.create_timer(0.01, lambda: active[0] and state.publish(String(data='ok')))
    assert world.transition(CONFIGURE), process.output
    world.camera_on = world.joints_on = True
    assert world.transition(ACTIVATE)
    world.command('move')
    world.until_state(PolicyStatus.RUNNING)
    world.until(lambda: state.get_subscription_count() == 1, 'an ear for the state')
    until_watchdog(world, 'controller', OK)
    active[0] = False
    world.until_state(PolicyStatus.HOLDING, 'the controller has gone away')
    active[0] = True
    world.until_state(PolicyStatus.RUNNING)
    world.node.destroy_timer(timer)
    world.node.destroy_publisher(state)
    world.node.destroy_subscription(subscription)


@pytest.fixture
def simulated(world, policy):
    """A node on /clock, which the test advances in step with real time."""
    process = policy(use_sim_time=True, clock_timeout=0.5)
    world.clock = world.node.create_publisher(Clock, '/clock', 10)
    world.clock_on, world.clock_offset = True, 0
    real = world.now
    begun = real()
    stood = [0]

    def now() -> int:
        return real() - begun + 200_000_000_000 + world.clock_offset

    world.now = lambda: now() if world.clock_on else stood[0]

    def tick() -> None:
        if world.clock_on:
            stood[0] = now()
            world.clock.publish(Clock(clock=time_message(stood[0])))

    timer = world.node.create_timer(0.01, tick)
    assert world.transition(CONFIGURE), process.output
    world.camera_on = world.joints_on = True
    assert world.transition(ACTIVATE)
    world.command('move')
    world.until_state(PolicyStatus.RUNNING)
    yield process
    world.node.destroy_timer(timer)


def test_without_a_clock_activation_is_refused_with_what_to_do_and_works_once_there_is_one(
    world, policy
):
    process = policy(use_sim_time=True)
    assert world.transition(CONFIGURE), process.output
    assert not world.transition(ACTIVATE)
    assert world.lifecycle() == 'inactive'
    world.until_state(PolicyStatus.INACTIVE, 'nothing publishes /clock')
    (said,) = [line for line in process.output.splitlines() if 'activate: ' in line]
    for part in ('expected a message within 5 s', 'found no publisher', 'start the simulator'):
        assert part in said
    clock = world.node.create_publisher(Clock, '/clock', 10)
    timer = world.node.create_timer(0.01, lambda: clock.publish(Clock(clock=time_message(S))))
    assert world.transition(ACTIVATE)
    world.until_state(PolicyStatus.WAITING)
    # A simulation that is paused has a time, which stands; nobody there any more has none.
    assert world.transition(DEACTIVATE)
    timer.cancel()
    assert world.transition(ACTIVATE) and world.transition(DEACTIVATE)
    world.node.destroy_publisher(clock)
    world.node.destroy_timer(timer)
    for _ in range(500):  # as soon as the node knows that nobody publishes it any more
        if not world.transition(ACTIVATE):
            break
        assert world.transition(DEACTIVATE)
    assert world.lifecycle() == 'inactive'


def test_a_stop_does_not_wait_for_a_clock_that_never_comes(world, policy):
    process = policy(use_sim_time=True)
    assert world.transition(CONFIGURE), process.output
    client = world.node.create_client(ChangeState, 'policy/change_state')
    request = ChangeState.Request()
    request.transition.id = ACTIVATE
    client.call_async(request)
    process.until_says('waits for /clock')
    assert stop(process) == 0
    assert 'leaving without it' not in process.output  # the lifecycle was driven to its end


def test_a_clock_that_stands_still_holds_the_arm_until_it_goes_on(world, simulated):
    world.clock_on = False
    world.until_state(PolicyStatus.HOLDING, 'the clock stands still')
    until_watchdog(world, 'clock', ERROR)
    world.clock_on = True
    world.until_state(PolicyStatus.RUNNING)


@pytest.mark.parametrize(('seconds', 'word'), [(100, 'forward'), (-100, 'back')])
def test_a_clock_that_jumps_holds_the_arm_and_it_goes_on_in_the_new_time(
    world, simulated, seconds, word
):
    states, sent = len(world.states), len(world.trajectories)
    world.clock_offset = seconds * 10**9
    simulated.until_says(f'HOLDING: the arm holds, the clock jumped: {word} by')
    simulated.until_says(f'watchdog jump: the clock jumped {word}')
    world.until(lambda: PolicyStatus.HOLDING in world.states[states:], 'a hold')
    world.until_state(PolicyStatus.RUNNING)
    world.until(lambda: any(is_hold(m) for m in world.trajectories[sent:]), 'the hold itself')


def test_a_wall_clock_beside_a_simulated_one_is_told_apart(world, simulated):
    world.camera_delay = -1.6e9  # as if the camera's driver did not know of /clock
    until_watchdog(world, 'stamps', ERROR)
    world.until_state(PolicyStatus.HOLDING, 'use_sim_time')
