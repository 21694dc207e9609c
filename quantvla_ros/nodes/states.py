# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The states of the policy node and why it is in one: one sentence each.

The same words go to the log, to PolicyStatus and to /diagnostics. Knows nothing of ROS.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from quantvla_ros.control.guard import Reason


class State(Enum):
    """As in PolicyStatus.msg, by name."""

    UNCONFIGURED = 0
    INACTIVE = 1
    WAITING = 2
    RUNNING = 3
    HOLDING = 4
    FAULT = 5
    FINALIZED = 6
    PAUSED = 7


class Cause(Enum):
    """Why the node is in its state."""

    NO_POLICY = 'no policy is loaded'
    NOT_ACTIVE = 'loaded and warmed up; nothing is sent until the node is activated'
    FIRST_INPUTS = 'waits for the first fresh inputs; nothing moves'
    PUBLISHING = 'chunks are published'
    INPUTS = 'the arm holds, the inputs cannot be used'
    RECOVERING = 'the arm holds until the inputs have been healthy for the recovery time'
    CHUNK_DROPPED = 'the arm holds, the last chunk was dropped'
    CHUNK_ENDED = 'the arm stands at the end of its chunk, the policy is slower than a chunk lasts'
    WATCHDOG = 'nothing is sent until a watchdog is content again'
    REFUSED = 'the arm holds, the controller refused a command or gave it up'
    CLOCK_JUMP = 'the arm holds, the clock jumped'
    INFERENCE_FAILED = 'the policy failed; deactivate and activate to try again'
    PAUSED = 'the policy leaves the arm to others'
    LATCHED = 'nothing is sent until ~/reset'
    STOPPED = 'the node is shutting down'


@dataclass
class Counts:
    """What has happened since configure.

    Attributes:
        inferences: finished ones.
        published: chunks sent.
        dropped: chunks by the reason they were not sent for.
        superseded: chunks that were finished after the arm had been told to hold.
        refused: inferences that were due but had no usable inputs.
        holds: holds sent.
        ended: chunks that ended before the next one came.
    """

    inferences: int = 0
    published: int = 0
    dropped: dict[Reason, int] = field(default_factory=lambda: dict.fromkeys(Reason, 0))
    superseded: int = 0
    refused: int = 0
    holds: int = 0
    ended: int = 0


@dataclass(frozen=True)
class Status:
    """State, cause and, where there is one, the detail with its numbers.

    Two are equal when state, cause and `kind` are: an age that grows is no new status.
    """

    state: State = State.UNCONFIGURED
    cause: Cause = Cause.NO_POLICY
    detail: str = field(default='', compare=False)
    kind: str = ''  # what the detail is about, without its numbers

    @property
    def sentence(self) -> str:
        """The cause, with its detail."""
        return f'{self.cause.value}: {self.detail}' if self.detail else self.cause.value
