# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The built-in robot's world: joints that follow commands, cubes that are grasped and fall.

Knows kinematics and scenes; knows nothing of policies, ROS or wall-clock time.

What is modelled: joints follow their targets linearly inside position and velocity limits; the
table stops the fingertips (and a held cube); fingers that close around a cube push it to their
middle and hold it, the gripper joint then stopping at the cube's width; fingers that open let it
fall onto whatever is below: a cube, a tray's floor or the table. What is not: masses, torques,
friction and tipping; contact of the arm, of a held cube or of the fingers' outsides with anything
but the table (they pass through); a tray's rim as an obstacle; a cube's turn when it lands.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from quantvla_ros.sim.tabletop import kinematics
from quantvla_ros.sim.tabletop.scene import CUBE, HALF, TRAY_FLOOR, Scene, sample_scene
from quantvla_ros.sim.tabletop.tasks import Task, TaskKind, sample_task

if TYPE_CHECKING:
    from quantvla_ros.sim.tabletop.render import Renderer

SUBSTEP = 0.01  # s
GRAVITY = 9.81  # m/s^2
GRASP_TOLERANCE = 0.015  # m, cube's centre from the fingers' middle, along and across the arm
GRASP_GRIPPER = CUBE / (2 * kinematics.FINGER_TRAVEL)  # rad, where fingers meet a cube's sides
RELEASE_GRIPPER = GRASP_GRIPPER + 0.05  # rad
GRASP_ABOVE = 0.012  # m, how far above a cube's centre the fingertips still get hold of it
MAX_TILT = 0.6  # rad from pointing down, beyond which the fingers cannot grasp

HOLD_SECONDS = 0.25  # for how long a task's condition must last
REACH_DISTANCE = 0.014  # m, horizontally
REACH_HEIGHT = (-0.006, 0.018)  # m, fingertips over the cube's top
REACH_GRIPPER = 0.25  # rad, at most: closed
LIFT_HEIGHT = 0.06  # m, a picked cube's underside above the table
OPEN_GRIPPER = 0.7  # rad, at least: open
AWAY = 0.05  # m, fingertips from a placed cube's centre

Goal = tuple[TaskKind, str, 'str | None']


@dataclass
class CubeState:
    """Where a cube is now: centre in m, turn in rad, speed of its fall in m/s."""

    x: float
    y: float
    z: float
    yaw: float
    fall: float = 0.0


class Tabletop:
    """The arm and its table, advanced in steps of the control period.

    The same seed gives the same scene, task and motion.
    """

    def __init__(self, seed: int = 0, control_period: float = 0.05, *,
                 image_size: int = 224) -> None:
        self.control_period = control_period
        self.limits = kinematics.ARM_LIMITS
        self._image_size = image_size
        self._rng = np.random.default_rng(seed)
        self._renderer: Renderer | None = None
        self.reset()

    def reset(self, scene: Scene | None = None, task: Task | None = None) -> None:
        """Start an episode; a scene or task that is not given is drawn from the world's seed."""
        self.scene = scene if scene is not None else sample_scene(self._rng)
        self.task = task if task is not None else sample_task(self.scene, self._rng)
        self.time = 0.0
        self.cubes = [CubeState(c.x, c.y, HALF, c.yaw) for c in self.scene.cubes]
        self.held: int | None = None
        self._q = [float(q) for q in self.scene.joints]
        self._v = [0.0] * len(self._q)
        self._tip = kinematics.fingertips(self._q)
        self._offset = (0.0, 0.0)  # m, held cube's centre from the fingertips: along, up
        self._falling = False
        self._since: dict[Goal, float] = {}  # s, since when each goal's condition has held
        self._renderer = None

    # What the robot measures.

    @property
    def joint_positions(self) -> np.ndarray:
        """Measured joints, [5] rad; a gripper that holds a cube is stopped at its width."""
        return np.array(self._q)

    @property
    def joint_velocities(self) -> np.ndarray:
        """Joint velocities over the last substep, [5] rad/s."""
        return np.array(self._v)

    def render(self) -> dict[str, np.ndarray]:
        """Both cameras' pictures: 'overhead' and 'wrist', [size, size, 3] uint8 RGB."""
        if self._renderer is None:
            # Imported here: a copy made to look ahead never draws.
            from quantvla_ros.sim.tabletop.render import Renderer
            self._renderer = Renderer(self.scene, self._image_size)
        return self._renderer.draw(self._q, self.cubes)

    # Ground truth, for the expert and for success.

    @property
    def joints(self) -> list[float]:
        """The joints as plain floats; do not change them."""
        return self._q

    @property
    def tip(self) -> tuple[float, float, float]:
        """Point between the fingertips, m in `base_link`."""
        return self._tip

    @property
    def success(self) -> bool:
        """Whether the world's own task is done."""
        return self.succeeded(self.task)

    def succeeded(self, task: Task) -> bool:
        """Whether a task of this scene is done: its condition has held for HOLD_SECONDS."""
        self.scene.cube(task.cube)  # a colour that is not here is an error, not a failure
        if task.tray is not None:
            self.scene.tray(task.tray)
        since = self._since.get(task.goal)
        return since is not None and self.time - since >= HOLD_SECONDS - 1e-9

    # Motion.

    def step(self, targets: Sequence[float] | np.ndarray) -> None:
        """Move linearly towards joint targets [5] rad for one control period."""
        goal = self._checked(targets)
        start = list(self._q)
        count = max(1, round(self.control_period / SUBSTEP))
        dt = self.control_period / count
        for index in range(1, count + 1):
            part = index / count
            self._substep([a + (b - a) * part for a, b in zip(start, goal, strict=True)], dt)
        self._judge()

    def advance(self, positions: Sequence[float] | np.ndarray, dt: float) -> None:
        """Move to joint positions [5] rad within dt s, as far as the limits allow."""
        self._substep(self._checked(positions), dt)
        self._judge()

    def set_joints(self, joints: Sequence[float] | np.ndarray) -> None:
        """Put the arm somewhere at once (to disturb it, or to start there); cubes stay.

        A held cube moves along, unless the gripper is opened.
        """
        goal = self._checked(joints)
        self._q = [min(max(g, low), high)
                   for g, low, high in zip(goal, self.limits.lower, self.limits.upper, strict=True)]
        if self.held is not None:
            self._q[4] = max(self._q[4], GRASP_GRIPPER)
        self._v = [0.0] * len(self._q)
        self._tip = kinematics.fingertips(self._q)
        self._carry_or_fall(0.0)
        self._judge()

    def hold(self, colour: str) -> None:
        """Put a cube between the fingers at once, closed around it."""
        index = self.scene.cube(colour)
        self.held = index
        self._offset = (0.0, 0.002)
        self._q[4] = GRASP_GRIPPER
        self._falling = True  # whatever lay on it
        self._carry_or_fall(0.0)
        self._judge()

    def copy(self) -> Tabletop:
        """An independent world in the same state, without anything that draws."""
        twin = Tabletop.__new__(Tabletop)
        twin.__dict__.update(self.__dict__)
        twin.cubes = [CubeState(c.x, c.y, c.z, c.yaw, c.fall) for c in self.cubes]
        twin._q = list(self._q)
        twin._v = list(self._v)
        twin._since = dict(self._since)
        twin._renderer = None
        return twin

    def _checked(self, positions: Sequence[float] | np.ndarray) -> list[float]:
        values = positions.tolist() if isinstance(positions, np.ndarray) else list(positions)
        if len(values) != len(self._q):
            raise ValueError(f'expected {len(self._q)} joint positions, found {len(values)}')
        if not math.isfinite(sum(values)):
            raise ValueError(f'expected finite joint positions, found {values}')
        return values

    def _substep(self, goal: list[float], dt: float) -> None:
        before, limits = self._q, self.limits
        now = []
        for q, g, low, high, speed in zip(before, goal, limits.lower, limits.upper,
                                          limits.velocity, strict=True):
            reach = speed * dt
            now.append(min(max(min(max(g, q - reach), q + reach), low), high))
        if self.held is not None and now[4] < GRASP_GRIPPER:
            now[4] = GRASP_GRIPPER  # the cube is in between
        radius, height = kinematics.planar_tip(now[1], now[2], now[3])
        floor = 0.0 if self.held is None else max(0.0, HALF - self._offset[1])
        if height < floor and height < self._tip[2]:  # the table stops the arm, not its turning
            now[1:4] = before[1:4]
            radius, height = kinematics.planar_tip(now[1], now[2], now[3])
        self._v = [(b - a) / dt for a, b in zip(before, now, strict=True)]
        self._q = now
        self._tip = (radius * math.cos(now[0]), radius * math.sin(now[0]), height)
        if self.held is None and now[4] < before[4] and before[4] > GRASP_GRIPPER:
            self._close_on_cubes()
        self._carry_or_fall(dt)
        self.time += dt

    def _close_on_cubes(self) -> None:
        """Closing fingers push a cube between them to their middle, then hold it."""
        q = self._q
        tilt = q[1] + q[2] + q[3] - kinematics.DOWN
        if abs(tilt) > MAX_TILT:
            return
        x, y, z = self._tip
        cos, sin = math.cos(q[0]), math.sin(q[0])
        room = max(kinematics.finger_gap(q[4]) / 2 - HALF, 0.0)
        for index, cube in enumerate(self.cubes):
            if not cube.z - HALF - 0.004 <= z <= cube.z + GRASP_ABOVE:
                continue
            dx, dy = cube.x - x, cube.y - y
            along, across = cos * dx + sin * dy, cos * dy - sin * dx
            if abs(along) > GRASP_TOLERANCE or abs(across) > GRASP_TOLERANCE:
                continue
            pushed = min(max(across, -room), room)
            cube.x, cube.y = x + cos * along - sin * pushed, y + sin * along + cos * pushed
            self._falling = True  # it, or what lay on it, may have lost its support
            if q[4] <= GRASP_GRIPPER:
                self.held = index
                self._offset = (along, cube.z - z)
                cube.fall = 0.0
                q[4] = GRASP_GRIPPER
                return

    def _carry_or_fall(self, dt: float) -> None:
        q = self._q
        if self.held is not None:
            cube = self.cubes[self.held]
            x, y, z = self._tip
            along, up = self._offset
            cube.x, cube.y = x + along * math.cos(q[0]), y + along * math.sin(q[0])
            cube.z, cube.yaw = z + up, q[0]
            self._falling = True
            if q[4] > RELEASE_GRIPPER:
                self.held = None
        if not self._falling:
            return
        moved = False
        for index, cube in enumerate(self.cubes):
            if index == self.held:
                continue
            rest = self._support(index) + HALF
            if cube.z > rest + 1e-6:
                moved = True
                cube.fall += GRAVITY * dt
                cube.z -= cube.fall * dt
            if cube.z <= rest + 1e-6:
                cube.z, cube.fall = rest, 0.0
        self._falling = moved or self.held is not None

    def _support(self, index: int) -> float:
        """Height of what is under a cube, m."""
        cube = self.cubes[index]
        height = 0.0
        for tray in self.scene.trays:
            if tray.contains(cube.x, cube.y):
                height = TRAY_FLOOR
        for other_index, other in enumerate(self.cubes):
            if other_index in (index, self.held):
                continue
            top = other.z + HALF
            overlap = max(abs(cube.x - other.x), abs(cube.y - other.y)) < 0.75 * CUBE
            if overlap and other.z < cube.z - HALF / 2 and top > height:
                height = top
        return height

    # Success.

    def _judge(self) -> None:
        """Note since when each goal's condition has held."""
        true_now = self._conditions()
        if not true_now and not self._since:
            return
        self._since = {goal: self._since.get(goal, self.time) for goal in true_now}

    def _conditions(self) -> list[Goal]:
        x, y, z = self._tip
        gripper = self._q[4]
        goals: list[Goal] = []
        for index, (cube, start) in enumerate(zip(self.cubes, self.scene.cubes, strict=True)):
            aside = math.hypot(cube.x - x, cube.y - y)
            if index == self.held:
                if cube.z - HALF >= LIFT_HEIGHT:
                    goals.append((TaskKind.PICK, start.colour, None))
                continue
            over_top = z - (cube.z + HALF)
            if (self.held is None and gripper <= REACH_GRIPPER and aside <= REACH_DISTANCE
                    and REACH_HEIGHT[0] <= over_top <= REACH_HEIGHT[1]):
                goals.append((TaskKind.REACH, start.colour, None))
            elif (gripper >= OPEN_GRIPPER and cube.fall == 0.0
                    and math.hypot(aside, cube.z - z) >= AWAY):
                goals.extend((TaskKind.PLACE, start.colour, tray.colour)
                             for tray in self.scene.trays
                             if tray.contains(cube.x, cube.y, 0.6 * HALF))
        return goals
