# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The cameras: what must be seen is seen, and pictures are a function of the world alone."""
import numpy as np
import pytest

from quantvla_ros.sim.tabletop import Tabletop, kinematics
from quantvla_ros.sim.tabletop.expert import expert_action
from quantvla_ros.sim.tabletop.render import Renderer, overhead_camera, wrist_camera
from quantvla_ros.sim.tabletop.scene import Look, Scene


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


def test_cameras_do_not_mirror_and_left_and_right_are_where_they_say():
    joints = (*kinematics.solve(0.25, 0.0, 0.10), 1.0)
    overhead, wrist = overhead_camera(), wrist_camera(joints)
    for camera in (overhead, wrist):
        assert camera.rotation @ camera.rotation.T == pytest.approx(np.eye(3), abs=1e-9)
        assert np.linalg.det(camera.rotation) == pytest.approx(1.0)
    left, middle, far = (0.25, 0.05, 0.0), (0.25, 0.0, 0.0), (0.30, 0.0, 0.0)
    pixel = {name: [camera.project(np.array(p))[0] for p in (left, middle, far)]
             for name, camera in (('overhead', overhead), ('wrist', wrist))}
    assert pixel['wrist'][0][0] < pixel['wrist'][1][0]  # the arm's own view
    assert pixel['wrist'][2][1] < pixel['wrist'][1][1]
    assert pixel['overhead'][0][0] > pixel['overhead'][1][0]  # seen from opposite the arm
    assert pixel['overhead'][2][1] > pixel['overhead'][1][1]


def empty_table(light) -> Tabletop:
    world = Tabletop()
    world.reset(Scene((), (), (*kinematics.solve(0.25, 0.0, 0.10), 1.0), Look(light=light)),
                world.task)
    return world


def test_the_hand_casts_a_shadow_on_the_side_away_from_the_light():
    shades = []
    for side in (-0.42, 0.42):
        world = empty_table((0.0, side, 1.0))
        palm = 0.10 + 0.054
        shades.append(colour_at(world, 'overhead', (0.25, 0.42 * palm, 0.0)).sum())
    assert shades[0] < 0.8 * shades[1]


@pytest.mark.parametrize('elevation, yaw', [(-1.57, 0.0), (-0.9, 0.7), (-0.45, -1.2), (-0.1, 0.3)])
def test_the_table_is_drawn_as_rays_would_find_it_even_where_it_reaches_behind_the_camera(
        elevation, yaw):
    world = empty_table((0.0, 0.3, 1.0))
    renderer = Renderer(world.scene)
    shoulder, elbow, _ = kinematics.solve_planar(0.25, 0.10)
    camera = wrist_camera((yaw, shoulder, elbow, elevation - shoulder - elbow, 1.0))
    rows, columns = np.mgrid[0:224, 0:224]
    across, down = ((at - camera.centre) / camera.focal for at in (columns, rows))
    rays = np.stack([across, down, np.ones((224, 224))], -1) @ camera.rotation
    with np.errstate(divide='ignore', invalid='ignore'):
        far = -camera.position[2] / rays[..., 2]
        x, y = (camera.position[i] + far * rays[..., i] for i in (0, 1))
    quads, colours = renderer._planks
    expected = np.full((224, 224, 3), renderer._blank[0, 0], float)
    for quad, colour in zip(quads, colours, strict=True):
        (x0, y0), (x1, y1) = quad[:, :2].min(0), quad[:, :2].max(0)
        expected[(far > 0) & (x >= x0) & (x < x1) & (y >= y0) & (y < y1)] = colour
    wrong = (np.abs(renderer._draw_table(camera) - expected) > 3).any(-1)
    assert wrong.mean() < 0.02
    assert len(np.unique(expected.reshape(-1, 3), axis=0)) > 2


@pytest.mark.parametrize('seed', range(3))
def test_any_pose_inside_the_limits_can_be_drawn(seed):
    # Tilted hands see the table's end, and things reach behind the camera.
    rng, world = np.random.default_rng(seed), Tabletop(seed)
    for _ in range(100):
        world.set_joints(rng.uniform(kinematics.LOWER, kinematics.UPPER))
        pictures = world.render()
        assert pictures['wrist'].std() > 0.0
