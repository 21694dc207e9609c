# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A seeded sample of a stream, shared out evenly level by level, with bounded memory.

Knows groups and items; knows nothing of what they are. Frames of a long episode resemble each
other, so each instruction gives as many as the others, within it each episode, and within that
each phase of motion, as far as they can.
"""
from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Hashable, Iterator
from itertools import islice
from typing import Generic, TypeVar

import numpy as np

Item = TypeVar('Item')


class _Node(Generic[Item]):
    """A group of groups, or (without children) one that holds items."""

    def __init__(self, order: float) -> None:
        self.order = order  # its place among its siblings
        self.by_key: dict[Hashable, _Node[Item]] = {}
        self.children: list[_Node[Item]] = []  # sorted by `order`
        self.found = 0
        self.kept: list[tuple[float, int, Item]] = []  # sorted: random number, arrival, item
        self.dropped = False  # whether its quota has been smaller than what it found

    def turns(self) -> Iterator[_Node[Item]]:
        """The leaves in the order in which they may give an item: each child in turn.

        Further supply in one leaf, or a further leaf, only pushes the turns of others back; hence
        a leaf's turns among the first n never become more once others come or grow.
        """
        if not self.children:
            for _ in range(self.found):
                yield self
            return
        going = [child.turns() for child in self.children]
        while going:
            still = []
            for turns in going:
                leaf = next(turns, None)
                if leaf is not None:
                    yield leaf
                    still.append(turns)
            going = still


class BalancedSample(Generic[Item]):
    """Draws `size` items from a stream that is seen once, and never keeps more.

    Every item gets a random number; a group keeps those with the smallest, so that at any time its
    items are a uniform sample of what it has shown. What a group has not kept all of, it will not
    be asked for more of as the stream goes on, hence nothing is dropped that would be wanted later.
    """

    def __init__(self, size: int, seed: int) -> None:
        if size < 1:
            raise ValueError(f'size must be 1 or more, not {size}')
        self.size = size
        self._random = np.random.default_rng(seed)
        self._root: _Node[Item] = _Node(0.0)
        self._leaves: dict[Hashable, _Node[Item]] = {}
        self._arrived = 0
        self._kept = 0

    def add(self, group: Hashable, item: Item) -> None:
        """The next item of the stream.

        Args:
            group: a tuple is a path, most important first: (instruction, episode, phase); all
                paths of a sample are of one length.
            item: what is to be drawn.
        """
        leaf = self._leaves.get(group)
        if leaf is None:
            leaf = self._leaves[group] = self._place(group)
        leaf.found += 1
        self._arrived += 1
        number = float(self._random.random())
        if leaf.dropped and (not leaf.kept or number > leaf.kept[-1][0]):
            return
        bisect.insort(leaf.kept, (number, self._arrived, item))
        self._kept += 1
        if self._kept > self.size:
            self._trim()

    def _place(self, group: Hashable) -> _Node[Item]:
        """A new leaf, with the groups above it."""
        node = self._root
        for key in group if isinstance(group, tuple) else (group,):
            child = node.by_key.get(key)
            if child is None:
                # By chance, so that with more groups than items it is chance that chooses.
                child = node.by_key[key] = _Node(float(self._random.random()))
                bisect.insort(node.children, child, key=lambda other: other.order)
            node = child
        return node

    def _trim(self) -> None:
        """Drop what no group may give any more."""
        quota = Counter(islice(self._root.turns(), self.size))
        for leaf in self._leaves.values():
            excess = len(leaf.kept) - quota[leaf]
            if excess > 0:
                del leaf.kept[quota[leaf] :]
                leaf.dropped = True
                self._kept -= excess

    @property
    def found(self) -> dict[Hashable, int]:
        """Items seen, by group in the order of appearance."""
        return {group: leaf.found for group, leaf in self._leaves.items()}

    @property
    def kept(self) -> int:
        """Items held in memory now."""
        return self._kept

    def draw(self) -> list[tuple[Hashable, Item]]:
        """The sample, one item of each group in turn: its beginning is as balanced as the whole."""
        groups = {leaf: group for group, leaf in self._leaves.items()}
        given: Counter[_Node[Item]] = Counter()
        drawn = []
        for leaf in islice(self._root.turns(), self.size):
            drawn.append((groups[leaf], leaf.kept[given[leaf]][2]))
            given[leaf] += 1
        return drawn
