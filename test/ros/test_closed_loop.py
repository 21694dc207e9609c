# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The trained policy drives the simulated arm: two processes, real topics, real inference."""
from __future__ import annotations

import pytest
from conftest import ACTIVATE, CONFIGURE, DEACTIVATE, PATIENCE, ROOT, stop
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from std_msgs.msg import String

from quantvla_ros.errors import QuantVLAError
from quantvla_ros.msg import PolicyStatus
from quantvla_ros.nodes import operator as operators
from quantvla_ros.nodes.operator import Operator
from quantvla_ros.nodes.process import StopSignal
from quantvla_ros.nodes.tabletop import EVENT_QOS
from quantvla_ros.observation.messages import nanoseconds
from quantvla_ros.sim.tabletop import Tabletop, Task, TaskKind

CHECKPOINT = ROOT / 'assets/tabletop_pi05'
CONTRACT = ROOT / 'config/contracts/tabletop.yaml'
pytestmark = pytest.mark.skipif(
    not (CHECKPOINT / 'model.safetensors').exists(), reason='the trained policy is not here'
)
SEED = 3


@pytest.fixture
def operator():
    signals = StopSignal()
    with Operator(signals) as operator:
        yield operator
    signals.restore()


def test_a_command_is_given_until_the_arm_answers(operator, monkeypatch):
    monkeypatch.setattr(operators, '_AGAIN', 0.1)
    heard: list[str] = []
    answers = operator.node.create_publisher(DiagnosticStatus, 'tabletop/events', EVENT_QOS)
    time = KeyValue(key='time (s)', value='0.0')

    def on_command(message: String) -> None:
        heard.append(message.data)
        if len(heard) == 3:
            answers.publish(DiagnosticStatus(name='commanded', values=[time]))

    operator.node.create_subscription(String, 'instruction', on_command, 10)
    operator.command('touch the red cube')
    assert len(heard) >= 3 and set(heard) == {'touch the red cube'}


def test_a_command_that_no_arm_takes_is_an_error(operator, monkeypatch):
    monkeypatch.setattr(operators, '_HEARD', 0.2)
    with pytest.raises(QuantVLAError, match=r"'go': .*found no answer in 0 s; does it run"):
        operator.command('go')


@pytest.mark.parametrize('schedule', ['async', 'sync', 'ensemble', 'rtc'])
def test_two_commands_in_one_scene_are_done_and_the_simulator_says_so(operator, start, schedule):
    arm = start('-m', 'quantvla_ros', 'tabletop', '--ros-args', '-p', f'seed:={SEED}')
    node = start(
        '-m', 'quantvla_ros', 'policy', '--ros-args', '-p', f'policy:={CHECKPOINT}',
        '-p', f'contract:={CONTRACT}', '-p', f'schedule:={schedule}',
    )
    assert operator.transition(CONFIGURE), node.output
    assert operator.transition(ACTIVATE)
    first, second = (cube.colour for cube in Tabletop(SEED).scene.cubes[:2])
    for task in (Task(TaskKind.REACH, first), Task(TaskKind.PICK, second)):
        operator.command(task.instruction)
        event = operator.wait_for('done', PATIENCE)
        assert event is not None, f'{task.instruction}: {operator.status.reason}'
        assert event.message == task.instruction
    # Chunks carry what they are for, and come in order. Where a busy machine brings a picture, but
    # no newer joints, two in a row have one stamp.
    sequences = [chunk.sequence for _, chunk in operator.chunks]
    stamps = [nanoseconds(chunk.header.stamp) for _, chunk in operator.chunks]
    assert sequences == sorted(set(sequences)) and stamps == sorted(stamps)
    assert {chunk.artifact_id for _, chunk in operator.chunks} == {'float:tabletop_pi05'}
    assert operator.transition(DEACTIVATE)
    operator.wait_until(
        lambda: operator.status.state == PolicyStatus.INACTIVE, 'the inactive state', PATIENCE
    )
    assert stop(node) == 0, node.output
    assert 'refused' not in arm.output  # the controller took every trajectory
    assert stop(arm) == 0
