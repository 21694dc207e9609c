# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The policy node's decisions with a simulated clock: no ROS, no waiting."""
from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from quantvla_ros.contract.types import (
    IMAGE,
    ActionKind,
    ActionPart,
    ActionSpace,
    Camera,
    Contract,
    Freshness,
    JointLimit,
    JointStates,
    Language,
)
from quantvla_ros.control.guard import Reason
from quantvla_ros.control.measured import MeasuredJoints
from quantvla_ros.control.schedule import Schedule
from quantvla_ros.control.trajectory import sample
from quantvla_ros.nodes.states import Cause, State
from quantvla_ros.nodes.supervisor import Supervisor, Tuning
from quantvla_ros.observation.buffer import ObservationBuffer

MS = 1_000_000
PERIOD = 50 * MS
ROWS = 16
CONTRACT = Contract(
    robot='bench',
    control_period=0.05,
    cameras=(Camera('eye', 'eye/image_raw', IMAGE, 'observation.images.eye'),),
    joint_states=JointStates('joint_states', ('a', 'b')),
    state=(),
    language=Language('instruction', 'move'),
    action=ActionSpace(
        (ActionPart(ActionKind.JOINT_POSITION, ('b', 'a'), 'rad'),), 'commands', 'base', 0.3
    ),
    limits={'a': JointLimit(-2.0, 2.0, 2.0), 'b': JointLimit(-2.0, 2.0, 2.0)},
    freshness=Freshness(cameras=0.25, joint_states=0.15, state=0.25, skew=0.1),
)


def stamp_of(now: int) -> SimpleNamespace:
    return SimpleNamespace(stamp=SimpleNamespace(sec=now // 10**9, nanosec=now % 10**9))


class Bench:
    """A supervisor with its inputs, its outputs and its clock."""

    def __init__(self) -> None:
        self.now = 100_000 * MS
        self.buffer = ObservationBuffer(CONTRACT)
        self.joints = MeasuredJoints(CONTRACT.action.names)
        self.schedule = Schedule(CONTRACT.control_period, 8, ROWS)
        self.chunks, self.holds, self.statuses = [], [], []
        self.sent = []  # everything that moves an arm, in order
        self.position = {'a': 0.0, 'b': 0.0}
        self.supervisor = Supervisor(
            CONTRACT, self.buffer, self.joints, self.schedule, Tuning(0.3, 0.5), self,
            lambda: self.now,
        )

    # The sink.
    def chunk(self, sent):
        self.chunks.append(sent)
        self.sent.append('chunk')

    def hold(self, points):
        self.holds.append(points)
        self.sent.append('hold')

    def changed(self, status):
        self.statuses.append(status)

    # The world.
    def camera(self) -> None:
        image = SimpleNamespace(
            header=stamp_of(self.now), height=2, width=2, encoding='rgb8', is_bigendian=0, step=6,
            data=bytes(12),
        )
        self.buffer.store('eye', image, self.now)

    def state(self) -> None:
        names = list(self.position)
        message = SimpleNamespace(
            header=stamp_of(self.now), name=names, position=list(self.position.values())
        )
        self.buffer.store('joint_states', message, self.now)
        self.joints.store(self.now, names, message.position, [0.0, 0.0])

    def pass_time(self, ms: int, *, camera: bool = True, state: bool = True) -> None:
        """Let time pass: joint states every 10 ms, a picture every 50 ms, a watch every 10 ms."""
        for _ in range(ms // 10):
            self.now += 10 * MS
            if state:
                self.state()
            if camera and self.now % PERIOD == 0:
                self.camera()
            self.supervisor.watch()

    def infer(self, rows=None, *, latency_ms: int = 0, camera: bool = True):
        work = self.supervisor.plan()
        assert work is not None
        self.pass_time(latency_ms, camera=camera)
        if rows is None:
            rows = still(self.position)
        self.supervisor.deliver(work, rows, latency_ms * 1e-3)
        return work

    @property
    def status(self):
        return self.supervisor.status


def still(position, step: float = 0.0) -> np.ndarray:
    """Rows in the order of the action (b, a) that move joint a by `step` each."""
    rows = np.tile([position['b'], position['a']], (ROWS, 1)).astype(np.float32)
    rows[:, 1] += step * (np.arange(ROWS) + 1)
    return rows


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.supervisor.activate()
    return bench


@pytest.fixture
def running(bench) -> Bench:
    bench.pass_time(50)
    bench.infer(still(bench.position, 0.02))
    assert bench.status.state is State.RUNNING
    bench.pass_time(60)  # until the chunk's first row counts
    return bench


def test_nothing_is_planned_or_sent_before_activation():
    bench = Bench()
    bench.pass_time(100)
    assert bench.supervisor.plan() is None
    assert not bench.sent


def test_activation_waits_for_fresh_inputs_and_says_for_which(bench):
    bench.supervisor.watch()
    assert bench.status.state is State.WAITING
    assert 'eye: nothing has arrived yet' in bench.status.sentence
    bench.pass_time(50)
    assert bench.supervisor.plan() is not None


def test_a_chunk_is_stamped_with_its_observation_and_names_its_joints(bench):
    bench.pass_time(50)
    work = bench.infer(still(bench.position, 0.02), latency_ms=0)
    sent = bench.chunks[0]
    assert sent.chunk.stamp == work.observation.stamp == bench.now
    assert sent.chunk.joints == ('b', 'a')
    np.testing.assert_allclose(sent.chunk.positions[0], [0.0, 0.02], atol=1e-7)
    assert bench.supervisor.counts.published == 1


def test_an_arm_that_stood_still_while_the_policy_thought_starts_with_the_first_row(bench):
    bench.pass_time(50)
    bench.infer(still(bench.position, 0.02), latency_ms=200)
    points = bench.chunks[0].points
    # A period for the controller to come to where the arm was measured, then row 0 and the rest.
    begin = bench.now + 10 * MS + PERIOD
    assert points.stamp + round(points.times[0] * 1e9) == begin
    np.testing.assert_allclose(points.positions[0], 0.0)
    np.testing.assert_allclose(points.velocities[0], 0.0)
    assert bench.chunks[0].consumed == 0
    np.testing.assert_allclose(sample(points, begin + 12 * PERIOD), [0.0, 0.24], atol=2e-3)


def test_elapsed_rows_of_the_next_chunk_are_dropped(running):
    first = running.chunks[0].points
    running.pass_time(390)
    running.position['a'] = float(sample(first, running.now + 10 * MS)[1])
    running.pass_time(10)
    rows = still(running.position, 0.02)
    running.infer(rows, latency_ms=100)
    points = running.chunks[1].points
    # It leaves the old motion where that is by now; rows 0 and 1 are over.
    begin = points.stamp + round(points.times[0] * 1e9)
    assert running.now < begin <= running.now + 23 * MS  # 10 ms, and a point of the old one
    np.testing.assert_allclose(points.positions[0], sample(first, begin), atol=1e-9)
    assert running.chunks[1].consumed == 2
    np.testing.assert_allclose(
        sample(points, points.stamp + 12 * PERIOD), [0.0, rows[11, 1]], atol=2e-3
    )


def test_the_next_look_comes_after_the_steps_to_execute(running):
    looks = []
    for _ in range(20):
        running.pass_time(50)
        work = running.supervisor.plan()
        if work is not None:
            looks.append(running.now)
            running.supervisor.deliver(work, still(running.position), 0.0)
    assert np.diff(looks).tolist() == [8 * PERIOD]


def test_a_dead_camera_holds_the_arm_while_an_inference_is_under_way(running):
    """The result of that inference must not start the arm again."""
    running.pass_time(400)
    work = running.supervisor.plan()
    running.pass_time(300, camera=False)
    assert running.status.state is State.HOLDING
    assert 'eye: nothing new has arrived' in running.status.sentence
    assert running.sent == ['chunk', 'hold']
    running.supervisor.deliver(work, still(running.position), 0.3)
    assert running.sent == ['chunk', 'hold']
    assert running.supervisor.counts.superseded == 1


def test_a_hold_is_sent_once_and_the_reason_is_said_once(running):
    running.pass_time(600, camera=False)
    assert len(running.holds) == 1
    # First out of step with the joints, then too old; growing numbers alone are no news.
    kinds = [status.kind for status in running.statuses if status.state is State.HOLDING]
    assert kinds == ['eye, joint_states OUT_OF_STEP', 'eye STALE']


def test_the_arm_moves_on_by_itself_once_the_inputs_have_been_healthy(running):
    running.pass_time(600, camera=False)
    running.pass_time(50)
    assert running.supervisor.plan() is None
    assert running.status.cause is Cause.RECOVERING
    running.pass_time(400)
    assert running.supervisor.plan() is None
    running.pass_time(100)
    running.infer(still(running.position))
    assert running.status.state is State.RUNNING


def test_a_camera_that_comes_and_goes_keeps_the_arm_holding(running):
    running.pass_time(600, camera=False)
    for _ in range(4):
        running.pass_time(200)
        assert running.supervisor.plan() is None
        running.pass_time(400, camera=False)
    assert running.sent == ['chunk', 'hold']


def test_inputs_out_of_step_hold(running):
    running.camera()
    running.pass_time(150, camera=False)
    assert running.status.cause is Cause.INPUTS
    assert 'farther apart' in running.status.sentence


@pytest.mark.parametrize(
    ('change', 'reason'),
    [
        (lambda rows: rows.__setitem__((3, 0), np.nan), Reason.NOT_FINITE),
        (lambda rows: rows.__setitem__((slice(None), 0), 2.1), Reason.POSITION_LIMIT),
        (lambda rows: rows.__setitem__((5, 1), 0.3), Reason.VELOCITY_LIMIT),
        (lambda rows: rows.__iadd__(0.5), Reason.START_JUMP),
    ],
)
def test_a_bad_chunk_is_dropped_counted_and_named_and_the_arm_holds(running, change, reason):
    running.pass_time(400)
    rows = still(running.position)
    change(rows)
    running.infer(rows)
    assert running.sent == ['chunk', 'hold']
    assert running.supervisor.counts.dropped[reason] == 1
    assert running.status.state is State.HOLDING
    assert reason.value in running.status.sentence
    # And the next good chunk goes on.
    running.pass_time(100)
    running.infer(still(running.position))
    assert running.sent == ['chunk', 'hold', 'chunk']
    assert running.status.state is State.RUNNING


def test_bad_chunks_one_after_the_other_send_one_hold(running):
    running.pass_time(400)
    for _ in range(3):
        running.infer(np.full((ROWS, 2), np.nan))
        running.pass_time(100)
    assert running.sent == ['chunk', 'hold']
    assert running.supervisor.counts.dropped[Reason.NOT_FINITE] == 3


def test_a_chunk_that_starts_where_the_arm_no_longer_is_is_dropped(running):
    running.pass_time(400)
    work = running.supervisor.plan()
    rows = still(running.position)
    running.position['a'] = 0.9  # somebody pushed it
    running.state()
    running.supervisor.deliver(work, rows, 0.0)
    assert running.supervisor.counts.dropped[Reason.START_JUMP] == 1


def test_a_hold_brakes_what_the_arm_is_told_to_do(running):
    """A measurement lags behind it: a hold from there would pull the arm back."""
    running.pass_time(100)
    running.joints.store(running.now, ['a', 'b'], [0.0, 0.0], [0.4, 0.0])
    running.supervisor.stop(Cause.NOT_ACTIVE)
    hold, told = running.holds[0], running.chunks[0].points
    begin = hold.stamp + round(hold.times[0] * 1e9)
    assert running.now < begin <= running.now + 23 * MS
    np.testing.assert_allclose(hold.positions[0], sample(told, begin), atol=1e-9)
    speed = (sample(told, begin + MS) - sample(told, begin - MS)) / 2e-3
    np.testing.assert_allclose(
        hold.positions[-1], sample(told, begin) + speed * 0.3 / 2, atol=6e-3
    )
    assert hold.stamp == running.now and (hold.velocities[-1] == 0.0).all()


def test_an_arm_that_is_elsewhere_is_held_where_it_was_measured(running):
    """Something blocks it: to go on with the command would be to push."""
    running.pass_time(100)
    running.joints.store(running.now, ['a', 'b'], [0.6, 0.0], [0.4, 0.0])
    running.supervisor.stop(Cause.NOT_ACTIVE)
    hold = running.holds[0]
    np.testing.assert_allclose(hold.positions, [[0.0, 0.6 + 0.4 * 0.3 / 2]])
    assert hold.stamp == running.now


def test_without_fresh_joints_the_hold_starts_from_the_commanded_motion(running):
    """An old measurement would pull the arm back to where it was."""
    running.pass_time(40)
    running.pass_time(300, state=False)
    running.supervisor.stop(Cause.NOT_ACTIVE)
    # The chunk moved joint a by 0.02 rad each 50 ms; the dead joint states stopped it on the way.
    assert running.holds[0].positions[0, 1] > 0.04


def test_deactivation_sends_a_hold_last_and_nothing_after_it(running):
    running.pass_time(400)
    work = running.supervisor.plan()
    running.supervisor.stop(Cause.NOT_ACTIVE)
    running.supervisor.deliver(work, still(running.position), 0.1)
    running.pass_time(200)
    assert running.supervisor.plan() is None
    assert running.sent == ['chunk', 'hold']
    assert running.status.state is State.INACTIVE


def test_stopping_twice_holds_once(running):
    running.supervisor.stop(Cause.STOPPED)
    running.supervisor.stop(Cause.STOPPED)
    assert running.sent == ['chunk', 'hold']


def test_an_arm_that_was_never_commanded_is_left_alone(bench):
    """Someone else may be moving it."""
    bench.pass_time(100)
    bench.supervisor.stop(Cause.NOT_ACTIVE)
    assert not bench.sent


def test_a_chunk_that_ends_before_the_next_is_said(running):
    running.pass_time(900)
    assert running.status.cause is Cause.CHUNK_ENDED
    assert running.supervisor.counts.ended == 1
    running.infer(still(running.position))
    assert running.status.state is State.RUNNING


def test_an_inference_that_is_still_under_way_counts_in_how_long_one_takes(running):
    running.pass_time(400)
    work = running.supervisor.plan()
    running.pass_time(2500)
    assert running.status.cause is Cause.CHUNK_ENDED
    # As it grows, in the same status, and said once.
    assert 'inference takes 2.500 s' in running.status.sentence
    assert [one.cause for one in running.statuses].count(Cause.CHUNK_ENDED) == 1
    assert running.supervisor.counts.ended == 1
    running.supervisor.deliver(work, still(running.position), 2.5)
    running.pass_time(1500)
    assert 'inference takes 2.250 s' in running.status.sentence  # p90 of 0 s and 2.5 s


def test_a_policy_that_raises_is_a_fault_until_deactivated(running):
    running.pass_time(400)
    work = running.supervisor.plan()
    running.supervisor.failed(work, 'RuntimeError: no')
    assert running.status.state is State.FAULT
    assert 'RuntimeError: no' in running.status.sentence
    assert running.sent == ['chunk', 'hold']
    running.pass_time(1000)
    assert running.supervisor.plan() is None
    running.supervisor.activate()
    running.pass_time(50)
    assert running.supervisor.plan() is not None


def test_a_clock_that_goes_back_holds_and_goes_on_in_the_new_time(running):
    running.now -= 50_000 * MS
    running.supervisor.watch()
    assert running.status.state is State.HOLDING
    running.pass_time(100)
    assert running.sent == ['chunk', 'hold']
    assert running.holds[0].stamp <= running.now
    for _ in range(15):
        running.pass_time(50)
        running.supervisor.plan()
    running.pass_time(50)
    assert running.supervisor.counts.refused == 0


def test_the_clock_at_zero_is_named(bench):
    bench.now = 0
    bench.supervisor.watch()
    assert 'use_sim_time' in bench.status.sentence


def test_messages_that_came_while_the_watch_was_off_the_processor_are_not_from_the_future(running):
    """On a busy machine the clock is read, and 0.2 s later the inputs are looked at."""
    old = running.now
    running.pass_time(200)
    times = iter([old, running.now])
    running.supervisor._clock = lambda: next(times)
    running.supervisor.watch()
    assert running.status.state is State.RUNNING


def test_no_command_yet_waits():
    from dataclasses import replace

    bench = Bench()
    silent = replace(CONTRACT, language=Language('instruction', None))
    bench.buffer = ObservationBuffer(silent)
    bench.supervisor = Supervisor(
        silent, bench.buffer, bench.joints, bench.schedule, Tuning(0.3, 0.5), bench,
        lambda: bench.now,
    )
    bench.supervisor.activate()
    bench.pass_time(100)
    assert bench.supervisor.plan() is None
    assert 'no language command' in bench.status.sentence
    bench.buffer.store('language', 'go', bench.now)
    bench.pass_time(50)
    assert bench.supervisor.plan().observation.instruction == 'go'


def test_a_gripper_that_the_old_chunk_moved_while_the_policy_thought_is_no_jump(bench):
    from dataclasses import replace

    parts = (
        ActionPart(ActionKind.GRIPPER, ('b',), 'rad', (0.0, 1.0), (0.0, 1.0)),
        ActionPart(ActionKind.JOINT_POSITION, ('a',), 'rad'),
    )
    contract = replace(CONTRACT, action=replace(CONTRACT.action, parts=parts))
    bench.buffer = ObservationBuffer(contract)
    bench.supervisor = Supervisor(
        contract, bench.buffer, bench.joints, bench.schedule, Tuning(0.3, 0.5), bench,
        lambda: bench.now,
    )
    bench.supervisor.activate()
    bench.pass_time(50)
    closed = still(bench.position)
    closed[:, 0] = 0.4
    bench.infer(closed)
    bench.pass_time(460)
    told = sample(bench.chunks[0].points, bench.now)
    assert told[0] > 0.3
    bench.position['b'] = 0.25  # it holds something, and gets no further
    bench.pass_time(30)
    opened = still(bench.position)
    opened[:, 0] = 1.0  # at once
    bench.infer(opened, latency_ms=200)
    assert bench.status.state is State.RUNNING
    sent = bench.chunks[-1].points
    before = sample(bench.chunks[0].points, sent.stamp + round(sent.times[0] * 1e9))
    np.testing.assert_allclose(sent.positions[0], before, atol=1e-9)
    assert sent.positions[-1, 0] > 0.9


def test_an_arm_is_not_pulled_to_where_a_controller_that_was_away_was_told_to_have_it(running):
    running.supervisor.obstruct('the controller has gone away')
    running.position['a'] += 0.2  # less than may be off at a start, and far too much for a jump
    running.pass_time(1000)
    running.supervisor.obstruct(None)
    running.pass_time(50)
    assert running.supervisor.plan() is None
    running.pass_time(600)
    before = len(running.chunks)
    running.infer(still(running.position))
    assert len(running.chunks) == before + 1 and running.status.state is State.RUNNING
    points = running.chunks[-1].points
    # All of it stays where the arm is: the chunk asks for no motion.
    assert np.abs(points.positions - [running.position['b'], running.position['a']]).max() < 1e-3


# A controller that refuses a command, or takes it and gives it up.

def refuse(bench) -> None:
    bench.supervisor.refused('no')
    bench.supervisor.not_followed('no')


def refused_after(bench, ms: int = 20):
    """A chunk is refused `ms` after it was sent; the arm is on its way by the one before."""
    first = bench.chunks[0].points
    bench.pass_time(400)
    bench.position['a'] = float(sample(first, bench.now)[1])
    bench.state()
    bench.infer(still(bench.position, 0.02))
    assert len(bench.chunks) == 2
    bench.pass_time(ms)
    bench.position['a'] = float(sample(first, bench.now)[1])
    bench.joints.store(bench.now, ['a', 'b'], [bench.position['a'], 0.0], [0.4, 0.0])
    refuse(bench)


def test_a_refused_chunk_is_not_taken_for_what_the_arm_does(running):
    refused_after(running)
    assert running.status.cause is Cause.REFUSED and 'no' in running.status.sentence
    running.supervisor.watch()
    # Braked from what is measured, at the speed that is measured.
    assert running.sent == ['chunk', 'chunk', 'hold']
    hold = running.holds[0]
    at = running.position['a']
    np.testing.assert_allclose(hold.positions, [[0.0, at + 0.4 * 0.3 / 2]], atol=1e-9)
    assert (hold.velocities == 0.0).all()


def test_after_a_refusal_the_next_chunk_leads_on_from_where_the_arm_came_to_rest(running):
    refused_after(running)
    running.supervisor.watch()
    rest = running.holds[0].positions[0, 1] + 0.1  # it went on with the chunk before, not braking
    running.position['a'] = rest
    running.pass_time(200)
    assert running.supervisor.plan() is None
    assert running.status.cause is Cause.RECOVERING
    running.pass_time(600)
    running.infer(still(running.position, 0.02))
    assert running.sent[-1] == 'chunk' and running.status.state is State.RUNNING
    points = running.chunks[-1].points
    np.testing.assert_allclose(points.positions[0], [0.0, rest], atol=1e-9)
    np.testing.assert_allclose(points.velocities[0], 0.0, atol=1e-9)


def test_a_hold_that_is_refused_is_sent_again_and_nothing_is_planned_before_one_is_taken(running):
    refused_after(running)
    running.supervisor.watch()
    for count in (2, 3):
        refuse(running)
        running.pass_time(100)
        assert running.supervisor.plan() is None and running.status.cause is Cause.REFUSED
        running.pass_time(190)
        assert len(running.holds) == count - 1
        running.pass_time(20)
        assert len(running.holds) == count
    running.pass_time(50)
    assert running.supervisor.plan() is None and running.status.cause is Cause.RECOVERING
    running.pass_time(400)
    assert running.supervisor.plan() is None
    running.pass_time(200)
    running.infer(still(running.position))
    assert running.status.state is State.RUNNING


def test_what_was_inferred_before_a_refusal_is_void(running):
    running.pass_time(400)
    work = running.supervisor.plan()
    refuse(running)
    running.supervisor.deliver(work, still(running.position), 0.0)
    assert running.sent == ['chunk'] and running.supervisor.counts.superseded == 1
    assert running.status.cause is Cause.REFUSED


def test_a_chunk_that_is_refused_while_it_is_sent_leaves_the_arm_holding(running):
    running.pass_time(400)
    send = running.chunk
    running.chunk = lambda sent: (send(sent), refuse(running))
    running.infer(still(running.position))
    assert running.sent == ['chunk', 'chunk'] and running.status.cause is Cause.REFUSED


def test_an_emergency_stop_holds_an_arm_whose_last_hold_was_refused(running):
    refused_after(running)
    running.supervisor.watch()
    refuse(running)
    running.supervisor.emergency(True)
    assert running.sent == ['chunk', 'chunk', 'hold', 'hold']
    refuse(running)
    running.pass_time(1000)
    assert len(running.holds) == 2 and running.status.cause is Cause.LATCHED


def test_a_picture_that_was_seen_already_is_no_stand_in_for_the_broken_one_that_is_due(running):
    running.pass_time(400, camera=True)
    running.infer(still(running.position))
    running.pass_time(350)
    last = running.buffer.newest('eye')
    running.schedule.looked(last)  # the good one
    running.schedule.stopped()
    running.pass_time(50, camera=False)
    running.buffer.store('eye', SimpleNamespace(
        header=stamp_of(running.now), height=2, width=2, encoding='rgb8', is_bigendian=0, step=6,
        data=bytes(5),
    ), running.now)
    assert running.supervisor.plan() is None
    assert running.status.cause is not Cause.INPUTS  # nothing is wrong, and nothing new to see
    running.pass_time(50)
    assert running.supervisor.plan() is not None
