# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The cameras: what must be seen is seen, and pictures are a function of the world alone."""
import numpy as np
import pytest

from quantvla_ros.sim.tabletop import Tabletop, kinematics
from quantvla_ros.sim.tabletop.expert import expert_action
from quantvla_ros.sim.tabletop.render import overhead_camera, wrist_camera


def test_pictures_are_rgb_bytes_of_the_size_asked_for_and_repeat_exactly():
    for size in (224, 112, 64):
        pictures = Tabletop(2, image_size=size).render()
        again = Tabletop(2, image_size=size).render()
        assert set(pictures) == {'overhead', 'wrist'}
        for name, picture in pictures.items():
            assert picture.shape == (size, size, 3) and picture.dtype == np.uint8
            assert (picture == again[name]).all()


def test_drawing_changes_nothing_and_pictures_are_not_shared():
    world = Tabletop(2)
    first = world.render()['overhead']
    first[:] = 0
    assert world.render()['overhead'].any()


def colour_at(world, name, point):
    camera = overhead_camera() if name == 'overhead' else wrist_camera(world.joints)
    pixels, depth = camera.project(np.array(point))
    assert depth > 0.0
    column, row = np.rint(pixels).astype(int)
    assert 0 <= column < 224 and 0 <= row < 224
    return world.render()[name][row, column].astype(int)


PRIMARY = {'red': 0, 'green': 1, 'blue': 2}


def test_every_cube_and_tray_lies_inside_the_overhead_picture_in_its_colour():
    checked = 0
    for seed in range(25):
        world = Tabletop(seed)
        away = (1.4, *world.joints[1:])
        world.set_joints(away if world.scene.cubes[0].y < 0 else (-1.4, *away[1:]))
        for thing, state in zip(world.scene.cubes, world.cubes, strict=True):
            colour = colour_at(world, 'overhead', (state.x, state.y, state.z + 0.0175))
            if thing.colour in PRIMARY:
                checked += colour.argmax() == PRIMARY[thing.colour]
    assert checked > 25


def test_the_wrist_camera_sees_what_is_under_the_fingers_in_its_colour():
    for seed in range(20):
        world = Tabletop(seed)
        for thing, state in zip(world.scene.cubes, world.cubes, strict=True):
            if thing.colour in PRIMARY:
                world.set_joints((*kinematics.solve(state.x, state.y, 0.10), 1.0))
                colour = colour_at(world, 'wrist', (state.x, state.y, state.z + 0.0175))
                assert colour.argmax() == PRIMARY[thing.colour]


def test_the_gripper_and_its_shadow_show_how_far_it_is_open_and_how_high_it_is():
    world = Tabletop(1)
    pictures = []
    for z, gripper in ((0.10, 0.0), (0.10, 1.0), (0.05, 1.0)):
        world.set_joints((*kinematics.solve(0.22, 0.0, z), gripper))
        pictures.append(world.render())
    for name in ('overhead', 'wrist'):
        for a, b in ((0, 1), (1, 2)):
            changed = (np.abs(pictures[a][name].astype(int) - pictures[b][name]) > 20).any(-1)
            assert changed.sum() > 40, (name, a, b)


def test_the_arm_rarely_hides_the_target_from_the_overhead_camera_while_it_approaches():
    hidden = looked = 0
    for seed in range(25):
        world = Tabletop(seed)
        index = world.scene.cube(world.task.cube)
        for _ in range(25):
            world.step(expert_action(world, world.task))
            if world.held is not None:
                break
            cube = world.cubes[index]
            front = (cube.x + 0.0174, cube.y, cube.z)
            # Hidden: the pixel is that of the arm, which is grey; a cube's is not.
            colour = colour_at(world, 'overhead', front)
            hidden += colour.max() - colour.min() < 30
            looked += 1
    assert hidden / looked < 0.12


@pytest.mark.parametrize('seed', range(3))
def test_any_pose_inside_the_limits_can_be_drawn(seed):
    # Tilted hands see the table's end, and things reach behind the camera.
    rng, world = np.random.default_rng(seed), Tabletop(seed)
    for _ in range(100):
        world.set_joints(rng.uniform(kinematics.LOWER, kinematics.UPPER))
        pictures = world.render()
        assert pictures['wrist'].std() > 0.0
