# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The policy node with a double in place of a network: what it does is said by the command."""
from __future__ import annotations

import sys
import time
from types import SimpleNamespace

import numpy as np

from quantvla_ros.engine.running import Running
from quantvla_ros.errors import CheckpointError
from quantvla_ros.nodes.process import StopSignal, run

ROWS = 16


class Double:
    """Moves as it is told in words."""

    info = SimpleNamespace(
        artifact_id='double', precision='none', slots=('observation.images.eye',), state_size=2,
        action_size=2, chunk_size=ROWS, execute_steps=4, weight_bytes=0, float_bytes=0,
        state_names=('a', 'b'), action_names=('a', 'b'), control_period=0.05,
    )
    running = Running('plain', 'cpu')

    def __del__(self) -> None:
        sys.stderr.write('a double was freed\n')

    def warm_up(self, runs: int = 2) -> None:
        pass

    def infer(self, observation, *, seed=None) -> np.ndarray:
        rows = np.tile(observation.state, (ROWS, 1))
        word = observation.instruction
        if word == 'nan':
            rows[7, 1] = np.nan
        elif word == 'beyond':
            rows[:, 0] = 1.01
        elif word == 'fast':
            rows[5:, 0] += 0.2
        elif word == 'jump':
            rows += 0.5
        elif word == 'move':
            rows[:, 0] += 0.01 * np.arange(1, ROWS + 1)
        elif word == 'slow':
            time.sleep(1.5)
        elif word == 'raise':
            raise RuntimeError('the double raises')
        elif word == 'lose the GPU':
            raise RuntimeError('CUDA error: an illegal memory access was encountered')
        return rows


class Near(Double):
    """A shadow that is a little off in one number."""

    info = SimpleNamespace(**{**vars(Double.info), 'artifact_id': 'near', 'precision': 'other'})

    def infer(self, observation, *, seed=None) -> np.ndarray:
        rows = super().infer(observation, seed=seed)
        rows[3, 1] += 0.01
        return rows


class Failing(Near):
    """A shadow that fails."""

    def infer(self, observation, *, seed=None) -> np.ndarray:
        raise RuntimeError('the shadow raises')


class Stuck(Near):
    """A shadow that never ends."""

    def infer(self, observation, *, seed=None) -> np.ndarray:
        time.sleep(60.0)
        raise AssertionError('nobody waits so long')


SHADOWS = {'near': Near, 'failing': Failing, 'stuck': Stuck}


TRIED: set[str] = set()


def fill_the_gpu(when: str) -> None:
    """Once: later there is room."""
    import torch

    if when not in TRIED:
        TRIED.add(when)
        raise torch.OutOfMemoryError(
            'CUDA out of memory. Tried to allocate 4.00 GiB. GPU 0 has a total capacity of '
            '23.99 GiB of which 1.25 GiB is free.'
        )


def load_double(path: str, **options: object) -> Double:
    if path == 'slow to load':
        sys.stderr.write('loading\n')
        sys.stderr.flush()
        time.sleep(60.0)
    if path == 'not there':
        raise CheckpointError('not there: expected a policy, found none')
    if path == 'no memory while loading':
        fill_the_gpu('loading')
    double = SHADOWS.get(path, Double)()
    if path == 'no memory while warming up':
        double.warm_up = lambda: fill_the_gpu('warming up')
    if path == 'fallback':
        double.running = Running('plain', 'cpu', 'plain on cpu instead of graph on cuda: no GPU')
    return double


if __name__ == '__main__':
    stop = StopSignal()

    def nodes() -> list[object]:
        from quantvla_ros.nodes.policy import PolicyNode

        return [PolicyNode(load_policy=load_double)]

    sys.exit(run(nodes, sys.argv[1:], stop))
