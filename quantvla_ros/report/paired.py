# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Success, failure and time on the same scenes: what two policies' outcomes tell.

Knows counts; knows nothing of simulators or policies. Sources: the interval of one proportion is
Wilson's (J. Amer. Statist. Assoc. 22, 1927); the test McNemar's, exact (Psychometrika 12, 1947);
the interval of a difference of paired proportions Tango's score interval (Statist. Med. 17, 1998),
which holds its level with few discordant pairs too and is recommended by Fagerland, Lydersen and
Laake (Statist. Med. 33, 2014).
"""
from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

Z95 = 1.959963984540054


def paired(first: Mapping[int, bool], second: Mapping[int, bool]) -> dict[str, Any]:
    """Two policies scene by scene.

    Args:
        first, second: success by seed, of the same seeds.
    Returns:
        JSON: counts and seeds of the discordant pairs, McNemar's exact p, the difference of the
        shares of success (first minus second) and its 95 % interval.
    """
    if first.keys() != second.keys() or not first:
        raise ValueError(f'expected the same scenes for both, found {len(first)} and '
                         f'{len(second)}')
    only_first = sorted(seed for seed in first if first[seed] and not second[seed])
    only_second = sorted(seed for seed in first if second[seed] and not first[seed])
    both = sum(first[seed] and second[seed] for seed in first)
    total = len(first)
    low, high = difference_interval(len(only_first), len(only_second), total)
    return {
        'both': both,
        'only_first': len(only_first),
        'only_second': len(only_second),
        'neither': total - both - len(only_first) - len(only_second),
        'p': mcnemar(len(only_first), len(only_second)),
        'difference': (len(only_first) - len(only_second)) / total,
        'difference_95': [low, high],
        'seeds_only_first': only_first,
        'seeds_only_second': only_second,
    }


def mean_difference(
    first: Mapping[int, float], second: Mapping[int, float]
) -> tuple[float, tuple[float, float] | None] | None:
    """Mean of first minus second over the scenes that both have, with a bootstrap's 95 % interval.

    For the time to success, which shows a difference long before a scene is lost. None without a
    common scene; no interval with fewer than five.
    """
    common = sorted(first.keys() & second.keys())
    if not common:
        return None
    apart = np.array([first[seed] - second[seed] for seed in common], float)
    if len(apart) < 5:
        return float(apart.mean()), None
    drawn = np.random.default_rng(0).integers(len(apart), size=(2000, len(apart)))
    low, high = np.percentile(apart[drawn].mean(axis=1), (2.5, 97.5))
    return float(apart.mean()), (float(low), float(high))


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p that a fair coin parts the discordant pairs so unevenly."""
    total = only_first + only_second
    tail = sum(math.comb(total, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, 2.0 * tail / 2**total)


def wilson(done: int, total: int, z: float = Z95) -> tuple[float, float]:
    """95 % interval of a proportion: honest near 0 and 1, unlike the normal one."""
    share = done / total
    centre = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def difference_interval(
    only_first: int, only_second: int, total: int, z: float = Z95
) -> tuple[float, float]:
    """95 % interval of (only_first - only_second) / total (Tango).

    The differences at which the score statistic is within +-z; it falls as the difference grows.
    """
    estimate = (only_first - only_second) / total
    low = _crossing(lambda d: _score(only_first, only_second, total, d) <= z, -1.0, estimate)
    high = _crossing(lambda d: _score(only_first, only_second, total, d) < -z, estimate, 1.0)
    return low, high


def _score(only_first: int, only_second: int, total: int, difference: float) -> float:
    """Tango's statistic for a supposed difference."""
    above = only_first - only_second - total * difference
    # The share of only_second that is most likely under the supposed difference.
    a = 2.0 * total
    b = -only_first - only_second + (2.0 * total - only_first + only_second) * difference
    c = -only_second * difference * (1.0 - difference)
    share = (math.sqrt(max(b * b - 4.0 * a * c, 0.0)) - b) / (2.0 * a)
    variance = total * (2.0 * share + difference * (1.0 - difference))
    if variance <= 0.0:
        return 0.0 if above == 0.0 else math.copysign(math.inf, above)
    return above / math.sqrt(variance)


def _crossing(beyond: Any, low: float, high: float) -> float:
    """Where a condition that is false at `low` becomes true, by bisection."""
    for _ in range(60):
        middle = (low + high) / 2.0
        if beyond(middle):
            high = middle
        else:
            low = middle
    return high
