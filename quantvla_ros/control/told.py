# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Measured joints beside coordinates that nobody measures, such as the axes of a twist.

Those are where they are told to be. So whatever compares the commanded with the measured motion
finds them in step, and the joints beside them (fingers) are judged as ever. Knows sequences of
numbers; knows nothing of ROS messages.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from quantvla_ros.control.measured import MeasuredJoints
from quantvla_ros.control.smoothing import State


class ToldJoints(MeasuredJoints):
    """See the module.

    Args:
        joints: all names, measured and told.
        told: which of them are told.
        command: where all of them are told to be at a time in ns; None before anything is.
    """

    def __init__(
        self,
        joints: tuple[str, ...],
        told: np.ndarray,
        command: Callable[[int], State | None],
    ) -> None:
        super().__init__(joints)
        self._told, self._command = told, command
        self._names = [name for name, is_told in zip(joints, told, strict=True) if is_told]

    def store(
        self,
        stamp: int,
        names: Sequence[str],
        positions: Sequence[float],
        velocities: Sequence[float],
    ) -> bool:
        """Take one joint-state message, with the told ones added."""
        state = self._command(stamp)
        place = speed = np.zeros(len(self._names))
        if state is not None:
            place, speed = state.position[self._told], state.velocity[self._told]
        given = len(velocities) == len(names)
        return super().store(
            stamp,
            [*names, *self._names],
            [*positions, *place.tolist()],
            [*velocities, *speed.tolist()] if given else [],
        )
