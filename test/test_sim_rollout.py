# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Closed loop in process: which rows of which chunk are executed, one world or many."""
import numpy as np
import pytest

from quantvla_ros.sim.tabletop import Tabletop, other_task
from quantvla_ros.sim.tabletop.expert import expert_chunk
from quantvla_ros.sim.tabletop.rollout import rollout, rollouts


def world_and_task(seed=3, size=32):
    world = Tabletop(seed, image_size=size)
    return world, world.task


class Marked:
    """A policy whose chunk moves the base by one step per row and tells chunks by the gripper."""

    def __init__(self, start, rows=12):
        self.start, self.rows, self.seen = start, rows, []

    def __call__(self, images, joints, words):
        assert images['overhead'].shape == images['wrist'].shape == (32, 32, 3)
        assert joints.dtype == np.float32
        self.seen.append(words)
        chunk = np.tile(self.start, (self.rows, 1))
        chunk[:, 4] = 0.01 * len(self.seen)
        chunk[:, 0] = self.start[0] + 0.001 * np.arange(1, self.rows + 1)
        return chunk


@pytest.mark.parametrize('delay', [0, 2, 4])
def test_a_chunk_is_executed_from_the_row_that_is_due_when_it_arrives(delay):
    world, task = world_and_task()
    world.set_joints((*world.joints[:4], 0.0))
    start = world.joint_positions
    act = Marked(start)
    result = rollout(world, task, act, steps=12, execute=4, delay=delay)
    assert result.steps == 12 and result.inferences == 3 and not result.success
    base = np.rint((result.joints[1:, 0] - start[0]) / 0.001).astype(int).tolist()
    chunk = np.rint(result.joints[1:, 4] / 0.01).astype(int).tolist()
    # Held until the first chunk arrives; then `execute` rows of each, starting at row `delay`.
    rows = list(range(delay + 1, delay + 5))
    assert base == ([0] * delay + rows * 3)[:12]
    assert chunk == ([0] * delay + [1] * 4 + [2] * 4 + [3] * 4)[:12]


def test_chunks_too_short_for_the_delay_are_refused():
    world, task = world_and_task()
    with pytest.raises(ValueError, match='at least execute \\+ delay = 14 rows, found 12'):
        rollout(world, task, Marked(world.joint_positions), execute=8, delay=6)
    with pytest.raises(ValueError, match='delay <= execute'):
        rollout(world, task, Marked(world.joint_positions), execute=4, delay=6)


def expert(world, task, noise=None):
    def act(images, joints, words):
        chunk = expert_chunk(world, task, 16)
        return chunk if noise is None else chunk + noise.normal(0.0, 0.01, chunk.shape)
    return act


@pytest.mark.parametrize('execute, delay', [(8, 0), (8, 5), (10, 6)])
def test_the_expert_succeeds_through_chunks_with_delay_and_noise(execute, delay):
    for seed in range(6):
        world, task = world_and_task(seed)
        noise = np.random.default_rng(seed)
        result = rollout(world, task, expert(world, task, noise), execute=execute, delay=delay)
        assert result.success and result.steps < 150
        assert len(result.joints) == result.steps + 1


def test_a_batch_gives_the_same_as_one_world_at_a_time_and_skips_what_is_done():
    worlds = [Tabletop(seed, image_size=32) for seed in range(4)]
    tasks = [world.task for world in worlds]
    batches = []

    def act_batch(images, joints, words):
        active = [w for w, t in zip(worlds, tasks, strict=True) if not w.succeeded(t)]
        assert images['wrist'].shape == (len(active), 32, 32, 3)
        assert joints == pytest.approx(np.array([w.joint_positions for w in active]), abs=1e-6)
        batches.append(len(active))
        return np.stack([expert_chunk(w, t, 16) for w, t in zip(worlds, tasks, strict=True)
                         if w in active])

    together = rollouts(worlds, tasks, act_batch, execute=8, delay=3)
    assert batches[0] == 4 and batches[-1] < 4
    for seed, result in enumerate(together):
        world, task = world_and_task(seed)
        alone = rollout(world, task, expert(world, task), execute=8, delay=3)
        assert alone.success and result.success and alone.steps == result.steps
        assert (alone.joints == result.joints).all()


def test_other_words_reach_the_policy_while_the_task_still_judges():
    world, task = world_and_task()
    other = other_task(task, world.scene, np.random.default_rng(0))
    act = Marked(world.joint_positions)
    result = rollout(world, task, act, steps=4, instruction=other.instruction)
    assert act.seen == [other.instruction] and not result.success
