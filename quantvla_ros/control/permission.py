# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Whether the policy may command now: nothing is latched, and nobody else's turn it is.

Joins `latch` and `sharing` to the one question that is asked before every look, every chunk and
many times a second in between. Knows times; knows nothing of ROS.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from quantvla_ros.contract.types import Safety
from quantvla_ros.control.latch import Latch
from quantvla_ros.control.sharing import Pause


class Others(Protocol):
    """What is known of others on the same controller; `sharing.Sharing` is one."""

    def judge(self, now: int) -> Pause | None:
        """Whether to pause at `now` ns."""

    def forget(self) -> None:
        """The clock jumped."""


class Alone:
    """Nobody else is on the controller."""

    def judge(self, now: int) -> Pause | None:
        """Never."""
        return None

    def forget(self) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Denied:
    """Why the policy may not command.

    Attributes:
        sentence: for the log, the status and /diagnostics.
        kind: the reason without its numbers.
        latched: whether only ~/reset helps.
        mute: whether the arm moves on another's behalf, so that a hold would disturb it.
    """

    sentence: str
    kind: str
    latched: bool
    mute: bool


class Permission:
    """See the module.

    Args:
        safety: of the contract.
        others: on the same controller.

    Attributes:
        latch: to be told what goes wrong.
    """

    def __init__(self, safety: Safety, others: Others | None = None) -> None:
        self.latch = Latch(safety)
        self._others = others or Alone()

    def judge(self, now: int) -> Denied | None:
        """None where the policy may command at `now` ns."""
        latched = self.latch.latched
        if latched is not None:
            return Denied(latched.sentence, latched.reason.name, latched=True, mute=False)
        pause = self._others.judge(now)
        if pause is None:
            return None
        return Denied(pause.sentence, pause.reason.name, latched=False, mute=pause.mute)

    def forget(self) -> None:
        """The clock jumped: what is known of others has times of the old clock."""
        self._others.forget()
