# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A small random checkpoint, a contract and observations for the quantization tests."""
from pathlib import Path

import numpy as np
import torch

from quantvla_ros.contract.load import load_contract
from quantvla_ros.models import export
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
    config = export.hub_config(
        features, image=28, chunk=4, execute=3, max_action_dim=8, sizes=SIZES
    )
    config['num_inference_steps'] = 3
    weights = export.random_weights(config, seed)
    words = ' '.join(COMMANDS).split()
    export.write_checkpoint(directory, config, weights, features, words, dtype=dtype)
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
