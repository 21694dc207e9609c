# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The arm's geometry: joints to fingertips and back.

Knows link lengths and angles; knows nothing of scenes, pictures or time. Plain floats, since the
expert calls this thousands of times per second and NumPy's overhead on five numbers would rule.

Frame `base_link` (REP-103): origin on the table's surface under the base, x forward over the
table, y left, z up. `base_yaw` turns the arm's plane about z. In that plane `shoulder_pitch` is
the elevation of the first link above the horizontal, `elbow_pitch` and `wrist_pitch` are added to
it link by link. The fingers open across the plane (along the tangent).
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

JOINTS = ('base_yaw', 'shoulder_pitch', 'elbow_pitch', 'wrist_pitch', 'gripper')
LOWER = (-1.8, -0.3, -2.9, -2.2, 0.0)  # rad
UPPER = (1.8, 2.1, 0.0, 2.2, 1.0)  # rad
VELOCITY = (2.5, 2.5, 3.5, 3.5, 4.0)  # rad/s

SHOULDER_HEIGHT = 0.12  # m above the table
UPPER_ARM = 0.22  # m
FOREARM = 0.22  # m
HAND = 0.10  # m, wrist to fingertips
FINGER_TRAVEL = 0.035  # m that each finger moves outwards per rad of the gripper joint
DOWN = -math.pi / 2  # elevation of a hand that points at the table


@dataclass(frozen=True)
class Limits:
    """Position limits in rad and velocity limits in rad/s, one number per joint."""

    lower: tuple[float, ...]
    upper: tuple[float, ...]
    velocity: tuple[float, ...]

    def __post_init__(self) -> None:
        if not len(self.lower) == len(self.upper) == len(self.velocity):
            raise ValueError('limits: lower, upper and velocity must have one number per joint')
        for low, high, speed in zip(self.lower, self.upper, self.velocity, strict=True):
            if not (low < high and speed > 0.0):
                raise ValueError(f'limits: expected lower < upper and velocity > 0, found '
                                 f'{low}, {high}, {speed}')


ARM_LIMITS = Limits(LOWER, UPPER, VELOCITY)


def planar_tip(shoulder: float, elbow: float, wrist: float) -> tuple[float, float]:
    """Radius and height of the fingertips in the arm's plane, m."""
    forearm = shoulder + elbow
    hand = forearm + wrist
    radius = (UPPER_ARM * math.cos(shoulder) + FOREARM * math.cos(forearm)
              + HAND * math.cos(hand))
    height = (SHOULDER_HEIGHT + UPPER_ARM * math.sin(shoulder) + FOREARM * math.sin(forearm)
              + HAND * math.sin(hand))
    return radius, height


def fingertips(joints: Sequence[float]) -> tuple[float, float, float]:
    """Point between the fingertips in `base_link`, m."""
    radius, height = planar_tip(joints[1], joints[2], joints[3])
    return radius * math.cos(joints[0]), radius * math.sin(joints[0]), height


def chain(joints: Sequence[float]) -> np.ndarray:
    """Shoulder, elbow, wrist and fingertips in `base_link`: [4, 3] m."""
    yaw, shoulder, elbow, wrist = joints[:4]
    elevation = (shoulder, shoulder + elbow, shoulder + elbow + wrist)
    radius, height = 0.0, SHOULDER_HEIGHT
    points = [(0.0, 0.0, height)]
    for length, angle in zip((UPPER_ARM, FOREARM, HAND), elevation, strict=True):
        radius += length * math.cos(angle)
        height += length * math.sin(angle)
        points.append((radius * math.cos(yaw), radius * math.sin(yaw), height))
    return np.array(points)


def finger_gap(gripper: float) -> float:
    """Distance between the fingers' inner faces, m."""
    return 2.0 * FINGER_TRAVEL * gripper


def solve_planar(radius: float, height: float) -> tuple[float, float, float]:
    """Shoulder, elbow and wrist that put the fingertips of a hand pointing down at a point.

    The elbow is up. A point out of reach is replaced by the nearest one on the same ray from the
    shoulder that can be reached, so that a servo loop degrades instead of failing.
    """
    rise = height + HAND - SHOULDER_HEIGHT
    distance = math.hypot(radius, rise)
    reach = UPPER_ARM + FOREARM
    distance = min(max(distance, 0.08), 0.999 * reach)
    # Law of cosines at the elbow and at the shoulder.
    bend = math.acos((distance * distance - UPPER_ARM ** 2 - FOREARM ** 2)
                     / (2.0 * UPPER_ARM * FOREARM))
    lead = math.acos((distance * distance + UPPER_ARM ** 2 - FOREARM ** 2)
                     / (2.0 * distance * UPPER_ARM))
    shoulder = math.atan2(rise, radius) + lead
    return shoulder, -bend, DOWN - shoulder + bend


def solve(x: float, y: float, z: float) -> tuple[float, float, float, float]:
    """Arm joints for fingertips at (x, y, z) m in `base_link`, hand pointing down (no gripper)."""
    return (math.atan2(y, x), *solve_planar(math.hypot(x, y), z))
