# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Training data: what the cameras and joints show, and what the expert would do from there.

The executed motion is the expert's with disturbances (noise, offsets, pauses, doing another
command for a while, opening or closing the gripper), and episodes also start near the target or
with a cube in hand; the labels are always the clean expert's chunk from the state that was reached.
So a learner sees how to recover from its own mistakes (after DART, arXiv 1703.09327, and DAgger,
arXiv 1011.0686).

Knows the world and the expert; knows nothing of models.
"""
from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import cv2
import numpy as np

from quantvla_ros.sim.tabletop import kinematics
from quantvla_ros.sim.tabletop.expert import expert_action, expert_chunk
from quantvla_ros.sim.tabletop.scene import HALF
from quantvla_ros.sim.tabletop.tasks import Task, TaskKind, other_task, sample_task
from quantvla_ros.sim.tabletop.world import GRASP_GRIPPER, Tabletop


@dataclass(frozen=True)
class Disturbances:
    """How much the executed motion differs from the expert's; rates are per control period."""

    burst_rate: float = 0.035  # a disturbance of one of the kinds below begins
    burst_steps: tuple[int, int] = (3, 14)
    noise: float = 0.010  # rad, standard deviation added to every command
    drift: float = 0.045  # rad per period, largest constant push of a joint in a burst
    jump_rate: float = 0.004  # the arm is displaced at once
    jump: float = 0.15  # rad, largest displacement
    near_start: float = 0.20  # part of the episodes that start over a cube
    held_start: float = 0.15  # part of the episodes that start with a cube in hand
    next_command: float = 0.5  # chance of another command in the same scene after a success


CALM = Disturbances(burst_rate=0.0, noise=0.0, jump_rate=0.0, near_start=0.0, held_start=0.0,
                    next_command=0.0)


class _Burst(Enum):
    """What replaces the expert's command for a few periods."""

    DRIFT = 'every joint is pushed steadily'
    PAUSE = 'nothing moves'
    OTHER = 'another command of the scene is followed'
    GRIPPER = 'the gripper opens or closes'
    BACK = 'the motion is reversed'


def record_episode(seed: int, horizon: int, *, every: int = 1, halve: bool = False,
                   image_size: int = 224, max_steps: int = 240, linger: int = 8,
                   disturbances: Disturbances = Disturbances(),
                   kind: TaskKind | None = None) -> dict[str, np.ndarray]:
    """Record one scene with one or more commands.

    Args:
        seed: scene, commands and disturbances follow from it.
        horizon: rows of the action chunks.
        every: keep each n-th control period.
        halve: average 2x2 pixels into one (224 -> 112): exact means, rounded, a quarter of the
            memory.
        image_size: pixels of the drawn pictures.
        max_steps: control periods in all.
        linger: control periods that are still recorded after a success, the arm holding still.
        kind: the kind of the first command, drawn where None.
    Returns:
        overhead, wrist: [n, size, size, 3] uint8 RGB;
        joints: [n, 5] float32 rad, as measured;
        instruction: [n] str;
        actions: [n, horizon, 5] float32 rad, the clean expert's chunk from this state;
        done: [n] bool, whether the command was done already.
    """
    rng = np.random.default_rng((seed, 0x7AB1E))
    world = Tabletop(seed, image_size=image_size)
    task = sample_task(world.scene, rng, kind)
    _start(world, task, rng, disturbances)
    disturbed = _Disturbed(disturbances, rng)
    rows: dict[str, list] = {name: [] for name in
                             ('overhead', 'wrist', 'joints', 'instruction', 'actions', 'done')}
    offset = int(rng.integers(every))
    after = 0
    for step in range(max_steps):
        done = world.succeeded(task)
        after = after + 1 if done else 0
        if after > linger:
            if rng.random() >= disturbances.next_command:
                break
            task, after = _next_task(world, task, rng), 0
            done = world.succeeded(task)
        if step % every == offset:
            for name, picture in world.render().items():
                rows[name].append(halved(picture) if halve else picture)
            rows['joints'].append(world.joint_positions.astype(np.float32))
            rows['instruction'].append(task.instruction)
            rows['actions'].append(expert_chunk(world, task, horizon))
            rows['done'].append(done)
        disturbed.step(world, task)
    return {name: np.array(values) for name, values in rows.items()}


def halved(image: np.ndarray) -> np.ndarray:
    """The mean of every 2x2 pixels: [h, w, 3] -> [h/2, w/2, 3] uint8."""
    height, width = image.shape[:2]
    if height % 2 or width % 2:
        raise ValueError(f'expected an even picture size to halve, found {width}x{height}')
    return cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_AREA)


def _start(world: Tabletop, task: Task, rng: np.random.Generator,
           disturbances: Disturbances) -> None:
    """Sometimes begin in the middle of things, so that short phases are seen often."""
    draw = rng.random()
    near, held = disturbances.near_start, disturbances.held_start
    if draw >= near + held:
        return
    # Mostly what the command names, sometimes something else.
    index = world.scene.cube(task.cube)
    if rng.random() < 0.3:
        index = int(rng.integers(len(world.cubes)))
    cube = world.cubes[index]
    if draw < near:
        x, y = rng.normal((cube.x, cube.y), 0.025)
        z, gripper = rng.uniform(0.02, 0.10), rng.uniform(0.0, 1.0)
        world.set_joints((*kinematics.solve(x, y, z), gripper))
        return
    x, y = (cube.x, cube.y) if rng.random() < 0.4 else rng.normal((0.24, 0.0), (0.05, 0.11))
    if task.tray is not None and rng.random() < 0.4:
        tray = world.scene.trays[world.scene.tray(task.tray)]
        x, y = rng.normal((tray.x, tray.y), 0.03)
    z = rng.uniform(HALF, 0.12)
    world.set_joints((*kinematics.solve(float(x), float(y), z), GRASP_GRIPPER))
    world.hold(world.scene.cubes[index].colour)


def _next_task(world: Tabletop, task: Task, rng: np.random.Generator) -> Task:
    """Another command: mostly about something else, sometimes the next thing to do with it."""
    if rng.random() < 0.3:
        return sample_task(world.scene, rng)
    return other_task(task, world.scene, rng)


class _Disturbed:
    """Executes the expert's commands badly."""

    def __init__(self, settings: Disturbances, rng: np.random.Generator) -> None:
        self._settings, self._rng = settings, rng
        self._left = 0
        self._kind = _Burst.PAUSE
        self._push = np.zeros(5)
        self._other: Task | None = None

    def step(self, world: Tabletop, task: Task) -> None:
        """Advance the world one control period."""
        settings, rng = self._settings, self._rng
        joints = world.joint_positions
        action = expert_action(world, task)
        if settings.jump_rate and rng.random() < settings.jump_rate:
            offset = rng.uniform(-settings.jump, settings.jump, 5)
            world.set_joints(_above_table(joints + offset, joints))
            return
        if self._left == 0 and settings.burst_rate and rng.random() < settings.burst_rate:
            self._begin(world, task)
        if self._left:
            self._left -= 1
            action = self._disturb(world, joints, action)
        if settings.noise:
            action = action + rng.normal(0.0, settings.noise, 5) * (1.0, 1.0, 1.0, 1.0, 1.5)
        world.step(action)

    def _begin(self, world: Tabletop, task: Task) -> None:
        rng, settings = self._rng, self._settings
        self._left = int(rng.integers(settings.burst_steps[0], settings.burst_steps[1] + 1))
        self._kind = tuple(_Burst)[rng.choice(len(_Burst), p=(0.40, 0.12, 0.23, 0.15, 0.10))]
        self._push = rng.uniform(-settings.drift, settings.drift, 5)
        if self._kind is _Burst.GRIPPER:
            self._push[4] = rng.choice((-0.12, 0.12))
        self._other = other_task(task, world.scene, rng)

    def _disturb(self, world: Tabletop, joints: np.ndarray, action: np.ndarray) -> np.ndarray:
        if self._kind is _Burst.DRIFT:
            return action + self._push
        if self._kind is _Burst.OTHER:
            assert self._other is not None
            return expert_action(world, self._other)
        if self._kind is _Burst.GRIPPER:
            return np.append(action[:4], joints[4] + self._push[4])
        return joints if self._kind is _Burst.PAUSE else 2.0 * joints - action


def _above_table(wanted: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """The wanted pose, or where it were inside the table, only its turn and gripper."""
    if kinematics.fingertips(wanted.tolist())[2] > HALF:
        return wanted
    return np.array([wanted[0], *joints[1:4], wanted[4]])
