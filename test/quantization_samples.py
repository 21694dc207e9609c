# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A small random checkpoint, a contract and observations for the quantization tests."""
from pathlib import Path

import numpy as np
import torch

from quantvla_ros.contract.load import load_contract
from quantvla_ros.models import export, pi05_export
from quantvla_ros.observation.types import Observation

ROOT = Path(__file__).resolve().parents[1]
SIZES = {
    'vlm': [48, 2, 80, 4, 1, 16],
    'exp': [32, 2, 64, 4, 1, 16],
    'vis': [32, 1, 2, 48],
    'vocab': 1024,
}
COMMANDS = ('touch the red cube', 'pick up the blue cube')


def contract():
    return load_contract(ROOT / 'config' / 'contracts' / 'tabletop.yaml')


def write_checkpoint(directory: Path, dtype=torch.bfloat16, seed: int = 0) -> Path:
    """A pi0.5 of 100 thousand weights for the tabletop contract, complete with processor files."""
    robot = contract()
    numbers = np.random.default_rng(0).uniform(-1, 1, (50, len(robot.state_names)))
    statistics = export.statistics(numbers)
    slots = tuple(camera.slot for camera in robot.cameras)
    features = export.Features(slots, statistics, statistics, robot.action.names)
    config = pi05_export.hub_config(
        features, image=28, chunk=4, execute=3, max_action_dim=8, sizes=SIZES
    )
    config['num_inference_steps'] = 3
    weights = export.random_weights(config, seed)
    words = ' '.join(COMMANDS).split()
    pi05_export.write_checkpoint(directory, config, weights, features, words, dtype=dtype)
    return directory


def observations(count: int, seed: int = 0) -> list[Observation]:
    generator = np.random.default_rng(seed)
    robot = contract()
    return [
        Observation(
            stamp=(index + 1) * 50_000_000,
            images={
                camera.slot: generator.integers(0, 256, (28, 28, 3), dtype=np.uint8)
                for camera in robot.cameras
            },
            state=generator.uniform(-1, 1, len(robot.state_names)).astype(np.float32),
            instruction=COMMANDS[index % 2],
        )
        for index in range(count)
    ]


def write_bag(
    path: Path, frames: int = 30, commands=COMMANDS, seed: int = 0, absent=('', 0)
) -> Path:
    """A recording of the tabletop arm: `frames` pictures at 20 Hz for each command.

    `absent`: a topic, and how many of its first messages are missing.
    """
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_HUMBLE)
    types = store.types
    robot = contract()
    generator = np.random.default_rng(seed)
    joints = list(robot.joint_states.joints)

    def stamp(time: int):
        return types['builtin_interfaces/msg/Time'](sec=time // 10**9, nanosec=time % 10**9)

    def header(time: int):
        return types['std_msgs/msg/Header'](stamp=stamp(time), frame_id='')

    def image(time: int):
        data = generator.integers(0, 256, 28 * 28 * 3, dtype=np.uint8)
        return types['sensor_msgs/msg/Image'](
            header=header(time), height=28, width=28, encoding='rgb8', is_bigendian=0, step=84,
            data=data,
        )

    def state(time: int, positions: np.ndarray):
        empty = np.zeros(0)
        return types['sensor_msgs/msg/JointState'](
            header=header(time), name=joints, position=positions, velocity=empty, effort=empty
        )

    def trajectory(time: int, positions: np.ndarray):
        empty = np.zeros(0)
        period = types['builtin_interfaces/msg/Duration'](sec=0, nanosec=50_000_000)
        point = types['trajectory_msgs/msg/JointTrajectoryPoint'](
            positions=positions, velocities=empty, accelerations=empty, effort=empty,
            time_from_start=period,
        )
        return types['trajectory_msgs/msg/JointTrajectory'](
            header=header(time), joint_names=joints, points=[point]
        )

    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        topics = {
            '/instruction': 'std_msgs/msg/String',
            '/joint_states': 'sensor_msgs/msg/JointState',
            '/arm_controller/joint_trajectory': 'trajectory_msgs/msg/JointTrajectory',
            **{f'/{camera.topic}': camera.type for camera in robot.cameras},
        }
        connections = {
            topic: writer.add_connection(topic, kind, typestore=store)
            for topic, kind in topics.items()
        }

        missing = [absent[1]]

        def put(topic: str, time: int, message) -> None:
            if topic == absent[0] and missing[0]:
                missing[0] -= 1
                return
            writer.write(connections[topic], time, store.serialize_cdr(message, topics[topic]))

        time = 1_760_000_000 * 10**9
        for command in commands:
            put('/instruction', time, types['std_msgs/msg/String'](data=command))
            positions = generator.uniform(0.0, 0.5, len(joints))
            for _ in range(frames):
                time += 50_000_000
                put('/joint_states', time, state(time, positions))
                positions = positions + generator.normal(0, 0.01, len(joints))
                put('/arm_controller/joint_trajectory', time, trajectory(time, positions))
                for camera in reversed(robot.cameras):  # the first one triggers: others before it
                    put(f'/{camera.topic}', time, image(time))
            time += 3 * 10**9
    return path


def calibration_account(**changes) -> dict:
    """The manifest's part 'calibration', as `calibrate` would give it."""
    error = {'rms': 0.1, 'largest': 0.2, 'relative': 0.3}
    return {
        'seed': 3,
        'samples': 20,
        'held_out': 4,
        'observations': [{'episode': 'a', 'instruction': 'b', 'found': 30, 'used': 24}],
        'bags': {'bag.mcap': 'a' * 64},
        'coverage': {
            'frames': {'found': 30, 'constant': 0, 'used': 24},
            'groups': [
                {
                    'instruction': 'b',
                    'episode': 'a',
                    'phase': 'slow',
                    'found': 30,
                    'constant': 0,
                    'used': 24,
                }
            ],
            'messages': 120,
            'broken': [],
            'instants': 30,
            'refused': [],
            'bags_left_out': {},
            'faults': [],
            'cautions': [{'kind': 'one_episode', 'text': 'a single episode'}],
        },
        'error': {'uncorrected': error, 'corrected': error},
        **changes,
    }
