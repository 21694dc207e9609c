# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Faults in random order for a long time, in one process of the node: does its memory grow?

Knows cases and numbers; knows nothing of ROS.
"""
from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from quantvla_ros.faults.case import Case, Expect

# s in which a process still grows for good reasons: what every fault allocates the first time.
_SETTLES = 300.0


def fit(case: Case) -> bool:
    """Whether a case leaves the node's process as it is: a new one would hide a leak."""
    return not case.restarts and case.expect not in (Expect.ENDS, Expect.REFUSES) and (
        case.prepare is None or case.expect is not Expect.WAITS
    )


def order(cases: Sequence[Case], seed: int) -> Iterator[Case]:
    """Cases without end, each as often as the others, in an order that a seed gives."""
    draw = random.Random(seed)
    deck = [case for case in cases if fit(case)]
    while deck:
        draw.shuffle(deck)
        yield from deck


@dataclass
class Memory:
    """Resident memory of a process over time.

    Attributes:
        times: s since the first.
        sizes: bytes.
    """

    times: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def add(self, time: float, size: int) -> None:
        """One more sample."""
        self.times.append(time)
        self.sizes.append(size)

    @property
    def slope(self) -> float | None:
        """MiB per hour, a straight line through what came after it had settled; None for less."""
        kept = [
            (time - self.times[0], size) for time, size in zip(self.times, self.sizes, strict=True)
            if time - self.times[0] >= _SETTLES
        ]
        if len(kept) < 10:
            return None
        times, sizes = np.array(kept, float).T
        return float(np.polyfit(times / 3600.0, sizes / 2**20, 1)[0])

    def facts(self) -> dict[str, float]:
        """For the results: MiB, and the slope where there is one."""
        if not self.sizes:
            return {}
        found = {
            'first (MiB)': self.sizes[0] / 2**20, 'last (MiB)': self.sizes[-1] / 2**20,
            'largest (MiB)': max(self.sizes) / 2**20, 'minutes': (
                self.times[-1] - self.times[0]
            ) / 60.0,
        }
        return found if self.slope is None else {**found, 'slope (MiB/h)': self.slope}
