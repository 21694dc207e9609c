# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""When a goal ends, and as what: never as a success that nobody has seen."""
from __future__ import annotations

import pytest

from quantvla_ros.control.sharing import PauseReason, Sharing
from quantvla_ros.nodes.goal import Goal, Outcome
from quantvla_ros.nodes.states import State

SECOND = 10**9


def goal(limit: float | None = 2.0) -> Goal:
    return Goal('stand', None if limit is None else round(limit * SECOND), commanded=5, last=0)


def look(it: Goal, at: float, state: State = State.RUNNING, words: str = 'stand', commanded=5):
    return it.look(round(at * SECOND), state, 'the sentence', words, commanded)


@pytest.mark.parametrize('state', [State.WAITING, State.RUNNING, State.HOLDING, State.PAUSED])
def test_it_goes_on_until_its_limit_whatever_the_arm_does(state):
    it = goal()
    assert look(it, 1.9, state) is None
    ended = look(it, 2.0, state)
    assert ended is not None and ended.outcome is Outcome.TIME_LIMIT
    assert '2 s' in ended.sentence and 'nobody has said' in ended.sentence
    assert it.progress == 1.0


def test_without_a_limit_it_has_no_end_and_no_progress():
    it = goal(None)
    assert look(it, 1e6) is None and it.progress == -1.0


def test_only_somebody_s_word_makes_it_done():
    it = goal()
    it.done = True
    assert look(it, 10.0).outcome is Outcome.DONE  # even after its time: the word is the truth


def test_a_cancelled_one_is_cancelled_also_in_a_fault():
    it = goal()
    it.cancelled = True
    assert look(it, 0.1, State.FAULT).outcome is Outcome.CANCELED


@pytest.mark.parametrize('state', [State.UNCONFIGURED, State.INACTIVE, State.FINALIZED])
def test_a_node_that_is_not_active_ends_it(state):
    ended = look(goal(), 0.1, state)
    assert ended.outcome is Outcome.STOPPED and 'the sentence' in ended.sentence


def test_a_fault_ends_it_with_its_reason():
    ended = look(goal(), 0.1, State.FAULT)
    assert ended.outcome is Outcome.FAULT and 'the sentence' in ended.sentence


def test_other_words_replace_it_and_the_same_words_do_not():
    it = goal()
    assert look(it, 0.1, commanded=6) is None
    assert look(it, 0.2, words='sit', commanded=7).outcome is Outcome.REPLACED
    assert not Outcome.REPLACED.rests and Outcome.TIME_LIMIT.rests


def test_a_clock_that_goes_back_takes_no_time_away_and_adds_none():
    it = goal()
    look(it, 1.5)
    assert look(it, -100.0) is None and it.elapsed == 1.5 * SECOND
    assert look(it, -99.6) is None
    assert look(it, -99.4).outcome is Outcome.TIME_LIMIT


def test_after_a_task_the_arm_is_braked_and_rests_until_told_otherwise():
    sharing = Sharing(0.5)
    sharing.rest('cancelled')
    pause = sharing.judge(0)
    assert pause.reason is PauseReason.TASK_ENDED and not pause.mute
    assert 'cancelled' in pause.sentence
    sharing.command(10 * SECOND)  # another publisher moves the arm: nothing of ours may disturb it
    assert sharing.judge(SECOND).mute
    sharing.forget()
    sharing.rest('')
    assert sharing.judge(20 * SECOND) is None
