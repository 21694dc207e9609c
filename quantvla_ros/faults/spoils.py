# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a policy's numbers, and with its loading: a table each.

Knows arrays and policies; knows nothing of ROS. A spoil is named by a word, with a number after a
colon where it has one: 'slow:1.5'.
"""
from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from quantvla_ros.errors import QuantVLAError

# (chunk [rows, actions], state [state], number, how many chunks came before it) -> chunk
Spoil = Callable[[np.ndarray, np.ndarray, float, int], np.ndarray]


def _not_finite(rows: np.ndarray, state: np.ndarray, number: float, count: int) -> np.ndarray:
    rows[len(rows) // 2, 0] = np.nan
    return rows


def _infinite(rows: np.ndarray, state: np.ndarray, number: float, count: int) -> np.ndarray:
    rows[-1, -1] = np.inf
    return rows


def _jump(rows: np.ndarray, state: np.ndarray, number: float, count: int) -> np.ndarray:
    # rad, towards the middle of the joint's range: only the distance is to be wrong.
    rows[:, 0] = state[0] + (-number if state[0] > 0.0 else number)
    return rows


def _beyond(rows: np.ndarray, state: np.ndarray, number: float, count: int) -> np.ndarray:
    # On the way there from where the arm is, so that nothing but the position is wrong at first.
    rows[:, 0] = np.linspace(state[0], number, len(rows))
    return rows


def _fast(rows: np.ndarray, state: np.ndarray, number: float, count: int) -> np.ndarray:
    rows[len(rows) // 2 :, 0] += number  # rad, from one row to the next
    return rows


def _seam(rows: np.ndarray, state: np.ndarray, number: float, count: int) -> np.ndarray:
    rows[:, 0] += number if count % 2 else -number
    return rows


def _binary(rows: np.ndarray, state: np.ndarray, number: float, count: int) -> np.ndarray:
    rows[:, -1] = number if count % 2 else 1.0 - number
    return rows


def _slow(rows: np.ndarray, state: np.ndarray, number: float, count: int) -> np.ndarray:
    time.sleep(number)
    return rows


def _raise(rows: np.ndarray, state: np.ndarray, number: float, count: int) -> np.ndarray:
    raise RuntimeError('a fault that was asked for')


def _device(rows: np.ndarray, state: np.ndarray, number: float, count: int) -> np.ndarray:
    import torch

    message = 'CUDA error: an illegal memory access was encountered (asked for)'
    # Its class since PyTorch 2.9; before, a RuntimeError with these words.
    raise getattr(torch, 'AcceleratorError', RuntimeError)(message)


def _memory(rows: np.ndarray, state: np.ndarray, number: float, count: int) -> np.ndarray:
    import torch

    raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB (asked for)')


SPOILS: dict[str, Spoil] = {
    'nan': _not_finite,
    'infinite': _infinite,
    'jump': _jump,
    'beyond': _beyond,
    'fast': _fast,
    'seam': _seam,
    'binary': _binary,
    'slow': _slow,
    'raise': _raise,
    'device': _device,
    'memory': _memory,
}


def parse(spoil: str) -> tuple[str, float]:
    """Word and number of a spoil; the number is 0 where there is none.

    Raises:
        QuantVLAError: no such spoil.
    """
    word, _, number = spoil.partition(':')
    if word not in SPOILS:
        raise QuantVLAError(
            f'spoil: expected one of {", ".join(SPOILS)}, found {word!r}'
        )
    return word, float(number or 0.0)


class SpoiledPolicy:
    """A policy whose chunks are spoiled as it is told; everything else is its own.

    Args:
        policy: the real one.
        spoil: what is wrong now; '' for nothing.
        info: what it says it is, where that is to be wrong.
        warm_up: s by which its first inference is slower.
    """

    def __init__(
        self, policy: Any, spoil: Callable[[], str], info: Any = None, warm_up: float = 0.0
    ) -> None:
        self._policy, self._spoil, self._warm_up = policy, spoil, warm_up
        self.info = policy.info if info is None else info
        self._count = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    def warm_up(self) -> None:
        """As the policy's, and slower where that was asked for."""
        time.sleep(self._warm_up)
        self._policy.warm_up()

    def infer(self, observation: Any, **options: Any) -> np.ndarray:
        """The policy's chunk, spoiled."""
        rows = self._policy.infer(observation, **options)
        self._count += 1
        spoil = self._spoil()
        if not spoil:
            return rows
        word, number = parse(spoil)
        return SPOILS[word](np.array(rows), np.asarray(observation.state), number, self._count)


def of_another_robot(info: Any) -> Any:
    """What a policy says of itself that was trained on a robot with one joint less."""
    names = info.action_names
    return replace(
        info, action_size=info.action_size - 1, action_names=names and tuple(names[:-1])
    )
