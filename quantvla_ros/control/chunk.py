# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A chunk of joint positions with the instants they are meant for.

Knows arrays; knows nothing of ROS, models or torch.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Chunk:
    """Joint positions over the near future, as a policy wishes them.

    Attributes:
        stamp: ns; the time of the observation the chunk was computed from.
        period: s between rows. Row i is meant for `stamp + (i + 1) * period`: the expert's command
            at time t is where the joints are one period later.
        joints: names of the columns.
        positions: [steps, joints] float64, rad or m.
    """

    stamp: int
    period: float
    joints: tuple[str, ...]
    positions: np.ndarray
