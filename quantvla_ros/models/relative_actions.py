# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Actions relative to the state that they start from, and which numbers of an action are so.

Knows vectors and names; knows nothing of files. The rules are those of lerobot
(processor/relative_action_processor.py) and of openpi (transforms.py: AbsoluteActions).
"""
from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np


def add_state(
    actions: np.ndarray, state: np.ndarray, relative: Sequence[bool] | None
) -> np.ndarray:
    """Relative actions to absolute ones.

    Args:
        actions: [chunk, action] float32, in the data's units.
        state: [state] of the observation, in the data's units.
        relative: per number of the action, whether the state's number of the same place is added;
            None: none of them.
    Returns:
        [chunk, action] float32.
    """
    if relative is None:
        return actions
    offset = np.zeros(actions.shape[1], np.float32)
    where = _places(tuple(relative))
    offset[where] = np.asarray(state, np.float32)[where]
    return actions + offset


def without_state(
    actions: np.ndarray, state: np.ndarray, relative: Sequence[bool] | None
) -> np.ndarray:
    """The inverse of `add_state`, for whatever state the actions shall start from now."""
    return add_state(actions, -np.asarray(state, np.float32), relative)


@lru_cache(maxsize=8)
def _places(relative: tuple[bool, ...]) -> np.ndarray:
    return np.flatnonzero(relative)


def by_names(
    actions: int, exclude: Sequence[str], names: Sequence[str] | None
) -> tuple[bool, ...]:
    """By lerobot's rule: those are relative whose name contains no excluded one.

    As in lerobot, all of them where the names are not known.
    """
    tokens = [str(token).lower() for token in exclude if token]
    if not tokens or names is None:
        return (True,) * actions
    mask = [not any(token in name.lower() for token in tokens) for name in names[:actions]]
    return tuple(mask + [True] * (actions - len(mask)))


def by_runs(runs: Sequence[int]) -> tuple[bool, ...]:
    """As openpi writes it (`make_bool_mask`): [6, -1] is six that are and one that is not."""
    return tuple(run > 0 for run in runs for _ in range(abs(run)))
