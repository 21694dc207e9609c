# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One aligned observation: what a policy sees at one instant, or why there is none.

Knows arrays, reasons and limits; knows nothing of messages, ROS or models.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

import numpy as np


@dataclass(frozen=True)
class Observation:
    """Camera pictures, state and command of one instant.

    Attributes:
        stamp: ns; the newest of the inputs' header stamps: the time this observation speaks of.
        images: by the model's slot ('observation.images.overhead'): [H, W, 3] uint8 RGB.
            An optional camera that has sent nothing is absent.
        state: [state] float32, the contract's `state_names` in SI units.
        instruction: the language command.
        stamps: ns by stream name, what each part was measured at.
    """

    stamp: int
    images: Mapping[str, np.ndarray]
    state: np.ndarray
    instruction: str
    stamps: Mapping[str, int] = field(default_factory=dict)


class Reason(Enum):
    """Why an input cannot be used, one sentence each: for the log, the status and /diagnostics."""

    MISSING = 'nothing has arrived yet'
    STALE = 'nothing new has arrived for longer than its freshness limit'
    LATE = 'messages arrive, but were measured longer ago than the freshness limit'
    CLOCK_SKEW = 'stamps and this clock differ: set the time, or use_sim_time, alike on both sides'
    NO_CLOCK = 'the clock stands at zero: use_sim_time is set, but nothing publishes /clock'
    ZERO_STAMP = 'the publisher leaves header.stamp at zero, so its age is unknown'
    FROZEN = 'the same picture came again and again while the arm moved: the camera is frozen'
    OUT_OF_STEP = 'two inputs were measured farther apart than the skew limit'
    OUT_OF_ORDER = 'the message is older than one that has been taken already'
    DUPLICATE = 'the message has the stamp of one that has been taken already'
    TIME_JUMP = 'time went back, as when a bag starts again: what came before is forgotten'
    UNUSABLE = 'the message cannot become part of an observation'
    NO_INSTRUCTION = 'no language command has been given'
    INSTRUCTION_REFUSED = 'the language command is empty or too long'


@dataclass(frozen=True)
class Fault:
    """One reason, with the stream it concerns and, where there is one, the number and its limit.

    Attributes:
        reason: what is wrong.
        stream: the stream's name in the contract; 'a, b' (older first) for OUT_OF_STEP.
        measured: s, what was measured; None where the reason has no number.
        limit: s, the contract's limit for it.
        detail: what exactly was expected and found, where the sentence of the reason is not enough.
    """

    reason: Reason
    stream: str
    measured: float | None = None
    limit: float | None = None
    detail: str = ''

    def __str__(self) -> str:
        text = f'{self.stream}: {self.reason.value}'
        if self.measured is not None:
            text += f' ({self.measured:.3f} s'
            text += f', limit {self.limit:.3f} s)' if self.limit is not None else ')'
        return f'{text}: {self.detail}' if self.detail else text


@dataclass(frozen=True)
class Refusal:
    """No observation can be made now, for all these reasons; never empty."""

    faults: tuple[Fault, ...]

    @property
    def reasons(self) -> frozenset[Reason]:
        """The reasons alone."""
        return frozenset(fault.reason for fault in self.faults)

    def __str__(self) -> str:
        return '; '.join(str(fault) for fault in self.faults)
