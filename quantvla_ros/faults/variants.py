# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The simulated arm's contract with something changed, for cases that the plain one cannot have.

Knows contract files; knows nothing of ROS or of cases.
"""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from quantvla_ros.contract.types import COMPRESSED_IMAGE, IMAGE

COMPRESSED, FOLLOW = 'compressed', 'follow'
EMERGENCY_STOP = 'emergency_stop'
REFUSALS = 5  # that latch
ACTION = 'faults/arm_controller/follow_joint_trajectory'


def _plain(contract: dict[str, Any]) -> None:
    """Only an emergency stop, which has a topic of its own and changes nothing else."""
    contract.setdefault('safety', {}).setdefault('emergency_stop', EMERGENCY_STOP)


def _compressed(contract: dict[str, Any]) -> None:
    """The last required camera sends JPEG."""
    _plain(contract)
    raw = [
        camera for camera in contract['cameras'].values()
        if camera['required'] and camera['type'] == IMAGE
    ]
    raw[-1].update(type=COMPRESSED_IMAGE, topic=f'{raw[-1]["topic"]}/compressed')


def _follow(contract: dict[str, Any]) -> None:
    """Commands are goals of an action, of which a few that come to nothing are enough."""
    _plain(contract)
    contract['safety']['rejection_latch'] = REFUSALS
    contract['output'] = {'kind': 'follow_joint_trajectory', 'action': ACTION}


VARIANTS: dict[str, Callable[[dict[str, Any]], None]] = {
    '': _plain, COMPRESSED: _compressed, FOLLOW: _follow,
}


def write(contract: Path, folder: Path) -> dict[str, Path]:
    """Files of all variants, by name.

    Args:
        contract: file of the simulated arm's.
        folder: takes them.
    """
    written = {}
    for name, change in VARIANTS.items():
        data = yaml.safe_load(contract.read_text(encoding='utf-8'))
        change(data)
        # Its name is shown; that of the plain one stays.
        path = folder / (name or 'plain') / contract.name
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(data, sort_keys=False), encoding='utf-8')
        written[name] = path
    return written
