# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What stops the arm until a person says otherwise.

A camera that was silent for a moment comes back by itself, and so may the arm. A policy that gives
no numbers again and again, chunks that are dropped one after the other, an emergency stop, a GPU
that failed: these latch, and only `reset` clears them, once their cause is gone. Knows counts;
knows nothing of ROS, times or arrays.
"""
from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from quantvla_ros.contract.types import Safety
from quantvla_ros.control.guard import Reason


class LatchReason(Enum):
    """Why nothing is sent until ~/reset, one sentence each."""

    EMERGENCY_STOP = 'the emergency stop is pressed, or was and has not been reset'
    NOT_FINITE = 'the policy returned values that are not finite numbers several times in a row'
    REJECTIONS = 'too many chunks in a row were dropped'
    CONTROLLER = 'the controller refused or aborted too many commands in a row'
    DEVICE = 'the device that the policy runs on failed; the process has to be started again'


# What no reset mends.
_FATAL = frozenset({LatchReason.DEVICE})


@dataclass(frozen=True)
class Latched:
    """A latch that is shut.

    Attributes:
        reason: why.
        detail: the number or the sentence it is about.
    """

    reason: LatchReason
    detail: str = ''

    @property
    def sentence(self) -> str:
        """The reason with its detail."""
        return f'{self.reason.value}: {self.detail}' if self.detail else self.reason.value


class Latch:
    """Counts what goes wrong in a row, and stays shut once it is too much.

    Args:
        safety: how many in a row.
    """

    def __init__(self, safety: Safety) -> None:
        self._safety = safety
        self._not_finite = self._dropped = self._refused = 0
        self._pressed = False
        self._latched: Latched | None = None

    @property
    def latched(self) -> Latched | None:
        """Why nothing may be sent; None where it may."""
        return self._latched

    def passed(self) -> None:
        """A chunk was sent."""
        self._not_finite = self._dropped = 0

    def dropped(self, reason: Reason, sentence: str) -> None:
        """A chunk was dropped.

        Args:
            reason: of the guard. Lateness says that the policy is slow, not that it is lost: it
                does not count.
            sentence: of the verdict.
        """
        if reason is Reason.TOO_LATE:
            return
        self._dropped += 1
        self._not_finite = self._not_finite + 1 if reason is Reason.NOT_FINITE else 0
        if self._not_finite >= self._safety.not_finite_latch:
            self._shut(LatchReason.NOT_FINITE, f'{self._not_finite} times, the last: {sentence}')
        elif self._dropped >= self._safety.rejection_latch:
            self._shut(LatchReason.REJECTIONS, f'{self._dropped}, the last: {sentence}')

    def accepted(self) -> None:
        """The controller took a command."""
        self._refused = 0

    def refused(self, sentence: str) -> None:
        """The controller refused or aborted a command, in its own words."""
        self._refused += 1
        if self._refused >= self._safety.rejection_latch:
            self._shut(LatchReason.CONTROLLER, f'{self._refused}, the last: {sentence}')

    def emergency(self, pressed: bool) -> None:
        """What the emergency stop's topic says: it latches when pressed, not when released."""
        self._pressed = pressed
        if pressed:
            # Over any other reason: it is a person's word.
            self._latched = Latched(LatchReason.EMERGENCY_STOP)

    def device_failed(self, sentence: str) -> None:
        """The device is lost to this process, as after an error of CUDA."""
        self._shut(LatchReason.DEVICE, sentence)

    def reset(self) -> str | None:
        """Open the latch, and start to count anew.

        Returns:
            None where it is open now, the reason why not otherwise.
        """
        if self._pressed:
            return 'the emergency stop is still pressed; release it first'
        if self._latched is not None and self._latched.reason in _FATAL:
            return f'{self._latched.sentence}; a reset cannot mend that'
        self._not_finite = self._dropped = self._refused = 0
        self._latched = None
        return None

    def _shut(self, reason: LatchReason, detail: str) -> None:
        if self._latched is None or reason in _FATAL:
            self._latched = Latched(reason, detail)
