# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import signal

import numpy as np
from conftest import ROOT

from quantvla_ros.contract.load import load_contract
from quantvla_ros.observation.bags import Bag
from quantvla_ros.observation.replay import replay

CONTRACT = load_contract(ROOT / 'config/contracts/tabletop.yaml')


def test_a_recorded_episode_is_a_bag_that_calibration_can_read(start, tmp_path):
    bag = tmp_path / 'bag'
    process = start('-m', 'quantvla_ros', 'record', '--episodes', '1', '--out', str(bag))
    assert process.wait() == 0, process.output
    frames = list(replay(bag, CONTRACT, need_actions=True))
    assert len(frames) > 10
    # Every picture comes with joints from (nearly) its own time, and the expert was heard.
    assert max(np.ptp([frame.observation.stamps[name] for name in ('overhead', 'joint_states')])
               for frame in frames) <= 0.2e9
    commanded = [frame for frame in frames if frame.action is not None]
    assert len(commanded) > len(frames) // 2
    moved = np.array([frame.action for frame in commanded])
    assert np.ptp(moved, axis=0).max() > 0.05
    with Bag(bag) as opened:
        assert opened.health.whole
        assert set(opened.topics) == {
            '/overhead/image_raw', '/wrist/image_raw', '/joint_states', '/instruction',
            '/arm_controller/joint_trajectory',
        }
    # Nothing but the bag is left behind.
    assert [path.name for path in tmp_path.iterdir() if path.suffix != '.log'] == ['bag']


def test_an_interrupted_recording_leaves_nothing_behind(start, tmp_path):
    bag = tmp_path / 'bag'
    process = start('-m', 'quantvla_ros', 'record', '--episodes', '9', '--out', str(bag))
    process.until_says('episode 1')
    process.signal(signal.SIGINT)
    assert process.wait() == 130, process.output
    assert [path.name for path in tmp_path.iterdir() if path.suffix != '.log'] == []


def test_it_refuses_a_domain_with_another_arm_in_it(world, start, tmp_path):
    """It may be a real one."""
    process = start('-m', 'quantvla_ros', 'record', '--out', str(tmp_path / 'bag'))
    assert process.wait() == 2
    assert 'choose a free domain' in process.output


def test_it_refuses_a_folder_that_exists(start, tmp_path):
    process = start('-m', 'quantvla_ros', 'record', '--out', str(tmp_path))
    assert process.wait() == 2
    assert 'found one that exists' in process.output
