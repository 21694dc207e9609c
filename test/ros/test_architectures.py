# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Every architecture runs in the node: its processor reads live topics, the guard has its say."""
from __future__ import annotations

import pytest
from conftest import ACTIVATE, CONFIGURE, PATIENCE, ROOT, stop

from quantvla_ros.cli.main import main
from quantvla_ros.nodes.operator import Operator
from quantvla_ros.nodes.process import StopSignal

CONTRACT = ROOT / 'config/contracts/tabletop.yaml'


@pytest.fixture
def operator():
    signals = StopSignal()
    with Operator(signals) as operator:
        yield operator
    signals.restore()


@pytest.mark.parametrize('model', ['gr00t_n1_5', 'smolvla'])
def test_a_random_policy_sees_thinks_and_is_judged(model, operator, start, tmp_path):
    checkpoint = tmp_path / model
    arguments = ['random-checkpoint', '--model', model, '--contract', str(CONTRACT)]
    assert main([*arguments, '--out', str(checkpoint)]) == 0
    arm = start('-m', 'quantvla_ros', 'tabletop', '--ros-args', '-p', 'seed:=1')
    node = start(
        '-m', 'quantvla_ros', 'policy', '--ros-args', '-p', f'policy:={checkpoint}',
        '-p', f'contract:={CONTRACT}',
    )
    assert operator.transition(CONFIGURE), node.output
    assert operator.transition(ACTIVATE)
    operator.command('pick up the red cube')
    operator.wait_until(
        lambda: operator.status.inference_count >= 4, 'the fourth inference', PATIENCE
    )
    status = operator.status
    judged = status.published_count + status.dropped_limit_count + status.dropped_start_jump_count
    assert status.artifact_id == f'float:{model}' and judged >= 1
    assert status.dropped_not_finite_count == 0
    assert stop(node) == 0, node.output
    assert stop(arm) == 0
