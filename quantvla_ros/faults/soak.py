# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Faults in random order for a long time, in one process of the node: does any memory grow?

Knows cases and numbers; knows nothing of ROS.
"""
from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from quantvla_ros.faults.case import Case, Expect

# s in which a process still grows for good reasons: what every fault allocates the first time. Of a
# process that does not live so long, a third of its time.
_SETTLES = 300.0
_ENOUGH = 10  # samples of a slope, at least


def fit(case: Case) -> bool:
    """Whether a case leaves the node's process as it is: a new one would hide a leak."""
    if case.restarts or case.variant:
        return False
    if case.expect in (Expect.ENDS, Expect.REFUSES):
        return False
    return case.prepare is None or case.expect is not Expect.WAITS


def order(cases: Sequence[Case], seed: int) -> Iterator[Case]:
    """Cases without end, each as often as the others, in an order that a seed gives."""
    draw = random.Random(seed)
    deck = [case for case in cases if fit(case)]
    while deck:
        draw.shuffle(deck)
        yield from deck


@dataclass
class Memory:
    """Resident memory of processes over time.

    Attributes:
        samples: (time in s, bytes) of each process, by its name and which of that name it is: some
            faults end one, and another takes its place.
    """

    samples: dict[tuple[str, int], list[tuple[float, int]]] = field(default_factory=dict)

    def add(self, name: str, number: int, time: float, size: int) -> None:
        """One more sample."""
        if size:
            self.samples.setdefault((name, number), []).append((time, size))

    def slope(self, name: str) -> float | None:
        """MiB per hour: one straight line, by least squares, through what came after settling.

        Of several processes of a name each has a line of its own height, all have one slope. None
        for too few samples.
        """
        times, sizes = [], []
        for (of, _), samples in self.samples.items():
            if of != name:
                continue
            time, size = np.array(samples, float).T
            kept = time - time[0] >= min(_SETTLES, (time[-1] - time[0]) / 3.0)
            times.append(time[kept] - time[kept].mean())
            sizes.append(size[kept] - size[kept].mean())
        if sum(map(len, times)) < _ENOUGH:
            return None
        time, size = np.concatenate(times) / 3600.0, np.concatenate(sizes) / 2**20
        spread = float(time @ time)
        return float(time @ size) / spread if spread else None

    def by_minute(self, name: str) -> list[float]:
        """MiB at the end of each minute, of whichever process of that name there was."""
        samples = [one for (of, _), many in self.samples.items() if of == name for one in many]
        minutes: dict[int, float] = {}
        for time, size in samples:
            minutes[int((time - samples[0][0]) / 60.0)] = round(size / 2**20, 1)
        return list(minutes.values())

    def facts(self) -> dict[str, dict[str, float]]:
        """By name of a process: MiB, minutes, and the slope where there is one."""
        found: dict[str, dict[str, float]] = {}
        for name in dict.fromkeys(name for name, _ in self.samples):
            own = [samples for (of, _), samples in self.samples.items() if of == name]
            sizes = [size / 2**20 for samples in own for _, size in samples]
            found[name] = {
                'processes': len(own),
                'minutes': round((own[-1][-1][0] - own[0][0][0]) / 60.0, 1),
                'first_mib': round(sizes[0], 1), 'last_mib': round(sizes[-1], 1),
                'largest_mib': round(max(sizes), 1),
            }
            slope = self.slope(name)
            if slope is not None:
                found[name]['slope_mib_per_h'] = round(slope, 2)
        return found

    def lines(self) -> list[str]:
        """The facts for people."""
        return [
            f'memory of {name}: ' + ', '.join(f'{key} {value:g}' for key, value in facts.items())
            for name, facts in self.facts().items()
        ]
