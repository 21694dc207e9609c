# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What stands on the table at the start of an episode, and how that is drawn at random.

Knows sizes, places and looks; knows nothing of motion (see `world`) or pictures (see `render`).
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quantvla_ros.sim.tabletop import kinematics

CUBE = 0.035  # m, edge
HALF = CUBE / 2
TRAY = 0.11  # m, outer edge
TRAY_WALL = 0.005  # m, thickness of the rim
TRAY_RIM = 0.014  # m, height of the rim
TRAY_FLOOR = 0.003  # m, thickness of the floor

CUBE_COLOURS = ('red', 'green', 'blue', 'yellow', 'purple')
TRAY_COLOURS = ('red', 'green', 'blue', 'yellow', 'purple', 'white')
PALETTE: dict[str, tuple[int, int, int]] = {  # RGB before light
    'red': (214, 48, 42),
    'green': (52, 160, 66),
    'blue': (44, 98, 214),
    'yellow': (240, 200, 40),
    'purple': (146, 66, 186),
    'white': (236, 236, 232),
}
TABLES: tuple[tuple[int, int, int], ...] = (
    (190, 170, 144), (172, 158, 140), (202, 186, 162), (168, 166, 162), (182, 160, 128),
)

RADIUS = (0.175, 0.345)  # m from the base: where things may stand
YAW = (-0.85, 0.85)  # rad about the base
_CUBE_TO_CUBE = 0.075  # m between centres
_CUBE_TO_TRAY = 0.105
_TRAY_TO_TRAY = 0.15


@dataclass(frozen=True)
class Cube:
    """A cube lying on the table: colour name, centre in m, turn about z in rad."""

    colour: str
    x: float
    y: float
    yaw: float


@dataclass(frozen=True)
class Tray:
    """A square tray: colour name, centre in m, turn about z in rad."""

    colour: str
    x: float
    y: float
    yaw: float

    def contains(self, x: float, y: float, margin: float = 0.0) -> bool:
        """Whether a point lies over the floor, at least `margin` m from the rim."""
        dx, dy = x - self.x, y - self.y
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        inner = TRAY / 2 - TRAY_WALL - margin
        return abs(cos * dx + sin * dy) <= inner and abs(cos * dy - sin * dx) <= inner


@dataclass(frozen=True)
class Look:
    """How a scene looks: what varies from scene to scene although nothing depends on it."""

    table: tuple[int, int, int] = TABLES[0]  # RGB
    light: tuple[float, float, float] = (0.35, 0.25, 0.9)  # direction to the light, any length
    brightness: float = 1.0
    tints: tuple[tuple[float, float, float], ...] = ()  # RGB offsets: cubes, then trays
    grain: int = 0  # seed of the table's planks


@dataclass(frozen=True)
class Scene:
    """Everything at the start: cubes and trays, the arm's joints (rad), and the look."""

    cubes: tuple[Cube, ...]
    trays: tuple[Tray, ...]
    joints: tuple[float, ...]
    look: Look = Look()

    def __post_init__(self) -> None:
        named: dict[str, Sequence[Cube | Tray]] = {'cube': self.cubes, 'tray': self.trays}
        for kind, things in named.items():
            colours = [thing.colour for thing in things]
            if len(set(colours)) != len(colours):
                raise ValueError(f'scene: expected {kind}s of different colours, found {colours}: '
                                 f'a command could not name one')
            unknown = set(colours) - set(PALETTE)
            if unknown:
                raise ValueError(f'scene: unknown colours {sorted(unknown)}; '
                                 f'known are {sorted(PALETTE)}')
        if len(self.joints) != len(kinematics.JOINTS):
            raise ValueError(f'scene: expected {len(kinematics.JOINTS)} start joints, '
                             f'found {len(self.joints)}')

    def cube(self, colour: str) -> int:
        """Index of the cube of this colour."""
        return _index(self.cubes, colour, 'cube')

    def tray(self, colour: str) -> int:
        """Index of the tray of this colour."""
        return _index(self.trays, colour, 'tray')


def _index(things: Sequence[Cube | Tray], colour: str, kind: str) -> int:
    for index, thing in enumerate(things):
        if thing.colour == colour:
            return index
    found = ', '.join(thing.colour for thing in things)
    raise ValueError(f'no {colour} {kind} in this scene; there are: {found}')


def sample_scene(rng: np.random.Generator, *, cubes: int = 3, trays: int = 2) -> Scene:
    """Draw a scene: different colours, all within reach, nothing touching anything else."""
    cube_colours = [str(c) for c in rng.permutation(CUBE_COLOURS)[:cubes]]
    tray_colours = [str(c) for c in rng.permutation(TRAY_COLOURS)[:trays]]
    while True:  # ends almost surely: most tables take a handful of tries
        places = _sample_places(rng, cubes, trays)
        if places is not None:
            break
    made_trays = tuple(Tray(colour, x, y, math.atan2(y, x) + rng.uniform(-0.25, 0.25))
                       for colour, (x, y) in zip(tray_colours, places[:trays], strict=True))
    # Cubes lie roughly square to the fingers, since the arm has no roll joint.
    made_cubes = tuple(Cube(colour, x, y, math.atan2(y, x) + rng.uniform(-0.3, 0.3))
                       for colour, (x, y) in zip(cube_colours, places[trays:], strict=True))
    return Scene(made_cubes, made_trays, sample_start(rng), _sample_look(rng, cubes + trays))


def sample_start(rng: np.random.Generator) -> tuple[float, ...]:
    """A start pose near home: hand above the middle of the table, gripper at any opening."""
    yaw = rng.uniform(-0.5, 0.5)
    planar = kinematics.solve_planar(rng.uniform(0.20, 0.29), rng.uniform(0.12, 0.17))
    bent = [angle + rng.uniform(-0.08, 0.08) for angle in planar]
    gripper = float(rng.choice((rng.uniform(0.0, 0.1), rng.uniform(0.9, 1.0))))
    return tuple(float(q) for q in (yaw, *bent, gripper))


def _sample_places(rng: np.random.Generator, cubes: int,
                   trays: int) -> list[tuple[float, float]] | None:
    places: list[tuple[float, float]] = []
    for index in range(trays + cubes):
        is_tray = index < trays
        for _ in range(40):
            # Uniform over the sector's area, trays a little further in so that they fit.
            low, high = RADIUS if not is_tray else (RADIUS[0] + 0.03, RADIUS[1] - 0.02)
            radius = math.sqrt(rng.uniform(low ** 2, high ** 2))
            yaw = rng.uniform(*YAW)
            x, y = radius * math.cos(yaw), radius * math.sin(yaw)
            if all(math.hypot(x - a, y - b) >= _gap(is_tray, other < trays)
                   for other, (a, b) in enumerate(places)):
                places.append((x, y))
                break
        else:
            return None
    return places


def _gap(first_is_tray: bool, second_is_tray: bool) -> float:
    if first_is_tray and second_is_tray:
        return _TRAY_TO_TRAY
    return _CUBE_TO_TRAY if first_is_tray or second_is_tray else _CUBE_TO_CUBE


def _sample_look(rng: np.random.Generator, things: int) -> Look:
    base = TABLES[rng.integers(len(TABLES))]
    shade = rng.uniform(0.92, 1.06)
    table = tuple(int(np.clip(c * shade + rng.uniform(-6, 6), 0, 255)) for c in base)
    azimuth = rng.uniform(-math.pi, math.pi)
    light = (0.42 * math.cos(azimuth), 0.42 * math.sin(azimuth), 1.0)
    tints = tuple(tuple(float(t) for t in rng.uniform(-12, 12, 3)) for _ in range(things))
    return Look(table, light, float(rng.uniform(0.92, 1.06)), tints,  # type: ignore[arg-type]
                int(rng.integers(1 << 16)))
