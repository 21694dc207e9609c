# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Decides what the policy node does: when to infer, what to send, and what is a reason to hold.

Time comes from a clock it is given and commands go out through a `Sink`, so that a test drives all
of it with simulated time and no ROS. Three threads meet here: the executor's (`watch`,
transitions), the one that infers (`plan`, `deliver`) and the one that stops the process; one lock
orders them, and what is sent is sent under it, so that after a hold no older chunk can follow.

Knows inputs, inferences, and who may command; knows nothing of how the arm comes to hold and goes
on again (see `transitions`).
"""
from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace

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
from quantvla_ros.nodes.sight import Sight, oldest
from quantvla_ros.nodes.states import Cause, Counts, State, Status
from quantvla_ros.nodes.transitions import Transitions, Tuning
from quantvla_ros.observation.buffer import ObservationBuffer
from quantvla_ros.observation.types import Refusal

# ns by which the clock must go back to count as a jump: a bag starts again, a simulator is reset.
_JUMP = 1_000_000_000


class Supervisor:
    """Stands between the inputs, the policy and the arm.

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
        self._lock = threading.RLock()
        self._sequence = 0
        self._handover = Handover(contract, schedule)
        self._permission = Permission(contract.safety, others)
        self._last_now = 0
        self._obstacle: tuple[str, str] | None = None
        self._deaf = False
        self._age = 0.0
        self._begun: int | None = None  # ns; when the inference under way was planned
        self.counts = Counts()
        self._brakes = Brakes(contract.freshness, joints, self._handover, sink, self.counts)
        self._transitions = Transitions(
            joints, schedule, self._handover, self._brakes, sink, lambda: self._clock(), tuning
        )
        self._sight = Sight(contract, buffer, lambda: self._clock())

    @property
    def status(self) -> Status:
        """What the node does now, and why."""
        with self._lock:
            return self._transitions.status

    @property
    def tuning(self) -> Tuning:
        """Times; others may be set."""
        return self._transitions.tuning

    @tuning.setter
    def tuning(self, tuning: Tuning) -> None:
        self._transitions.tuning = tuning

    @property
    def observation_age(self) -> float:
        """s; age of the oldest part of the last observation when its inference began."""
        return self._age

    def activate(self) -> None:
        """Start to plan as soon as the inputs are fresh."""
        with self._lock:
            self._sequence = 0
            self._last_now = self._clock()
            self._transitions.begin()

    def stop(self, cause: Cause, state: State = State.INACTIVE) -> None:
        """Hold for good: after this nothing is sent until the next `activate`."""
        with self._lock:
            self._transitions.stop(cause, state)

    def watch(self) -> None:
        """Look after the inputs and the running chunk, also while an inference is under way."""
        with self._lock:
            if not self._transitions.active and self.status.state is not State.PAUSED:
                return
            now = self._clock()
            if now < self._last_now - _JUMP:
                self._clock_jumped(f'back by {(self._last_now - now) * 1e-9:.1f} s')
            self._last_now = now
            if not self._permitted(now):
                return
            if self.status.state is State.PAUSED:
                self._transitions.begin(looked=now)
            self._transitions.hold_owed(now)
            if self._transitions.obstructed(self._obstacle, now):
                return
            refusal = self._sight.check(now)
            if refusal is not None:
                self._transitions.refused(refusal, now)
                return
            ended = self.status.state is State.RUNNING and not self._schedule.running(now)
            self.counts.ended += ended
            if ended or self.status.cause is Cause.CHUNK_ENDED:
                # One that has not come back yet is in no percentile.
                flight = 0.0 if self._begun is None else (now - self._begun) * 1e-9
                longest = max(self._schedule.latencies.percentile(90.0), flight)
                self._transitions.change(
                    State.HOLDING, Cause.CHUNK_ENDED, f'inference takes {longest:.3f} s'
                )

    def plan(self) -> Work | None:
        """An inference to do now, or None."""
        with self._lock:
            now = self._clock()
            camera = self._sight.newest_camera()
            if camera is None or not self._transitions.active:
                return None
            if not self._schedule.due(now, camera):
                return None
            if not self._permitted(now) or self._transitions.obstructed(self._obstacle, now):
                return None
            observed, now = self._sight.observe(now)
            if isinstance(observed, Refusal):
                self.counts.refused += 1
                self._transitions.refused(observed, now)
                return None
            if not self._transitions.healthy(now):
                return None
            camera = self._sight.pictures(observed)
            if not self._schedule.due(now, camera):
                return None  # the one that was due is broken, and the one before it was seen
            self._schedule.looked(camera)
            self._begun = now
            self._age = (now - oldest(observed)) * 1e-9
            guidance = self._handover.guidance(observed.stamp, self._sight.joints(observed), now)
            generation = self._transitions.generation
            work = Work(observed, self._sequence, self._age, now, generation, guidance)
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
            if not self._in_force(work) or not self._permitted(now):
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
            if work.generation == self._transitions.generation:  # or it was refused at once
                self._transitions.change(State.RUNNING, Cause.PUBLISHING)

    def failed(self, work: Work, message: str) -> None:
        """The policy raised: hold until a person deactivates the node."""
        with self._lock:
            self._begun = None
            if not self._in_force(work):
                return
            self.stop(Cause.INFERENCE_FAILED, State.FAULT)
            self._transitions.change(State.FAULT, Cause.INFERENCE_FAILED, message)

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
                self._transitions.heard_again()
            self._deaf = deaf
            if self._obstacle is not None and before is None:
                self.watch()  # before a chunk can come in between

    def clock_jumped(self, seconds: float) -> None:
        """The clock went forward at once: what was commanded has other times than it was meant for.

        A step back is noticed by `watch` itself.
        """
        with self._lock:
            if self._transitions.active or self.status.state is State.PAUSED:
                self._last_now = self._clock()
                self._clock_jumped(f'forward by {seconds:.1f} s')

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
            active = self.status.state is not State.INACTIVE
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
            if not self._transitions.active or self._handover.motion is None:
                return
            self._transitions.not_followed(sentence, self._clock())

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
            if reason is None and self.status.cause is Cause.LATCHED:
                self._transitions.begin(looked=self._clock())
            return reason

    def _in_force(self, work: Work) -> bool:
        """Whether nothing has made it void since it was planned."""
        return self._transitions.active and work.generation == self._transitions.generation

    def _permitted(self, now: int) -> bool:
        """Whether the policy may command; where not, what it commanded is ended."""
        denied = self._permission.judge(now)
        if denied is not None:
            self._transitions.denied(denied, now)
        return denied is None

    def _drop(self, verdict: Verdict, now: int) -> None:
        assert verdict.reason is not None
        self.counts.dropped[verdict.reason] += 1
        self._permission.latch.dropped(verdict.reason, verdict.sentence)
        self._transitions.dropped(verdict, now)
        self._permitted(now)  # or that was one too many

    def _clock_jumped(self, how: str) -> None:
        self._begun = None  # in another time
        self._permission.forget()
        self._transitions.clock_jumped(how)
