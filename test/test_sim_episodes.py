# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Training episodes: clean labels from disturbed states, and what is kept of them."""
import numpy as np
import pytest

from quantvla_ros.sim.tabletop import ARM_LIMITS, TaskKind, parse_task
from quantvla_ros.sim.tabletop.episodes import CALM, halved, record_episode


@pytest.fixture(scope='module')
def episode():
    return record_episode(7, 16, image_size=64)


def test_every_kept_step_has_pictures_joints_words_and_a_chunk(episode):
    n = len(episode['joints'])
    assert n > 20
    assert episode['overhead'].shape == episode['wrist'].shape == (n, 64, 64, 3)
    assert episode['overhead'].dtype == np.uint8
    assert episode['joints'].shape == (n, 5) and episode['joints'].dtype == np.float32
    assert episode['actions'].shape == (n, 16, 5) and episode['actions'].dtype == np.float32
    assert episode['instruction'].shape == episode['done'].shape == (n,)
    assert all(parse_task(str(words)) is not None for words in episode['instruction'])


def test_the_same_seed_gives_the_same_episode_and_another_a_different_one(episode):
    again = record_episode(7, 16, image_size=64)
    assert all((episode[name] == again[name]).all() for name in episode)
    assert not np.array_equal(record_episode(8, 16, image_size=64)['joints'], episode['joints'])


def test_labels_are_the_undisturbed_experts_although_the_motion_is_not():
    steps = np.array(ARM_LIMITS.velocity) * 0.05
    executed = labelled = 0.0
    for seed in range(6):
        data = record_episode(seed, 8, image_size=32)
        path = np.concatenate([data['joints'][:, None], data['actions']], 1).astype(float)
        # Clean: bounded by the expert's speed, from the measured joints on; well inside the
        # limits even where a gripper that squeezes a cube (0.42 for 0.5) opens.
        moves = np.abs(np.diff(path, axis=1))
        assert (moves[..., :4] <= 0.6 * steps[:4] + 1e-6).all()
        assert (moves[..., 4] <= 0.85 * steps[4]).all()
        labelled += np.abs(np.diff(data['actions'], n=2, axis=1)).mean()
        executed += np.abs(np.diff(data['joints'], n=2, axis=0)).mean()
    assert executed > 2.0 * labelled


def test_without_disturbances_the_first_row_is_where_the_joints_are_next():
    data = record_episode(3, 4, image_size=32, disturbances=CALM)
    # Not the gripper, which is commanded further than a cube lets it go; and a cube just grasped
    # stands on the table, which stops the last of the way down.
    assert data['joints'][1:, :4] == pytest.approx(data['actions'][:-1, 0, :4], abs=2e-3)
    assert data['done'][-1] and not data['done'][0]
    assert len(set(data['instruction'])) == 1


def test_episodes_cover_several_commands_per_scene_and_all_kinds_and_recoveries():
    kinds, commands, finished = set(), [], 0
    for seed in range(24):
        data = record_episode(seed, 1, image_size=16, every=3)
        words = list(dict.fromkeys(data['instruction'].tolist()))
        commands.append(len(words))
        kinds.update(parse_task(word).kind for word in words)
        finished += data['done'].any()
    assert kinds == set(TaskKind)
    assert 1 in commands and max(commands) >= 2
    assert finished >= 20


def test_every_nth_step_is_kept():
    full, third = (record_episode(5, 2, image_size=16, every=n) for n in (1, 3))
    assert len(third['joints']) == pytest.approx(len(full['joints']) / 3, rel=0.9)
    assert len(third['joints']) < len(full['joints'])


def test_halving_is_the_exact_mean_of_two_by_two_pixels():
    image = np.random.default_rng(0).integers(0, 256, (8, 6, 3), np.uint8)
    mean = image.reshape(4, 2, 3, 2, 3).astype(float).mean((1, 3))
    assert np.abs(halved(image) - mean).max() <= 0.5
    assert record_episode(5, 1, image_size=32, halve=True)['wrist'].shape[1:] == (16, 16, 3)
    with pytest.raises(ValueError, match='even'):
        halved(image[:7])
