# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The frames of an evaluation that its page shows. Knows contracts and samples; no policies."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from quantvla_ros.contract.types import ActionKind, Contract
from quantvla_ros.report.calibration_data import Action, Chunks, FrameResult

if TYPE_CHECKING:
    from quantvla_ros.cli.evaluate_bags import Sample


def worst_frames(
    comparison: Mapping[str, Any],
    contract: Contract,
    samples: Sequence[Sample],
    ours: np.ndarray,
    theirs: np.ndarray,
) -> Chunks:
    """The frames in which two policies differ most, with their pictures.

    Args:
        comparison: of `report.compare`.
        samples: all observations.
        ours, theirs: [observations, chunk, action] in the robot's units.
    """
    cameras = {camera.slot: camera.name for camera in contract.cameras}
    frames = []
    for worst in comparison['worst_frames']:
        index = worst['index']
        moment, pictures = samples[index].moment, samples[index].observation.images
        frames.append(
            FrameResult(
                pictures={cameras[slot]: picture for slot, picture in pictures.items()},
                instruction=moment.instruction,
                episode=moment.episode,
                time=moment.seconds,
                teacher=theirs[index],
                student=ours[index],
                error=worst['error'],
            )
        )
    return Chunks(_actions(contract), contract.control_period, tuple(frames))


def _actions(contract: Contract) -> tuple[Action, ...]:
    found = []
    for part in contract.action.parts:
        for name in part.names:
            limit = contract.limits[name] if part.kind is ActionKind.JOINT_POSITION else None
            bounds = None if limit is None else (limit.lower, limit.upper)
            found.append(Action(name, part.unit, bounds))
    return tuple(found)
