# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A policy in closed loop with the world, in process: what the ROS node does, without ROS.

Every `execute` control periods an observation is taken; its chunk arrives `delay` periods later
and replaces the running one from the row that is then due (the elapsed rows are skipped, since row
i is meant for i + 1 periods after the observation). Before the first chunk, and after the end of
one that nothing replaces, the arm holds.

Knows worlds and arrays; knows nothing of how a policy computes.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from quantvla_ros.sim.tabletop.tasks import Task
from quantvla_ros.sim.tabletop.world import Tabletop

Images = Mapping[str, np.ndarray]
# images by camera [size, size, 3] uint8, joints [5] float32, instruction -> chunk [H, 5]
Act = Callable[[Images, np.ndarray, str], np.ndarray]
# images by camera [n, size, size, 3], joints [n, 5], n instructions -> chunks [n, H, 5]
ActBatch = Callable[[Images, np.ndarray, Sequence[str]], np.ndarray]


@dataclass(frozen=True)
class Rollout:
    """How one closed-loop episode went.

    Attributes:
        success: whether the judged task was done within the steps.
        steps: control periods until it was done, or all of them.
        inferences: chunks that were asked for.
        joints: [steps + 1, 5] rad, measured joints before every step and at the end.
    """

    success: bool
    steps: int
    inferences: int
    joints: np.ndarray


def rollout(world: Tabletop, task: Task, act: Act, *, steps: int = 200, execute: int = 8,
            delay: int = 0, instruction: str | None = None) -> Rollout:
    """Run a policy on one world until `task` is done or the steps are used up.

    Args:
        world: is changed.
        task: decides success.
        act: the policy.
        instruction: the words given to the policy; the task's own where None. Other words with
            the same task are the control that shows whether a policy reads the language.
    """
    def act_batch(images: Images, joints: np.ndarray, words: Sequence[str]) -> np.ndarray:
        return np.asarray(act({name: image[0] for name, image in images.items()}, joints[0],
                              words[0]))[None]

    return rollouts([world], [task], act_batch, steps=steps, execute=execute, delay=delay,
                    instructions=None if instruction is None else [instruction])[0]


def rollouts(worlds: Sequence[Tabletop], tasks: Sequence[Task], act_batch: ActBatch, *,
             steps: int = 200, execute: int = 8, delay: int = 0,
             instructions: Sequence[str] | None = None) -> list[Rollout]:
    """Run a policy on many worlds in lockstep, one batch per inference; see `rollout`.

    A world whose task is done is stepped no further and left out of later batches.
    """
    if not 0 <= delay <= execute:
        raise ValueError(f'expected 0 <= delay <= execute, found delay {delay} and execute '
                         f'{execute}: a chunk must arrive before the next observation is taken')
    if len(worlds) != len(tasks):
        raise ValueError(f'expected one task per world, found {len(tasks)} for {len(worlds)}')
    words = [task.instruction for task in tasks] if instructions is None else list(instructions)
    if len(words) != len(worlds):
        raise ValueError(f'expected one instruction per world, found {len(words)} for '
                         f'{len(worlds)}')
    runs = [_Run(world, task, text) for world, task, text in zip(worlds, tasks, words,
                                                                 strict=True)]
    for step in range(steps):
        active = [run for run in runs if not run.done]
        if not active:
            break
        for run in active:
            run.adopt(step, delay)
        if step % execute == 0:
            chunks = _infer(active, act_batch, execute + delay)
            for run, chunk in zip(active, chunks, strict=True):
                run.await_chunk(chunk, step)
        for run in active:
            run.step(step, delay)
    return [run.result() for run in runs]


def _infer(runs: Sequence[_Run], act_batch: ActBatch, needed: int) -> np.ndarray:
    pictures = [run.world.render() for run in runs]
    images = {name: np.stack([picture[name] for picture in pictures]) for name in pictures[0]}
    joints = np.stack([run.world.joint_positions for run in runs]).astype(np.float32)
    chunks = np.asarray(act_batch(images, joints, [run.words for run in runs]), np.float64)
    if chunks.ndim != 3 or len(chunks) != len(runs) or chunks.shape[2] != joints.shape[1]:
        raise ValueError(f'expected chunks [{len(runs)}, H, {joints.shape[1]}] from the policy, '
                         f'found {list(chunks.shape)}')
    if chunks.shape[1] < needed:
        raise ValueError(f'expected chunks of at least execute + delay = {needed} rows, found '
                         f'{chunks.shape[1]}: lower execute or delay')
    return chunks


class _Run:
    """One world, the chunk it runs, and the chunk that is on its way."""

    def __init__(self, world: Tabletop, task: Task, words: str) -> None:
        self.world, self.task, self.words = world, task, words
        self.done = world.succeeded(task)
        self._chunk: np.ndarray | None = None
        self._observed = 0  # step at which the running chunk's observation was taken
        self._coming: tuple[np.ndarray, int] | None = None
        self._held = world.joint_positions
        self._inferences = 0
        self._joints = [world.joint_positions]

    def await_chunk(self, chunk: np.ndarray, step: int) -> None:
        self._coming = (chunk, step)
        self._inferences += 1

    def adopt(self, step: int, delay: int) -> None:
        if self._coming is not None and step >= self._coming[1] + delay:
            (self._chunk, self._observed), self._coming = self._coming, None

    def step(self, step: int, delay: int) -> None:
        self.adopt(step, delay)  # a chunk without delay is due at once
        if self._chunk is not None:
            self._held = self._chunk[min(step - self._observed, len(self._chunk) - 1)]
        self.world.step(self._held)
        self._joints.append(self.world.joint_positions)
        self.done = self.world.succeeded(self.task)

    def result(self) -> Rollout:
        return Rollout(self.done, len(self._joints) - 1, self._inferences, np.array(self._joints))
