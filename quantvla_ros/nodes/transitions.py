# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""From one state of the policy node to another: what ends the motion, and how it begins anew.

Knows the states, the schedule and what is commanded; knows nothing of ROS, of threads (it is called
with the supervisor's lock held), of inferences, or of who found out what happened.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from quantvla_ros.control.guard import Verdict
from quantvla_ros.control.handover import Handover
from quantvla_ros.control.measured import MeasuredJoints
from quantvla_ros.control.permission import Denied
from quantvla_ros.control.schedule import Schedule
from quantvla_ros.nodes.braking import Brakes
from quantvla_ros.nodes.decisions import Sink
from quantvla_ros.nodes.sight import kind_of
from quantvla_ros.nodes.states import Cause, State, Status
from quantvla_ros.observation.types import Refusal

# After these the inputs must have been healthy for a while.
_RECOVERED_FROM = (
    Cause.INPUTS, Cause.RECOVERING, Cause.WATCHDOG, Cause.CLOCK_JUMP, Cause.REFUSED
)


@dataclass(frozen=True)
class Tuning:
    """Times of the node, s. See `nodes.parameters` for ranges."""

    hold_time: float
    recovery_time: float


class Transitions:
    """See the module.

    Args:
        joints: newest measurement.
        schedule: when to look again.
        handover: what is commanded.
        brakes: what brings the arm to rest.
        sink: who is told of another status.
        clock: the node's, ns.
        tuning: times, until others are set.

    Attributes:
        status: what the node does now, and why.
        generation: what is in force; whatever was begun in another one is void.
        tuning: times that are in force.
    """

    def __init__(
        self, joints: MeasuredJoints, schedule: Schedule, handover: Handover, brakes: Brakes,
        sink: Sink, clock: Callable[[], int], tuning: Tuning,
    ) -> None:
        self._joints, self._schedule = joints, schedule
        self._handover, self._brakes = handover, brakes
        self._sink, self._clock = sink, clock
        self._healthy_since: int | None = None
        self.status = Status(State.INACTIVE, Cause.NOT_ACTIVE)
        self.generation = 0
        self.tuning = tuning

    @property
    def active(self) -> bool:
        """Whether the policy plans, or will as soon as it can."""
        return self.status.state in (State.WAITING, State.RUNNING, State.HOLDING)

    def begin(self, looked: int | None = None) -> None:
        """Begin anew, from where the arm is measured.

        Args:
            looked: ns; only with pictures that are made from then on. None: with any.
        """
        self._handover.forget()
        self._schedule.reset()
        if looked is not None:
            self._schedule.looked(looked)
        self._brakes.forget()
        self._healthy_since = None
        self.change(State.WAITING, Cause.FIRST_INPUTS)

    def stop(self, cause: Cause, state: State) -> None:
        """Hold for good."""
        self.generation += 1
        if self._handover.motion is not None or self._brakes.owed:
            self._brakes.hold(self._clock(), self.tuning.hold_time)
            self._handover.forget()
        self._schedule.stopped()
        self.change(state, cause)

    def hold_owed(self, now: int) -> None:
        """Send the hold that is owed, where it is due and known from where."""
        if self._brakes.due(now) and self._joints.latest is not None:
            self._brakes.hold(now, self.tuning.hold_time)

    def denied(self, denial: Denied, now: int) -> None:
        """The policy may not command: what it commanded is ended."""
        self.generation += 1
        if denial.mute:
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
            (State.FAULT, Cause.LATCHED) if denial.latched else (State.PAUSED, Cause.PAUSED)
        )
        self.change(state, cause, denial.sentence, denial.kind)

    def obstructed(self, obstacle: tuple[str, str] | None, now: int) -> bool:
        """Whether a watchdog forbids motion; what was commanded is ended then.

        Args:
            obstacle: its sentence, and the same without its numbers; None where there is none.
            now: ns.
        """
        waiting = self.status.state is State.WAITING
        if obstacle is None:
            if waiting and self.status.cause is Cause.WATCHDOG:
                self.change(State.WAITING, Cause.FIRST_INPUTS)
            return False
        self._healthy_since = None
        if not waiting:
            self.generation += 1
            self._brakes.hold_if_moving(now, self.tuning.hold_time)
            self._schedule.stopped()
        state = State.WAITING if waiting else State.HOLDING
        self.change(state, Cause.WATCHDOG, *obstacle)
        return True

    def dropped(self, verdict: Verdict, now: int) -> None:
        """A chunk is not sent."""
        assert verdict.reason is not None
        self._brakes.hold_if_moving(now, self.tuning.hold_time)
        self._handover.broken_off()
        self._schedule.put_off(now)
        self.change(
            State.HOLDING, Cause.CHUNK_DROPPED, verdict.sentence,
            f'{verdict.reason.name} {verdict.joint}',
        )

    def refused(self, refusal: Refusal, now: int) -> None:
        """The inputs cannot be used."""
        self._healthy_since = None
        if self.status.state is State.WAITING:
            self.change(State.WAITING, Cause.FIRST_INPUTS, str(refusal), kind_of(refusal))
            return
        self.generation += 1  # what is being inferred rests on inputs that have ended
        self._brakes.hold_if_moving(now, self.tuning.hold_time)
        self._schedule.stopped()
        self.change(State.HOLDING, Cause.INPUTS, str(refusal), kind_of(refusal))

    def healthy(self, now: int) -> bool:
        """Whether the inputs, of which an observation was made, have been fit for long enough."""
        if self.status.cause not in _RECOVERED_FROM:
            return True
        if self._brakes.owed:
            return False
        if self._healthy_since is None:
            self._healthy_since = now
            self.change(State.HOLDING, Cause.RECOVERING)
        if (now - self._healthy_since) * 1e-9 < self.tuning.recovery_time:
            return False
        # A controller that was away has not heard all that it was told, and an arm that was started
        # again follows none of it: go on from where the arm is measured.
        measured = self._joints.latest
        if measured is not None and self._handover.stands_elsewhere(measured, now):
            self._handover.forget()
        return True

    def heard_again(self) -> None:
        """An arm that may have heard nothing does again.

        It did what it had heard last: held, and taken up again, is where it is measured.
        """
        self._brakes.owe()
        self._handover.forget()

    def not_followed(self, sentence: str, now: int) -> None:
        """The arm does something else than it was told: hold it from what is measured."""
        self.generation += 1
        self._schedule.stopped()
        # A hold that was itself refused is not sent again at once.
        wait = self.tuning.hold_time if self.status.state is State.HOLDING else 0.0
        self._brakes.owe(now + round(wait * 1e9))
        self._handover.forget()
        self._healthy_since = None
        self.change(State.HOLDING, Cause.REFUSED, sentence)

    def clock_jumped(self, how: str) -> None:
        """What was commanded and measured has times of a clock that is no more."""
        self.generation += 1
        self._schedule.reset()
        self._joints.clear()
        self._healthy_since = None
        # The controller's trajectory has times of the old clock: it is replaced by a hold as soon
        # as the joints have been measured on the new one.
        self._brakes.owe()
        self._handover.forget()
        if self.status.state is not State.WAITING:
            self.change(State.HOLDING, Cause.CLOCK_JUMP, how)

    def change(self, state: State, cause: Cause, detail: str = '', kind: str = '') -> None:
        """Take another status; who listens is told where it is one (see `Status`)."""
        before, self.status = self.status, Status(state, cause, detail, kind)
        if self.status != before:
            self._sink.changed(self.status)
