# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Whose turn it is where a policy shares one controller with others: MoveIt, a person, a script.

The policy is the one that yields. It pauses when it is told to, while a goal of another client runs
on the controller, and while another publisher's trajectory runs that came over the command topic;
it goes on by itself once the others have been quiet for a while, unless it was told to pause.

Who was told to pause brakes the arm. Who yields to another's motion must send nothing at all: a
hold would break off that very motion. Knows times and counts; knows nothing of ROS.
"""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum


class PauseReason(Enum):
    """Why the policy does not command, one sentence each."""

    ASKED = 'paused on request; ~/pause with false lets it go on'
    TASK_ENDED = 'the arm holds until the next command or goal, the last goal has ended'
    OTHER_GOAL = "another client's goal runs on the same controller"
    OTHER_COMMAND = "another publisher's trajectory runs on the same controller"
    SETTLING = 'the other commands have ended; the arm is left alone a moment longer'


@dataclass(frozen=True)
class Pause:
    """That the policy is not to command.

    Two are equal where their reasons are: a count that changes is no new pause.

    Attributes:
        reason: why.
        detail: who, in words.
        mute: send nothing at all, for the arm moves on another's behalf; else bring it to rest.
    """

    reason: PauseReason
    detail: str = field(default='', compare=False)

    @property
    def mute(self) -> bool:
        """Whether a hold would disturb another's motion."""
        return self.reason not in (PauseReason.ASKED, PauseReason.TASK_ENDED)

    @property
    def sentence(self) -> str:
        """The reason with its detail."""
        return f'{self.reason.value}: {self.detail}' if self.detail else self.reason.value


class Sharing:
    """Decides whether the policy pauses.

    Args:
        quiet: s for which the others must have been quiet before the policy goes on.
    """

    def __init__(self, quiet: float) -> None:
        self._quiet = round(quiet * 1e9)
        self._asked = False
        self._rest = ''
        self._goals: frozenset[bytes] = frozenset()
        self._own: dict[bytes, None] = {}  # in the order of their sending
        self._busy_until: int | None = None  # ns; what another publisher sent runs until then
        self._quiet_since: int | None = None

    def ask(self, paused: bool) -> None:
        """A person or a program asks for a pause, or for its end."""
        self._asked = paused

    def rest(self, why: str) -> None:
        """A task has ended, `why` says how; '' once there is another command."""
        self._rest = why

    def sent_goal(self, goal: bytes) -> None:
        """One of ours, to be told before it can be seen by `goals`."""
        self._own[goal] = None
        while len(self._own) > _REMEMBERED:
            del self._own[next(iter(self._own))]

    def goals(self, active: Iterable[bytes]) -> None:
        """All goals that run on the controller now, ours among them."""
        self._goals = frozenset(active) - self._own.keys()

    def command(self, end: int) -> None:
        """Another publisher sent a trajectory that lasts until `end` ns."""
        self._busy_until = max(end, self._busy_until or end)

    def forget(self) -> None:
        """The clock jumped, or the controller is gone: nothing is known of the others any more."""
        self._goals = frozenset()
        self._busy_until = self._quiet_since = None

    def judge(self, now: int) -> Pause | None:
        """Whether to pause now, and why.

        Args:
            now: ns.
        """
        busy = self._busy(now)
        if busy is not None:
            self._quiet_since = now
        settling = self._quiet_since is not None and 0 <= now - self._quiet_since < self._quiet
        if busy is not None:
            return busy
        if settling:
            # Even where a pause was asked for: what was commanded last is not ours to break off.
            return Pause(PauseReason.SETTLING)
        self._quiet_since = None
        if self._asked:
            return Pause(PauseReason.ASKED)
        return Pause(PauseReason.TASK_ENDED, self._rest) if self._rest else None

    def _busy(self, now: int) -> Pause | None:
        if self._goals:
            count = len(self._goals)
            return Pause(PauseReason.OTHER_GOAL, f'{count} goal{"s" if count > 1 else ""}')
        if self._busy_until is None or now >= self._busy_until:
            self._busy_until = None
            return None
        return Pause(
            PauseReason.OTHER_COMMAND, f'for {(self._busy_until - now) * 1e-9:.1f} s more'
        )


_REMEMBERED = 200  # goals; a controller's list of them is shorter
