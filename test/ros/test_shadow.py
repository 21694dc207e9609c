# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A second policy beside the commanding one: compared, told, and never in its way."""
from __future__ import annotations

import pytest
from conftest import ACTIVATE, CONFIGURE, ROOT, stop

from quantvla_ros.msg import PolicyStatus, ShadowDifference
from quantvla_ros.nodes.operator import Operator
from quantvla_ros.nodes.process import StopSignal

ERROR = b'\x02'
ENOUGH = 8  # chunks


@pytest.fixture
def shadowed(world, policy):
    """A node that runs with a shadow; and what that says."""
    found: list[ShadowDifference] = []
    world.node.create_subscription(
        ShadowDifference, 'policy/shadow', lambda m: world._note(found.append, m), 10
    )

    def shadowed(name: str):
        process = policy(shadow_artifact=name)
        assert world.transition(CONFIGURE), process.output
        world.camera_on = world.joints_on = True
        assert world.transition(ACTIVATE)
        world.command('stand')
        world.until_state(PolicyStatus.RUNNING)
        world.until(lambda: len(world.chunks) >= ENOUGH, 'chunks')
        return process, found

    return shadowed


def test_the_difference_is_published_with_its_joint_and_row_and_nothing_of_it_is_sent(
    world, shadowed
):
    process, found = shadowed('near')
    world.until(lambda: len(found) >= 3, 'differences')
    first = found[0]
    assert (first.joint, first.row) == ('b', 3)
    assert first.largest_difference == pytest.approx(0.01, abs=1e-6)
    assert 0.0 < first.relative_error < 0.1
    assert (first.artifact_id, first.shadow_artifact_id) == ('double', 'near')
    chunks = {chunk.sequence: chunk for chunk in world.chunks}
    assert all(d.header.stamp == chunks[d.sequence].header.stamp
               for d in found if d.sequence in chunks)
    assert all(point.positions[1] == pytest.approx(0.1) for chunk in world.chunks
               for point in chunk.trajectory.points)
    world.until(
        lambda: 'median' in world.diagnostics['policy: shadow'].message, '/diagnostics of it'
    )
    assert stop(process) == 0, process.output


def test_a_shadow_that_is_not_there_is_said_and_the_policy_runs(world, shadowed):
    process, _ = shadowed('not there')
    assert 'there is no shadow: CheckpointError' in process.output
    world.until(lambda: 'policy: shadow' in world.diagnostics, '/diagnostics of it')
    assert world.diagnostics['policy: shadow'].level == ERROR
    assert world.status.state == PolicyStatus.RUNNING
    assert stop(process) == 0, process.output


def test_a_shadow_that_fails_is_left_alone_and_the_policy_runs(world, shadowed):
    process, found = shadowed('failing')
    world.until(
        lambda: 'left alone: RuntimeError: the shadow raises'
        in world.diagnostics['policy: shadow'].message, 'the failure in /diagnostics',
    )
    count = len(world.chunks)
    world.until(lambda: len(world.chunks) > count + 2, 'more chunks')
    assert PolicyStatus.HOLDING not in world.states and PolicyStatus.FAULT not in world.states
    assert not found
    assert stop(process) == 0, process.output


def test_a_shadow_that_never_ends_delays_nothing(world, shadowed):
    process, found = shadowed('stuck')
    world.until(
        lambda: any(pair.key == 'left out, still busy' and int(pair.value) >= 3
                    for pair in world.diagnostics['policy: shadow'].values),
        'observations left out',
    )
    assert PolicyStatus.HOLDING not in world.states and not found
    assert stop(process) == 0, process.output


def test_the_quantized_policy_beside_the_float_one_it_was_made_of(start):
    signals = StopSignal()
    with Operator(signals) as operator:
        found: list[ShadowDifference] = []
        operator.node.create_subscription(ShadowDifference, 'policy/shadow', found.append, 10)
        arm = start('-m', 'quantvla_ros', 'tabletop', '--ros-args', '-p', 'seed:=3')
        given = {
            'policy': ROOT / 'assets/tabletop_pi05',
            'shadow_artifact': ROOT / 'assets/tabletop_w8a8',
            'contract': ROOT / 'config/contracts/tabletop.yaml', 'threads': 1,
        }
        pairs = [part for name, value in given.items() for part in ('-p', f'{name}:={value}')]
        node = start('-m', 'quantvla_ros', 'policy', '--ros-args', *pairs)
        assert operator.transition(CONFIGURE), node.output
        assert operator.transition(ACTIVATE)
        operator.command('touch the blue cube')
        operator.wait_until(lambda: len(found) >= 3, 'differences', 60.0)
    signals.restore()
    assert stop(node) == 0, node.output
    assert stop(arm) == 0
    # The same noise: two draws of one policy are farther apart than that.
    assert all(0.0 < one.relative_error < 0.3 for one in found)
    assert found[0].precision == 'float32' and found[0].shadow_precision == 'w8a8'
