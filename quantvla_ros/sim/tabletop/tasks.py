# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What can be asked of the arm, in words and as data.

Knows scenes by their colours; knows nothing of motion. Whether a task is done is decided by the
world (`Tabletop.succeeded`) from its ground truth.
"""
from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from quantvla_ros.sim.tabletop.scene import CUBE_COLOURS, TRAY_COLOURS, Scene


class TaskKind(Enum):
    """The three kinds, each with what counts as done."""

    REACH = 'closed fingertips rest just above the top of the named cube'
    PICK = 'the named cube is held at least 6 cm above the table'
    PLACE = 'the named cube rests in the named tray, gripper open and away from it'


# {cube} and {tray} are colours. Lower case; the whole vocabulary is these words and the colours.
PHRASES: dict[TaskKind, tuple[str, ...]] = {
    TaskKind.REACH: (
        'touch the {cube} cube',
        'reach the {cube} cube',
        'point at the {cube} cube',
    ),
    TaskKind.PICK: (
        'pick up the {cube} cube',
        'lift the {cube} cube',
        'grab the {cube} cube',
    ),
    TaskKind.PLACE: (
        'put the {cube} cube in the {tray} tray',
        'place the {cube} cube in the {tray} tray',
        'drop the {cube} cube into the {tray} tray',
    ),
}


@dataclass(frozen=True)
class Task:
    """One command: its kind, the colours it names and the words it is given in."""

    kind: TaskKind
    cube: str
    tray: str | None = None  # PLACE only
    phrase: int = 0

    def __post_init__(self) -> None:
        if (self.tray is not None) != (self.kind is TaskKind.PLACE):
            raise ValueError(f'task: a tray belongs to PLACE and only to it, found kind '
                             f'{self.kind.name} with tray {self.tray!r}')

    @property
    def instruction(self) -> str:
        """The words, lower case."""
        return PHRASES[self.kind][self.phrase].format(cube=self.cube, tray=self.tray)

    @property
    def goal(self) -> tuple[TaskKind, str, str | None]:
        """What has to be done, whatever the words."""
        return self.kind, self.cube, self.tray


def _pattern(phrase: str) -> re.Pattern[str]:
    cube, tray = '|'.join(CUBE_COLOURS), '|'.join(TRAY_COLOURS)
    return re.compile(phrase.format(cube=f'(?P<cube>{cube})', tray=f'(?P<tray>{tray})'))


_PATTERNS = tuple((kind, index, _pattern(phrase)) for kind, phrases in PHRASES.items()
                  for index, phrase in enumerate(phrases))


def parse_task(instruction: str) -> Task | None:
    """The task that an instruction names, or None where it is none of `PHRASES`."""
    words = ' '.join(instruction.lower().strip(' .!').split())
    for kind, index, pattern in _PATTERNS:
        match = pattern.fullmatch(words)
        if match:
            return Task(kind, match['cube'], match.groupdict().get('tray'), index)
    return None


def all_tasks(scene: Scene) -> list[Task]:
    """Every goal of a scene, in its first phrase."""
    tasks = [Task(kind, cube.colour) for cube in scene.cubes
             for kind in (TaskKind.REACH, TaskKind.PICK)]
    tasks += [Task(TaskKind.PLACE, cube.colour, tray.colour) for cube in scene.cubes
              for tray in scene.trays]
    return tasks


def sample_task(scene: Scene, rng: np.random.Generator, kind: TaskKind | None = None) -> Task:
    """Draw a command for a scene: kinds equally likely (or the one asked for), then colours."""
    kind = kind or tuple(TaskKind)[rng.integers(len(TaskKind))]
    cube = scene.cubes[rng.integers(len(scene.cubes))].colour
    tray = scene.trays[rng.integers(len(scene.trays))].colour if kind is TaskKind.PLACE else None
    return Task(kind, cube, tray, int(rng.integers(len(PHRASES[kind]))))


def other_task(task: Task, scene: Scene, rng: np.random.Generator) -> Task:
    """Another command of the same scene that cannot be done by doing `task`, or on the way to it.

    It names another cube; or, for PLACE, the same cube and another tray.
    """
    choices = [other for other in all_tasks(scene) if other.cube != task.cube
               or (task.tray is not None and other.tray not in (None, task.tray))]
    if not choices:
        raise ValueError(f'no command in this scene differs from {task.instruction!r}: '
                         f'expected at least two cubes')
    # Kinds equally likely, as in sample_task.
    kinds = sorted({other.kind for other in choices}, key=list(TaskKind).index)
    kind = kinds[rng.integers(len(kinds))]
    same = [other for other in choices if other.kind is kind]
    chosen = same[rng.integers(len(same))]
    return replace(chosen, phrase=int(rng.integers(len(PHRASES[kind]))))
