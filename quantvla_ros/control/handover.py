# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""From one chunk to the next: which of its rows are over, what it is mixed with, where it joins.

Keeps what the arm has been told to do and the chunks behind it. At most one chunk is joined to the
motion at a time: the one just delivered, whose rows in an ensemble are averages with older ones.
Knows the contract, arrays and times; knows nothing of ROS, of threads, or of what becomes of a
chunk that fails.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from quantvla_ros.contract.types import Contract
from quantvla_ros.control import guard, rtc, smoothing
from quantvla_ros.control.actions import (
    gripper_columns,
    joint_positions,
    offset_columns,
    twist_columns,
)
from quantvla_ros.control.chunk import Chunk
from quantvla_ros.control.ensemble import Ensemble, Numbers
from quantvla_ros.control.guard import Reason, Verdict
from quantvla_ros.control.limits import bounds
from quantvla_ros.control.measured import Measured
from quantvla_ros.control.modes import Mode
from quantvla_ros.control.schedule import Schedule
from quantvla_ros.control.smoothing import State, state_of
from quantvla_ros.control.splice import (
    STIFFNESS,
    Motion,
    Path,
    accelerations,
    braked,
    braking_spacing,
    led_to,
    next_point,
    spacing,
    splice,
    standing,
    state_at,
)
from quantvla_ros.control.trajectory import Trajectory, hold, stop_time
from quantvla_ros.control.twist import check_workspace, gone_by

# s between publishing a trajectory and its first point: what a message takes to arrive, and a
# controller's cycle.
LEAD = 0.01
# rad or m from where it was told to come to rest that an arm which has followed may stand.
_FOLLOWED = 0.02


@dataclass(frozen=True)
class Joined:
    """A chunk that may be sent.

    Attributes:
        chunk: as the limits were held against it.
        motion: from the instant it takes over.
        numbers: of the policy.
        begin: ns; row -1 of the chunk stands for this instant.
        consumed: rows whose time had passed when it took over; none of them is sent.
        run: rows of the chunk before that ran until then; None where none did.
    """

    chunk: Chunk
    motion: Motion
    numbers: Numbers
    begin: int
    consumed: int
    run: int | None


@dataclass(frozen=True)
class _Command:
    """Where the arm is told to be at the instant at which a chunk takes over.

    Attributes:
        instant: ns.
        state: there.
        clock: ns; how far what it follows has got by then.
        known: whether the arm has been told so; otherwise it is where it was measured.
    """

    instant: int
    state: State
    clock: int
    known: bool


def _unknown() -> np.ndarray:
    """Nobody says where the end effector is."""
    return np.full(3, np.nan)


class Handover:
    """See the module.

    Args:
        contract: its action space is one that `check_supported` passed.
        schedule: how chunks follow each other.

    Attributes:
        motion: what has been commanded since the last `forget`, None before anything has.
        end_effector: [3] where it is now, m, NaN where that is not known; for a workspace.
    """

    def __init__(self, contract: Contract, schedule: Schedule) -> None:
        self._contract, self._schedule = contract, schedule
        self.motion: Motion | None = None
        self._numbers: Numbers | None = None  # the chunk that the motion follows
        self._over = 0  # of its rows, before it took over
        self._ensemble = _ensemble(schedule)
        self._grippers = gripper_columns(contract.action)
        self._offsets = offset_columns(contract.action)
        self._twists = twist_columns(contract.action)
        self.end_effector: Callable[[], np.ndarray] = _unknown

    def commanded(self, instant: int) -> State | None:
        """Where the arm is told to be at `instant` ns; None where nothing has been commanded."""
        motion = self.motion
        return None if motion is None else state_of(motion.points, instant)

    def stands_elsewhere(self, measured: Measured, now: int) -> bool:
        """Whether all that was commanded is over at `now` ns, and the arm is not where that led."""
        motion = self.motion
        return (
            motion is not None and now >= motion.points.end and self._off(measured) > _FOLLOWED
        )

    def use(self, contract: Contract) -> None:
        """The same contract with other limits, from the next chunk on."""
        self._contract = contract

    def forget(self) -> None:
        """Nothing has been commanded; settings may have changed."""
        self.motion = None
        self._ensemble = _ensemble(self._schedule)
        self.broken_off()

    def broken_off(self) -> None:
        """What was planned is void; the arm is where it is told to be."""
        self._numbers = None
        self._ensemble.clear()

    def hold(self, measured: Measured | None, now: int, within: float) -> Trajectory:
        """Break off: the points that bring the arm to rest, which are to be sent.

        Braked is what the arm is told to do, or what was measured where that is something else
        altogether: something is in its way, or moves it.

        Args:
            measured: the newest, None where it is too old to say anything.
            now: ns.
            within: s that it takes where the limits let it.
        """
        limits, names = self._contract.limits, self._contract.action.names
        old = None if self.motion is None else self.motion.points
        self.broken_off()
        if old is None or (measured is not None and self._astray(measured)):
            assert measured is not None  # nothing is held of which nothing is known
            needed = stop_time(names, measured.velocity, limits, shortest=within)
            points = hold(
                names, measured.position, measured.velocity, limits, now, stop_time=needed
            )
            # A controller leaves what it was told before for the first point.
            place = measured.position if old is None else state_at(old, now)[0]
            speed = measured.velocity if old is None else state_at(old, now)[1]
            begun = replace(
                points,
                times=np.concatenate([[0.0], points.times]),
                positions=np.concatenate([place[np.newaxis], points.positions]),
                velocities=np.concatenate([speed[np.newaxis], points.velocities]),
            )
            self.motion = standing(begun)
            return points
        instant = next_point(old, now + round(LEAD * 1e9))
        state, bound = state_of(old, instant), bounds(limits, names)
        step = braking_spacing(within)
        average = smoothing.window(limits, names, accelerations(bound))
        count = smoothing.steps(average, step)
        place, speed = smoothing.leading(state, count * step)
        points = braked(place, speed, bound, stamp=now, instant=instant, within=within)
        points = smoothing.smoothed(points, state, count)
        self.motion = standing(led_to(old, points, now))
        return self.motion.points

    def _astray(self, measured: Measured) -> bool:
        """Whether the arm is where it is told to be no more."""
        return self._off(measured) > self._contract.action.start_tolerance

    def _off(self, measured: Measured) -> float:
        """How far the arm is from where it is told to be, rad or m; fingers may hold something."""
        if self.motion is None:
            return math.inf
        told = state_at(self.motion.points, measured.stamp)[0]
        return float(np.where(self._grippers, 0.0, np.abs(told - measured.position)).max())

    def guidance(self, stamp: int, observed: np.ndarray, now: int) -> rtc.Guidance | None:
        """What a chunk is to begin like that is inferred now; None: whatever the policy likes.

        Args:
            stamp: ns; of its observation.
            observed: [actions] joints in the observation, rad or m.
            now: ns.
        """
        if self._schedule.settings.mode is not Mode.RTC:
            return None
        if self.motion is None or self._numbers is None or self.motion.clock.at(now) != now:
            return None  # nothing runs, or it slows down for want of a successor
        return rtc.guidance(
            self._numbers, stamp, self._contract.control_period, self._schedule.chunk_size,
            self._schedule.delay, np.where(self._offsets, observed, 0.0),
        )

    def join(
        self, raw: np.ndarray, stamp: int, observed: np.ndarray, measured: Measured, now: int
    ) -> tuple[Joined | None, Verdict]:
        """A chunk that has just come: the motion to send, or why none.

        Nothing is commanded by that alone: `sent` says that it was.

        Args:
            raw: [steps, actions] in the contract's units.
            stamp: ns; of its observation.
            observed: [actions] joints in the observation, rad or m.
            measured: the newest.
            now: ns.
        """
        contract, action = self._contract, self._contract.action
        command = self._command(measured, now)
        self._schedule.delays.add((command.instant - stamp) * 1e-9)
        # A chunk's clock stands still while the arm does: an arm that waited for its chunk starts
        # with the first row that it has not done, not deep in a motion that went on without it.
        gone = max(0, command.clock - stamp) * 1e-9
        consumed = int(gone / contract.control_period)
        # Fingers that hold something never get to where they are told to be.
        start = np.where(self._grippers, command.state.position, observed)
        if self._twists.any() and raw.ndim == 2 and raw.shape[1] == len(start):
            start[self._twists] = self._twist_start(raw[:, self._twists], gone, command)
        chunk = self._chunk(raw, stamp, start, command, consumed)
        verdict = guard.check(
            chunk, contract.limits, start, action.start_tolerance, lead=math.inf,
            stretch=contract.safety.stretch,
        )
        if verdict.ok and action.workspace is not None:
            led = (chunk.positions - command.state.position)[consumed:, self._twists]
            inside = check_workspace(led, self.end_effector(), action.workspace)
            verdict = verdict if inside.ok else inside
        if not verdict.ok:
            return None, verdict
        offsets = np.where(self._offsets, observed, 0.0)
        numbers = Numbers(
            command.instant - round(gone * 1e9), contract.control_period, raw + offsets
        )
        if self._schedule.settings.mode is Mode.ENSEMBLE:
            # Averages of rows that passed. Where an old chunk ends they step; joining bounds it.
            mixed = self._ensemble.mixed(numbers) - offsets
            chunk = self._chunk(mixed, stamp, start, command, consumed)
        # What asks for a little too much is taken slower, from the row that is due now.
        period, gone = contract.control_period * verdict.stretch, gone * verdict.stretch
        begin = command.instant - round(gone * 1e9)
        chunk, numbers = (
            replace(chunk, period=period), replace(numbers, begin=begin, period=period)
        )
        path = Path(
            np.concatenate([start[np.newaxis], chunk.positions[: self._schedule.rows]]), period
        )
        refused = self._joinable(path, gone, command)
        if not refused.ok:
            return None, refused
        motion = self._onto(path, gone, command, stamp)
        told = measured.position
        if command.known and self.motion is not None:
            told = state_at(self.motion.points, measured.stamp)[0]
        # Where the arm is told to be against where it is: it lags, but not by this much.
        refused = guard.check_motion(
            motion.points, contract.limits, told, measured.stamp,
            np.where(self._grippers, told, measured.position), action.start_tolerance,
        )
        if not refused.ok:
            return None, refused
        if not command.known:
            motion = replace(motion, clock=replace(motion.clock, starts=command.instant))
        elif self.motion is not None:
            motion = replace(motion, points=led_to(self.motion.points, motion.points, now))
        return Joined(chunk, motion, numbers, begin, consumed, self._run(command)), verdict

    def _run(self, command: _Command) -> int | None:
        """Rows that ran of the chunk that is commanded, until another takes over."""
        old = self._numbers
        if old is None or not command.known:
            return None
        gone = (command.clock - old.begin) * 1e-9 / old.period
        return max(0, int(gone + 1e-6) - self._over)

    def _twist_start(self, twists: np.ndarray, gone: float, command: _Command) -> np.ndarray:
        """[6] displacements from which a chunk of twists leads on to where the command is.

        Of a twist only its speeds mean something: way that is gained or lost until the end effector
        is as fast as the chunk is given to the chunk beforehand, so that it is not made up for.
        """
        contract, names = self._contract, self._contract.action.names
        period = contract.control_period
        row = min(int(gone / period), len(twists) - 1)
        bound = bounds(contract.limits, names)
        most = accelerations(bound)
        average = smoothing.window(contract.limits, names, most)
        faster = command.state.velocity[self._twists] - twists[row]
        braking = np.abs(faster) * np.maximum(
            np.abs(faster) / (2.0 * most[self._twists]), period / (2.0 * STIFFNESS)
        )
        gained = np.copysign(braking, faster) + faster * average / 2.0
        return command.state.position[self._twists] + gained - gone_by(twists, period, gone)

    def sent(self, joined: Joined) -> None:
        """It was sent."""
        self.motion, self._numbers = joined.motion, joined.numbers
        self._over = joined.consumed
        self._schedule.spent.over.add(joined.consumed)
        if joined.run is not None:
            self._schedule.spent.run.add(joined.run)
        self._schedule.started(joined.begin, joined.motion.points.end)

    def _command(self, measured: Measured, now: int) -> _Command:
        instant, motion = now + round(LEAD * 1e9), self.motion
        if motion is not None:
            points, instant = motion.points, next_point(motion.points, instant)
            state = state_of(points, instant)
            off = np.where(self._grippers, 0.0, np.abs(state.position - measured.position)).max()
            # An arm that was moved while it stood is not pulled back.
            if instant < points.end or off <= self._contract.action.start_tolerance:
                clock = motion.clock.at(instant)
                return _Command(instant, state, clock, known=True)
        still = np.zeros_like(measured.position)
        # A controller may stand a little off what is measured: a period to make up for that.
        instant += round(self._contract.control_period * 1e9)
        return _Command(instant, State(measured.position, still, still), 0, known=False)

    def _chunk(
        self, raw: np.ndarray, stamp: int, start: np.ndarray, command: _Command, consumed: int
    ) -> Chunk:
        """A policy's numbers as joint positions, turning joints the short way round."""
        contract, names = self._contract, self._contract.action.names
        period = contract.control_period
        positions = joint_positions(
            raw, contract.action, start, contract.limits, period, over=consumed
        )
        chunk = Chunk(stamp, period, names, positions)
        return guard.unwound(chunk, contract.limits, command.state.position)

    def _onto(self, path: Path, gone: float, command: _Command, stamp: int) -> Motion:
        """From the present motion onto a path, its jerk bounded where a limit says so."""
        limits, names = self._contract.limits, self._contract.action.names
        bound = bounds(limits, names)
        step = spacing(path.period)
        count = smoothing.steps(
            smoothing.window(limits, names, accelerations(bound)), step
        )
        lag = count * step / 2.0  # of an average over time
        place, speed = smoothing.leading(command.state, count * step)
        motion = splice(
            path, min(gone + lag, path.length - step), place, speed, bound, stamp=stamp,
            instant=command.instant,
        )
        points = smoothing.smoothed(motion.points, command.state, count)
        return Motion(points, motion.clock)

    def _joinable(self, path: Path, gone: float, command: _Command) -> Verdict:
        """Whether something of a path is left, and near enough."""
        if gone > path.length - 1e-3:
            return Verdict(Reason.TOO_LATE, value=gone - path.length)
        jump = np.abs(path.at(np.array([gone]))[0][0] - command.state.position)
        column = int(np.argmax(jump))
        tolerance = self._contract.action.start_tolerance
        if jump[column] <= tolerance:
            return guard.PASSED
        name = self._contract.action.names[column]
        return Verdict(
            Reason.START_JUMP, name, int(gone / path.period), float(jump[column]), tolerance,
            self._contract.limits[name].unit,
        )


def _ensemble(schedule: Schedule) -> Ensemble:
    return Ensemble(schedule.settings.ensemble_decay, schedule.settings.ensemble_chunks)
