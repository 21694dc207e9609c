# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Plays one case on a stage and judges it by what was recorded.

What a case expects decides how it is played: one function each.
"""
from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from std_srvs.srv import Trigger

from quantvla_ros.errors import QuantVLAError
from quantvla_ros.faults.case import Case, Expect, FaultsError
from quantvla_ros.faults.measure import STILL, fastest, time_to_rest, time_to_state
from quantvla_ros.faults.results import Result, distinct
from quantvla_ros.faults.stage import (
    ACTIVATE,
    CLEANUP,
    CONFIGURE,
    DEACTIVATE,
    PATIENCE,
    Stage,
)
from quantvla_ros.nodes.states import State

_STATES: dict[Expect, tuple[str, ...]] = {
    Expect.HOLDS: (State.HOLDING.name,),
    Expect.STOPS: (State.FAULT.name,),
    Expect.LEAVES: (State.PAUSED.name,),
    Expect.WAITS: (State.WAITING.name,),
}
_TO_REST = 2.0  # s; a hold takes hold_time, 0.3 s
_MOMENT = 0.2  # s
_BRAKES = 0.6  # s; a hold is shorter, a chunk is longer
_REPORT = 1.5  # s in which /diagnostics, at 1 Hz, has to say it
_STALE = 0.6  # s after which what came before a fault is fresh no longer
_GOES_ON = 1.5  # s for which a policy is watched that is not to mind, at least
_ENOUGH = 6.0  # s in which it has to send some chunks: a busy machine is slow, which is no fault
_STAYS = 1.0  # s for which an arm is watched that is not to move
_REMEMBERED = 30.0  # s before a case that are kept
_EDGE = 1.05  # of a velocity limit: what the last bits of a measured velocity may exceed it by


@dataclass
class _Play:
    """One case while it is played."""

    stage: Stage
    case: Case
    begun: float
    since: float = 0.0  # of the fault
    until: float = 0.0  # when it was mended, or the node went on by itself
    log: int = 0  # length of the node's log before the fault
    to_state: float | None = None
    back: float | None = None
    rests: bool = False  # whether the arm has to be at rest before the fault is mended
    problems: list[str] = field(default_factory=list)

    def set_off(self) -> None:
        """Have the arm on its way."""
        (self.case.prepare or Stage.move)(self.stage)

    def inject(self) -> None:
        """Bring the fault about, now."""
        self.log = len(self.stage.policy.output)
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
        return '\n'.join([*said, *shown, self.stage.policy.output[self.log :]])

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
            return rest is not None and now - self.since - rest > _MOMENT

        stage.until(is_at_rest, _TO_REST)

    def comes_back(self) -> None:
        """Wait until the policy runs again."""
        stage, before = self.stage, self.stage.published
        mended = time.monotonic()
        if stage.until(
            lambda: stage.state == State.RUNNING.name and stage.published > before, PATIENCE
        ):
            self.back = time.monotonic() - mended
        else:
            self.complain(f'it does not go on: {stage.state}: {stage.reason}')

    def result(self) -> Result:
        """What came of it."""
        stage, until = self.stage, self.until or time.monotonic()
        motion = stage.record.motion(self.since, until)
        limits = [stage.contract.limits[name].velocity for name in stage.contract.action.names]
        peak = fastest(motion, limits)
        moves_on = self.case.expect is Expect.GOES_ON
        rest = time_to_rest(motion, self.since) if self.since and not moves_on else None
        if self.rests and rest is None:
            self.complain('the arm still moves')
        if peak.share > _EDGE:
            self.complain(f'{peak.joint} moves at {peak.speed:.2f}, beyond its limit')
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
            tuple(self.problems),
            distinct(said), distinct(shown), self.to_state, rest, peak.speed, peak.joint,
            peak.share, self.back, time.monotonic() - self.begun,
            max(0.0, peak.time - self.since),
        )


def play(stage: Stage, case: Case) -> Result:
    """Play a case; the stage is healthy afterwards."""
    played = _Play(stage, case, time.monotonic())
    stage.record.forget(played.begun - _REMEMBERED)
    try:
        _PLAYS[case.expect](played)
    except QuantVLAError as error:
        played.complain(str(error))
    result = played.result()
    _heal(played)
    return result


def _holds(played: _Play) -> None:
    """The arm is on its way, is brought to rest, and, by itself or not, comes back."""
    stage, case = played.stage, played.case
    played.set_off()
    played.inject()
    states = (case.state,) if case.state else _STATES[case.expect]

    def named() -> bool:
        played.to_state = time_to_state(stage.record.said, played.since, states, case.says)
        return played.to_state is not None

    if not stage.until(named, case.within):
        played.complain(
            f'within {case.within:g} s: expected {" or ".join(states)} with '
            f'{" or ".join(map(repr, case.says))}, found {stage.state}: {stage.reason}'
        )
    if case.passes:
        _passes(played)
    else:
        _lasts(played)
    if case.check is not None:
        played.complain(case.check(stage))
    played.mend()
    if case.expect is Expect.STOPS:
        _revive(played)
    else:
        played.comes_back()


def _lasts(played: _Play) -> None:
    """What lasts is held against the arm, and said, until it is mended."""
    case, begun = played.case, time.monotonic()
    if case.expect is not Expect.LEAVES and not case.quiet:
        played.wait_for_rest()
        played.complain(_held(played))
    level = case.level or ('WARN' if case.expect is Expect.LEAVES else 'ERROR')
    if not played.stage.until(lambda: _reported(played, begun, level), _REPORT):
        played.complain(f'/diagnostics does not say it with the level {level}')


def _passes(played: _Play) -> None:
    """The arm is at rest until the node goes on by itself, which may be before a report."""
    stage, states = played.stage, (State.RUNNING.name,)
    hold = played.since + (played.to_state or 0.0)
    if not stage.until(
        lambda: time_to_state(stage.record.said, hold, states) is not None, PATIENCE
    ):
        played.complain(f'it does not go on: {stage.state}: {stage.reason}')
        return
    played.rests = True
    played.until = hold + (time_to_state(stage.record.said, hold, states) or 0.0)


def _held(played: _Play) -> str:
    """That the arm was brought to rest, and did not merely run out of its chunk."""
    now, lasts = time.monotonic(), played.stage.record.lasts()
    rest = time_to_rest(played.stage.record.motion(played.since, now), played.since)
    if played.to_state is None or rest is None or lasts is None:
        return ''
    if rest <= played.to_state + _MOMENT:
        return ''  # it stood when the node said so
    return '' if lasts <= _BRAKES else f'no hold was sent: the last command lasts {lasts:.2f} s'


def _reported(played: _Play, begun: float, level: str) -> bool:
    """Whether the node's own entry in /diagnostics has had that level since `begun`."""
    return any(
        at >= begun and name == 'policy: state' and found == level
        for at, name, found, _ in played.stage.record.diagnostics
    )


def _revive(played: _Play) -> None:
    """A person's part: nothing moves before it, and it helps."""
    stage = played.stage
    since = time.monotonic()
    stage.watch(_STAYS)
    moved = fastest(
        stage.record.motion(since, time.monotonic()), [1.0] * len(stage.contract.action.names)
    )
    if moved.speed > STILL:
        played.complain(f'{moved.joint} moves at {moved.speed:.2f} before anybody let it')
    if stage.state not in (State.FAULT.name, State.INACTIVE.name):
        played.complain(f'it went on by itself: {stage.state}: {stage.reason}')
    if played.case.restarts:
        return
    if stage.state == State.FAULT.name:
        stage.operator.call(Trigger, 'policy/reset', Trigger.Request())
    if not stage.until(lambda: stage.state == State.RUNNING.name, 3.0):
        stage.transition(DEACTIVATE)
        stage.transition(ACTIVATE)
    played.comes_back()


def _goes_on(played: _Play) -> None:
    """The arm is on its way and stays so."""
    stage, case = played.stage, played.case
    played.set_off()
    before = stage.published
    played.inject()
    enough = stage.until(
        lambda: stage.published >= before + 3 and played.is_said(), max(_ENOUGH, case.within)
    )
    stage.watch(max(0.0, _GOES_ON - (time.monotonic() - played.since)))
    if not enough and not played.is_said():
        played.complain(f'nobody said {" or ".join(map(repr, case.says))}')
    if stage.published < before + 3:
        played.complain(
            f'{stage.published - before} chunks since the fault: {stage.state}: {stage.reason}'
        )
    if case.check is not None:
        played.complain(case.check(stage))
    played.mend()
    played.comes_back()


def _says(played: _Play) -> None:
    """The arm is on its way, runs out of commands, and the node says why."""
    stage, case = played.stage, played.case
    played.set_off()
    played.inject()
    if stage.until(played.is_said, case.within):
        played.to_state = time.monotonic() - played.since
    else:
        played.complain(f'nobody said {" or ".join(map(repr, case.says))}')
    played.wait_for_rest()
    played.mend()
    played.comes_back()


def _waits(played: _Play) -> None:
    """The node is activated with the fault there already."""
    stage, case = played.stage, played.case
    stage.transition(DEACTIVATE)
    stage.until(lambda: stage.record.speed() <= STILL, _TO_REST)
    if case.prepare is not None:
        case.prepare(stage)
    played.inject()
    stage.watch(_STALE)
    played.since = time.monotonic()
    if not stage.transition(ACTIVATE):
        played.complain('it could not be activated')

    def named() -> bool:
        played.to_state = time_to_state(
            stage.record.said, played.since, _STATES[case.expect], case.says
        )
        return played.to_state is not None

    if not stage.until(named, case.within):
        played.complain(
            f'expected {_STATES[case.expect][0]} with {" or ".join(map(repr, case.says))}, '
            f'found {stage.state}: {stage.reason}'
        )
    stage.watch(_STAYS)
    moved = time_to_rest(stage.record.motion(played.since, time.monotonic()), played.since)
    if moved is None or moved > 0.0:
        played.complain('the arm moved')
    played.mend()
    played.comes_back()


def _refuses(played: _Play) -> None:
    """The node is configured with the fault there already."""
    stage, case = played.stage, played.case
    stage.transition(DEACTIVATE)
    stage.transition(CLEANUP)
    played.inject()
    if stage.transition(CONFIGURE):
        played.complain('it was configured')
        stage.transition(CLEANUP)
    if not stage.until(played.is_said, case.within):
        played.complain(f'nobody said {" or ".join(map(repr, case.says))}')
    played.to_state = time.monotonic() - played.since
    played.mend()
    stage.begin()
    played.comes_back()


def _ends(played: _Play) -> None:
    """The process is told to end while the arm is on its way."""
    stage, case = played.stage, played.case
    played.set_off()
    stage.may_end = True
    played.inject()
    if not stage.until(lambda: stage.policy.status() is not None, PATIENCE):
        played.complain('the process does not end')
    else:
        played.to_state = time.monotonic() - played.since
        if stage.policy.status():
            played.complain(f'the process ended with status {stage.policy.status()}')
    played.rests = True
    stage.watch(_STAYS)
    if case.check is not None:
        played.complain(case.check(stage))
    played.mend()


_PLAYS: dict[Expect, Callable[[_Play], None]] = {
    Expect.HOLDS: _holds,
    Expect.STOPS: _holds,
    Expect.LEAVES: _holds,
    Expect.SAYS: _says,
    Expect.GOES_ON: _goes_on,
    Expect.WAITS: _waits,
    Expect.REFUSES: _refuses,
    Expect.ENDS: _ends,
}


def _heal(played: _Play) -> None:
    """Bring the stage back to a policy that runs, whatever the case has left.

    Raises:
        FaultsError: that is not possible.
    """
    stage = played.stage
    stage.mend_relays()
    if stage.setting.own_arm and (stage.arm is None or stage.arm.status() is not None):
        stage.start_arm()
    if stage.policy.status() is None and not played.case.restarts:
        try:
            stage.spoil('')
            stage.load_instead('')
            if stage.until(lambda: stage.state == State.RUNNING.name, 5.0):
                return
            stage.transition(DEACTIVATE)
            if stage.transition(ACTIVATE) or (
                stage.transition(CONFIGURE) and stage.transition(ACTIVATE)
            ):
                stage.say(stage.setting.instructions[0])
                stage.expect_running(PATIENCE)
                return
        except FaultsError:
            pass  # a new process, then
    stage.may_end = True
    stage.policy.end()
    stage.start_policy()
    stage.begin()
