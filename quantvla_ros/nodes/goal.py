# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One goal of the action RunPolicy, from its acceptance to its end.

Says when it ends and how; a policy cannot know whether it has done its task, so nothing here takes
time that has passed, or an arm that stands, for success. Knows states and times; knows nothing of
ROS.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from quantvla_ros.nodes.states import State

_ACTIVE = (State.WAITING, State.RUNNING, State.HOLDING, State.PAUSED)


class Outcome(Enum):
    """How a goal ends, one sentence each. By name as in RunPolicy.action."""

    DONE = 'the task is done, as ~/task_done was told'
    TIME_LIMIT = 'the time limit was reached; nobody has said whether the task is done'
    CANCELED = 'cancelled'
    STOPPED = 'the node is not active any more'
    FAULT = 'nothing is sent any more'
    REPLACED = 'another command came on the language topic, and the arm follows that one'

    @property
    def rests(self) -> bool:
        """Whether the arm holds until the next command; else it goes on, after another one."""
        return self is not Outcome.REPLACED


@dataclass(frozen=True)
class Ended:
    """The end of a goal.

    Attributes:
        outcome: how.
        detail: the fault, the number, the words.
    """

    outcome: Outcome
    detail: str = ''

    @property
    def sentence(self) -> str:
        """The outcome with its detail."""
        return f'{self.outcome.value}: {self.detail}' if self.detail else self.outcome.value


@dataclass
class Goal:
    """A goal that runs.

    Attributes:
        instruction: the command, as the policy reads it.
        limit: ns; None without one.
        commanded: ns; when the command in force was given. A later one is another's.
        last: ns; when it was looked at last.
        elapsed: ns since acceptance. A clock that goes back takes nothing of it away.
        done: whether somebody said that the task is done.
        cancelled: whether somebody asked to cancel.
    """

    instruction: str
    limit: int | None
    commanded: int
    last: int
    elapsed: int = 0
    done: bool = field(default=False, init=False)
    cancelled: bool = field(default=False, init=False)

    @property
    def progress(self) -> float:
        """Share of the time limit that is used; -1 without one."""
        if self.limit is None:
            return -1.0
        return min(self.elapsed / self.limit, 1.0)

    def look(
        self, now: int, state: State, sentence: str, instruction: str | None, commanded: int | None
    ) -> Ended | None:
        """Whether it ends at `now` ns.

        Args:
            state, sentence: of the node.
            instruction, commanded: the command in force, and when it was given, ns.
        """
        self.elapsed += max(0, now - self.last)
        self.last = now
        # What a person asked for first; then what ends it anyway; time last.
        if self.done:
            return Ended(Outcome.DONE)
        if self.cancelled:
            return Ended(Outcome.CANCELED)
        if state is State.FAULT:
            return Ended(Outcome.FAULT, sentence)
        if state not in _ACTIVE:
            return Ended(Outcome.STOPPED, sentence)
        if commanded is not None and commanded != self.commanded:
            if instruction != self.instruction:
                return Ended(Outcome.REPLACED, repr(instruction))
            self.commanded = commanded  # the same words once more
        if self.limit is not None and self.elapsed >= self.limit:
            return Ended(Outcome.TIME_LIMIT, f'{self.limit * 1e-9:g} s')
        return None
