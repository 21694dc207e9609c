# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the supervisor sees of the inputs: fit or not, the newest picture, where the joints are.

Knows the buffer and a clock; knows nothing of ROS, or of what follows from it.
"""
from __future__ import annotations

from collections.abc import Callable

import numpy as np

from quantvla_ros.contract.types import LANGUAGE_STREAM, Contract
from quantvla_ros.control.actions import twist_columns
from quantvla_ros.observation.buffer import ObservationBuffer
from quantvla_ros.observation.types import Observation, Reason, Refusal


class Sight:
    """See the module.

    Args:
        contract: what the robot offers.
        buffer: newest inputs.
        clock: the node's, ns.
    """

    def __init__(
        self, contract: Contract, buffer: ObservationBuffer, clock: Callable[[], int]
    ) -> None:
        self._buffer, self._clock = buffer, clock
        self._cameras = [camera for camera in contract.cameras if camera.required]
        names = contract.joint_states.joints
        # Axes of a twist are in no joint state; the handover says where they are.
        self._twists = twist_columns(contract.action)
        self._columns = [
            0 if told else names.index(name)
            for name, told in zip(contract.action.names, self._twists, strict=True)
        ]

    def check(self, now: int) -> Refusal | None:
        """What is wrong with the inputs at `now` ns; None where nothing is."""
        refusal = self._buffer.check(now)
        if refusal is not None and Reason.CLOCK_SKEW in refusal.reasons:
            # What came while this thread was off the processor is newer than `now`.
            refusal = self._buffer.check(self._clock())
        return refusal

    def observe(self, now: int) -> tuple[Observation | Refusal, int]:
        """The inputs at `now` ns, or why not; and the time, ns, which may have gone on."""
        observed = self._buffer.observe(now)
        if isinstance(observed, Refusal) and Reason.CLOCK_SKEW in observed.reasons:
            now = self._clock()
            observed = self._buffer.observe(now)
        return observed, now

    def newest_camera(self) -> int | None:
        """ns; stamp of the required camera that is furthest behind. None before each has sent."""
        stamps = [self._buffer.newest(camera.name) for camera in self._cameras]
        known = [stamp for stamp in stamps if stamp is not None]
        return min(known) if len(known) == len(stamps) else None

    def pictures(self, observation: Observation) -> int:
        """ns; stamp of the oldest picture of a required camera in an observation."""
        return min(observation.stamps[camera.name] for camera in self._cameras)

    def joints(self, observation: Observation) -> np.ndarray:
        """[actions] the action's joints in an observation, rad or m."""
        state = observation.state[self._columns].astype(np.float64)
        return np.where(self._twists, 0.0, state)


def oldest(observation: Observation) -> int:
    """ns; stamp of the oldest part of an observation. The command has no age."""
    return min(ns for name, ns in observation.stamps.items() if name != LANGUAGE_STREAM)


def kind_of(refusal: Refusal) -> str:
    """What a refusal is about, without its numbers."""
    return '; '.join(f'{fault.stream} {fault.reason.name}' for fault in refusal.faults)
