# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a robot is doing in a frame, and whether the frame shows anything new.

Knows observations and the contract; knows nothing of bags, models or how samples are drawn. Looks
back only, so that a recording is read once and no picture is kept.

A phase is told from the recording alone, alike for every robot:

- A gripper of the contract that moves is a phase of its own, closing or opening: over 0.1 of its
  travel per second, measured, or commanded where it is not measured.
- Otherwise the fastest joint of the state (the gripper aside) tells how fast the robot is, in
  travels per second (a travel: the width of its limits, at most one turn): still under 0.01, slow
  under 0.1, else fast. Where there is a gripper, closed or open is added by the way it went last,
  since one that holds something has not come to its end; of several one closed counts.

Speeds are means over the last 0.25 s, so that the noise of an encoder is no motion; they do not
look ahead, so a phase begins and ends a little late. The first frame of an episode counts as still.

A frame is constant when it repeats the last one of its episode that was not: the same cameras,
every picture within 2 of 255 levels in each of 16 x 16 fields, every joint within 0.2 % of its
travel, and each other number of the state within a tenth of the range that it has shown so far.
"""
from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from enum import Enum

import cv2
import numpy as np

from quantvla_ros.contract.types import ActionKind, ActionPart, Contract
from quantvla_ros.observation.types import Observation

STILL, FAST = 0.01, 0.1  # travels per second
GRIPPER_MOVES = 0.1  # travels per second
WINDOW_NS = 250_000_000  # over which a speed is measured
FIELDS = 16  # per side of a picture
SAME_LEVELS = 2.0  # of 255; under it two fields are the same: above noise, below an object
SAME_TRAVEL = 0.002  # of a joint's travel
SAME_RANGE = 0.1  # of what a number without a limit has shown


class Motion(Enum):
    """How fast the robot moves, by its fastest joint."""

    STILL = 'still'  # it would need over 100 s for its whole travel
    SLOW = 'slow'  # over 10 s
    FAST = 'fast'


class Grip(Enum):
    """What the gripper does."""

    CLOSING = 'closing'
    OPENING = 'opening'
    CLOSED = 'closed'
    OPEN = 'open'


_MOVES = (Grip.CLOSING, Grip.OPENING)


@dataclass(frozen=True)
class Phase:
    """What the robot is doing.

    Attributes:
        motion: None while a gripper moves.
        grip: None where the contract names no gripper.
    """

    motion: Motion | None
    grip: Grip | None = None

    def __str__(self) -> str:
        motion = [self.motion.value] if self.motion else []
        return ', '.join([*motion, *([f'gripper {self.grip.value}'] if self.grip else [])])


class Phases:
    """The phase of each frame of a recording, told in its order."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        grippers = [p for p in contract.action.parts if p.kind is ActionKind.GRIPPER]
        names = {name for part in grippers for name in part.names}
        travels = joint_travels(contract)
        self._columns = [i for i in travels if contract.state_names[i] not in names]
        self._travels = np.array([travels[i] for i in self._columns])
        self._grippers = [_Gripper(contract, part) for part in grippers]
        self._episode: str | None = None
        self._past: deque[tuple[int, np.ndarray]] = deque()

    def __call__(
        self, episode: str, observation: Observation, action: np.ndarray | None = None
    ) -> Phase:
        """The phase of the next frame.

        Args:
            episode: frames of two episodes are not compared.
            observation: the frame.
            action: [action] the recorded command of this instant, if there is one.
        """
        stamp = observation.stamp
        if episode != self._episode or (self._past and stamp <= self._past[-1][0]):
            self._episode = episode
            self._past.clear()
            for gripper in self._grippers:
                gripper.reset()
        opened = [gripper.opened(observation.state, action) for gripper in self._grippers]
        numbers = np.concatenate([observation.state[self._columns] / self._travels, opened])
        self._past.append((stamp, numbers))
        while len(self._past) > 2 and stamp - self._past[1][0] >= WINDOW_NS:
            self._past.popleft()
        before, earlier = self._past[0]
        rates = (numbers - earlier) / max((stamp - before) / 1e9, 1e-9)
        fastest = np.abs(rates[: len(self._columns)]).max(initial=0.0)
        motion = (
            Motion.STILL if fastest < STILL else Motion.SLOW if fastest < FAST else Motion.FAST
        )
        grips = [
            gripper.grip(rate, share)
            for gripper, rate, share in zip(
                self._grippers, rates[len(self._columns) :], opened, strict=True
            )
        ]
        grip = next((grip for grip in Grip if grip in grips), None)
        return Phase(None if grip in _MOVES else motion, grip)

    def expected(self) -> list[Phase]:
        """Phases that a recording of this robot should show.

        Standing still is not among them: little of it is left once constant frames are gone.
        """
        moving = (Motion.SLOW, Motion.FAST)
        if not self._grippers:
            return [Phase(motion) for motion in moving]
        held = [Phase(motion, grip) for grip in (Grip.CLOSED, Grip.OPEN) for motion in moving]
        return [Phase(None, Grip.CLOSING), Phase(None, Grip.OPENING), *held]


class _Gripper:
    """One gripper: how far it is open, and which way it went last."""

    def __init__(self, contract: Contract, part: ActionPart) -> None:
        assert part.joint_range is not None and part.model_range is not None  # checked when loaded
        name = part.names[0]
        self._column = contract.state_names.index(name) if name in contract.state_names else None
        self._number = contract.action.names.index(name)
        self._closed, self._opened = (
            part.joint_range if self._column is not None else part.model_range
        )
        self._last: Grip | None = None

    def reset(self) -> None:
        """A new episode begins."""
        self._last = None

    def opened(self, state: np.ndarray, action: np.ndarray | None) -> float:
        """0 closed to 1 open; NaN where nothing tells."""
        if self._column is not None:
            value = float(state[self._column])
        elif action is not None:
            value = float(action[self._number])
        else:
            return math.nan
        return (value - self._closed) / (self._opened - self._closed)

    def grip(self, rate: float, opened: float) -> Grip | None:
        """From its speed in travels per second (positive: opening) and how far it is open."""
        if rate <= -GRIPPER_MOVES:
            self._last = Grip.CLOSED
            return Grip.CLOSING
        if rate >= GRIPPER_MOVES:
            self._last = Grip.OPEN
            return Grip.OPENING
        if self._last is None and not math.isnan(opened):
            self._last = Grip.CLOSED if opened < 0.5 else Grip.OPEN
        return self._last


class ConstantFrames:
    """Tells frames that repeat what their episode has just shown."""

    def __init__(self, contract: Contract) -> None:
        travels = joint_travels(contract)
        size = len(contract.state_names)
        self._joint = np.array([index in travels for index in range(size)])
        self._tolerance = np.array([travels.get(i, 0.0) * SAME_TRAVEL for i in range(size)])
        self._low = np.full(size, np.inf)
        self._high = np.full(size, -np.inf)
        self._last: tuple[str, np.ndarray, dict[str, np.ndarray]] | None = None

    def __call__(self, episode: str, observation: Observation) -> bool:
        """Whether the next frame is constant; compared with the last one that was not."""
        state = observation.state.astype(np.float64)
        fields = {
            slot: cv2.resize(image, (FIELDS, FIELDS), interpolation=cv2.INTER_AREA).astype(np.int16)
            for slot, image in observation.images.items()
        }
        self._low, self._high = np.minimum(self._low, state), np.maximum(self._high, state)
        if self._last is not None and self._repeats(self._last, episode, state, fields):
            return True
        self._last = (episode, state, fields)
        return False

    def _repeats(
        self,
        last: tuple[str, np.ndarray, dict[str, np.ndarray]],
        episode: str,
        state: np.ndarray,
        fields: dict[str, np.ndarray],
    ) -> bool:
        last_episode, last_state, last_fields = last
        if episode != last_episode or fields.keys() != last_fields.keys():
            return False
        shown = SAME_RANGE * (self._high - self._low)
        if (np.abs(state - last_state) > np.where(self._joint, self._tolerance, shown)).any():
            return False
        return all(
            np.abs(field - last_fields[slot]).max() <= SAME_LEVELS
            for slot, field in fields.items()
        )


def joint_travels(contract: Contract) -> dict[int, float]:
    """Travel of each joint of the state by its place: rad or m, at most one turn.

    A joint that the action does not move has no limit in the contract and counts with one turn.
    """
    travels = {}
    for index, name in enumerate(contract.joint_states.joints):
        limit = contract.limits.get(name)
        travel = math.tau if limit is None else min(limit.upper - limit.lower, math.tau)
        travels[index] = travel
    return travels
