# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Decides what the policy node does: when to infer, what to send, when to hold and when to go on.

Time comes from a clock it is given and commands go out through a `Sink`, so that a test drives all
of it with simulated time and no ROS. Three threads meet here: the executor's (`watch`,
transitions), the one that infers (`plan`, `deliver`) and the one that stops the process; one lock
orders them, and what is sent is sent under it, so that after a hold no older chunk can follow.
"""
from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from quantvla_ros.contract.types import Contract, JointLimit
from quantvla_ros.control.guard import Verdict
from quantvla_ros.control.handover import Handover
from quantvla_ros.control.limits import wider
from quantvla_ros.control.measured import MeasuredJoints
from quantvla_ros.control.permission import Others, Permission
from quantvla_ros.control.schedule import Schedule
from quantvla_ros.control.smoothing import State as CommandState
from quantvla_ros.nodes.braking import Brakes
from quantvla_ros.nodes.decisions import Sent, Sink, Work
from quantvla_ros.nodes.sight import Sight, kind_of, oldest
from quantvla_ros.nodes.states import Cause, Counts, State, Status
from quantvla_ros.observation.buffer import ObservationBuffer
from quantvla_ros.observation.types import Refusal

# ns by which the clock must go back to count as a jump: a bag starts again, a simulator is reset.
_JUMP = 1_000_000_000
# After these the inputs must have been healthy for a while.
_RECOVERED_FROM = (
    Cause.INPUTS, Cause.RECOVERING, Cause.WATCHDOG, Cause.CLOCK_JUMP, Cause.REFUSED
)


@dataclass(frozen=True)
class Tuning:
    """Times of the node, s. See `nodes.parameters` for ranges."""

    hold_time: float
    recovery_time: float


class Supervisor:
    """State machine between the inputs, the policy and the arm.

    Args:
        contract: what the robot offers; its action space is one that `check_supported` passed.
        buffer: newest inputs.
        joints: newest measurement of `contract.action.names`.
        schedule: when to look again.
        tuning: times.
        sink: where decisions go.
        clock: the node's clock, ns. Read with the lock held: a thread that had to wait for the lock
            must not judge new messages by an old time.
        others: on the same controller; nobody by default.
    """

    def __init__(
        self,
        contract: Contract,
        buffer: ObservationBuffer,
        joints: MeasuredJoints,
        schedule: Schedule,
        tuning: Tuning,
        sink: Sink,
        clock: Callable[[], int],
        others: Others | None = None,
    ) -> None:
        self._contract = contract
        self._joints = joints
        self._schedule = schedule
        self._sink = sink
        self._clock = clock
        self.tuning = tuning
        self._lock = threading.RLock()
        self._status = Status(State.INACTIVE, Cause.NOT_ACTIVE)
        self._generation = 0
        self._sequence = 0
        self._handover = Handover(contract, schedule)
        self._permission = Permission(contract.safety, others)
        self._healthy_since: int | None = None
        self._last_now = 0
        self._obstacle: tuple[str, str] | None = None
        self._deaf = False
        self._age = 0.0
        self._begun: int | None = None  # ns; when the inference under way was planned
        self.counts = Counts()
        self._brakes = Brakes(contract.freshness, joints, self._handover, sink, self.counts)
        self._sight = Sight(contract, buffer, lambda: self._clock())

    @property
    def status(self) -> Status:
        """What the node does now, and why."""
        with self._lock:
            return self._status

    @property
    def observation_age(self) -> float:
        """s; age of the oldest part of the last observation when its inference began."""
        return self._age

    def activate(self) -> None:
        """Start to plan as soon as the inputs are fresh."""
        with self._lock:
            self._schedule.reset()
            self._sequence = 0
            self._handover.forget()
            self._brakes.forget()
            self._healthy_since = None
            self._last_now = self._clock()
            self._change(State.WAITING, Cause.FIRST_INPUTS)

    def stop(self, cause: Cause, state: State = State.INACTIVE) -> None:
        """Hold for good: after this nothing is sent until the next `activate`."""
        with self._lock:
            self._generation += 1
            if self._handover.motion is not None or self._brakes.owed:
                self._brakes.hold(self._clock(), self.tuning.hold_time)
                self._handover.forget()
            self._schedule.stopped()
            self._change(state, cause)

    def watch(self) -> None:
        """Look after the inputs and the running chunk, also while an inference is under way."""
        with self._lock:
            if not self._active and self._status.state is not State.PAUSED:
                return
            now = self._clock()
            if now < self._last_now - _JUMP:
                self._clock_jumped(now, f'back by {(self._last_now - now) * 1e-9:.1f} s')
            self._last_now = now
            if not self._permitted(now):
                return
            if self._status.state is State.PAUSED:
                self._go_on(now)
            if self._brakes.due(now) and self._joints.latest is not None:
                self._brakes.hold(now, self.tuning.hold_time)
            if self._obstructed(now):
                return
            refusal = self._sight.check(now)
            if refusal is not None:
                self._refused(refusal, now)
                return
            ended = self._status.state is State.RUNNING and not self._schedule.running(now)
            self.counts.ended += ended
            if ended or self._status.cause is Cause.CHUNK_ENDED:
                # One that has not come back yet is in no percentile.
                flight = 0.0 if self._begun is None else (now - self._begun) * 1e-9
                longest = max(self._schedule.latencies.percentile(90.0), flight)
                self._change(State.HOLDING, Cause.CHUNK_ENDED, f'inference takes {longest:.3f} s')

    def plan(self) -> Work | None:
        """An inference to do now, or None."""
        with self._lock:
            now = self._clock()
            camera = self._sight.newest_camera()
            if not self._active or camera is None or not self._schedule.due(now, camera):
                return None
            if not self._permitted(now) or self._obstructed(now):
                return None
            observed, now = self._sight.observe(now)
            if isinstance(observed, Refusal):
                self.counts.refused += 1
                self._refused(observed, now)
                return None
            if not self._healthy(now):
                return None
            camera = self._sight.pictures(observed)
            if not self._schedule.due(now, camera):
                return None  # the one that was due is broken, and the one before it was seen
            self._schedule.looked(camera)
            self._begun = now
            self._age = (now - oldest(observed)) * 1e-9
            guidance = self._handover.guidance(observed.stamp, self._sight.joints(observed), now)
            work = Work(observed, self._sequence, self._age, now, self._generation, guidance)
            self._sequence += 1
            return work

    def deliver(self, work: Work, raw: np.ndarray, inference_time: float) -> None:
        """Take the policy's numbers: send what is left of them in time, or drop them and hold.

        Args:
            work: from `plan`.
            raw: [chunk, action] in the contract's units.
            inference_time: s.
        """
        with self._lock:
            self._begun = None
            self.counts.inferences += 1
            self._schedule.latencies.add(inference_time)
            now = self._clock()
            # In this order: what is void says nothing of who may command.
            if not self._active or work.generation != self._generation or not self._permitted(now):
                self.counts.superseded += 1
                return
            measured = self._joints.latest
            assert measured is not None  # an observation has joints
            observation = work.observation
            joined, verdict = self._handover.join(
                raw, observation.stamp, self._sight.joints(observation), measured, now
            )
            if joined is None:
                self._drop(verdict, now)
                return
            self._handover.sent(joined)
            self._permission.latch.passed()
            self._brakes.runs(joined.motion.points.end)
            self.counts.published += 1
            self._sink.chunk(Sent(
                joined.chunk, joined.motion.points, work, inference_time, joined.consumed,
                joined.begin,
            ))
            if work.generation == self._generation:  # or it was refused at once
                self._change(State.RUNNING, Cause.PUBLISHING)

    def failed(self, work: Work, message: str) -> None:
        """The policy raised: hold until a person deactivates the node."""
        with self._lock:
            self._begun = None
            if not self._active or work.generation != self._generation:
                return
            self.stop(Cause.INFERENCE_FAILED, State.FAULT)
            self._change(State.FAULT, Cause.INFERENCE_FAILED, message)

    def commanded(self, instant: int) -> CommandState | None:
        """Where the arm is told to be at `instant` ns; None where nothing has been commanded."""
        return self._handover.commanded(instant)

    def watch_end_effector(self, place: Callable[[], np.ndarray]) -> None:
        """What says where the end effector is, for a workspace: [3] m, NaN where unknown."""
        self._handover.end_effector = place

    def obstruct(self, sentence: str | None, kind: str = '', deaf: bool = False) -> None:
        """What forbids motion though the inputs are fit; None for nothing any more.

        Args:
            sentence: for the status.
            kind: the same without its numbers.
            deaf: whether the arm may not hear of it, so that it is not where it is told to be.
        """
        with self._lock:
            before, self._obstacle = self._obstacle, None if sentence is None else (sentence, kind)
            if self._deaf and not deaf:
                # It did what it had heard last: held, and taken up again, is where it is measured.
                self._brakes.owe()
                self._handover.forget()
            self._deaf = deaf
            if self._obstacle is not None and before is None:
                self.watch()  # before a chunk can come in between

    def clock_jumped(self, seconds: float) -> None:
        """The clock went forward at once: what was commanded has other times than it was meant for.

        A step back is noticed by `watch` itself.
        """
        with self._lock:
            if self._active or self._status.state is State.PAUSED:
                self._last_now = self._clock()
                self._clock_jumped(self._last_now, f'forward by {seconds:.1f} s')

    def emergency(self, pressed: bool) -> None:
        """What the emergency stop says: pressed holds the arm at once, and latches."""
        with self._lock:
            self._permission.latch.emergency(pressed)
            self.watch()

    def limit(self, limits: Mapping[str, JointLimit]) -> list[str]:
        """Other limits from the next chunk on; while active, only narrower ones.

        Returns:
            What would get wider, one line each; empty where the limits were taken.
        """
        with self._lock:
            active = self._status.state is not State.INACTIVE
            lines = wider(self._contract.limits, limits) if active else []
            if not lines:
                self._contract = replace(self._contract, limits=dict(limits))
                self._handover.use(self._contract)
            return lines

    def refused(self, sentence: str) -> None:
        """The controller, or a gripper's, refused or gave up a command."""
        with self._lock:
            self._permission.latch.refused(sentence)

    def not_followed(self, sentence: str) -> None:
        """The arm does not do what it was told last: it holds, and goes on from where it is.

        What it does instead is not known here: it goes on with a command from before, or was
        stopped by its controller. So the hold starts from what is measured.
        """
        with self._lock:
            if not self._active or self._handover.motion is None:
                return
            now = self._clock()
            self._generation += 1
            self._schedule.stopped()
            # A hold that was itself refused is not sent again at once.
            wait = self.tuning.hold_time if self._status.state is State.HOLDING else 0.0
            self._brakes.owe(now + round(wait * 1e9))
            self._handover.forget()
            self._healthy_since = None
            self._change(State.HOLDING, Cause.REFUSED, sentence)

    def accepted(self) -> None:
        """The controller took a command."""
        with self._lock:
            self._permission.latch.accepted()

    def device_failed(self, sentence: str) -> None:
        """The device that the policy runs on is lost to this process."""
        with self._lock:
            self._permission.latch.device_failed(sentence)
            self.watch()

    def reset(self) -> str | None:
        """Open the latch; the reason where it cannot be opened."""
        with self._lock:
            reason = self._permission.latch.reset()
            if reason is None and self._status.cause is Cause.LATCHED:
                self._go_on(self._clock())
            return reason

    @property
    def _active(self) -> bool:
        return self._status.state in (State.WAITING, State.RUNNING, State.HOLDING)

    def _permitted(self, now: int) -> bool:
        """Whether the policy may command; where not, what it commanded is ended."""
        denied = self._permission.judge(now)
        if denied is None:
            return True
        self._generation += 1
        if denied.mute:
            # The controller follows another already; a hold would end that motion.
            self._handover.forget()
            self._brakes.forget()
        else:
            if self._brakes.owed:  # the last chance: nothing is sent from now on
                self._brakes.hold(now, self.tuning.hold_time)
            self._brakes.hold_if_moving(now, self.tuning.hold_time)
            self._handover.broken_off()
        self._schedule.stopped()
        state, cause = (
            (State.FAULT, Cause.LATCHED) if denied.latched else (State.PAUSED, Cause.PAUSED)
        )
        self._change(state, cause, denied.sentence, denied.kind)
        return False

    def _obstructed(self, now: int) -> bool:
        """Whether a watchdog forbids motion; what was commanded is ended then."""
        waiting = self._status.state is State.WAITING
        if self._obstacle is None:
            if waiting and self._status.cause is Cause.WATCHDOG:
                self._change(State.WAITING, Cause.FIRST_INPUTS)
            return False
        self._healthy_since = None
        if not waiting:
            self._generation += 1
            self._brakes.hold_if_moving(now, self.tuning.hold_time)
            self._schedule.stopped()
        state = State.WAITING if waiting else State.HOLDING
        self._change(state, Cause.WATCHDOG, *self._obstacle)
        return True

    def _go_on(self, now: int) -> None:
        """Begin anew: from where the arm is measured, with pictures that are made from now on."""
        self._handover.forget()
        self._schedule.reset()
        self._schedule.looked(now)
        self._brakes.forget()
        self._healthy_since = None
        self._change(State.WAITING, Cause.FIRST_INPUTS)

    def _drop(self, verdict: Verdict, now: int) -> None:
        assert verdict.reason is not None
        self.counts.dropped[verdict.reason] += 1
        self._permission.latch.dropped(verdict.reason, verdict.sentence)
        self._brakes.hold_if_moving(now, self.tuning.hold_time)
        self._handover.broken_off()
        self._schedule.put_off(now)
        self._change(
            State.HOLDING, Cause.CHUNK_DROPPED, verdict.sentence,
            f'{verdict.reason.name} {verdict.joint}',
        )
        self._permitted(now)  # or that was one too many

    def _refused(self, refusal: Refusal, now: int) -> None:
        self._healthy_since = None
        if self._status.state is State.WAITING:
            self._change(State.WAITING, Cause.FIRST_INPUTS, str(refusal), kind_of(refusal))
            return
        self._generation += 1  # what is being inferred rests on inputs that have ended
        self._brakes.hold_if_moving(now, self.tuning.hold_time)
        self._schedule.stopped()
        self._change(State.HOLDING, Cause.INPUTS, str(refusal), kind_of(refusal))

    def _healthy(self, now: int) -> bool:
        """Whether the inputs, of which an observation was made, have been fit for long enough."""
        if self._status.cause not in _RECOVERED_FROM:
            return True
        if self._brakes.owed:
            return False
        if self._healthy_since is None:
            self._healthy_since = now
            self._change(State.HOLDING, Cause.RECOVERING)
        if (now - self._healthy_since) * 1e-9 < self.tuning.recovery_time:
            return False
        # A controller that was away has not heard all that it was told, and an arm that was started
        # again follows none of it: go on from where the arm is measured.
        measured = self._joints.latest
        if measured is not None and self._handover.stands_elsewhere(measured, now):
            self._handover.forget()
        return True

    def _clock_jumped(self, now: int, how: str) -> None:
        self._generation += 1
        self._begun = None  # in another time
        self._schedule.reset()
        self._permission.forget()
        self._joints.clear()
        self._healthy_since = None
        # The controller's trajectory has times of the old clock: it is replaced by a hold as soon
        # as the joints have been measured on the new one.
        self._brakes.owe()
        self._handover.forget()
        if self._status.state is not State.WAITING:
            self._change(State.HOLDING, Cause.CLOCK_JUMP, how)

    def _change(self, state: State, cause: Cause, detail: str = '', kind: str = '') -> None:
        before, self._status = self._status, Status(state, cause, detail, kind)
        if self._status != before:
            self._sink.changed(self._status)
