# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The policy node with a double whose actions are end-effector twists, and a gripper."""
from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
from policy_double import ROWS, Double

from quantvla_ros.contract.types import TWIST_AXES
from quantvla_ros.nodes.process import StopSignal, run


class TwistDouble(Double):
    """Goes up at 0.1 m/s, or as fast as it is told."""

    info = SimpleNamespace(**{
        **vars(Double.info), 'action_names': (*TWIST_AXES, 'b'), 'action_size': 7,
    })

    def infer(self, observation, *, seed=None, **given) -> np.ndarray:
        rows = np.zeros((ROWS, 7))
        rows[:, 2] = 0.1
        return rows


if __name__ == '__main__':
    stop = StopSignal()

    def nodes() -> list[object]:
        from quantvla_ros.nodes.policy import PolicyNode

        return [PolicyNode(load_policy=lambda path, **options: TwistDouble())]

    sys.exit(run(nodes, sys.argv[1:], stop))
