# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A policy and others on one controller: who yields, for how long, and with what last word."""
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantvla_ros.control.sharing import PauseReason, Sharing

S = 1_000_000_000
MINE, THEIRS = b'mine', b'theirs'


@pytest.fixture
def sharing() -> Sharing:
    return Sharing(quiet=0.5)


def test_alone_on_its_controller_the_policy_is_not_paused(sharing):
    sharing.sent_goal(MINE)
    sharing.goals([MINE])
    assert sharing.judge(0) is None


def test_a_goal_of_another_client_pauses_without_a_word_and_lets_go_on_after_it(sharing):
    sharing.goals([MINE, THEIRS])
    sharing.sent_goal(MINE)
    sharing.goals([MINE, THEIRS])
    pause = sharing.judge(10 * S)
    assert pause.reason is PauseReason.OTHER_GOAL and '1 goal' in pause.sentence
    assert pause.mute  # a hold would break off the other's motion
    sharing.goals([])
    assert sharing.judge(10 * S + S // 4).reason is PauseReason.SETTLING
    assert sharing.judge(10 * S + S // 2) is None


def test_a_request_pauses_with_a_hold_until_it_is_taken_back(sharing):
    sharing.ask(True)
    pause = sharing.judge(0)
    assert pause.reason is PauseReason.ASKED and not pause.mute
    assert sharing.judge(1000 * S) == pause
    sharing.ask(False)
    assert sharing.judge(1000 * S) is None


def test_a_request_does_not_break_off_what_another_commands(sharing):
    sharing.goals([THEIRS])
    sharing.ask(True)
    assert sharing.judge(0).mute
    sharing.goals([])
    assert sharing.judge(S // 4).mute
    assert sharing.judge(S).reason is PauseReason.ASKED


def test_another_publishers_trajectory_pauses_until_its_end(sharing):
    sharing.command(end=3 * S)
    sharing.command(end=2 * S)  # an earlier end does not shorten it
    assert sharing.judge(1 * S).reason is PauseReason.OTHER_COMMAND
    assert sharing.judge(3 * S - 1).mute
    assert sharing.judge(3 * S).reason is PauseReason.SETTLING
    assert sharing.judge(3 * S + S // 2) is None


def test_our_goal_is_ours_also_long_after_it_was_sent_and_goals_do_not_pile_up(sharing):
    for number in range(1000):
        goal = number.to_bytes(16, 'big')
        sharing.sent_goal(goal)
        sharing.goals([goal])
        assert sharing.judge(number * S) is None
    assert len(sharing._own) <= 200


def test_after_a_jump_of_the_clock_nothing_old_pauses(sharing):
    sharing.command(end=900 * S)
    sharing.goals([THEIRS])
    sharing.judge(800 * S)
    sharing.forget()
    assert sharing.judge(1 * S) is None


@settings(deadline=None)
@given(st.lists(st.tuples(
    st.sampled_from(['ask', 'release', 'goal', 'no goal', 'command', 'wait']),
    st.integers(0, 2 * S),
), max_size=40))
def test_the_policy_never_commands_while_another_does_nor_while_it_was_told_to_pause(events):
    sharing, now = Sharing(quiet=0.5), 0
    asked, goals, until = False, False, -1
    for event, wait in events:
        if event in ('ask', 'release'):
            asked = event == 'ask'
            sharing.ask(asked)
        elif event in ('goal', 'no goal'):
            goals = event == 'goal'
            sharing.goals([THEIRS] if goals else [])
        elif event == 'command':
            until = max(until, now + wait)
            sharing.command(now + wait)
        else:
            now += wait
        pause = sharing.judge(now)
        if asked or goals or now < until:
            assert pause is not None
        if goals or now < until:
            assert pause.mute
    # And it always goes on in the end.
    sharing.ask(False)
    sharing.goals([])
    sharing.judge(max(now, until))
    assert sharing.judge(max(now, until) + 10 * S) is None
