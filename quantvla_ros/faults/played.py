# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One case while it is played, and what came of it by what was recorded.

Knows the record and its times; what is done in which order is the runner's.
"""
from __future__ import annotations

import time
from dataclasses import dataclass, field

from quantvla_ros.faults.case import Case, Expect
from quantvla_ros.faults.measure import (
    Fastest,
    asked,
    fastest,
    silence,
    time_to_rest,
    time_to_words,
    unasked,
)
from quantvla_ros.faults.results import Result, distinct
from quantvla_ros.faults.stage import PATIENCE, Stage
from quantvla_ros.nodes.states import State

MOMENT = 0.2  # s
TO_REST = 2.0  # s; a hold takes hold_time, 0.3 s
EDGE = 1.05  # of a velocity limit: what the last bits of a measured velocity may exceed it by
# rad or m that a joint may go faster than any command asks for. A controller that hears a command
# when its first points are over makes up for them: by so much more where the machine had no time
# for it, or for the arm.
_UNASKED = 0.05
_ON_TIME = 0.03  # s
_GOES_ON = 0.3  # s after the next chunk in which the arm is still watched


@dataclass
class Played:
    """One case while it is played."""

    stage: Stage
    case: Case
    begun: float
    since: float = 0.0  # of the fault
    until: float = 0.0  # when it was mended, or the node went on by itself
    log: int = 0  # bytes of the node's log before the fault
    to_state: float | None = None
    back: float | None = None
    rests: bool = False  # whether the arm has to be at rest before the fault is mended
    missed: bool = False  # whether a hold that was due did not come
    problems: list[str] = field(default_factory=list)

    def set_off(self) -> None:
        """Have the arm on its way."""
        (self.case.prepare or Stage.move)(self.stage)

    def inject(self) -> None:
        """Bring the fault about, now."""
        self.log = self.stage.policy.written
        self.since = time.monotonic()
        self.case.inject(self.stage)

    def mend(self) -> None:
        """Take it back, and look at what the arm did until then."""
        self.until = self.until or time.monotonic()
        self.case.mend(self.stage)

    def complain(self, problem: str) -> None:
        """Something was not as expected."""
        if problem:
            self.problems.append(problem)

    def words(self) -> str:
        """All that the node has said since the fault."""
        record = self.stage.record
        said = [entry.reason for entry in record.said if entry.time >= self.since]
        shown = [entry[3] for entry in record.diagnostics if entry[0] >= self.since]
        return '\n'.join([*said, *shown, self.stage.policy.output_after(self.log)])

    def is_said(self) -> bool:
        """Whether one of the words that are expected has been said."""
        words = self.words()
        return not self.case.says or any(word in words for word in self.case.says)

    def wait_for_rest(self) -> None:
        """Wait until nothing moves; that it does not is judged at the end."""
        self.rests = True
        stage = self.stage

        def is_at_rest() -> bool:
            now = time.monotonic()
            # For a moment: a joint that turns around stands still as well.
            rest = time_to_rest(stage.record.motion(self.since, now), self.since)
            return rest is not None and now - self.since - rest > MOMENT

        stage.until(is_at_rest, TO_REST)

    def comes_back(self) -> None:
        """Wait until the policy runs again."""
        stage, before = self.stage, self.stage.published
        mended = time.monotonic()
        if stage.until(
            lambda: stage.state == State.RUNNING.name and stage.published > before, PATIENCE
        ):
            self.back = time.monotonic() - mended
            stage.watch(_GOES_ON)
        else:
            self.complain(f'it does not go on: {stage.state}: {stage.reason}')

    def result(self) -> Result:
        """What came of it."""
        stage, until = self.stage, self.until or time.monotonic()
        motion = stage.record.motion(self.since, until)
        names = stage.contract.action.names
        limits = {name: stage.contract.limits[name].velocity for name in names}
        # Also what follows mending: an arm that comes back with a jump is no better.
        end = time.monotonic()
        whole = stage.record.motion(self.since, end)
        peak = fastest(whole, [limits[name] for name in names])
        commands, late = stage.record.commands(self.since, end)
        late = max(late, silence(whole))
        commanded = asked(commands, limits)
        way, joint = (0.0, '') if commanded is None else unasked(whole, commanded, limits)
        excused = max(0.0, late - _ON_TIME) * (commanded or 0.0) * max(limits.values())
        moves_on = self.case.expect is Expect.GOES_ON
        rest = time_to_rest(motion, self.since) if self.since and not moves_on else None
        if self.rests and rest is None:
            self.missed = True
            self.complain('the arm still moves')
        jumped = self._jumped(peak, commanded, way - excused, joint)
        said = [
            f'{entry.time - self.since:.2f} s {entry.state}: {entry.reason}'
            for entry in stage.record.said if self.since and entry.time >= self.since
        ]
        shown = [
            f'{name}: {level}: {message}'
            for at, name, level, message in stage.record.diagnostics
            if self.since and at >= self.since and level != 'OK'
        ]
        return Result(
            self.case.number, self.case.name, self.case.expected, self.case.expect.name,
            tuple(self.problems), distinct(said), distinct(shown), self.to_state,
            time_to_words(stage.record.diagnostics, self.since, self.case.says),
            rest, peak.speed, peak.joint, peak.share, max(0.0, peak.time - self.since),
            commanded, way, late, self.missed, jumped, self.back, time.monotonic() - self.begun,
        )

    def _jumped(self, peak: Fastest, commanded: float | None, way: float, joint: str) -> bool:
        """Whether a joint moved as nobody asked for; complains where it did."""
        before = len(self.problems)
        if peak.share > EDGE:
            self.complain(f'{peak.joint} moves at {peak.speed:.2f}, beyond its limit')
        if commanded is not None and commanded > EDGE:
            self.complain(f'commands ask for {100.0 * commanded:.0f} % of a velocity limit')
        if way > _UNASKED and not self.case.catches_up:
            self.complain(f'{joint} jumps: it goes {way:.2f} faster than any command asks for')
        return len(self.problems) > before
