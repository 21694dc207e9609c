# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One aligned observation: what a policy sees at one instant.

Knows arrays; knows nothing of messages, ROS or models.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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
