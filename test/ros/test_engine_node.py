# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The node and its engine: ready in named stages, and never something else without saying so."""
from __future__ import annotations

import pytest
import torch
from conftest import ACTIVATE, CONFIGURE, ROOT, stop

from quantvla_ros.msg import PolicyStatus

WARN, OK = b'\x01', b'\x00'
TABLETOP = ROOT / 'config/contracts/tabletop.yaml'
ARTIFACT = ROOT / 'assets/tabletop_w8a8'


@pytest.fixture
def real(start):
    """The policy node with the package's own policy, not activated."""

    def real(**parameters: object):
        given = {'policy': ARTIFACT, 'contract': TABLETOP, 'threads': 1, **parameters}
        pairs = [part for name, value in given.items() for part in ('-p', f'{name}:={value}')]
        return start('-m', 'quantvla_ros', 'policy', '--ros-args', *pairs)

    return real


def state(world) -> dict[str, str]:
    """What /diagnostics says of the node as a whole."""
    status = world.diagnostics.get('policy: state')
    return {} if status is None else {pair.key: pair.value for pair in status.values}


def test_a_policy_on_the_engine_is_ready_and_says_for_what(world, real):
    process = real(engine='graph', prompt_lengths='"48,64"')
    assert world.transition(CONFIGURE), process.output
    world.until(lambda: state(world).get('engine') == 'graph', '/diagnostics to name the engine')
    assert state(world)['prepared for'] == '2 pictures, prompts of up to 48, 64 tokens'
    assert state(world)['fallback'] == 'none'
    assert world.diagnostics['policy: state'].level == OK
    line = next(line for line in process.output.splitlines() if 'ready in' in line)
    assert all(stage in line for stage in ('load', 'pack', 'capture', 'warm-up'))
    assert stop(process) == 0, process.output


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_without_a_gpu_configure_fails_and_says_so(world, real):
    process = real(device='cuda')
    assert not world.transition(CONFIGURE)
    world.until_state(PolicyStatus.UNCONFIGURED, 'expected an NVIDIA GPU that torch can use')
    assert stop(process) == 0, process.output


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_an_allowed_fallback_is_logged_once_and_stays_in_diagnostics(world, real):
    process = real(device='cuda', allow_fallback='true')
    assert world.transition(CONFIGURE), process.output
    world.until(lambda: state(world).get('engine') == 'plain', '/diagnostics to name the engine')
    said = 'plain on cpu instead of graph on cuda'
    assert said in state(world)['fallback'] and state(world)['device'] == 'cpu'
    assert world.diagnostics['policy: state'].level == WARN
    assert stop(process) == 0
    assert process.output.count(f'fallback: {said}') == 1, process.output


def test_a_policy_that_runs_by_a_fallback_is_a_warning_while_it_runs(world, policy):
    process = policy(policy='fallback')
    assert world.transition(CONFIGURE), process.output
    world.camera_on = world.joints_on = True
    assert world.transition(ACTIVATE)
    world.command('stand')
    world.until_state(PolicyStatus.RUNNING)
    world.until(
        lambda: state(world).get('state') == 'RUNNING'
        and world.diagnostics['policy: state'].level == WARN,
        'a warning in /diagnostics',
    )
    assert 'fallback: plain on cpu' in world.diagnostics['policy: state'].message
    assert stop(process) == 0


def test_a_camera_less_than_required_is_prepared_for_where_the_contract_allows_it(
    world, real, tmp_path
):
    before, wrist, after = TABLETOP.read_text().partition('slot: observation.images.wrist')
    assert 'required: true' in after
    contract = tmp_path / 'contract.yaml'
    contract.write_text(before + wrist + after.replace('required: true', 'required: false', 1))
    process = real(engine='graph', prompt_lengths='"64"', contract=contract)
    assert world.transition(CONFIGURE), process.output
    world.until(lambda: '1 or 2 pictures' in state(world).get('prepared for', ''), 'both counts')
    assert stop(process) == 0, process.output
