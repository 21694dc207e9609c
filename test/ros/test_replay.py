# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A policy node records what it saw, inferred and sent; `replay` gets the same bits again."""
from __future__ import annotations

import os
import subprocess
import sys

import pytest
from conftest import ACTIVATE, CONFIGURE, DEACTIVATE, PATIENCE, ROOT, stop

from quantvla_ros.nodes.operator import Operator
from quantvla_ros.nodes.process import StopSignal
from quantvla_ros.observation.bags import Bag
from quantvla_ros.observation.recording import RecordedPolicy

ARTIFACT = ROOT / 'assets/tabletop_w8a8'
FLOAT = ROOT / 'assets/tabletop_pi05'
CONTRACT = ROOT / 'config/contracts/tabletop.yaml'
WANTED = 6  # chunks


@pytest.fixture
def operator():
    signals = StopSignal()
    with Operator(signals) as operator:
        yield operator
    signals.restore()


def replay(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, '-m', 'quantvla_ros', 'replay', *map(str, arguments)],
        cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=5 * PATIENCE, check=False,
    )


@pytest.mark.parametrize(('schedule', 'seed'), [('async', 0), ('rtc', -1)])
def test_a_recorded_run_is_done_again_bit_by_bit_and_another_policy_differs(
    operator, start, tmp_path, schedule, seed
):
    arm = start('-m', 'quantvla_ros', 'tabletop', '--ros-args', '-p', 'seed:=3')
    given = {
        'policy': ARTIFACT, 'contract': CONTRACT, 'threads': 1, 'schedule': schedule, 'seed': seed,
        'record_to': tmp_path / 'bags',
    }
    pairs = [part for name, value in given.items() for part in ('-p', f'{name}:={value}')]
    node = start('-m', 'quantvla_ros', 'policy', '--ros-args', *pairs)
    assert operator.transition(CONFIGURE), node.output
    assert operator.transition(ACTIVATE)
    operator.command('touch the red cube')
    operator.wait_until(lambda: len(operator.chunks) >= WANTED, 'chunks', PATIENCE)
    assert operator.transition(DEACTIVATE)
    assert stop(node) == 0, node.output
    assert stop(arm) == 0
    [bag] = (tmp_path / 'bags').iterdir()

    with RecordedPolicy(bag) as recorded:
        inferences = list(recorded.inferences())
        assert recorded.health.whole
    assert len(inferences) >= WANTED and not any(i.lacking for i in inferences)
    assert {i.artifact_id for i in inferences} == {operator.chunks[0][1].artifact_id}
    assert any(i.guidance for i in inferences) == (schedule == 'rtc')
    with Bag(bag) as opened:
        # What was sent is there: a motion for each chunk, and the hold at the end.
        sent = [r.message.sent for r in opened.messages(['/policy/inference'])]
        holds = list(opened.messages(['/policy/hold']))
    assert sum(len(motion.points) > 0 for motion in sent) >= WANTED
    assert holds and list(holds[-1].message.points[-1].velocities) == [0.0] * 5

    same = replay(bag)
    assert same.returncode == 0, same.stdout + same.stderr
    assert f'{len(inferences)} of {len(inferences)} chunks have the same bits' in same.stdout
    other = replay(bag, '--policy', FLOAT, '--limit', 2)
    assert other.returncode == 1, other.stdout + other.stderr
    assert 'artifact float:tabletop_pi05 instead of' in other.stdout
    assert 'first difference: inference 0, row 0, ' in other.stdout


def test_a_folder_that_cannot_be_made_fails_configure_and_says_so(operator, start, tmp_path):
    (tmp_path / 'file').write_text('')
    node = start(
        '-m', 'quantvla_ros', 'policy', '--ros-args', '-p', f'policy:={ARTIFACT}',
        '-p', f'contract:={CONTRACT}', '-p', f'record_to:={tmp_path / "file"}',
    )
    assert not operator.transition(CONFIGURE)
    assert 'record_to: expected a folder in which a bag can be made' in node.output
    assert stop(node) == 0, node.output
