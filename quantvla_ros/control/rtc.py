# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Real-time chunking: what a new chunk is drawn to, and how hard, row by row.

Rows that will have run before the new chunk is there are frozen to the old chunk's; the overlap
after them is drawn to it less and less; where the old chunk ends the policy is free. The soft mask
is that of Black, Galliker and Levine, "Real-Time Execution of Action Chunking Flow Policies"
(arXiv 2506.07339, equation 5). How it enters the flow is `models.guidance`'s. Knows arrays and
times; knows nothing of networks or ROS.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from quantvla_ros.control.ensemble import Numbers


@dataclass(frozen=True)
class Guidance:
    """What a policy is asked to begin its next chunk like.

    Attributes:
        actions: [chunk, action] in the contract's units, offsets from a measurement taken from
            that of the new observation; any finite numbers where the weight is 0.
        weights: [chunk] in [0, 1]; 1: frozen.
    """

    actions: np.ndarray
    weights: np.ndarray


def soft_mask(count: int, frozen: int, overlap: int) -> np.ndarray:
    """[count] weights: 1 for `frozen` rows, then falling to 0 where the overlap ends.

    Row i between them: c (e^c - 1) / (e - 1) with c = (overlap - i) / (overlap - frozen + 1).

    Args:
        frozen, overlap: rows from the start; frozen <= overlap <= count.
    """
    row = np.arange(count)
    c = (overlap - row) / (overlap - frozen + 1.0)
    falling = c * np.expm1(c) / math.expm1(1.0)
    return np.where(row < frozen, 1.0, np.where(row < overlap, falling, 0.0))


def guidance(
    old: Numbers,
    stamp: int,
    period: float,
    count: int,
    delay: float,
    reference: np.ndarray,
) -> Guidance | None:
    """What the chunk of an observation at `stamp` is to begin like.

    Args:
        old: the chunk that runs.
        stamp: ns; row i of the new chunk is meant for `stamp + (i + 1) * period`.
        period: s.
        count: rows of the new chunk.
        delay: s from an observation to its chunk, as expected.
        reference: [actions] what the new observation's offsets start from, 0 for absolute numbers.
    Returns:
        None where the old chunk has nothing to say.
    """
    rows, has = old.at_rows_of(stamp, period, count)
    overlap = int(has.sum()) if has[0] else 0
    if overlap == 0:
        return None
    frozen = min(math.ceil(delay / period - 1e-6), overlap)
    return Guidance(rows - reference, soft_mask(count, frozen, overlap))
