# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A scripted expert: where the joints should go next, from the world's ground truth alone.

It keeps no state between calls, so it recovers from any disturbance and can label any state that a
learner wanders into. What keeps it from chattering between phases is the world's own state: whether
a cube is held, how far the gripper is open, and a funnel over the target that ties the height to
the distance, so that the command is a nearly continuous function of the pose.

Knows the world; knows nothing of pictures or policies.
"""
from __future__ import annotations

import math

import numpy as np

from quantvla_ros.sim.tabletop import kinematics
from quantvla_ros.sim.tabletop.scene import HALF, TRAY_FLOOR, Tray
from quantvla_ros.sim.tabletop.tasks import Task, TaskKind
from quantvla_ros.sim.tabletop.world import AWAY, OPEN_GRIPPER, Tabletop

SPEED = 0.28  # part of the arm's velocity limits that is used
GRIPPER_SPEED = 0.4  # the same for the gripper
GAIN = 0.30  # part of the remaining way per control period, once slower than SPEED

HOVER = 0.10  # m, fingertips' height for travelling, free of everything on the table
CARRY = 0.11  # m, the same with a cube in the fingers, and the height to which it is lifted
TOUCH = 0.006  # m over a cube's top
GRASP_BELOW = 0.003  # m, fingertips below a cube's centre when they close
RELEASE_ABOVE = 0.006  # m, underside of a cube over the tray's floor when it is let go
OPEN, SQUEEZE, CLOSED = 1.0, 0.42, 0.0  # rad; SQUEEZE is inside a cube's width (0.5)

_FUNNEL_RADIUS = 0.008  # m, closer than this the hand goes straight down
_FUNNEL_SLOPE = 4.0  # m of height per m of distance outside of it
_CLEARANCE = 0.062  # m between cubes' centres for putting one down
_TRAY_CLEARANCE = 0.10  # m from a tray's centre
_SPOTS = tuple((radius * math.cos(0.15 * step), radius * math.sin(0.15 * step))
               for radius in (0.18, 0.21, 0.24, 0.27, 0.30, 0.33) for step in range(-6, 7))

Target = tuple[float, float, float, float]  # x, y, z of the fingertips in m, gripper in rad


def expert_action(world: Tabletop, task: Task) -> np.ndarray:
    """Joint targets [5] rad for one control period later, inside the velocity limits."""
    return np.array(_action(world, task))


def expert_chunk(world: Tabletop, task: Task, horizon: int) -> np.ndarray:
    """What the expert would do undisturbed: [horizon, 5] float32 rad, row i for (i+1) periods."""
    ahead = world.copy()
    rows = []
    for index in range(horizon):
        action = _action(ahead, task)
        rows.append(action)
        if index + 1 < horizon:
            ahead.step(action)
    return np.array(rows, np.float32)


def _action(world: Tabletop, task: Task) -> list[float]:
    index = world.scene.cube(task.cube)
    if world.held is not None and (world.held != index or task.kind is TaskKind.REACH):
        x, y, z, gripper = _put_down(world)
    elif task.kind is TaskKind.REACH:
        x, y, z, gripper = _touch(world, index)
    elif task.kind is TaskKind.PICK:
        x, y, z, gripper = _lift(world) if world.held == index else _grasp(world, index)
    else:
        tray = world.scene.trays[world.scene.tray(task.tray or '')]
        cube = world.cubes[index]
        if world.held == index:
            x, y, z, gripper = _place(world, index, tray)
        elif tray.contains(cube.x, cube.y, 0.6 * HALF):
            x, y, z, gripper = _retreat(world, index)
        else:
            x, y, z, gripper = _grasp(world, index)
    return _servo(world, x, y, z, gripper)


def _funnel(distance: float, low: float, high: float) -> float:
    """Height allowed at a horizontal distance from the target: low inside, high outside."""
    return min(low + _FUNNEL_SLOPE * max(0.0, distance - _FUNNEL_RADIUS), high)


def _distance(world: Tabletop, x: float, y: float) -> float:
    return math.hypot(world.tip[0] - x, world.tip[1] - y)


def _touch(world: Tabletop, index: int) -> Target:
    cube = world.cubes[index]
    distance = _distance(world, cube.x, cube.y)
    # Fingers that are around a cube must rise before they close, or they would grasp it.
    low = _nearest_top(world) - 0.002
    gripper = CLOSED if world.tip[2] > low else world.joints[4]
    z = _funnel(distance, cube.z + HALF + TOUCH, HOVER)
    if world.joints[4] > 0.5:
        z = max(z, cube.z + HALF + 0.02)  # closed before it comes down
    return cube.x, cube.y, z, gripper


def _nearest_top(world: Tabletop) -> float:
    """Height of the top of a cube that the fingers are around, or below the table."""
    tops = [cube.z + HALF for cube in world.cubes if _distance(world, cube.x, cube.y) < 0.04]
    return max(tops, default=-1.0)


def _grasp(world: Tabletop, index: int) -> Target:
    cube = world.cubes[index]
    distance = _distance(world, cube.x, cube.y)
    low = max(cube.z - GRASP_BELOW, 0.006)
    opening = world.joints[4]
    # Once the fingers have begun to close, they need a larger error to open again.
    closing = opening < 0.9
    tolerance, margin = (0.0135, 0.012) if closing else (0.010, 0.008)
    level = world.tip[2] < low + margin
    if distance < tolerance and level and opening > 0.5 and cube.fall == 0.0:
        return cube.x, cube.y, low, SQUEEZE
    z = _funnel(distance, low, max(HOVER, cube.z + 0.06))
    if opening < 0.85:
        z = max(z, cube.z + HALF + 0.02)  # open before it comes down
    return cube.x, cube.y, z, OPEN


def _lift(world: Tabletop) -> Target:
    return world.tip[0], world.tip[1], CARRY, SQUEEZE


def _place(world: Tabletop, index: int, tray: Tray) -> Target:
    x, y = _free_spot_in(world, tray, index)
    cube = world.cubes[index]
    up = cube.z - world.tip[2]  # m, the cube's centre over the fingertips
    distance = math.hypot(cube.x - x, cube.y - y)
    low = TRAY_FLOOR + HALF + RELEASE_ABOVE - up
    level = world.tip[2] < low + 0.008
    if level and distance < 0.02:
        return world.tip[0], world.tip[1], low, OPEN
    # The hand goes where the cube's centre, not its own, ends over the spot.
    x, y = x - (cube.x - world.tip[0]), y - (cube.y - world.tip[1])
    return x, y, _funnel(distance, low, CARRY), SQUEEZE


def _free_spot_in(world: Tabletop, tray: Tray, index: int) -> tuple[float, float]:
    """The tray's middle or, where a cube lies in it, the place in it that is farthest from that."""
    others = [(c.x, c.y) for i, c in enumerate(world.cubes)
              if i != index and tray.contains(c.x, c.y)]
    if not others:
        return tray.x, tray.y
    cos, sin = math.cos(tray.yaw), math.sin(tray.yaw)
    spots = [(tray.x, tray.y)]
    spots += [(tray.x + cos * a - sin * b, tray.y + sin * a + cos * b)
              for a in (-0.03, 0.03) for b in (-0.03, 0.03)]
    return max(spots, key=lambda s: min(math.hypot(s[0] - x, s[1] - y) for x, y in others))


def _retreat(world: Tabletop, index: int) -> Target:
    """Open, go up, stay there."""
    x, y, z = world.tip
    opened = world.joints[4] > OPEN_GRIPPER
    return x, y, max(HOVER, world.cubes[index].z + AWAY + 0.02) if opened else z, OPEN


def _put_down(world: Tabletop) -> Target:
    """Put a cube that is in the way of the command on the nearest free place of the table."""
    held = world.held
    assert held is not None
    cube = world.cubes[held]
    up = cube.z - world.tip[2]
    low = HALF + RELEASE_ABOVE - up
    x, y, z = world.tip
    lowering = z < low + 0.05
    if _is_free(world, held, cube.x, cube.y, 0.0 if lowering else 0.006):
        spot_x, spot_y = cube.x, cube.y
    else:
        spot_x, spot_y = _nearest_free(world, held, cube.x, cube.y)
    # The funnel makes no difference between a place here and one next to here.
    distance = math.hypot(cube.x - spot_x, cube.y - spot_y)
    if z < low + 0.008 and distance < 0.02:
        return x, y, low, OPEN
    return (x + spot_x - cube.x, y + spot_y - cube.y, _funnel(distance, low, CARRY), SQUEEZE)


def _is_free(world: Tabletop, held: int, x: float, y: float, margin: float) -> bool:
    radius = math.hypot(x, y)
    if not 0.165 + margin <= radius <= 0.36 - margin or abs(math.atan2(y, x)) > 1.0 - margin:
        return False
    return (all(math.hypot(x - c.x, y - c.y) >= _CLEARANCE + margin
                for i, c in enumerate(world.cubes) if i != held)
            and all(math.hypot(x - t.x, y - t.y) >= _TRAY_CLEARANCE + margin
                    for t in world.scene.trays))


def _nearest_free(world: Tabletop, held: int, x: float, y: float) -> tuple[float, float]:
    for spot in sorted(_SPOTS, key=lambda s: (s[0] - x) ** 2 + (s[1] - y) ** 2):
        if _is_free(world, held, *spot, 0.01):
            return spot
    return x, y  # a table as full as that does not come from sample_scene


def _servo(world: Tabletop, x: float, y: float, z: float, gripper: float) -> list[float]:
    """One period's move towards fingertips at (x, y, z), hand down: up first, then across."""
    q = world.joints
    radius, yaw = math.hypot(world.tip[0], world.tip[1]), q[0]
    goal_radius, goal_yaw = math.hypot(x, y), math.atan2(y, x)
    distance = _distance(world, x, y)
    if distance > 0.016:
        # Low and far: rise before moving across, so that nothing is swept away on a real table.
        across = min(max((world.tip[2] - 0.03) / 0.035, 0.0), 1.0)
        goal_radius = radius + across * (goal_radius - radius)
        goal_yaw = yaw + across * (goal_yaw - yaw)
    goal = (goal_yaw, *kinematics.solve_planar(goal_radius, z), gripper)
    period, limits = world.control_period, world.limits
    moves = [GAIN * (g - a) for g, a in zip(goal, q, strict=True)]
    # The arm's joints share one scale, so that the fingertips keep to a nearly straight path.
    scale = 1.0
    for move, speed in zip(moves[:4], limits.velocity[:4], strict=True):
        allowed = SPEED * speed * period
        if abs(move) > allowed:
            scale = min(scale, allowed / abs(move))
    action = [a + scale * move for a, move in zip(q[:4], moves[:4], strict=True)]
    allowed = GRIPPER_SPEED * limits.velocity[4] * period
    action.append(q[4] + min(max(gripper - q[4], -allowed), allowed))
    return [min(max(a, low), high)
            for a, low, high in zip(action, limits.lower, limits.upper, strict=True)]
