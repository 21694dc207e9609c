# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Phases of motion and constant frames, from the recording alone; the account of a sample."""
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from quantvla_ros.contract.load import load_contract
from quantvla_ros.contract.types import JointStates
from quantvla_ros.observation.types import Observation
from quantvla_ros.quantization.coverage import Group, Loss, Readings, covered
from quantvla_ros.quantization.phases import ConstantFrames, Phases

ROOT = Path(__file__).resolve().parents[1]
TABLETOP = load_contract(ROOT / 'config' / 'contracts' / 'tabletop.yaml')  # gripper: 0 closed
GR1 = load_contract(ROOT / 'config' / 'contracts' / 'gr1_arms.yaml')  # no gripper part
REST = (0.3, 1.0, -1.0, 0.0, 1.0)
PICTURE = np.random.default_rng(0).integers(0, 256, (192, 256, 3), dtype=np.uint8)


def frame(index, state, picture=PICTURE, contract=TABLETOP):
    return Observation(
        stamp=(index + 1) * 50_000_000,
        images={camera.slot: picture for camera in contract.cameras},
        state=np.asarray(state, np.float32),
        instruction='go',
    )


def told(states, contract=TABLETOP, actions=None):
    phases = Phases(contract)
    actions = actions if actions is not None else [None] * len(states)
    return [str(phases('a', frame(i, state, contract=contract), action))
            for i, (state, action) in enumerate(zip(states, actions, strict=True))]


def moving(speed, gripper, frames=12):
    """States of the arm's first joint at a speed in rad/s (travel 3.6 rad)."""
    return [[0.05 * i * speed, 1.0, -1.0, 0.0, gripper] for i in range(frames)]


@pytest.mark.parametrize(
    ('speed', 'motion'), [(0.0, 'still'), (0.02, 'still'), (0.1, 'slow'), (-0.1, 'slow'),
                          (1.0, 'fast')]
)
def test_the_fastest_joint_tells_how_fast_the_arm_is(speed, motion):
    assert told(moving(speed, 1.0))[-1] == f'{motion}, gripper open'
    states = np.zeros((12, len(GR1.state_names)))
    states[:, 20] = [0.05 * i * speed for i in range(12)]  # an arm joint of 1.34 rad travel
    assert told(states, GR1)[-1] in (motion, 'fast')


def test_the_noise_of_an_encoder_is_no_motion():
    noise = np.random.default_rng(1).normal(0, 5e-4, (200, 5))
    assert set(told(noise + np.array(REST))) == {'still, gripper open'}


def test_a_pick_and_place_goes_through_its_phases():
    gripper = np.concatenate([
        np.ones(20), np.linspace(1.0, 0.6, 8), np.full(20, 0.6),  # stopped by what it holds
        np.linspace(0.6, 1.0, 8), np.ones(20),
    ])
    states = [[0.02 * i, 1.0, -1.0, 0.0, value] for i, value in enumerate(gripper)]
    order = list(dict.fromkeys(told(states)[1:]))
    assert order == ['fast, gripper open', 'gripper closing', 'fast, gripper closed',
                     'gripper opening']
    assert told(states)[40] == 'fast, gripper closed'  # though it is 60 % open
    assert told(states)[-1] == 'fast, gripper open'


def test_a_gripper_that_is_not_measured_is_told_by_its_commands():
    joints = tuple(name for name in TABLETOP.joint_states.joints if name != 'gripper')
    contract = dataclasses.replace(
        TABLETOP, joint_states=JointStates(TABLETOP.joint_states.topic, joints))
    states = [state[:4] for state in moving(1.0, 1.0, 20)]
    actions = [np.array([0, 0, 0, 0, 1.0 if i < 10 else 0.0]) for i in range(20)]
    phases = told(states, contract, actions)
    assert phases[9] == 'fast, gripper open' and phases[10] == 'gripper closing'
    assert phases[-1] == 'fast, gripper closed'
    assert told(states, contract)[-1] == 'fast'  # nothing tells


def test_a_new_episode_starts_without_a_past():
    phases = Phases(TABLETOP)
    for i in range(10):
        phases('a', frame(i, [0.1 * i, 1.0, -1.0, 0.0, 0.0]))
    # another place and an open gripper in the next frame: that is no motion
    assert str(phases('b', frame(10, [-1.0, 1.0, -1.0, 0.0, 1.0]))) == 'still, gripper open'


def constant(frames, contract=TABLETOP):
    is_constant = ConstantFrames(contract)
    return [is_constant(episode, observation) for episode, observation in frames]


def test_a_robot_that_stands_still_gives_one_frame():
    generator = np.random.default_rng(2)
    frames = []
    for i in range(30):  # with the noise of a camera and of encoders
        picture = np.clip(PICTURE + generator.normal(0, 2.0, PICTURE.shape), 0, 255)
        frames.append(('a', frame(i, np.array(REST) + generator.normal(0, 5e-4, 5),
                                  picture.astype(np.uint8))))
    assert constant(frames) == [False] + [True] * 29


def test_what_changes_is_not_constant():
    moved = PICTURE.copy()
    moved[40:52, 32:48] = 255  # an object in one field
    arm = [REST[0] + 0.02, *REST[1:]]
    frames = [('a', frame(0, REST)), ('a', frame(1, REST)), ('a', frame(2, arm)),
              ('a', frame(3, arm, moved)), ('b', frame(4, arm, moved))]
    assert constant(frames) == [False, True, False, False, False]


def test_creeping_is_noticed_once_it_adds_up():
    # each step is too small to see; compared with the last frame that counted, not with the last
    frames = [('a', frame(i, [0.002 * i, *REST[1:]])) for i in range(40)]
    assert 5 <= constant(frames).count(False) <= 15


def test_a_camera_that_appears_is_something_new():
    one = dataclasses.replace(frame(1, REST), images=dict(list(frame(1, REST).images.items())[:1]))
    assert constant([('a', frame(0, REST)), ('a', one), ('a', one)]) == [False, False, True]


# The account


def coverage(found, constant=(), drawn=(), phases=('fast', 'slow'), wanted=10, **readings):
    readings = {'messages': 1000, 'instants': 100, 'observations': 100} | readings
    return covered(wanted, dict(found), dict(constant), list(drawn), phases, Readings(**readings))


def kinds(account):
    return [caution.kind for caution in account.cautions()]


A, B = ('pick', 'bag/0', 'fast'), ('place', 'bag/1', 'slow')


def test_a_broad_sample_gives_no_caution():
    account = coverage({A: 50, B: 50}, drawn=[A] * 5 + [B] * 5)
    assert kinds(account) == []
    assert account.groups[0] == Group(*A, 50, 0, 5)
    assert account.summary()[0] == (
        '10 of 100 frames of 2 episodes with 2 instructions; 0 constant frames left out')


def test_cautions_tell_what_is_thin():
    account = coverage({A: 50}, {A: 60}, [A] * 8)
    assert kinds(account) == ['one_episode', 'one_instruction', 'phases_missing', 'constant',
                              'few_samples']
    assert '1 of 2 phases of motion that matter do not occur: slow' in account.summary()[-3]
    account = coverage(
        {A: 5, B: 5}, drawn=[A] * 5 + [B] * 5, broken=(Loss('b', '/t', 'torn', 60),),
        observations=90, bags_left_out={'x': 'empty'}, faults=('cut off',))
    assert kinds(account) == ['broken', 'no_observation', 'bags_left_out', 'damaged_files']


def test_losses_are_summed_over_bags_and_the_account_is_plain_data():
    import json

    losses = (Loss('a', '/t', 'torn', 2), Loss('b', '/t', 'torn', 3), Loss('b', '/u', 'late', 1))
    account = coverage({A: 50}, drawn=[A], broken=losses)
    assert account.losses() == ['5 messages of /t: torn', '1 message of /u: late']
    content = json.loads(json.dumps(account.content()))
    assert content['broken'][1] == {'bag': 'b', 'topic': '/t', 'reason': 'torn', 'count': 3}
    assert content['frames'] == {'found': 50, 'constant': 0, 'used': 1}


def test_many_groups_are_counted_not_listed():
    account = coverage({('pick', f'bag/{i}', 'fast'): 1 for i in range(100)})
    assert len(account.counts()) < 600 and 'and 94 more' in account.counts()
