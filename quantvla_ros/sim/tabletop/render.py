# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The two cameras' pictures, drawn as shaded polygons in painter's order, without a GPU.

`overhead` stands on the far side of the table, above it, and sees all of it and the arm; from
there the arm leans away from what it is about to touch. `wrist` sits on the hand's near side and
sees the fingertips and what is below them. The light casts shadows on the table: the only cue of
height besides perspective.

Knows the world's geometry as numbers; knows nothing of motion, tasks or time.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from quantvla_ros.sim.tabletop import kinematics
from quantvla_ros.sim.tabletop.scene import (
    HALF,
    PALETTE,
    TRAY,
    TRAY_FLOOR,
    TRAY_RIM,
    TRAY_WALL,
    Scene,
)

NEAR = 0.02  # m, nothing nearer to a camera than this is drawn
_SHIFT = 4  # bits of sub-pixel places
_AMBIENT, _DIFFUSE = 0.66, 0.38
_SHADOW = 168  # of 255: how much light is left in a shadow
_FLOOR = (64, 70, 80)  # RGB, what is beyond the table
_TABLE_X, _TABLE_Y = (-0.10, 0.62), (-0.62, 0.62)  # m
_PLANKS = 8
_WRIST_TILT = 0.35  # rad

_WHITE, _GREY, _DARK, _PAD = (232, 234, 238), (150, 156, 166), (62, 68, 80), (40, 44, 52)
_ACCENT = (96, 186, 190)

# A box: corners by the signs of its three axes, faces as corners, face normals as (axis, sign).
_SIGNS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
_FACES = np.array([[4, 5, 7, 6], [0, 2, 3, 1], [2, 6, 7, 3], [0, 1, 5, 4], [1, 3, 7, 5],
                   [0, 4, 6, 2]])
_FACE_SIGNS = np.array([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
_FACE_AXES = np.array([0, 0, 1, 1, 2, 2])


@dataclass(frozen=True)
class Camera:
    """A pinhole camera: position in m, rows right, down, forward, focal length in pixels."""

    position: np.ndarray
    rotation: np.ndarray
    focal: float
    centre: float

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels [..., 2] and depths [...] in m of points [..., 3]; depth below NEAR: behind."""
        seen = (points - self.position) @ self.rotation.T
        depth = seen[..., 2]
        return seen[..., :2] * (self.focal / np.maximum(depth, 1e-6))[..., None] + self.centre, \
            depth


def _look(position: Sequence[float], target: Sequence[float], up: Sequence[float], focal: float,
          size: int) -> Camera:
    eye = np.array(position, float)
    forward = np.array(target, float) - eye
    forward /= math.sqrt(float(forward @ forward))
    right = np.cross(forward, up)
    right /= math.sqrt(float(right @ right))
    return Camera(eye, np.stack([right, np.cross(forward, right), forward]),
                  focal * size / 224, (size - 1) / 2)


def overhead_camera(size: int = 224) -> Camera:
    """The camera over the far side of the table; the arm's base is at the picture's top."""
    return _look((0.62, 0.0, 0.97), (0.125, 0.0, 0.05), (0.0, 0.0, 1.0), 356.0, size)


def wrist_camera(joints: Sequence[float], size: int = 224) -> Camera:
    """The camera on the near side of the hand, tilted outwards by 20 degrees."""
    tip = np.array(kinematics.fingertips(joints))
    along, out, across = hand_axes(joints)
    cos, sin = math.cos(_WRIST_TILT), math.sin(_WRIST_TILT)
    return Camera(tip - 0.07 * along - 0.05 * out,
                  np.stack([-across, sin * along - cos * out, cos * along + sin * out]),
                  143.0 * size / 224, (size - 1) / 2)


def hand_axes(joints: Sequence[float]) -> np.ndarray:
    """Rows: where the hand points, outwards from the base when it points down, across; [3, 3]."""
    elevation = joints[1] + joints[2] + joints[3]
    cos, sin = math.cos(elevation), math.sin(elevation)
    cos_yaw, sin_yaw = math.cos(joints[0]), math.sin(joints[0])
    return np.array([[cos * cos_yaw, cos * sin_yaw, sin],
                     [-sin * cos_yaw, -sin * sin_yaw, cos],
                     [-sin_yaw, cos_yaw, 0.0]])


class Renderer:
    """Draws one scene; what does not move is prepared once."""

    def __init__(self, scene: Scene, size: int = 224) -> None:
        self.size = size
        look = scene.look
        light = np.array(look.light, float)
        self._light = light / math.sqrt(float(light @ light))
        tints = look.tints or ((0.0, 0.0, 0.0),) * (len(scene.cubes) + len(scene.trays))
        names = [thing.colour for thing in scene.cubes] + [thing.colour for thing in scene.trays]
        colours = [np.clip(np.array(PALETTE[name], float) + np.array(tint), 0, 255)
                   for name, tint in zip(names, tints, strict=True)]
        count = len(scene.cubes)
        # Boxes in this order: cubes, hand, then the parts that only the overhead camera sees.
        parts = (_PAD, _PAD, _GREY, _GREY, _DARK, _WHITE, _WHITE, _DARK)
        self._box_colours = np.array([*colours[:count], *parts], float) * look.brightness
        self._cubes = count
        self._in_hand = count + 5
        self._planks = _plank_faces(look.table, look.grain, look.brightness)
        self._trays = _tray_faces(scene, colours[count:], self._light, look.brightness)
        self._blank = np.full((size, size, 3), _FLOOR, np.uint8)
        self._overhead = overhead_camera(size)
        self._background = self._draw_table(self._overhead)
        self._mask = np.empty((size, size, 3), np.uint8)

    def draw(self, joints: Sequence[float], cubes: Sequence[object]) -> dict[str, np.ndarray]:
        """Pictures of both cameras, [size, size, 3] uint8 RGB.

        Args:
            joints: [5] rad.
            cubes: the scene's cubes as they are now, with x, y, z in m and yaw in rad.
        """
        centres, axes, halves = self._boxes(joints, cubes)
        corners = centres[:, None] + (_SIGNS[None] * halves[:, None]) @ axes
        normals = axes[:, _FACE_AXES] * _FACE_SIGNS[None, :, None]
        lit = _AMBIENT + _DIFFUSE * np.maximum(normals @ self._light, 0.0)
        colours = np.minimum(self._box_colours[:, None] * lit[..., None], 255.0).tolist()
        faces = (corners, normals, colours, centres)
        # The shadow of every corner on the table's plane.
        shadows = corners - self._light * (corners[..., 2:] / self._light[2])
        overhead = self._background.copy()
        self._draw_boxes(overhead, self._overhead, faces, shadows, len(centres))
        self._draw_joints(overhead, joints)
        camera = wrist_camera(joints, self.size)
        wrist = self._draw_table(camera)
        self._draw_boxes(wrist, camera, faces, shadows, self._in_hand)
        return {'overhead': overhead, 'wrist': wrist}

    def _boxes(self, joints: Sequence[float],
               cubes: Sequence[object]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Centres [n, 3], axes as rows [n, 3, 3] and half sizes [n, 3] of everything that moves."""
        shoulder, elbow, wrist, tip = kinematics.chain(joints)
        hand = hand_axes(joints)
        along, _, across = hand
        yaw = joints[0]
        side = kinematics.finger_gap(joints[4]) / 2 + 0.005
        count = self._cubes
        total = count + 8
        centres, axes = np.empty((total, 3)), np.empty((total, 3, 3))
        halves = np.empty((total, 3))
        for index, cube in enumerate(cubes):
            cos, sin = math.cos(cube.yaw), math.sin(cube.yaw)  # type: ignore[attr-defined]
            centres[index] = cube.x, cube.y, cube.z  # type: ignore[attr-defined]
            axes[index] = (cos, sin, 0.0), (-sin, cos, 0.0), (0.0, 0.0, 1.0)
        halves[:count] = HALF
        # Finger pads, fingers, palm.
        for index, sign in ((0, 1.0), (1, -1.0)):
            centres[count + index] = tip - 0.007 * along + sign * side * across
            centres[count + 2 + index] = tip - 0.031 * along + sign * side * across
        halves[count:count + 2] = 0.007, 0.009, 0.005
        halves[count + 2:count + 4] = 0.017, 0.008, 0.004
        centres[count + 4] = tip - 0.054 * along
        halves[count + 4] = 0.007, 0.013, 0.048
        axes[count:count + 5] = hand
        # Forearm, upper arm, turret.
        for index, (a, b, elevation) in enumerate((
                (elbow, wrist, joints[1] + joints[2]), (shoulder, elbow, joints[1]))):
            centres[count + 5 + index] = (a + b) / 2
            cos, sin = math.cos(elevation), math.sin(elevation)
            cos_yaw, sin_yaw = math.cos(yaw), math.sin(yaw)
            axes[count + 5 + index] = ((cos * cos_yaw, cos * sin_yaw, sin),
                                       (-sin * cos_yaw, -sin * sin_yaw, cos),
                                       (-sin_yaw, cos_yaw, 0.0))
        halves[count + 5] = kinematics.FOREARM / 2 + 0.012, 0.014, 0.014
        halves[count + 6] = kinematics.UPPER_ARM / 2 + 0.014, 0.017, 0.017
        centres[count + 7] = 0.0, 0.0, kinematics.SHOULDER_HEIGHT / 2
        axes[count + 7] = axes[count + 5]
        axes[count + 7, 0] = math.cos(yaw), math.sin(yaw), 0.0
        axes[count + 7, 1] = 0.0, 0.0, 1.0
        halves[count + 7] = 0.032, kinematics.SHOULDER_HEIGHT / 2 + 0.012, 0.032
        return centres, axes, halves

    def _draw_boxes(self, image: np.ndarray, camera: Camera,
                    faces: tuple[np.ndarray, np.ndarray, list, np.ndarray], shadows: np.ndarray,
                    count: int) -> None:
        corners, normals, colours, centres = faces
        self._draw_shadows(image, camera, shadows)
        corners, normals, centres = corners[:count], normals[:count], centres[:count]
        pixels, depth = camera.project(corners)
        quads = corners[:, _FACES]  # [n, 6, 4, 3]
        towards = ((camera.position - quads[:, :, 0]) * normals).sum(-1)
        fixed = np.ascontiguousarray(_fixed(pixels)[:, _FACES])
        offsets = centres - camera.position
        order = np.argsort(-(offsets * offsets).sum(-1)).tolist()
        visible: list[list[bool]] = np.greater(towards, 0.0).tolist()
        behind: list[bool] = np.any(depth < NEAR, axis=1).tolist()
        for box in order:
            for face in range(6):
                if not visible[box][face]:
                    continue
                if behind[box]:
                    _fill_clipped(image, camera, quads[box, face], colours[box][face])
                else:
                    cv2.fillConvexPoly(image, fixed[box, face], colours[box][face], cv2.LINE_AA,
                                       _SHIFT)

    def _draw_joints(self, image: np.ndarray, joints: Sequence[float]) -> None:
        """The elbow's and the wrist's bearings, which nothing hides from above."""
        points = kinematics.chain(joints)[1:3]
        pixels, depth = self._overhead.project(points)
        fixed = _fixed(pixels)
        for place, far, radius in zip(fixed, depth, (0.021, 0.017), strict=True):
            for part, colour in ((1.0, _DARK), (0.5, _ACCENT)):
                size = round(part * radius * self._overhead.focal / far * (1 << _SHIFT))
                cv2.circle(image, place.tolist(), size, colour, cv2.FILLED, cv2.LINE_AA, _SHIFT)

    def _draw_shadows(self, image: np.ndarray, camera: Camera, shadows: np.ndarray) -> None:
        pixels, depth = camera.project(shadows)
        fixed = _fixed(pixels)
        self._mask.fill(255)
        level = (_SHADOW,) * 3
        for index in range(len(shadows)):
            if depth[index].min() >= NEAR:
                hull = cv2.convexHull(fixed[index])
                cv2.fillConvexPoly(self._mask, hull, level, cv2.LINE_AA, _SHIFT)
        cv2.multiply(image, self._mask, dst=image, scale=1 / 255)

    def _draw_table(self, camera: Camera) -> np.ndarray:
        """What never moves: the table's planks and the trays."""
        image = self._blank.copy()
        self._draw_quads(image, camera, *self._planks)
        quads, normals, colours = self._trays
        facing = ((camera.position - quads[:, 0]) * normals).sum(-1) > 0.0
        chosen = np.flatnonzero(facing)
        self._draw_quads(image, camera, quads[chosen], [colours[i] for i in chosen])
        return image

    def _draw_quads(self, image: np.ndarray, camera: Camera, quads: np.ndarray,
                    colours: Sequence[Sequence[float]]) -> None:
        pixels, depth = camera.project(quads)
        fixed = _fixed(pixels)
        ahead: list[bool] = np.all(depth >= NEAR, axis=1).tolist()
        inside = (pixels.max(1) >= 0.0) & (pixels.min(1) < self.size)
        seen: list[bool] = np.all(inside, axis=1).tolist()
        for index, colour in enumerate(colours):
            if not ahead[index]:
                _fill_clipped(image, camera, quads[index], colour)
            elif seen[index]:
                cv2.fillConvexPoly(image, fixed[index], colour, cv2.LINE_AA, _SHIFT)


def _fixed(pixels: np.ndarray) -> np.ndarray:
    """Pixels as OpenCV's fixed-point numbers, kept far from overflow."""
    return np.rint(np.clip(pixels, -4e4, 4e4) * (1 << _SHIFT)).astype(np.int32)


def _fill_clipped(image: np.ndarray, camera: Camera, polygon: np.ndarray,
                  colour: Sequence[float]) -> None:
    """Fill a polygon [k, 3] that reaches behind the camera: cut it at NEAR first."""
    seen = (polygon - camera.position) @ camera.rotation.T
    kept = []
    for a, b in zip(seen, np.roll(seen, -1, 0), strict=True):
        if a[2] >= NEAR:
            kept.append(a)
        if (a[2] >= NEAR) != (b[2] >= NEAR):
            kept.append(a + (b - a) * ((NEAR - a[2]) / (b[2] - a[2])))
    if len(kept) >= 3:
        points = np.array(kept)
        pixels = points[:, :2] * (camera.focal / points[:, 2:]) + camera.centre
        cv2.fillConvexPoly(image, _fixed(pixels), colour, cv2.LINE_AA, _SHIFT)


def _plank_faces(table: tuple[int, int, int], grain: int,
                 brightness: float) -> tuple[np.ndarray, list[list[float]]]:
    """The table's planks, [n, 4, 3] m, each in a slightly different tone."""
    edges = np.linspace(*_TABLE_X, _PLANKS + 1)
    ends = np.array([[[x, y, 0.0] for y in _TABLE_Y] for x in edges])
    quads = np.concatenate([ends[:-1], ends[1:, ::-1]], 1)
    tones = np.random.default_rng(grain).uniform(-7, 7, (_PLANKS, 1))
    return quads, np.clip(np.array(table, float) * brightness + tones, 0, 255).tolist()


def _tray_faces(scene: Scene, colours: Sequence[np.ndarray], light: np.ndarray,
                brightness: float) -> tuple[np.ndarray, np.ndarray, list[list[float]]]:
    """Faces of all trays in painter's order: floor, inner walls, rims, outer walls."""
    outer, inner = TRAY / 2, TRAY / 2 - TRAY_WALL
    around = ((1, 1), (-1, 1), (-1, -1), (1, -1))
    local: list[tuple[list[tuple[float, float, float]], tuple[float, float, float], float]] = []
    local.append(([(inner * x, inner * y, TRAY_FLOOR) for x, y in around], (0, 0, 1), 0.80))
    sides = [(around[i], around[(i + 1) % 4]) for i in range(4)]
    for a, b in sides:
        middle = ((a[0] + b[0]) / 2, (a[1] + b[1]) / 2)
        local.append(([(inner * a[0], inner * a[1], 0.0), (inner * b[0], inner * b[1], 0.0),
                       (inner * b[0], inner * b[1], TRAY_RIM),
                       (inner * a[0], inner * a[1], TRAY_RIM)], (-middle[0], -middle[1], 0), 0.9))
    for a, b in sides:
        local.append(([(inner * a[0], inner * a[1], TRAY_RIM),
                       (inner * b[0], inner * b[1], TRAY_RIM),
                       (outer * b[0], outer * b[1], TRAY_RIM),
                       (outer * a[0], outer * a[1], TRAY_RIM)], (0, 0, 1), 1.08))
    for a, b in sides:
        middle = ((a[0] + b[0]) / 2, (a[1] + b[1]) / 2)
        local.append(([(outer * a[0], outer * a[1], 0.0), (outer * b[0], outer * b[1], 0.0),
                       (outer * b[0], outer * b[1], TRAY_RIM),
                       (outer * a[0], outer * a[1], TRAY_RIM)], (*middle, 0), 1.0))
    quads, normals, shaded = [], [], []
    for tray, colour in zip(scene.trays, colours, strict=True):
        cos, sin = math.cos(tray.yaw), math.sin(tray.yaw)
        turn = np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])
        for corners, normal, tone in local:
            quads.append(np.array(corners) @ turn + (tray.x, tray.y, 0.0))
            normals.append(np.array(normal, float) @ turn)
            lit = _AMBIENT + _DIFFUSE * max(0.0, float(normals[-1] @ light))
            shaded.append(np.clip(colour * brightness * lit * tone, 0, 255).tolist())
    return np.reshape(quads, (-1, 4, 3)), np.reshape(normals, (-1, 3)), shaded
