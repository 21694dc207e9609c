# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Brings the arm to rest: whether a chunk still moves it, and a hold that is owed until it can go.

Knows what is commanded and measured; knows nothing of ROS, of threads, or of why it is to stop.
"""
from __future__ import annotations

from quantvla_ros.contract.types import Freshness
from quantvla_ros.control.handover import Handover
from quantvla_ros.control.measured import MeasuredJoints
from quantvla_ros.nodes.decisions import Sink
from quantvla_ros.nodes.states import Counts


class Brakes:
    """See the module.

    Args:
        freshness: how old a measurement may be to be braked from.
        joints: newest measurement.
        handover: what is commanded.
        sink: where holds go.
        counts: where they are counted.

    Attributes:
        owed: whether a hold is to be sent as soon as the joints have been measured.
    """

    def __init__(
        self, freshness: Freshness, joints: MeasuredJoints, handover: Handover, sink: Sink,
        counts: Counts,
    ) -> None:
        self._freshness, self._joints = freshness, joints
        self._handover, self._sink, self._counts = handover, sink, counts
        self._runs_until = 0  # ns; when the chunk that runs has come to rest, 0 where none runs
        self._again = 0  # ns; before that a hold that was refused is not tried again
        self.owed = False

    def runs(self, until: int) -> None:
        """A chunk was sent that comes to rest at `until` ns; until then a fault needs a hold."""
        self._runs_until = until

    def forget(self) -> None:
        """Nothing that this node commanded moves the arm."""
        self._runs_until, self._again, self.owed = 0, 0, False

    def owe(self, again: int = 0) -> None:
        """The arm does something else than it was told: hold once it is known where it is.

        Args:
            again: ns; not before.
        """
        self._runs_until, self._again = 0, again
        self.owed = self.owed or self._handover.motion is not None

    def due(self, now: int) -> bool:
        """Whether a hold that is owed is to be sent at `now` ns."""
        return self.owed and now >= self._again

    def hold_if_moving(self, now: int, within: float) -> None:
        """Send a hold where a chunk still moves the arm at `now` ns, or one is due."""
        if now < self._runs_until or self.due(now):
            self.hold(now, within)

    def hold(self, now: int, within: float) -> None:
        """Send a hold.

        Args:
            now: ns.
            within: s that it takes where the limits let it.
        """
        measured = self._joints.latest
        if measured is not None:
            age = (now - measured.stamp) * 1e-9
            # Stamps may be a little ahead of a clock that comes in steps, as /clock does.
            if not -self._freshness.skew <= age <= self._freshness.joint_states:
                measured = None
        if measured is None and self._handover.motion is None:
            return  # a clock that jumped, and joints that went silent: nothing is known to hold
        self.forget()
        self._counts.holds += 1
        self._sink.hold(self._handover.hold(measured, now, within))
