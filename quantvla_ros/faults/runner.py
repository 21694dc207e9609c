# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Plays one case on a stage and judges it by what was recorded.

What a case expects decides how it is played: one function each.
"""
from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from std_srvs.srv import Trigger

from quantvla_ros.errors import QuantVLAError
from quantvla_ros.faults.case import Case, Expect, FaultsError
from quantvla_ros.faults.measure import STILL, fastest, time_to_rest, time_to_state
from quantvla_ros.faults.played import EDGE, MOMENT, TO_REST, Played
from quantvla_ros.faults.results import Result
from quantvla_ros.faults.stage import (
    ACTIVATE,
    CLEANUP,
    CONFIGURE,
    DEACTIVATE,
    PATIENCE,
    Stage,
)
from quantvla_ros.faults.stalls import Stalls
from quantvla_ros.nodes.states import State

_STATES: dict[Expect, tuple[str, ...]] = {
    Expect.HOLDS: (State.HOLDING.name,),
    Expect.STOPS: (State.FAULT.name,),
    Expect.LEAVES: (State.PAUSED.name,),
    Expect.WAITS: (State.WAITING.name,),
}
_BRAKES = 0.6  # s; a hold is shorter, a chunk is longer
_REPORT = 1.5  # s in which /diagnostics, at 1 Hz, has to say it
_STALE = 0.6  # s after which what came before a fault is fresh no longer
_GOES_ON = 1.5  # s for which a policy is watched that is not to mind, at least
_ENOUGH = 6.0  # s in which it has to send some chunks: a busy machine is slow, which is no fault
_STAYS = 1.0  # s for which an arm is watched that is not to move
_REMEMBERED = 30.0  # s before a case that are kept


class StageLost(FaultsError):
    """After a case nothing helped; another stage is needed.

    Attributes:
        result: of the case, which has failed.
    """

    def __init__(self, result: Result) -> None:
        super().__init__(result.problems[-1])
        self.result = result


def play(stage: Stage, case: Case) -> Result:
    """Play a case; the stage is healthy afterwards.

    Raises:
        StageLost: it is not.
    """
    played = Played(stage, case, time.monotonic())
    stage.record.forget(played.begun - _REMEMBERED)
    stage.operator.chunks.clear()  # which it keeps for those who ask for all of them
    try:
        stage.use(case.variant)
        _PLAYS[case.expect](played)
    except QuantVLAError as error:
        played.complain(str(error))
    result = played.result()
    try:
        _heal(played)
    except QuantVLAError as error:
        problems = (*result.problems, f'the policy could not be made to run again: {error}')
        raise StageLost(replace(result, problems=problems)) from error
    return result


def play_fairly(stage: Stage, case: Case, stalls: Stalls) -> Result:
    """Play a case, and once more where it failed while the machine stood still.

    Commands that ask for more than a limit are no matter of time: they are not excused.

    Raises:
        StageLost: the stage is not healthy afterwards.
    """
    begun = time.monotonic()
    result = play(stage, case)
    stood_still = stalls.longest(begun)
    if result.passed or not stood_still or (result.asked or 0.0) > EDGE:
        return result
    return replace(play(stage, case), excused=result.problems, stood_still=stood_still)


def _holds(played: Played) -> None:
    """The arm is on its way, is brought to rest, and, by itself or not, comes back."""
    stage, case = played.stage, played.case
    played.set_off()
    played.inject()
    states = (case.state,) if case.state else _STATES[case.expect]

    def named() -> bool:
        played.to_state = time_to_state(stage.record.said, played.since, states, case.says)
        return played.to_state is not None

    if not stage.until(named, case.within):
        played.missed = True
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


def _lasts(played: Played) -> None:
    """What lasts is held against the arm, and said, until it is mended."""
    case, begun = played.case, time.monotonic()
    if case.expect is not Expect.LEAVES and not case.quiet:
        played.wait_for_rest()
        played.complain(_held(played))
    level = case.level or ('WARN' if case.expect is Expect.LEAVES else 'ERROR')
    if not played.stage.until(lambda: _reported(played, begun, level), _REPORT):
        played.complain(f'/diagnostics does not say it with the level {level}')


def _passes(played: Played) -> None:
    """The arm is at rest until the node goes on by itself, which may be before a report."""
    stage, states = played.stage, (State.RUNNING.name,)
    hold = played.since + (played.to_state or 0.0)
    if not stage.until(
        lambda: time_to_state(stage.record.said, hold, states) is not None, PATIENCE
    ):
        played.complain(f'it does not go on: {stage.state}: {stage.reason}')
        return
    played.rests = True
    # Less a moment: the status is said when the next chunk has been sent.
    played.until = hold + (time_to_state(stage.record.said, hold, states) or 0.0) - MOMENT


def _held(played: Played) -> str:
    """That the arm was brought to rest, and did not merely run out of its chunk."""
    now, lasts = time.monotonic(), played.stage.record.lasts()
    rest = time_to_rest(played.stage.record.motion(played.since, now), played.since)
    if played.to_state is None or rest is None or lasts is None:
        return ''
    if rest <= played.to_state + MOMENT:
        return ''  # it stood when the node said so
    if lasts <= _BRAKES:
        return ''
    played.missed = True
    return f'no hold was sent: the last command lasts {lasts:.2f} s'


def _reported(played: Played, begun: float, level: str) -> bool:
    """Whether the node's own entry in /diagnostics has had that level since `begun`."""
    return any(
        at >= begun and name == 'policy: state' and found == level
        for at, name, found, _ in played.stage.record.diagnostics
    )


def _revive(played: Played) -> None:
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


def _goes_on(played: Played) -> None:
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


def _says(played: Played) -> None:
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


def _waits(played: Played) -> None:
    """The node is activated with the fault there already."""
    stage, case = played.stage, played.case
    stage.transition(DEACTIVATE)
    stage.until(lambda: stage.record.speed() <= STILL, TO_REST)
    if case.prepare is not None:
        case.prepare(stage)
    played.inject()
    stage.watch(_STALE)
    played.since = time.monotonic()
    states = (case.state,) if case.state else _STATES[case.expect]
    active = stage.transition(ACTIVATE)
    if active == (case.state == State.INACTIVE.name):
        played.complain('it was activated' if active else 'it could not be activated')

    def named() -> bool:
        played.to_state = time_to_state(stage.record.said, played.since, states, case.says)
        return played.to_state is not None

    if not stage.until(named, case.within):
        played.complain(
            f'expected {states[0]} with {" or ".join(map(repr, case.says))}, '
            f'found {stage.state}: {stage.reason}'
        )
    stage.watch(_STAYS)
    moved = time_to_rest(stage.record.motion(played.since, time.monotonic()), played.since)
    if moved is None or moved > 0.0:
        played.complain('the arm moved')
    played.mend()
    played.comes_back()


def _refuses(played: Played) -> None:
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


def _ends(played: Played) -> None:
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


_PLAYS: dict[Expect, Callable[[Played], None]] = {
    Expect.HOLDS: _holds,
    Expect.STOPS: _holds,
    Expect.LEAVES: _holds,
    Expect.SAYS: _says,
    Expect.GOES_ON: _goes_on,
    Expect.WAITS: _waits,
    Expect.REFUSES: _refuses,
    Expect.ENDS: _ends,
}


def _heal(played: Played) -> None:
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
