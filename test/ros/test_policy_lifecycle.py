# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import signal

import pytest
from conftest import ACTIVATE, CLEANUP, CONFIGURE, CONTRACT, DEACTIVATE, is_hold, stop

from quantvla_ros.msg import PolicyStatus


def test_all_transitions_there_and_back(world, policy):
    process = policy()
    assert world.lifecycle() == 'unconfigured'
    for _ in range(2):
        assert world.transition(CONFIGURE)
        world.until_state(PolicyStatus.INACTIVE)
        world.camera_on = world.joints_on = True
        assert world.transition(ACTIVATE)
        world.command('stand')
        world.until_state(PolicyStatus.RUNNING)
        assert world.transition(DEACTIVATE)
        world.until_state(PolicyStatus.INACTIVE)
        assert world.transition(ACTIVATE)  # the policy stayed loaded, the command in force
        world.until_state(PolicyStatus.RUNNING)
        assert world.transition(DEACTIVATE)
        assert world.transition(CLEANUP)
        world.until_state(PolicyStatus.UNCONFIGURED)
    assert stop(process) == 0, process.output


@pytest.mark.parametrize('when', ['loading', 'warming up'])
def test_a_gpu_without_room_refuses_with_numbers_and_a_remedy_and_may_be_tried_again(
    world, policy, when
):
    process = policy(policy=f'no memory while {when}', device='cuda')
    assert not world.transition(CONFIGURE)
    assert world.lifecycle() == 'unconfigured'  # not by on_error, after an exception
    world.until_state(PolicyStatus.UNCONFIGURED, 'cuda is out of memory')
    for part in ('4.00 GiB more were needed', '1.25 GiB of 23.99 GiB were free', 'nvidia-smi'):
        assert part in world.status.reason
    assert 'Traceback' not in process.output
    if when == 'warming up':  # after it had been loaded
        process.until_says('a double was freed')
    assert world.transition(CONFIGURE), process.output  # others have left meanwhile
    world.until_state(PolicyStatus.INACTIVE)


def test_activation_waits_until_inputs_and_command_are_there(world, policy):
    policy()
    assert world.transition(CONFIGURE)
    assert world.transition(ACTIVATE)
    world.until_state(PolicyStatus.WAITING, 'eye: nothing has arrived yet')
    world.camera_on = world.joints_on = True
    world.until_state(PolicyStatus.WAITING, 'no language command')
    assert not world.trajectories  # nothing moves before the first command
    world.command('stand')
    world.until_state(PolicyStatus.RUNNING)


def test_deactivation_ends_with_a_hold_where_the_arm_is(world, active):
    assert world.transition(DEACTIVATE)
    world.until(lambda: is_hold(world.trajectories[-1]), 'a hold')
    hold = world.trajectories[-1].points[-1]
    assert list(hold.positions) == pytest.approx([0.1, 0.1], abs=1e-6)
    assert list(hold.velocities) == [0.0, 0.0]


def test_diagnostics_say_the_measured_delay_and_what_became_of_the_rows(world, active):
    world.command('move')

    def shown():
        status = world.diagnostics.get('policy: schedule')
        values = {value.key: value.value for value in status.values} if status else {}
        return values if int(values.get('chunks that took over', 0)) > 3 else None

    world.until(shown, 'some chunks')
    values, status = shown(), world.diagnostics['policy: schedule']
    assert status.level == b'\x00' and values['schedule'] == 'async'
    # Of the observation, not of the inference, which takes the double no time at all.
    assert 0.01 <= float(values['delay p50 (s)']) <= float(
        values['delay that is reckoned with (s)']
    )
    assert status.message.startswith('async: a chunk takes over 0.')
    assert int(values['delays measured']) >= 3 and values['rows of a chunk'] == '16'
    assert 0 < float(values['rows run, p50']) <= 16
    assert 0 <= float(values['rows over, p50']) <= int(values['rows over, most']) < 16


def test_a_chunk_says_all_about_itself(world, active):
    chunk = world.chunks[-1]
    assert chunk.instruction == 'stand' and chunk.artifact_id == 'double'
    assert list(chunk.joint_names) == ['a', 'b'] == list(chunk.trajectory.joint_names)
    assert chunk.header.frame_id == 'base_link' == chunk.trajectory.header.frame_id
    assert chunk.control_period.nanosec == 50_000_000
    assert len(chunk.trajectory.points) == 16
    # Row i is meant for the observation's time plus i + 1 periods.
    assert chunk.trajectory.points[1].time_from_start.nanosec == 100_000_000
    sent = world.trajectories[-1]
    assert list(sent.points[-1].velocities) == [0.0, 0.0]


@pytest.mark.parametrize(
    ('old', 'new', 'said'),
    [
        ('joints: [a, b]', 'joints: [b, a]', 'another order'),
        ('observation.images.eye', 'observation.images.nose', 'observation.images.eye'),
        ('control_period: 0.05', 'control_period: 0.1', 'control_period'),
    ],
)
def test_a_contract_that_the_policy_does_not_fit_fails_configure_with_a_diff(
    world, policy, tmp_path, old, new, said
):
    contract = tmp_path / 'contract.yaml'
    contract.write_text(CONTRACT.read_text().replace(old, new))
    process = policy(contract)
    assert not world.transition(CONFIGURE)
    assert world.lifecycle() == 'unconfigured'
    world.until_state(PolicyStatus.UNCONFIGURED, said)
    assert '  - ' in process.output and said in process.output
    assert stop(process) == 0


def test_a_twist_is_refused_by_name_at_configure(world, policy, tmp_path):
    contract = tmp_path / 'contract.yaml'
    contract.write_text(CONTRACT.read_text().replace(
        'parts: [{kind: joint_position, names: [a, b], unit: rad}]', 'parts: [{kind: twist}]'
    ))
    policy(contract)
    assert not world.transition(CONFIGURE)
    world.until_state(PolicyStatus.UNCONFIGURED, 'twist')


def test_a_missing_contract_is_named_and_the_node_lives_on(world, policy, tmp_path):
    process = policy(tmp_path / 'absent.yaml')
    for _ in range(2):
        assert not world.transition(CONFIGURE)
        world.until_state(PolicyStatus.UNCONFIGURED, 'absent.yaml')
    assert stop(process) == 0


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('state', ['unconfigured', 'inactive', 'active'])
def test_a_signal_ends_the_process_in_order(world, policy, state, number):
    process = policy()
    if state != 'unconfigured':
        assert world.transition(CONFIGURE)
    if state == 'active':
        world.camera_on = world.joints_on = True
        assert world.transition(ACTIVATE)
        world.command('move')
        world.until(lambda: world.trajectories, 'a chunk')
    world.until(lambda: world.status is not None, 'a status')
    assert stop(process, number) == 0, process.output
    assert 'Traceback' not in process.output
    world.until_state(PolicyStatus.FINALIZED)
    if state == 'active':
        world.until(lambda: is_hold(world.trajectories[-1]), 'a hold as the last word')


def test_a_second_signal_changes_nothing(world, active):
    active.signal(signal.SIGINT)
    active.signal(signal.SIGINT)
    active.signal(signal.SIGTERM)
    assert active.wait() == 0, active.output
    world.until(lambda: is_hold(world.trajectories[-1]), 'a hold as the last word')


def test_a_signal_during_an_inference_ends_with_a_hold_and_no_chunk_after_it(world, active):
    before = world.status.inference_count
    world.command('slow')
    world.until(lambda: world.status.inference_count > before, 'another inference')
    assert stop(active) == 0, active.output
    world.until(lambda: is_hold(world.trajectories[-1]), 'a hold as the last word')


def test_a_signal_while_a_policy_is_loaded_ends_the_process(world, policy):
    process = policy(policy='"slow to load"')
    client = world.node.create_client(_change_state(), 'policy/change_state')
    assert client.wait_for_service(30.0)
    request = _change_state().Request()
    request.transition.id = CONFIGURE
    client.call_async(request)
    world.until(lambda: 'loading' in process.output, 'the load to begin')
    assert stop(process) == 0, process.output


def _change_state():
    from lifecycle_msgs.srv import ChangeState

    return ChangeState


def test_parameters_out_of_range_are_refused_in_one_line(policy):
    process = policy(hold_time=99.0)
    assert process.wait() != 0
    assert 'hold_time' in process.output
