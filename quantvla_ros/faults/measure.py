# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What recorded series say of a fault: time to a state, time to rest, largest velocity.

Knows arrays and times in seconds of one clock, any clock; knows nothing of ROS or of cases.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from quantvla_ros.control.trajectory import Trajectory, peak_speeds

# rad/s or m/s, below which a joint counts as at rest: a tenth of a percent of full speed, and above
# what the last bit of an encoder makes of it.
STILL = 0.01


@dataclass(frozen=True)
class Motion:
    """Joints over time.

    Attributes:
        times: [n] s, not decreasing.
        positions: [n, joints] rad or m.
        velocities: [n, joints] rad/s or m/s.
        joints: names.
    """

    times: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray
    joints: tuple[str, ...]

    def between(self, since: float, until: float) -> Motion:
        """The part in [since, until]."""
        inside = (self.times >= since) & (self.times <= until)
        return Motion(
            self.times[inside], self.positions[inside], self.velocities[inside], self.joints
        )


@dataclass(frozen=True)
class Said:
    """A state that the node said it is in, and why.

    Attributes:
        time: s; when it was heard.
        state: by name.
        reason: its words.
    """

    time: float
    state: str
    reason: str


@dataclass(frozen=True)
class Fastest:
    """The largest velocity of a motion.

    Attributes:
        speed: rad/s or m/s; 0 for a motion without samples.
        joint: which; '' without samples.
        share: the largest speed / limit of any joint, which may be another joint.
        time: s; when that joint was as fast as that.
    """

    speed: float
    joint: str
    share: float
    time: float = 0.0


def fastest(motion: Motion, limits: Sequence[float]) -> Fastest:
    """The largest velocity in a motion, and how near to its limit any joint came.

    Args:
        limits: [joints] rad/s or m/s.
    """
    if not len(motion.times):
        return Fastest(0.0, '', 0.0)
    speeds = np.abs(motion.velocities)
    peaks = speeds.max(axis=0)
    joint = int(peaks.argmax())
    return Fastest(
        float(peaks[joint]), motion.joints[joint], float((peaks / np.asarray(limits)).max()),
        float(motion.times[speeds[:, joint].argmax()]),
    )


def asked(commands: Iterable[Trajectory], limits: Mapping[str, float]) -> float | None:
    """The largest speed that commands ask for, as a share of a limit; None without commands.

    Args:
        commands: trajectories, of which the last point of each is at rest.
        limits: rad/s or m/s, by joint.
    """
    shares = [
        float((peak_speeds(one) / np.array([limits[name] for name in one.joints])).max(initial=0.0))
        for one in commands
    ]
    return max(shares, default=None)


def unasked(motion: Motion, share: float, limits: Mapping[str, float]) -> tuple[float, str]:
    """How far a joint went beyond what a share of its limit explains, rad or m, and which joint.

    Args:
        motion: measured.
        share: of the limits, the largest that commands ask for.
        limits: rad/s or m/s, by joint.
    """
    if len(motion.times) < 2:
        return 0.0, ''
    allowed = share * np.array([limits[name] for name in motion.joints])
    above = np.maximum(np.abs(motion.velocities[1:]) - allowed, 0.0)
    ways = np.diff(motion.times) @ above
    joint = int(ways.argmax())
    return float(ways[joint]), motion.joints[joint]


def silence(motion: Motion) -> float:
    """Seconds of the longest gap between two samples."""
    return float(np.diff(motion.times).max(initial=0.0))


def time_to_rest(motion: Motion, since: float, still: float = STILL) -> float | None:
    """Seconds from `since` until no joint moves any more, to the motion's end.

    0 where nothing moved after `since`. None where the arm still moves in the last sample, or where
    there is no sample after `since`: silence is no rest.
    """
    after = motion.times >= since
    if not after.any():
        return None
    times = motion.times[after]
    moving = (np.abs(motion.velocities[after]) > still).any(axis=1)
    if not moving.any():
        return 0.0
    last = int(np.flatnonzero(moving)[-1])
    return None if last == len(times) - 1 else float(times[last + 1] - since)


def time_to_state(
    said: Iterable[Said], since: float, states: Sequence[str], words: Sequence[str] = ()
) -> float | None:
    """Seconds from `since` until one of the states is heard with one of the words in its reason."""
    for entry in said:
        if (
            entry.time >= since
            and entry.state in states
            and (not words or any(word in entry.reason for word in words))
        ):
            return entry.time - since
    return None


def time_to_words(
    shown: Iterable[tuple[float, str, str, str]], since: float, words: Sequence[str]
) -> float | None:
    """Seconds from `since` until /diagnostics have one of the words, at a level that is not OK.

    Args:
        shown: (time, entry, level, message).
        words: none for no such time.
    """
    for time, _, level, message in shown:
        if time >= since and level != 'OK' and any(word in message for word in words):
            return time - since
    return None


def differences(times: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """[n, joints] velocities from positions, for drivers that leave them out; the first is 0.

    Two samples of one time differ by what the one before did.
    """
    velocities = np.zeros_like(positions)
    for row in range(1, len(times)):
        span = times[row] - times[row - 1]
        velocities[row] = (
            (positions[row] - positions[row - 1]) / span if span > 0.0 else velocities[row - 1]
        )
    return velocities
