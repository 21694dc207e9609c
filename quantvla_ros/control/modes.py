# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How chunks follow each other: the four schedules, and the numbers that belong to them.

Knows names and numbers; knows nothing of times that pass (see `schedule`), ROS or models.
"""
from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from quantvla_ros.errors import ContractError


class Mode(Enum):
    """A schedule, one sentence each."""

    SYNC = 'infer, run the chunk to a stop, look again: the arm stands while the policy thinks'
    ASYNC = 'infer while the chunk runs, in time for its end; the new chunk takes over in motion'
    ENSEMBLE = 'infer at every period; rows of the newest chunks for one instant are averaged'
    RTC = 'as async, and the new chunk is drawn to the rows of the old one that still run'

    @classmethod
    def named(cls, name: str) -> Mode:
        """The mode of a parameter's value.

        Raises:
            ContractError: there is none of that name.
        """
        for mode in cls:
            if mode.name.lower() == name:
                return mode
        known = ', '.join(mode.name.lower() for mode in cls)
        raise ContractError(f'schedule: expected one of {known}, found {name!r}')


@dataclass(frozen=True)
class Scheduling:
    """Settings of a schedule.

    Attributes:
        mode: which.
        percentile: of the measured delays, that a chunk must still last when the next look begins.
        margin: s on top of it.
        ensemble_decay: m of the weights exp(-m i), i = 0 for the OLDEST chunk (as published: Zhao
            et al., arXiv 2304.13705, section IV.B): a larger m trusts the oldest more.
        ensemble_chunks: chunks that are averaged at most, the new one among them.
    """

    mode: Mode = Mode.ASYNC
    percentile: float = 95.0
    margin: float = 0.05
    ensemble_decay: float = 0.01
    ensemble_chunks: int = 8

    def __post_init__(self) -> None:
        for name, low, high in (
            ('percentile', 50.0, 100.0),
            ('margin', 0.0, 2.0),
            ('ensemble_decay', 0.0, 10.0),
            ('ensemble_chunks', 1, 64),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ContractError(
                    f'schedule: {name}: expected {low} to {high}, found {value}; correct the '
                    f'parameter'
                )


ASYNC = Scheduling()
