# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Commands and the scripted expert: it does what it is told, from wherever it is put."""
import numpy as np
import pytest

from quantvla_ros.sim.tabletop import (
    ARM_LIMITS,
    Tabletop,
    Task,
    TaskKind,
    kinematics,
    other_task,
    parse_task,
    sample_task,
)
from quantvla_ros.sim.tabletop.expert import CARRY, expert_action, expert_chunk
from quantvla_ros.sim.tabletop.tasks import PHRASES, all_tasks


def run(world: Tabletop, task: Task, steps: int = 200) -> int | None:
    """Steps the expert needs, or None."""
    for step in range(steps):
        if world.succeeded(task):
            return step
        world.step(expert_action(world, task))
    return steps if world.succeeded(task) else None


@pytest.mark.parametrize('kind', TaskKind)
def test_the_expert_succeeds_on_every_seed_within_ten_seconds(kind):
    for seed in range(30):
        world = Tabletop(seed)
        task = sample_task(world.scene, np.random.default_rng(seed), kind)
        assert run(world, task) is not None, (seed, task.instruction)


def test_it_recovers_from_joint_offsets_and_dropped_cubes():
    for seed in range(30):
        world, rng = Tabletop(seed), np.random.default_rng(seed)
        for _ in range(3):
            for _ in range(15):
                world.step(expert_action(world, world.task))
            world.set_joints(world.joint_positions + rng.uniform(-0.3, 0.3, 5))
            if rng.random() < 0.5:  # drops what it holds
                world.set_joints((*world.joints[:4], 1.0))
        assert run(world, world.task, 240) is not None, (seed, world.task.instruction)


def test_commands_follow_one_another_in_one_scene_whatever_is_in_the_hand():
    for seed in range(15):
        world, rng = Tabletop(seed), np.random.default_rng(seed)
        task = world.task
        for _ in range(5):
            assert run(world, task, 240) is not None, (seed, task.instruction)
            task = other_task(task, world.scene, rng)


def test_doing_another_command_never_fulfils_the_first():
    for seed in range(30):
        world = Tabletop(seed)
        other = other_task(world.task, world.scene, np.random.default_rng(seed))
        for _ in range(120):
            world.step(expert_action(world, other))
            assert not world.success, (world.task.instruction, other.instruction)


def test_it_holds_still_after_success():
    for seed in range(12):
        world = Tabletop(seed)
        assert run(world, world.task) is not None
        for _ in range(25):
            world.step(expert_action(world, world.task))
        settled = world.joint_positions
        for _ in range(10):
            world.step(expert_action(world, world.task))
        assert world.joint_positions == pytest.approx(settled, abs=2e-3)
        assert world.success


def test_a_chunk_is_what_the_expert_then_does_and_leaves_the_world_alone():
    for seed in range(6):
        world = Tabletop(seed)
        for _ in range(20):
            world.step(expert_action(world, world.task))
        before = world.joint_positions
        chunk = expert_chunk(world, world.task, 16)
        assert chunk.shape == (16, 5) and chunk.dtype == np.float32
        assert (world.joint_positions == before).all()
        for row in chunk:
            assert row == pytest.approx(expert_action(world, world.task), abs=1e-6)
            world.step(expert_action(world, world.task))


def test_commands_stay_below_sixty_percent_of_the_velocity_limits():
    for seed in range(12):
        world = Tabletop(seed)
        fastest = np.zeros(5)
        for _ in range(100):
            action = expert_action(world, world.task)
            fastest = np.maximum(fastest, np.abs(action - world.joint_positions))
            world.step(action)
        assert (fastest <= 0.6 * np.array(ARM_LIMITS.velocity) * world.control_period).all()


def test_it_reaches_over_other_cubes_not_through_them():
    for seed in range(20):
        world = Tabletop(seed)
        for _ in range(120):
            world.step(expert_action(world, world.task))
            for index, cube in enumerate(world.cubes):
                x, y, z = world.tip
                if world.scene.cubes[index].colour != world.task.cube and world.held != index:
                    assert z > 0.03 or np.hypot(cube.x - x, cube.y - y) > 0.03


def test_low_and_far_from_the_target_it_rises_before_it_moves_across():
    for seed in range(10):
        world = Tabletop(seed)
        cube = world.cubes[world.scene.cube(world.task.cube)]
        yaw = -0.8 if cube.y > 0.0 else 0.8
        x, y = 0.3 * np.cos(yaw), 0.3 * np.sin(yaw)
        world.set_joints((*kinematics.solve(x, y, 0.012), 1.0))
        for _ in range(60):
            world.step(expert_action(world, world.task))
            moved = np.hypot(world.tip[0] - x, world.tip[1] - y)
            near = np.hypot(world.tip[0] - cube.x, world.tip[1] - cube.y) < 0.03
            assert moved < 0.02 or near or world.held is not None or world.tip[2] > 0.03


def test_it_comes_down_around_a_cube_with_open_fingers_only():
    for seed in range(10):
        world = Tabletop(seed)
        cube = world.cubes[0]
        task = Task(TaskKind.PICK, world.scene.cubes[0].colour)
        world.set_joints((*kinematics.solve(cube.x, cube.y, 0.06), 0.0))
        grasped = False
        for _ in range(60):
            world.step(expert_action(world, task))
            grasped = grasped or world.held == 0
            if not grasped and world.tip[2] < cube.z + 0.014:
                assert world.joints[4] > 0.5
        assert grasped


def test_a_wrong_cube_in_the_hand_is_put_down_beside_everything_else():
    world = Tabletop(4)
    task = Task(TaskKind.REACH, world.scene.cubes[0].colour)
    wrong = world.scene.cubes[1].colour
    world.set_joints((*kinematics.solve(0.25, 0.0, CARRY), 0.5))
    world.hold(wrong)
    assert run(world, task, 240) is not None
    put = world.cubes[1]
    for other in (world.cubes[0], world.cubes[2], *world.scene.trays):
        assert np.hypot(put.x - other.x, put.y - other.y) > 0.055


def test_every_phrase_is_understood_and_only_those():
    for kind, phrases in PHRASES.items():
        for index in range(len(phrases)):
            task = Task(kind, 'red', 'white' if kind is TaskKind.PLACE else None, index)
            assert parse_task(task.instruction) == task
    assert parse_task('  Pick up the RED  cube. ') == Task(TaskKind.PICK, 'red')
    assert parse_task('pick up the red tray') is None
    assert parse_task('put the white cube in the red tray') is None
    assert parse_task('') is None


def test_a_tray_without_place_is_no_task():
    with pytest.raises(ValueError, match='PLACE'):
        Task(TaskKind.PICK, 'red', 'white')
    with pytest.raises(ValueError, match='PLACE'):
        Task(TaskKind.PLACE, 'red')


def test_the_other_command_names_another_cube_or_another_tray():
    rng = np.random.default_rng(0)
    kinds = set()
    for seed in range(30):
        world = Tabletop(seed)
        for task in all_tasks(world.scene):
            other = other_task(task, world.scene, rng)
            kinds.add((task.kind, other.kind))
            assert other.cube != task.cube or (
                other.tray is not None and task.tray is not None and other.tray != task.tray)
    assert len(kinds) == 9
