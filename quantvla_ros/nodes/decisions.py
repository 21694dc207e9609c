# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a supervisor decides: an inference to do, a chunk to send, and where that goes.

Knows the core's types; knows nothing of ROS, and nothing of how it is decided.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from quantvla_ros.control.chunk import Chunk
from quantvla_ros.control.rtc import Guidance
from quantvla_ros.control.trajectory import Trajectory
from quantvla_ros.nodes.states import Status
from quantvla_ros.observation.types import Observation


@dataclass(frozen=True)
class Work:
    """One inference to do.

    Attributes:
        observation: what to infer from.
        sequence: of the chunk, counted from activation.
        age: s, of the oldest part of the observation at `begun`.
        begun: ns.
        generation: what was in force; a hold in between makes the result void.
        guidance: what the chunk is to begin like; None: whatever the policy makes of it.
    """

    observation: Observation
    sequence: int
    age: float
    begun: int
    generation: int
    guidance: Guidance | None = None


@dataclass(frozen=True)
class Sent:
    """A chunk that passed, with the motion made from it that goes to the controller.

    Attributes:
        points: leave the motion that was commanded before where it is by then.
        inference_time: s.
        consumed: rows of the chunk whose time had passed when it took over; none of them is sent.
        begin: ns; row i of the chunk stands for `begin + (i + 1) * chunk.period`.
    """

    chunk: Chunk
    points: Trajectory
    work: Work
    inference_time: float
    consumed: int = 0
    begin: int = 0


class Sink(Protocol):
    """Where decisions go. Called with the supervisor's lock held.

    Nothing of it calls back but to say, in the same thread, that a command was refused at once.
    """

    def chunk(self, sent: Sent) -> None:
        """Send a chunk."""

    def hold(self, points: Trajectory) -> None:
        """Send a hold."""

    def changed(self, status: Status) -> None:
        """State, cause or detail changed."""
