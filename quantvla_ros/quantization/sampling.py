# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A seeded sample of a stream, spread evenly over groups, with bounded memory.

Knows groups and items; knows nothing of what they are. Frames of a long episode resemble each
other, so each group (an episode under one command) gives as many as the others, as far as it can.
"""
from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

import numpy as np

Item = TypeVar('Item')


class BalancedSample(Generic[Item]):
    """Draws `size` items from a stream that is seen once.

    Every item gets a random number; a group keeps those with the smallest, so that at any time its
    items are a uniform sample of what it has shown. The quota of a group only shrinks as the stream
    goes on, hence nothing is dropped that would be wanted later.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self._random = np.random.default_rng(seed)
        self._kept: dict[Hashable, list[tuple[float, Item]]] = {}
        self._found: dict[Hashable, int] = {}

    def add(self, group: Hashable, item: Item) -> None:
        """The next item of the stream."""
        kept = self._kept.setdefault(group, [])
        self._found[group] = self._found.get(group, 0) + 1
        kept.append((float(self._random.random()), item))
        quota = self._quota()
        for items in self._kept.values():
            if len(items) > quota:
                items.sort(key=lambda pair: pair[0])
                del items[quota:]

    def _quota(self) -> int:
        """The smallest number per group with which all groups together fill the sample."""
        left, groups = self.size, len(self._found)
        for count in sorted(self._found.values()):
            if count * groups >= left:
                return max(-(-left // groups), 1)
            left -= count
            groups -= 1
        return self.size  # too few items altogether: keep all

    @property
    def found(self) -> dict[Hashable, int]:
        """Items seen, by group in the order of appearance."""
        return dict(self._found)

    def draw(self) -> list[tuple[Hashable, Item]]:
        """The sample, one item of each group in turn: its beginning is as balanced as the whole."""
        order = [
            (rank, number, group, item)
            for group, items in self._kept.items()
            for rank, (number, item) in enumerate(sorted(items, key=lambda pair: pair[0]))
        ]
        order.sort(key=lambda entry: entry[:2])
        return [(group, item) for _, _, group, item in order[: self.size]]
