# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Faults of goals: what a node makes of them that is busy, inactive, or told to stop."""
from __future__ import annotations

from typing import Any

from action_msgs.msg import GoalStatus
from rclpy.action import ActionClient

from quantvla_ros.action import RunPolicy
from quantvla_ros.faults.case import Case, Expect, FaultsError
from quantvla_ros.faults.stage import ACTIVATE, DEACTIVATE, MOVING, PATIENCE, Stage

_NAMES = {
    getattr(GoalStatus, name): name.removeprefix('STATUS_')
    for name in ('STATUS_SUCCEEDED', 'STATUS_ABORTED', 'STATUS_CANCELED')
}


def _client(stage: Stage) -> ActionClient:
    """The stage's client of the action."""
    if stage.tasks is None:
        stage.tasks = stage.made(lambda: ActionClient(stage.node, RunPolicy, 'policy/run'))
    if not stage.until(stage.tasks.server_is_ready, PATIENCE):
        raise FaultsError('the node has no action ~/run')
    return stage.tasks


def _done(stage: Stage, future: Any) -> Any:
    if not stage.until(future.done, PATIENCE):
        raise FaultsError('the action ~/run does not answer')
    return future.result()


def _send(stage: Stage) -> Any:
    """Send a goal with the command that is not in force; its handle, which may be a refusal."""
    said = stage.record.status.instruction if stage.record.status else ''
    words = next(words for words in stage.setting.instructions if words != said)
    handle = _done(stage, _client(stage).send_goal_async(RunPolicy.Goal(instruction=words)))
    stage.goals.append(handle)
    return handle


def _goal(stage: Stage) -> None:
    """Have the arm on its way with a goal."""
    stage.move()
    if not _send(stage).accepted:
        raise FaultsError('the goal was refused')
    if not stage.until(lambda: stage.record.speed() > MOVING, 4.0):
        raise FaultsError('the arm does not move for the goal')


def _second(stage: Stage) -> None:
    _send(stage)


def _is_refused(stage: Stage) -> str:
    return 'the goal was accepted' if stage.goals[-1].accepted else ''


def _cancel(stage: Stage) -> None:
    _done(stage, stage.goals[-1].cancel_goal_async())


def _ends_as(*wanted: str) -> Any:
    def check(stage: Stage) -> str:
        result = _done(stage, stage.goals[0].get_result_async())
        name = _NAMES.get(result.status, str(result.status))
        if name in wanted and result.result.reason:
            return ''
        return f'expected the goal {" or ".join(wanted)}, found {name}: {result.result.reason}'

    return check


def _deactivate(stage: Stage) -> None:
    stage.transition(DEACTIVATE)


def _deactivate_and_send(stage: Stage) -> None:
    stage.transition(DEACTIVATE)
    _send(stage)


def _go_on(stage: Stage) -> None:
    """End what still runs; active, with a command by topic."""
    for handle in stage.goals:
        if handle.accepted:
            _done(stage, handle.cancel_goal_async())
    stage.goals.clear()
    if stage.state == 'INACTIVE':
        stage.transition(ACTIVATE)
    stage.until(lambda: stage.state in ('PAUSED', 'WAITING', 'RUNNING'), PATIENCE)
    stage.say(stage.setting.instructions[0])


def _stale_cancel(stage: Stage) -> None:
    """A goal is cancelled, another one is sent, and the first one is cancelled once more."""
    _cancel(stage)
    if not _send(stage).accepted:
        raise FaultsError('the second goal was refused')
    _done(stage, stage.goals[0].cancel_goal_async())


CASES: tuple[Case, ...] = (
    Case(
        42, 'deactivated while a goal runs', 'hold; the goal is aborted, with the reason',
        Expect.HOLDS, _deactivate, _go_on, ('until the node is activated',), prepare=_goal,
        state='INACTIVE', level='OK', check=_ends_as('ABORTED'),
    ),
    Case(
        43, 'a goal is cancelled', 'hold; the goal is cancelled, and nothing else says so',
        Expect.HOLDS, _cancel, _go_on, ('cancelled',), prepare=_goal, state='PAUSED',
        level='WARN', check=_ends_as('CANCELED'),
    ),
    Case(
        43, 'a cancel that comes late, when the next goal runs', 'the next goal runs on',
        Expect.GOES_ON, _stale_cancel, _go_on, prepare=_goal,
    ),
    Case(
        44, 'a goal while another one runs', 'refused, with the reason', Expect.GOES_ON, _second,
        _go_on, ('busy with another goal',), prepare=_goal, check=_is_refused,
    ),
    Case(
        44, 'a goal for a node that is not active', 'refused, with the reason', Expect.HOLDS,
        _deactivate_and_send, _go_on, ('until the node is activated',), state='INACTIVE',
        level='OK', check=_is_refused,
    ),
)
