# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A recorded run of the simulated arm as moments: what was seen, asked, planned and said.

Knows bags, the contract and the arm's kinematics; knows nothing of ROS at run time or of how a
moment is drawn.
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from quantvla_ros.contract.types import Contract
from quantvla_ros.observation.bags import Bag
from quantvla_ros.observation.decode import decode_image
from quantvla_ros.observation.messages import nanoseconds
from quantvla_ros.sim.tabletop.kinematics import JOINTS, fingertips

CHUNKS, EVENTS = '/policy/action_chunk', '/tabletop/events'
_NS = 1e9


@dataclass(frozen=True)
class Plan:
    """A chunk as the fingertips' way.

    Attributes:
        stamp: ns of its observation.
        period: s between rows.
        sequence: its number.
        points: [rows, 3] m in `base_link`.
        inference: s.
        artifact: what computed it.
    """

    stamp: int
    period: float
    sequence: int
    points: np.ndarray
    inference: float
    artifact: str

    def ahead(self, now: int) -> np.ndarray:
        """The rows that are still to come at `now` ns."""
        first = int(np.ceil((now - self.stamp) / _NS / self.period)) - 1
        return self.points[max(0, first):]


@dataclass(frozen=True)
class Moment:
    """One picture's time of a run.

    Attributes:
        time: ns, when the picture was recorded.
        pictures: [H, W, 3] uint8 RGB by the camera's name.
        command: number of the command in force, from 0; -1 before the first.
        instruction: its words.
        since: s since the command.
        done: whether the simulator has said that it is done.
        plan: the newest chunk for it; None before the first.
    """

    time: int
    pictures: dict[str, np.ndarray]
    command: int = -1
    instruction: str = ''
    since: float = 0.0
    done: bool = False
    plan: Plan | None = field(default=None)


def moments(bag: str | Path, contract: Contract) -> Iterator[Moment]:
    """A run, one moment per picture of the contract's first camera once all have sent one."""
    cameras = {f'/{camera.topic.lstrip("/")}': camera for camera in contract.cameras}
    first = next(iter(cameras))
    instructions = f'/{contract.language.topic.lstrip("/")}'
    pictures: dict[str, np.ndarray] = {}
    command, instruction, begun, done = -1, '', 0, False
    plan: Plan | None = None
    with Bag(bag) as opened:
        for topic, _, time, message in opened.messages(
            topic for topic in (*cameras, instructions, CHUNKS, EVENTS) if topic in opened.topics
        ):
            if topic == instructions:
                if message.data != instruction:
                    command, instruction, begun = command + 1, message.data, time
                    done, plan = False, None
            elif topic == EVENTS:
                done = done or (message.name == 'done' and message.message == instruction)
            elif topic == CHUNKS:
                if message.instruction == instruction:
                    plan = _plan(message)
            else:
                camera = cameras[topic]
                pictures = {**pictures, camera.name: decode_image(message, camera.type)}
                if topic == first and len(pictures) == len(cameras):
                    since = (time - begun) / _NS if command >= 0 else 0.0
                    yield Moment(time, pictures, command, instruction, since, done, plan)


def _plan(message: object) -> Plan:
    trajectory = message.trajectory  # type: ignore[attr-defined]
    columns = [list(trajectory.joint_names).index(name) for name in JOINTS]
    rows = np.array([point.positions for point in trajectory.points])[:, columns]
    return Plan(
        stamp=nanoseconds(message.header.stamp),  # type: ignore[attr-defined]
        period=nanoseconds(message.control_period) / _NS,  # type: ignore[attr-defined]
        sequence=int(message.sequence),  # type: ignore[attr-defined]
        points=np.array([fingertips(row) for row in rows]),
        inference=nanoseconds(message.inference_time) / _NS,  # type: ignore[attr-defined]
        artifact=message.artifact_id,  # type: ignore[attr-defined]
    )
