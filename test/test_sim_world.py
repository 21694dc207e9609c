# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Kinematics and physics: limits hold, grasps and falls behave, success is earned."""
from pathlib import Path

import numpy as np
import pytest
import yaml

from quantvla_ros.sim.tabletop import (
    ARM_LIMITS,
    JOINTS,
    Tabletop,
    Task,
    TaskKind,
    kinematics,
    sample_scene,
)
from quantvla_ros.sim.tabletop.scene import HALF, RADIUS, TRAY_FLOOR, YAW, Cube, Scene, Tray

PICK_RED = Task(TaskKind.PICK, 'red')


def table(joints=None) -> Tabletop:
    """A red cube ahead, a blue one to the left, a white tray to the right."""
    joints = joints or (*kinematics.solve(0.25, 0.0, 0.12), 1.0)
    scene = Scene((Cube('red', 0.25, 0.0, 0.0), Cube('blue', 0.25, 0.12, 0.2)),
                  (Tray('white', 0.25, -0.13, 0.1),), tuple(joints))
    world = Tabletop()
    world.reset(scene, PICK_RED)
    return world


def go(world: Tabletop, x: float, y: float, z: float, gripper: float, steps: int = 40) -> None:
    for _ in range(steps):
        world.step((*kinematics.solve(x, y, z), gripper))


def test_inverse_kinematics_inverts_forward_inside_joint_limits_everywhere_things_stand():
    for radius in np.linspace(*RADIUS, 7):
        for yaw in np.linspace(*YAW, 5):
            for z in (0.005, 0.05, 0.12):
                x, y = radius * np.cos(yaw), radius * np.sin(yaw)
                joints = kinematics.solve(x, y, z)
                assert kinematics.fingertips(joints) == pytest.approx((x, y, z), abs=1e-9)
                assert sum(joints[1:]) == pytest.approx(kinematics.DOWN)
                assert all(low + 0.03 < q < high - 0.03 for q, low, high in zip(
                    joints, ARM_LIMITS.lower, ARM_LIMITS.upper, strict=False))
                assert kinematics.chain(joints)[-1] == pytest.approx((x, y, z), abs=1e-9)


def test_a_point_out_of_reach_is_replaced_by_the_nearest_on_its_ray():
    shoulder, elbow, wrist = kinematics.solve_planar(0.9, 0.02)
    assert elbow == pytest.approx(0.0, abs=0.1)  # stretched
    assert shoulder + elbow + wrist == pytest.approx(kinematics.DOWN)


def test_the_contract_offers_exactly_the_simulators_joints_and_limits():
    file = Path(__file__).resolve().parents[1] / 'config' / 'contracts' / 'tabletop.yaml'
    contract = yaml.safe_load(file.read_text())
    assert tuple(contract['joint_states']['joints']) == JOINTS
    for index, joint in enumerate(JOINTS):
        limit = contract['limits'][joint]
        assert (limit['lower'], limit['upper'], limit['velocity']) == (
            ARM_LIMITS.lower[index], ARM_LIMITS.upper[index], ARM_LIMITS.velocity[index])


def test_joints_reach_a_near_target_in_one_period_and_a_far_one_at_the_velocity_limit():
    world = table()
    start = world.joint_positions
    near = start + 0.05
    near[4] = 0.9
    world.step(near)
    assert world.joint_positions == pytest.approx(near)
    world.step((1.8, 2.1, -1.0, 1.0, 0.0))
    moved = np.abs(world.joint_positions - near)
    allowed = np.array(ARM_LIMITS.velocity) * world.control_period
    assert (moved <= allowed + 1e-9).all()
    assert moved[0] == pytest.approx(allowed[0])
    assert np.abs(world.joint_velocities).max() <= max(ARM_LIMITS.velocity) + 1e-6


def test_position_limits_hold():
    world = table()
    for _ in range(60):
        world.step((5.0, 5.0, 5.0, 5.0, 5.0))
    assert world.joint_positions == pytest.approx(ARM_LIMITS.upper)


@pytest.mark.parametrize('targets', [(0.0, 1.0, -2.0, float('nan'), 1.0), (0.0, 1.0, -2.0, 1.0),
                                     (0.0, 1.0, float('inf'), 0.0, 1.0)])
def test_targets_that_are_not_five_finite_numbers_are_refused(targets):
    world = table()
    before = world.joint_positions
    with pytest.raises(ValueError, match='joint positions'):
        world.step(targets)
    assert (world.joint_positions == before).all()


def test_the_table_stops_the_fingertips_but_not_the_turning():
    world = table()
    go(world, 0.25, 0.0, -0.05, 1.0)
    assert -0.001 <= world.tip[2] < 0.01
    before = world.joints[0]
    world.step((before + 0.05, *world.joints[1:]))
    assert world.joints[0] == pytest.approx(before + 0.05)


def test_centred_fingers_grasp_lift_and_hold_the_gripper_at_the_cubes_width():
    world = table()
    go(world, 0.25, 0.008, 0.014, 1.0)
    assert world.held is None
    go(world, 0.25, 0.008, 0.014, 0.0, 10)
    assert world.held == 0
    assert world.joints[4] == pytest.approx(0.5)
    # The fingers have pushed it to their middle.
    assert world.cubes[0].y == pytest.approx(world.tip[1], abs=1e-3)
    assert not world.succeeded(PICK_RED)
    go(world, 0.25, 0.0, 0.10, 0.0, 20)
    assert world.cubes[0].z > 0.09
    assert world.succeeded(PICK_RED)
    assert not world.succeeded(Task(TaskKind.PICK, 'blue'))  # the wrong cube is no success


@pytest.mark.parametrize('dx, dy, z', [(0.02, 0.0, 0.014), (0.0, 0.02, 0.014), (0.0, 0.0, 0.05)])
def test_fingers_off_centre_or_too_high_close_on_nothing(dx, dy, z):
    world = table()
    go(world, 0.25 + dx, dy, z, 1.0)
    go(world, 0.25 + dx, dy, z, 0.0, 10)
    assert world.held is None
    assert world.joints[4] == pytest.approx(0.0)
    assert (world.cubes[0].x, world.cubes[0].z) == (0.25, HALF)


def test_a_gripper_that_comes_down_closed_grasps_nothing():
    world = table((*kinematics.solve(0.25, 0.0, 0.12), 0.3))
    go(world, 0.25, 0.0, 0.014, 0.3)
    go(world, 0.25, 0.0, 0.014, 0.0, 10)
    assert world.held is None


def carry_red_to(x: float, y: float) -> Tabletop:
    world = table()
    world.hold('red')
    go(world, x, y, 0.12, 0.4)
    assert world.held == 0
    go(world, x, y, 0.12, 1.0, 20)
    assert world.held is None
    return world


@pytest.mark.parametrize('place, height', [
    ((0.30, 0.03), HALF),  # the table
    ((0.25, -0.13), TRAY_FLOOR + HALF),  # the tray
    ((0.25, 0.12), 3 * HALF),  # the other cube
])
def test_a_released_cube_falls_onto_what_is_below(place, height):
    world = carry_red_to(*place)
    assert world.cubes[0].z == pytest.approx(height)
    in_tray = height == TRAY_FLOOR + HALF
    go(world, *place, 0.12, 1.0, 8)
    assert world.succeeded(Task(TaskKind.PLACE, 'red', 'white')) is in_tray
    assert not world.succeeded(Task(TaskKind.PLACE, 'blue', 'white'))


def test_a_fall_takes_the_time_that_gravity_gives_it():
    world = table()
    world.hold('red')
    go(world, 0.25, 0.0, 0.12, 0.4)
    heights = []
    for _ in range(40):
        world.advance((*world.joints[:4], 1.0), 0.01)
        if world.held is None:
            heights.append(world.cubes[0].z)
    fall = next(i for i, z in enumerate(heights) if z == HALF) * 0.01
    assert fall == pytest.approx((2 * 0.10 / 9.81) ** 0.5, abs=0.025)


def test_a_cube_whose_support_is_taken_away_falls():
    world = carry_red_to(0.25, 0.12)
    world.cubes[1].x -= 0.1
    world._falling = True
    go(world, 0.25, 0.0, 0.12, 1.0, 10)
    assert world.cubes[0].z == pytest.approx(HALF)


def test_placed_needs_an_open_gripper_away_from_the_cube():
    world = carry_red_to(0.25, -0.13)
    task = Task(TaskKind.PLACE, 'red', 'white')
    go(world, 0.25, -0.13, 0.12, 1.0, 10)
    assert world.succeeded(task)
    go(world, 0.25, -0.13, 0.12, 0.2, 10)
    assert not world.succeeded(task)
    go(world, 0.25, -0.13, 0.04, 1.0)
    assert not world.succeeded(task)


def test_reach_needs_closed_fingers_that_stay_over_the_named_cube():
    world = table((*kinematics.solve(0.25, 0.0, 0.12), 0.0))
    task = Task(TaskKind.REACH, 'red')
    done_after = []
    for _ in range(40):
        world.step((*kinematics.solve(0.25, 0.0, 0.04), 0.0))
        if world._conditions():
            done_after.append(world.succeeded(task))
    assert done_after[:5] == [False] * 5  # passing by is not reaching
    assert all(done_after[6:])
    assert not world.succeeded(Task(TaskKind.REACH, 'blue'))
    go(world, 0.25, 0.0, 0.04, 0.6, 5)
    assert not world.succeeded(task)


def test_a_task_about_something_that_is_not_there_is_an_error():
    with pytest.raises(ValueError, match='no purple cube in this scene; there are: red, blue'):
        table().succeeded(Task(TaskKind.PICK, 'purple'))


def test_a_copy_lives_its_own_life():
    world = table()
    go(world, 0.25, 0.0, 0.014, 1.0)
    twin = world.copy()
    go(twin, 0.25, 0.0, 0.014, 0.0, 10)
    go(twin, 0.25, 0.0, 0.10, 0.0, 20)
    assert twin.succeeded(PICK_RED) and not world.succeeded(PICK_RED)
    assert world.held is None and world.cubes[0].z == HALF
    assert world.joints[4] == pytest.approx(1.0)
    world.copy().hold('blue')
    assert world.held is None and world.joints[4] == pytest.approx(1.0)


def test_closing_fingers_push_a_cube_only_as_far_as_they_have_come():
    world = table()
    go(world, 0.25, 0.010, 0.014, 1.0)
    go(world, 0.25, 0.010, 0.014, 0.6)  # 3.5 mm of room on either side of the cube
    assert world.held is None
    assert world.cubes[0].y == pytest.approx(world.tip[1] - 0.0035, abs=5e-4)


def test_the_same_seed_gives_the_same_world_and_advance_adds_up_to_step():
    a, b = Tabletop(5), Tabletop(5)
    assert a.scene == b.scene and a.task == b.task
    assert Tabletop(6).scene != a.scene
    target = a.joint_positions + 0.03
    target[4] = a.joints[4]
    a.step(target)
    start = b.joint_positions
    for index in range(1, 6):
        b.advance(start + (target - start) * index / 5, 0.01)
    assert a.joint_positions == pytest.approx(b.joint_positions)
    assert a.time == pytest.approx(b.time)


def test_scenes_are_reachable_apart_and_namable():
    rng = np.random.default_rng(1)
    for _ in range(100):
        scene = sample_scene(rng)
        assert len({c.colour for c in scene.cubes}) == 3
        assert len({t.colour for t in scene.trays}) == 2
        things = [(thing.x, thing.y) for thing in (*scene.trays, *scene.cubes)]
        gaps = [np.hypot(a[0] - b[0], a[1] - b[1]) for i, a in enumerate(things)
                for b in things[:i]]
        assert min(gaps) >= 0.075
        assert all(RADIUS[0] <= np.hypot(*place) <= RADIUS[1] for place in things)


def test_a_scene_with_two_cubes_of_one_colour_is_refused():
    cube = Cube('red', 0.2, 0.0, 0.0)
    with pytest.raises(ValueError, match='different colours'):
        Scene((cube, cube), (), (0.0,) * 5)
