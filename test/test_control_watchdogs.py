# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Watchdogs with simulated clocks: what trips them, what does not, and what the arm does then."""
from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_control_supervisor import CONTRACT, MS, Bench, stamp_of, still

from quantvla_ros.control.latch import LatchReason
from quantvla_ros.control.watchdogs import (
    FASTEST,
    JUMP,
    Changes,
    ClockWatch,
    ControllerWatch,
    Level,
    Reading,
    Watchdog,
    device_failure,
    whose_clock,
)
from quantvla_ros.nodes.inference import InferenceThread
from quantvla_ros.nodes.states import Cause, State
from quantvla_ros.observation.buffer import ObservationBuffer
from quantvla_ros.observation.types import Fault, Reason, Refusal

S = 1_000_000_000
WALL = 1_700_000_000 * S


DOCS = (Path(__file__).resolve().parents[1] / 'docs/node.md').read_text(encoding='utf-8')


@pytest.mark.parametrize('watchdog', Watchdog, ids=lambda watchdog: watchdog.name)
def test_every_watchdog_is_documented_with_its_sentence(watchdog):
    assert f'| {watchdog.value} |' in DOCS and f'`{watchdog.of()}' in DOCS


# The clock.

steps = st.lists(st.integers(0, 900 * MS), min_size=1, max_size=40)


@given(steps, st.booleans())
def test_a_clock_that_goes_as_a_steady_one_never_trips_however_rarely_it_is_looked_at(pauses, sim):
    watch, steady = ClockWatch(1.0, sim), 0
    for pause in pauses:
        steady += pause
        assert watch.look(WALL + steady, steady) == 0.0
        assert not watch.stands
    assert watch.jumps == 0


@given(st.lists(st.tuples(st.integers(1, 100 * MS), st.floats(0.01, FASTEST)), max_size=40))
def test_a_simulation_may_be_slower_or_faster_than_real_time(looks):
    watch, now, steady = ClockWatch(1.0, True), S, 0
    for pause, factor in looks:
        steady += pause
        now += round(pause * factor)
        assert watch.look(now, steady) == 0.0


@given(
    st.integers(0, 2000 * MS), st.booleans(),
    st.floats(FASTEST * 2.0 + 2.0 * JUMP, 1e6) | st.floats(-1e6, -2.0 * JUMP - 2.0),
)
def test_every_jump_is_seen_once_with_its_size(pause, sim, seconds):
    watch = ClockWatch(60.0, sim)
    now, steady = 10**7 * S, 0
    watch.look(now, steady)
    steady += pause
    now += pause + round(seconds * S)
    assert watch.look(now, steady) == pytest.approx(seconds, abs=2.0 + 1e-6)
    assert watch.jump * seconds > 0.0 and watch.jumps == 1
    assert watch.look(now + 20 * MS, steady + 20 * MS) == 0.0
    assert watch.jumps == 1


@pytest.mark.parametrize('seconds', [1.2, -1.2])
def test_the_least_jump(seconds):
    for share, seen in ((1.0, True), (0.75, False)):
        watch = ClockWatch(1.0, False)
        watch.look(WALL, 0)
        jump = watch.look(WALL + round(seconds * share * S), 10 * MS)
        assert (jump != 0.0) == seen == watch.jumps


def test_a_clock_that_stands_is_told_from_one_that_never_began():
    watch = ClockWatch(1.0, True)
    watch.look(0, 0)
    watch.look(0, 1000 * MS)
    assert not watch.stands
    watch.look(0, 1001 * MS)
    assert watch.stands and 'nothing publishes /clock' in watch.sentence
    assert watch.look(5 * S, 1100 * MS) == 0.0  # the first /clock is no jump
    assert not watch.stands and watch.sentence == 'goes on'
    watch.look(5 * S, 2200 * MS)
    assert watch.stands and 'paused' in watch.sentence
    assert watch.still == pytest.approx(1.1)


@pytest.mark.parametrize(
    ('stamp', 'received', 'said'),
    [
        (WALL, 30 * S, 'stamped by the wall clock'),
        (30 * S, WALL, "simulator's clock"),
        (WALL - 3600 * S, WALL, 'another clock'),
        (400 * S, 30 * S, 'another clock'),
    ],
)
def test_the_words_say_whose_clock_it_is(stamp, received, said):
    assert said in whose_clock(stamp, received, WALL)


# The controller.

def test_a_controller_that_never_was_is_not_gone():
    watch = ControllerWatch(1.0)
    for second in range(100):
        watch.look(0, 0, float(second))
    assert not watch.gone and 'yet' in watch.sentence


@given(st.lists(st.tuples(st.floats(0.0, 3.0), st.booleans()), max_size=30))
def test_a_controller_is_gone_exactly_after_it_was_away_for_the_timeout(looks):
    watch, now, last = ControllerWatch(1.0), 0.0, None
    for pause, there in looks:
        now += pause
        watch.look(int(there), 0, now)
        last = now if there else last
        assert watch.gone == (last is not None and now - last > 1.0)


def test_that_nobody_takes_the_commands_is_no_matter_of_a_timeout():
    """What is told meanwhile is lost, so the arm would be caught up with what it has not heard."""
    watch = ControllerWatch(1.0)
    watch.look(0, 0, 0.0)
    assert not watch.lost  # nobody yet: it may come
    watch.look(1, 0, 0.1)
    assert not watch.lost
    watch.look(0, 0, 0.2)
    assert watch.lost and not watch.gone and 'nobody takes the commands any more' in watch.sentence
    watch.look(1, 0, 0.3)
    assert not watch.lost


def test_a_tool_that_shows_the_commands_does_not_stand_in_for_the_controller():
    watch = ControllerWatch(1.0)
    watch.look(2, 1, 0.0)
    watch.look(1, 0, 1.5)  # only `ros2 topic echo` is left
    assert watch.gone
    watch.look(2, 1, 1.6)
    assert not watch.gone


def test_a_controller_that_says_no_more_is_gone_though_it_listens():
    """One that is deactivated keeps its subscription."""
    watch = ControllerWatch(1.0)
    watch.look(1, 1, 0.0)
    watch.look(1, 1, 9.0)  # heard for the first time only later
    assert not watch.gone
    watch.look(1, 1, 10.0, 9.9)
    watch.look(1, 1, 10.9, 9.9)
    assert not watch.gone and watch.away == pytest.approx(1.0)
    watch.look(1, 1, 11.0, 9.9)
    assert watch.gone
    watch.look(1, 1, 12.0, 12.0)
    assert not watch.gone


# What is said.

def reading(level: Level | None, number: float = 0.0) -> Reading:
    return Reading('x', number, 1.0, 's', level, str(level))


levels = st.sampled_from([None, *Level])


@given(st.lists(st.tuples(st.floats(0.01, 1.5), levels), max_size=60))
def test_a_worse_level_is_shown_at_once_and_a_better_one_after_it_has_settled(looks):
    changes, now, rank = Changes(settle=2.0), 0.0, 0
    history: list[tuple[float, int]] = []
    for pause, level in looks:
        now += pause
        new = level.value if level else 0
        said = changes.take([reading(level)], now)
        history.append((now, new))
        shown = changes.shown[0].level
        shown_rank = shown.value if shown else 0
        assert shown_rank >= new  # never better than it is
        assert bool(said) == (shown_rank != rank)  # said once, when it changes
        if shown_rank < rank:  # it has been better for as long as that
            since = [time for time, value in history if value >= rank]
            assert now - since[-1] >= 2.0
        rank = shown_rank


def test_what_comes_and_goes_is_said_once():
    changes = Changes(settle=2.0)
    said = [
        line for tick in range(100)
        for line in changes.take([reading(Level.ERROR if tick % 2 else Level.OK)], tick * 0.1)
    ]
    assert len(said) == 1


def test_the_line_has_name_number_and_limit():
    line = Reading(Watchdog.AGE.of('eye'), 0.4125, 0.25, 's', Level.ERROR, 'too old').line
    assert line == 'watchdog age eye: too old (0.412 s, limit 0.25 s)'


# The buffer.

def test_a_stream_that_is_distrusted_is_refused_until_it_is_trusted_again():
    bench = Bench()
    bench.pass_time(100)
    assert not isinstance(bench.buffer.observe(bench.now), Refusal)
    bench.buffer.distrust([Fault(Reason.FROZEN, 'eye', 1.0, 0.5)])
    refusal = bench.buffer.observe(bench.now)
    assert isinstance(refusal, Refusal) and refusal.reasons == {Reason.FROZEN}
    assert bench.buffer.judge(bench.now) == refusal.faults
    bench.buffer.distrust([])
    assert not isinstance(bench.buffer.observe(bench.now), Refusal)


def test_the_buffer_tells_stamp_and_arrival_of_the_newest_message():
    buffer = ObservationBuffer(CONTRACT)
    assert buffer.latest('eye') is None
    buffer.store('eye', SimpleNamespace(header=stamp_of(5 * S), data=b'1'), 6 * S)
    latest = buffer.latest('eye')
    assert latest is not None
    assert (latest.stamp, latest.received, latest.message.data) == (5 * S, 6 * S, b'1')


# The device.

class OutOfMemoryError(RuntimeError):
    """As torch's."""


@pytest.mark.parametrize(
    'error',
    [
        OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation'),
        RuntimeError('CUDA error: device-side assert triggered\nCUDA kernel errors might be'),
        RuntimeError('Triton Error [CUDA]: an illegal memory access was encountered'),
        RuntimeError('cuDNN error: CUDNN_STATUS_EXECUTION_FAILED'),
        RuntimeError('CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling cublasCreate'),
    ],
)
def test_errors_of_the_gpu_are_known_in_one_line_also_behind_another(error):
    found = device_failure(error)
    assert found is not None and type(error).__name__ in found and '\n' not in found
    try:
        raise ValueError('the engine failed') from error
    except ValueError as outer:
        assert device_failure(outer) == found


@pytest.mark.parametrize(
    'error',
    [ValueError('shapes'), RuntimeError('mat1 and mat2'), MemoryError(), KeyError('cuda')],
)
def test_other_errors_are_not_the_gpus(error):
    assert device_failure(error) is None


# What the arm does.

@pytest.fixture
def bench() -> Bench:
    """A bench that runs, moving joint a."""
    bench = Bench()
    bench.supervisor.activate()
    bench.pass_time(50)
    bench.infer(still(bench.position, 0.02))
    assert bench.status.state is State.RUNNING
    bench.pass_time(60)
    return bench


def recover(bench) -> None:
    """Let the inputs be well until the policy is asked again."""
    for _ in range(200):
        bench.pass_time(10)
        work = bench.supervisor.plan()
        if work is not None:
            bench.supervisor.deliver(work, still(bench.position), 0.0)
            return
    raise AssertionError(f'it never went on: {bench.status}')


def test_an_obstacle_holds_at_once_voids_what_is_inferred_and_waits_after_its_end(bench):
    bench.pass_time(400)
    work = bench.supervisor.plan()
    assert work is not None
    bench.supervisor.obstruct('the clock stands still', 'CLOCK')
    assert bench.sent == ['chunk', 'hold']
    assert bench.status.state is State.HOLDING and bench.status.cause is Cause.WATCHDOG
    assert 'the clock stands still' in bench.status.sentence
    bench.supervisor.deliver(work, still(bench.position), 0.1)
    bench.pass_time(1000)
    assert bench.supervisor.plan() is None and bench.sent == ['chunk', 'hold']
    bench.supervisor.obstruct(None)
    begun = bench.now
    recover(bench)
    assert bench.status.state is State.RUNNING
    assert bench.now - begun >= 500 * MS  # the recovery time


@pytest.mark.parametrize(('deaf', 'off'), [(True, 0.2), (False, 0.2), (False, 0.01)])
def test_an_arm_that_may_not_have_heard_the_hold_is_held_and_taken_up_where_it_is(
    bench, deaf, off
):
    """A controller that went away did what it had heard last: to the end of its chunk."""
    bench.supervisor.obstruct('the controller has gone away', 'CONTROLLER', deaf=deaf)
    told = bench.holds[0].positions[-1, 1]
    bench.position['a'] = float(told) + off  # inside start_tolerance, where nothing stands out
    bench.pass_time(1000)
    assert len(bench.holds) == 1
    bench.supervisor.obstruct(None)
    recover(bench)
    begins = bench.chunks[-1].points.positions[0, 1]
    if deaf:
        assert len(bench.holds) == 2
        assert bench.holds[1].positions[-1, 1] == pytest.approx(told + off)
    else:
        assert len(bench.holds) == 1
    # One that heard lags by a little, as a load makes it; further off it stands for another reason.
    assert begins == pytest.approx(told + (off if off > 0.02 else 0.0), abs=1e-6)


def test_a_controller_that_comes_back_after_deactivation_is_sent_nothing(bench):
    bench.supervisor.obstruct('the controller has gone away', 'CONTROLLER', deaf=True)
    bench.pass_time(100)
    bench.supervisor.stop(Cause.NOT_ACTIVE)
    sent = len(bench.sent)
    bench.supervisor.obstruct(None)
    bench.pass_time(500)
    assert len(bench.sent) == sent


def test_an_obstacle_with_a_number_that_grows_is_said_once(bench):
    for tick in range(20):
        bench.supervisor.obstruct(f'away for {tick} s', 'CONTROLLER')
        bench.pass_time(10)
    assert [status.cause for status in bench.statuses].count(Cause.WATCHDOG) == 1
    assert len(bench.holds) == 1


def test_an_obstacle_before_the_first_chunk_keeps_the_node_waiting():
    bench = Bench()
    bench.supervisor.obstruct('gone', 'CONTROLLER')
    bench.supervisor.activate()
    bench.pass_time(100)
    assert bench.status.state is State.WAITING and bench.status.cause is Cause.WATCHDOG
    assert bench.supervisor.plan() is None
    bench.supervisor.obstruct(None)
    bench.pass_time(50)
    assert bench.status.cause is Cause.FIRST_INPUTS
    assert bench.supervisor.plan() is not None and not bench.holds


def test_a_jump_forward_holds_once_the_joints_are_measured_on_the_new_clock(bench):
    bench.pass_time(200)
    bench.now += 3600 * S
    bench.supervisor.clock_jumped(3600.0)
    assert bench.status.cause is Cause.CLOCK_JUMP and 'forward by 3600.0 s' in bench.status.sentence
    assert bench.sent == ['chunk']  # nothing is known of the arm on this clock yet
    bench.pass_time(20)
    assert bench.sent == ['chunk', 'hold']
    assert bench.now - 20 * MS <= bench.holds[0].stamp <= bench.now
    recover(bench)
    assert bench.status.state is State.RUNNING


def test_a_hold_that_is_owed_waits_for_joints_and_takes_those_a_little_ahead_of_the_clock(bench):
    """As where /clock comes in steps, and the driver reads it first."""
    bench.now += 3600 * S
    bench.supervisor.clock_jumped(3600.0)
    for joints in (bench.now - S, bench.now + S):  # of the old time, or of another clock
        bench.joints.store(joints, ['a', 'b'], [0.0, 0.0], [0.0, 0.0])
        bench.supervisor.watch()
        assert bench.sent == ['chunk']
        bench.joints.clear()
    bench.joints.store(bench.now + 10 * MS, ['a', 'b'], [0.0, 0.0], [0.0, 0.0])
    bench.supervisor.watch()
    assert bench.sent == ['chunk', 'hold']


def test_a_jump_before_activation_or_in_a_fault_changes_nothing(bench):
    bench.supervisor.device_failed('CUDA error')
    bench.supervisor.clock_jumped(10.0)
    assert bench.status.cause is Cause.LATCHED
    other = Bench()
    other.supervisor.clock_jumped(10.0)
    assert other.status.state is State.INACTIVE and not other.sent


class Raises:
    """A policy whose device is lost."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def warm_up(self) -> None:
        pass

    def infer(self, observation, *, seed=None):
        raise self.error


@pytest.mark.parametrize(
    ('error', 'cause'),
    [
        (RuntimeError('CUDA error: unspecified launch failure'), Cause.LATCHED),
        (ValueError('shapes'), Cause.INFERENCE_FAILED),
    ],
)
def test_a_policy_that_raises_holds_and_only_a_lost_device_latches(bench, error, cause):
    bench.pass_time(400)
    errors: list[str] = []
    said = threading.Event()

    def log(message: str) -> None:
        errors.append(message)
        said.set()

    def crashed(failure: Exception) -> None:
        errors.append(repr(failure))
        said.set()

    thread = InferenceThread(Raises(error), SimpleNamespace(error=log), crashed)
    thread.warm_up()
    thread.serve(bench.supervisor, 0)
    assert said.wait(10.0)
    assert thread.stop(10.0)
    assert 'Traceback' in errors[0]
    assert bench.status.state is State.FAULT and bench.status.cause is cause
    assert bench.sent[-1] == 'hold'
    assert thread.in_flight == 0.0
    lost = cause is Cause.LATCHED
    assert bool(thread.lost) == lost
    bench.supervisor.stop(Cause.NOT_ACTIVE)
    bench.supervisor.activate()
    bench.pass_time(100)
    assert (bench.status.cause is Cause.LATCHED) == lost  # activating again mends only the other
    if lost:
        assert LatchReason.DEVICE.value in bench.status.sentence
        assert 'cannot mend' in (bench.supervisor.reset() or '')
