# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What an arm is told to do under any schedule, whatever the policy says and however late it is.

The supervisor runs on a simulated clock; its trajectories go to the simulated arm's model of
joint_trajectory_controller, with the limits of that model taken away: it must be what is sent that
keeps them. Speeds and accelerations are differences of the command, sampled every 2.5 ms.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

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
from quantvla_ros.control.measured import MeasuredJoints
from quantvla_ros.control.modes import Mode, Scheduling
from quantvla_ros.control.schedule import Schedule
from quantvla_ros.nodes.states import State
from quantvla_ros.nodes.supervisor import Supervisor, Tuning
from quantvla_ros.observation.buffer import ObservationBuffer
from quantvla_ros.sim.tabletop.controller import TrajectoryController
from quantvla_ros.sim.tabletop.kinematics import Limits

US = 1_000
MS = 1_000_000
SAMPLE = 2_500 * US  # between two samples of the command
TICK = 10 * MS  # joint states and the watch
PERIOD = 50 * MS
ROWS = 16
NAMES = ('a', 'b', 'c')
SPEED, ACCELERATION, REACH = 2.0, 20.0, 1.5
CONTRACT = Contract(
    robot='bench',
    control_period=0.05,
    cameras=(Camera('eye', 'eye/image_raw', IMAGE, 'observation.images.eye'),),
    joint_states=JointStates('joint_states', NAMES),
    state=(),
    language=Language('instruction', 'move'),
    action=ActionSpace(
        (
            ActionPart(ActionKind.JOINT_POSITION, ('a',), 'rad'),
            ActionPart(ActionKind.JOINT_DELTA, ('b',), 'rad'),
            ActionPart(ActionKind.GRIPPER, ('c',), 'rad', (0.0, 1.0), (-REACH, REACH)),
        ),
        'commands', 'base', 0.3,
    ),
    limits={name: JointLimit(-REACH, REACH, SPEED, 'rad', ACCELERATION) for name in NAMES},
    freshness=Freshness(cameras=0.25, joint_states=0.15, state=0.25, skew=0.12),
)
FREE = Limits((-math.inf,) * 3, (math.inf,) * 3, (math.inf,) * 3)


@dataclass
class Pending:
    """An inference under way."""

    work: object
    rows: np.ndarray
    due: int
    begun: int


class Arm:
    """Supervisor, controller and clock.

    Args:
        policy: (positions [3], number of the inference) to [ROWS, 3] absolute positions.
        latency: number of the inference to its ms.
    """

    def __init__(
        self,
        mode: Mode,
        policy: Callable[[np.ndarray, int], np.ndarray],
        latency: Callable[[int], int],
        contract: Contract = CONTRACT,
        chunks: int = 4,
    ) -> None:
        self.now = 100_000 * MS
        self.policy, self.latency = policy, latency
        self.contract = contract
        self.buffer = ObservationBuffer(contract)
        self.joints = MeasuredJoints(NAMES)
        self.schedule = Schedule(
            0.05, 8, ROWS, Scheduling(mode, ensemble_chunks=chunks, margin=0.02)
        )
        self.supervisor = Supervisor(
            contract, self.buffer, self.joints, self.schedule, Tuning(0.3, 0.2), self,
            lambda: self.now,
        )
        self.controller = TrajectoryController(NAMES, FREE, [0.0, 0.0, 0.0], self.now)
        self.commands: list[np.ndarray] = []
        self.sent: list[tuple[str, int]] = []
        self.chunks: list = []
        self.guided: list = []
        self.refused: list[str] = []
        self.asked = 0
        self.pending: Pending | None = None
        self.camera_on = True

    # The sink.
    def chunk(self, sent):
        self.sent.append(('chunk', self.now))
        self.chunks.append(sent)
        self._send(sent.points)

    def hold(self, points):
        self.sent.append(('hold', self.now))
        self._send(points)

    def changed(self, status):
        pass

    def _send(self, points):
        reply = self.controller.accept(
            points.joints, points.times.tolist(), points.positions, points.velocities,
            points.stamp, self.now,
        )
        if not reply.accepted:
            self.refused.append(str(reply))

    # The world.
    def run(self, ms: int) -> None:
        for _ in range(ms * MS // TICK):
            for _ in range(TICK // SAMPLE):
                self.now += SAMPLE
                self.commands.append(self.controller.sample(self.now))
            self._measure()
            self.supervisor.watch()
            self._infer()

    def _measure(self) -> None:
        stamp = SimpleNamespace(
            stamp=SimpleNamespace(sec=self.now // 10**9, nanosec=self.now % 10**9)
        )
        position = self.commands[-1]
        speed = (self.commands[-1] - self.commands[-2]) / (SAMPLE * 1e-9)
        message = SimpleNamespace(header=stamp, name=list(NAMES), position=position.tolist())
        self.buffer.store('joint_states', message, self.now)
        self.joints.store(self.now, NAMES, position.tolist(), speed.tolist())
        if self.camera_on and self.now % PERIOD == 0:
            image = SimpleNamespace(
                header=stamp, height=2, width=2, encoding='rgb8', is_bigendian=0, step=6,
                data=bytes(12),
            )
            self.buffer.store('eye', image, self.now)

    def _infer(self) -> None:
        if self.pending is not None and self.now >= self.pending.due:
            pending, self.pending = self.pending, None
            self.supervisor.deliver(
                pending.work, pending.rows, (self.now - pending.begun) * 1e-9
            )
        if self.pending is None:
            work = self.supervisor.plan()
            if work is None:
                return
            seen = work.observation.state.astype(np.float64)
            rows = self.policy(seen, self.asked)
            if work.guidance is not None:
                self.guided.append(work)
                weights = work.guidance.weights[:, np.newaxis]
                asked = work.guidance.actions + np.array([0.0, seen[1], 0.0])
                asked[:, 2] = asked[:, 2] * 2 * REACH - REACH
                rows = weights * asked + (1.0 - weights) * rows
            numbers = rows - np.array([0.0, seen[1], 0.0])
            numbers[:, 2] = (rows[:, 2] + REACH) / (2 * REACH)
            due = self.now + self.latency(self.asked) * MS
            self.pending = Pending(work, numbers, due, self.now)
            self.asked += 1

    # What became of it.
    def speeds(self) -> np.ndarray:
        return np.abs(np.diff(np.array(self.commands), axis=0)) / (SAMPLE * 1e-9)

    def accelerations(self) -> np.ndarray:
        return np.abs(np.diff(np.array(self.commands), 2, axis=0)) / (SAMPLE * 1e-9) ** 2


def wandering(seed: int, roughness: float) -> Callable[[np.ndarray, int], np.ndarray]:
    """A policy of random paths inside the limits, each from near where the arm is seen."""

    def policy(seen: np.ndarray, number: int) -> np.ndarray:
        random = np.random.default_rng((seed, number))
        velocity, rows = random.uniform(-1.5, 1.5, 3), []
        place = np.clip(seen + random.uniform(-0.1, 0.1, 3), -REACH, REACH)
        for _ in range(ROWS):
            velocity = np.clip(velocity + random.uniform(-1, 1, 3) * roughness, -1.5, 1.5)
            after = np.clip(place + velocity * 0.05, -REACH, REACH)
            velocity, place = (after - place) / 0.05, after
            rows.append(place)
        return np.array(rows)

    return policy


def waving(arm: Arm, offset: float = 0.0) -> np.ndarray:
    """Rows of one motion for ever: chunks agree but for their offsets."""
    times = (arm.now - 100_000 * MS) * 1e-9 + (np.arange(ROWS) + 1.0) * 0.05
    return np.repeat(0.4 * np.sin(times)[:, np.newaxis] + offset, 3, axis=1)


def check(arm: Arm) -> None:
    """The command never jumps and keeps the limits; nothing that was sent was refused."""
    assert not arm.refused
    commands = np.array(arm.commands)
    assert np.abs(commands).max() <= REACH + 1e-6
    assert arm.speeds().max() <= SPEED * (1.0 + 1e-3)
    assert arm.accelerations().max() <= ACCELERATION * (1.0 + 1e-3)


modes = pytest.mark.parametrize('mode', list(Mode))
latencies = st.lists(st.integers(0, 1500), min_size=1, max_size=12)
short = settings(max_examples=8, deadline=None)


@modes
@short
@given(seed=st.integers(0, 2**31), late=latencies, roughness=st.floats(0.0, 0.8))
@example(seed=0, late=[121], roughness=0.0)  # a chunk comes just before a point of the old motion
def test_the_command_is_continuous_and_keeps_the_limits_however_late_chunks_come(
    mode, seed, late, roughness
):
    arm = Arm(mode, wandering(seed, roughness), lambda number: late[number % len(late)])
    arm.supervisor.activate()
    arm.run(3000)
    check(arm)
    assert arm.chunks
    # It rests after the last chunk, within its limits too.
    arm.camera_on = False
    arm.run(2500)
    check(arm)
    np.testing.assert_array_equal(arm.commands[-1], arm.commands[-20])


@modes
@short
@given(
    seed=st.integers(0, 2**31), late=latencies, fault=st.integers(300, 1500),
    kind=st.sampled_from(['camera', 'stop', 'nan', 'jump']),
)
def test_nothing_follows_a_hold_but_what_was_inferred_after_it(mode, seed, late, fault, kind):
    wander, broken = wandering(seed, 0.2), []

    def policy(seen, number):
        rows = wander(seen, number)
        if broken and kind == 'nan':
            rows[3, 0] = math.nan
        if broken and kind == 'jump':
            rows += 0.6
        return rows

    arm = Arm(mode, policy, lambda number: late[number % len(late)])
    arm.supervisor.activate()
    arm.run(fault)
    broken.append(True)
    begun = arm.asked
    arm.camera_on = kind != 'camera'
    if kind == 'stop':
        arm.supervisor.stop(arm.supervisor.status.cause)
    arm.run(2500)
    check(arm)
    held = [time for what, time in arm.sent if what == 'hold']
    late_chunks = [sent for sent in arm.chunks if held and sent.work.begun < held[0]]
    assert all(time <= held[0] for what, time in arm.sent[: len(late_chunks)]) or not held
    for sent, (_, time) in zip(
        arm.chunks, [entry for entry in arm.sent if entry[0] == 'chunk'], strict=True
    ):
        before = [hold for hold in held if hold < time]
        assert not before or sent.work.begun >= before[-1]
    if kind in ('stop', 'camera'):
        assert arm.supervisor.status.state is not State.RUNNING
    if kind in ('nan', 'jump'):
        assert all(sent.work.sequence < begun for sent in arm.chunks)
    # Whatever it was, the arm has come to rest.
    np.testing.assert_array_equal(arm.commands[-1], arm.commands[-20])


@modes
@short
@given(late=latencies)
@example(late=[301, 12, 54])  # a second chunk before the first one has set out
def test_elapsed_rows_are_never_sent(mode, late):
    """A chunk whose rows say their own time: what is commanded is never behind it."""
    arm = Arm(mode, wandering(0, 0.2), lambda number: late[number % len(late)])
    arm.supervisor.activate()
    arm.run(3000)
    sent_at = [time for what, time in arm.sent if what == 'chunk']
    for sent, now in zip(arm.chunks, sent_at, strict=True):
        assert sent.points.stamp + round(sent.points.times[0] * 1e9) > now
        # It takes over 10 ms later, or at the next point of the old motion.
        elapsed = (now - sent.work.observation.stamp) / PERIOD
        assert sent.consumed <= elapsed + 0.5


@modes
def test_a_steady_policy_is_followed_and_the_arm_does_not_pause_for_it(mode):
    """Chunks that agree with each other: joined, they are one motion."""
    arm = Arm(mode, lambda seen, number: waving(arm), lambda number: 100)
    arm.supervisor.activate()
    arm.run(4000)
    check(arm)
    if mode is not Mode.SYNC:
        commands = np.array(arm.commands)[1000:, 0]
        times = (np.arange(len(arm.commands))[1000:] + 1) * SAMPLE * 1e-9
        assert np.abs(commands - 0.4 * np.sin(times)).max() < 0.03
        assert arm.supervisor.counts.ended == 0


def test_in_sync_the_arm_stands_while_the_policy_looks_and_thinks():
    arm = Arm(Mode.SYNC, wandering(1, 0.1), lambda number: 200)
    arm.supervisor.activate()
    arm.run(4000)
    assert len(arm.chunks) > 2
    for sent in arm.chunks[1:]:
        index = (sent.work.observation.stamp - 100_000 * MS) // SAMPLE
        after = (arm.sent[0][1] - 100_000 * MS) // SAMPLE
        assert index > after
        np.testing.assert_array_equal(arm.commands[index - 1], arm.commands[index + 60])
        assert sent.consumed == 0


@given(late=latencies, most=st.integers(1, 6))
@short
def test_an_ensemble_looks_at_every_period_and_mixes_no_more_than_allowed(late, most):
    arm = Arm(
        Mode.ENSEMBLE, wandering(2, 0.1), lambda number: late[number % len(late)], chunks=most
    )
    arm.supervisor.activate()
    arm.run(2000)
    assert len(arm.supervisor._handover._ensemble) <= most
    quick = Arm(Mode.ENSEMBLE, wandering(2, 0.1), lambda number: 0, chunks=most)
    quick.supervisor.activate()
    quick.run(1000)
    looks = np.diff([sent.work.observation.stamp for sent in quick.chunks])
    assert (looks == PERIOD).all()


def test_rtc_freezes_the_rows_that_run_during_the_inference():
    arm = Arm(Mode.RTC, lambda seen, number: waving(arm, 0.03 * (-1) ** number), lambda n: 180)
    arm.supervisor.activate()
    arm.run(4000)
    check(arm)
    assert len(arm.guided) > 5
    for work in arm.guided[1:]:
        # 0.18 s, and 10 ms or a little more until it takes over.
        assert (work.guidance.weights == 1.0).sum() in (4, 5)
        assert 8 <= (work.guidance.weights > 0.0).sum() <= 9  # of 16 rows, after 8 have run
    before, after = arm.chunks[-2:]
    shift = (after.points.stamp - before.points.stamp) / PERIOD
    assert shift == 8.0
    # The gripper's rows are the way to what is asked for; the others are what is asked for.
    np.testing.assert_allclose(
        after.chunk.positions[:4, :2], before.chunk.positions[8:12, :2], atol=1e-6
    )
    assert np.abs(after.chunk.positions[7] - before.chunk.positions[15])[:2].min() > 0.05


def test_no_other_schedule_asks_a_policy_for_anything():
    for mode in (Mode.SYNC, Mode.ASYNC, Mode.ENSEMBLE):
        arm = Arm(mode, wandering(3, 0.2), lambda number: 100)
        arm.supervisor.activate()
        arm.run(1500)
        assert not arm.guided


@modes
def test_a_bounded_jerk_is_kept_through_seams_too(mode):
    limits = {name: replace(limit, jerk=400.0) for name, limit in CONTRACT.limits.items()}
    arm = Arm(
        mode, wandering(4, 0.02), lambda number: 60 + 40 * (number % 5),
        replace(CONTRACT, limits=limits),
    )
    arm.supervisor.activate()
    arm.run(3000)
    assert len(arm.chunks) > 2
    check(arm)
    jerks = np.abs(np.diff(np.array(arm.commands), 3, axis=0)) / (SAMPLE * 1e-9) ** 3
    assert jerks.max() <= 400.0 * 1.01


@pytest.mark.parametrize('mode', [Mode.ENSEMBLE, Mode.RTC])
def test_what_was_planned_before_a_hold_is_mixed_into_nothing_after_it(mode):
    arm = Arm(mode, lambda seen, number: waving(arm), lambda number: 20)
    arm.supervisor.activate()
    arm.run(1500)
    arm.camera_on = False
    arm.run(1000)
    assert arm.sent[-1][0] == 'hold'
    before, guided = len(arm.chunks), len(arm.guided)
    arm.camera_on = True
    while len(arm.chunks) == before:
        arm.run(10)
    assert len(arm.guided) == guided
    assert len(arm.supervisor._handover._ensemble) == (1 if mode is Mode.ENSEMBLE else 0)


def test_a_chunk_a_little_too_fast_is_followed_at_its_own_pace():
    """Rows of 1.98 rad/s where 1.8 are allowed: the same way in 1.1 times the time."""
    ways = 0.11 * (np.arange(ROWS) + 1.0)

    def policy(seen, number):
        return np.stack([-0.9 + ways * 0.9, np.zeros(ROWS), np.zeros(ROWS)], axis=1)

    contract = replace(
        CONTRACT, limits={**CONTRACT.limits, 'a': JointLimit(-REACH, REACH, 1.8, 'rad', 18.0)}
    )
    arm = Arm(Mode.SYNC, policy, lambda number: 0, contract)
    arm.controller.reset([-0.9, 0.0, 0.0], arm.now)
    arm.supervisor.activate()
    arm.run(300)
    sent = arm.chunks[0]
    assert sent.chunk.period == pytest.approx(0.05 * 1.98 / 1.8)
    arm.run(400)
    # At its limit it cannot make up for the way that it took to get there; it keeps pace.
    places = []
    for row in (4, 6):
        time = sent.begin + round((row + 1) * sent.chunk.period * 1e9)
        places.append(arm.commands[(time - 100_000 * MS) // SAMPLE - 1][0])
    assert places[1] - places[0] == pytest.approx(0.9 * (ways[6] - ways[4]), rel=0.02)
    assert arm.speeds()[:, 0].max() <= 1.8 * (1.0 + 1e-3)
