# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the policy node does when it may not command: latched, or the arm belongs to others."""
from dataclasses import replace

import numpy as np
import pytest
from test_control_supervisor import CONTRACT, MS, Bench, still

from quantvla_ros.contract.types import Safety
from quantvla_ros.control.latch import LatchReason
from quantvla_ros.control.limits import narrowed
from quantvla_ros.control.permission import Permission
from quantvla_ros.control.sharing import Sharing
from quantvla_ros.control.trajectory import sample
from quantvla_ros.nodes.loading import Settings, narrowed_contract
from quantvla_ros.nodes.states import Cause, State

THEIRS = b'theirs'


@pytest.fixture
def bench() -> Bench:
    """A bench that runs, moving joint a, beside others."""
    bench = Bench()
    bench.sharing = Sharing(quiet=0.5)
    safety = replace(CONTRACT.safety, not_finite_latch=2, rejection_latch=4)
    bench.permission = Permission(safety, bench.sharing)
    bench.supervisor._permission = bench.permission
    bench.supervisor.activate()
    bench.pass_time(50)
    bench.infer(still(bench.position, 0.02))
    assert bench.status.state is State.RUNNING
    return bench


def plan(bench):
    """The next inference, as soon as it is due; meanwhile the arm does as it was told."""
    for _ in range(100):
        work = bench.supervisor.plan()
        if work is not None:
            return work
        bench.position['a'] = float(sample(bench.chunks[-1].points, bench.now)[1])
        bench.pass_time(10)
    raise AssertionError(f'nothing was planned: {bench.status}')


def infer(bench, rows):
    bench.supervisor.deliver(plan(bench), rows, 0.0)


def test_a_streak_of_numbers_that_are_none_latches_and_holds_until_reset(bench):
    nan = np.full_like(still(bench.position), np.nan)
    infer(bench, nan)
    assert bench.status.cause is Cause.CHUNK_DROPPED
    infer(bench, nan)
    assert bench.status.state is State.FAULT and bench.status.cause is Cause.LATCHED
    assert 'finite' in bench.status.sentence and bench.sent[-1] == 'hold'
    before = len(bench.sent)
    bench.pass_time(2000)
    assert bench.supervisor.plan() is None and len(bench.sent) == before
    assert bench.supervisor.reset() is None
    assert bench.status.state is State.WAITING
    bench.pass_time(50)
    infer(bench, still(bench.position))
    assert bench.status.state is State.RUNNING


def test_the_emergency_stop_holds_at_once_and_voids_what_is_being_inferred(bench):
    work = plan(bench)
    before = len(bench.holds)
    bench.supervisor.emergency(True)
    assert len(bench.holds) == before + 1 and bench.status.cause is Cause.LATCHED
    bench.supervisor.deliver(work, still(bench.position, 0.02), 0.0)
    bench.pass_time(500)
    assert bench.sent[-1] == 'hold' and len(bench.holds) == before + 1
    assert 'still pressed' in bench.supervisor.reset()
    bench.supervisor.emergency(False)
    bench.pass_time(500)
    assert bench.status.cause is Cause.LATCHED and bench.sent[-1] == 'hold'
    assert bench.supervisor.reset() is None and bench.status.state is State.WAITING


def test_a_latch_outlives_deactivation(bench):
    bench.supervisor.emergency(True)
    bench.supervisor.emergency(False)
    bench.supervisor.stop(Cause.NOT_ACTIVE)
    bench.supervisor.activate()
    bench.pass_time(200)
    assert bench.status.cause is Cause.LATCHED
    assert bench.supervisor.plan() is None


def test_an_emergency_stop_of_an_inactive_node_is_remembered():
    bench = Bench()
    bench.supervisor.emergency(True)
    assert bench.status.state is State.INACTIVE
    bench.supervisor.activate()
    bench.pass_time(100)
    assert bench.status.cause is Cause.LATCHED and not bench.sent


def test_a_controller_that_refuses_again_and_again_latches_in_its_own_words(bench):
    for _ in range(3):
        bench.supervisor.refused('goal aborted: PATH_TOLERANCE_VIOLATED')
    bench.supervisor.accepted()
    for _ in range(4):
        bench.supervisor.refused('goal aborted: PATH_TOLERANCE_VIOLATED')
    bench.pass_time(10)
    assert bench.status.kind == LatchReason.CONTROLLER.name
    assert 'PATH_TOLERANCE_VIOLATED' in bench.status.sentence


def test_a_lost_device_latches_for_good(bench):
    bench.supervisor.device_failed('CUDA error')
    assert bench.status.cause is Cause.LATCHED and bench.sent[-1] == 'hold'
    assert 'CUDA error' in bench.supervisor.reset()
    assert bench.status.state is State.FAULT


def test_while_another_commands_nothing_is_sent_not_even_a_hold(bench):
    before = list(bench.sent)
    bench.sharing.goals([THEIRS])
    bench.pass_time(3000)
    assert bench.status.state is State.PAUSED and 'another client' in bench.status.sentence
    assert bench.sent == before and bench.supervisor.plan() is None
    bench.supervisor.stop(Cause.NOT_ACTIVE)
    assert bench.sent == before  # deactivated: the other's motion still goes on


def test_a_chunk_that_is_finished_while_another_commands_is_void(bench):
    work = plan(bench)
    bench.sharing.goals([THEIRS])
    before = list(bench.sent)
    bench.supervisor.deliver(work, still(bench.position, 0.02), 0.0)  # before any watch
    assert bench.sent == before and bench.supervisor.counts.superseded == 1


def test_the_policy_goes_on_by_itself_from_where_the_other_left_the_arm_with_a_fresh_picture(bench):
    bench.sharing.goals([THEIRS])
    bench.pass_time(500)
    bench.position['a'] = 1.5  # far from what we commanded
    bench.pass_time(500)
    bench.sharing.goals([])
    bench.pass_time(450)
    assert bench.status.state is State.PAUSED
    bench.pass_time(60, camera=False)
    assert bench.status.state is State.WAITING
    paused_until = bench.now
    assert bench.buffer.check(bench.now) is None  # fresh enough for anything else
    assert bench.supervisor.plan() is None  # the newest picture shows the other's motion
    bench.pass_time(50)
    work = bench.supervisor.plan()
    assert work.observation.stamps['eye'] > paused_until - 20 * MS
    bench.supervisor.deliver(work, still(bench.position, 0.02), 0.0)
    first = bench.chunks[-1].points.positions[0]
    assert bench.status.state is State.RUNNING
    assert first[bench.chunks[-1].points.joints.index('a')] == pytest.approx(1.5, abs=0.02)


def test_a_pause_on_request_holds_once_and_lasts_until_it_is_taken_back(bench):
    before = len(bench.holds)
    bench.sharing.ask(True)
    bench.pass_time(1000)
    assert len(bench.holds) == before + 1 and bench.sent[-1] == 'hold'
    assert bench.status.state is State.PAUSED
    bench.sharing.ask(False)
    bench.pass_time(60)
    infer(bench, still(bench.position))
    assert bench.status.state is State.RUNNING


def test_a_pause_survives_a_camera_that_dies_meanwhile(bench):
    bench.sharing.ask(True)
    bench.pass_time(1000, camera=False)
    assert bench.status.state is State.PAUSED
    bench.sharing.ask(False)
    bench.pass_time(20, camera=False)
    assert bench.status.state is State.WAITING
    assert bench.supervisor.plan() is None


def test_limits_can_only_be_narrowed_while_the_node_is_active_latched_or_paused(bench):
    half, full = narrowed(CONTRACT.limits, 0.5), CONTRACT.limits
    assert bench.supervisor.limit(half) == []
    assert 'velocity 2' in bench.supervisor.limit(full)[0]
    bench.sharing.ask(True)
    bench.pass_time(100)
    assert bench.supervisor.limit(full)
    bench.supervisor.emergency(True)
    assert bench.supervisor.limit(full)
    bench.supervisor.stop(Cause.NOT_ACTIVE)
    assert bench.supervisor.limit(full) == []


def test_narrowed_limits_hold_from_the_next_chunk_on(bench):
    assert bench.supervisor.limit(narrowed(CONTRACT.limits, 0.1)) == []  # 0.2 rad/s
    infer(bench, still(bench.position, 0.02))  # 0.4 rad/s: twice as fast
    assert bench.status.cause is Cause.CHUNK_DROPPED
    assert 'limit 0.200' in bench.status.sentence


def test_limits_of_a_robot_description_narrow_the_contracts():
    urdf = """<robot name="r"><joint name="a" type="revolute">
    <limit lower="-1.0" upper="3.0" velocity="1.0" effort="1"/></joint></robot>"""
    contract = narrowed_contract(CONTRACT, Settings(
        'p', 'c', 'cpu', '', 0, 'auto', '', False, robot_description=urdf
    ))
    a, b = contract.limits['a'], contract.limits['b']
    assert (a.lower, a.upper, a.velocity) == (-1.0, 2.0, 1.0)
    assert b == CONTRACT.limits['b']


def test_the_defaults_of_a_contract_latch_late_and_pause_never():
    assert Permission(Safety()).judge(0) is None
