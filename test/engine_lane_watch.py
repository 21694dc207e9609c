# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Streams that are not there: they note which operation follows which, and what runs side by side.

Each stream has a vector clock; events carry it. Two operations on the same bytes, one of which
writes, must be in an order that the clocks know, whatever the order was that they were called in.
"""
import contextlib
from collections import Counter
from dataclasses import dataclass

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass
class _Access:
    lane: int
    time: int
    first: int
    last: int
    writes: bool
    name: str


class LaneWatch(TorchDispatchMode):
    """Stands in for `lanes.streams_of` and sees all operations of the CPU meanwhile.

    Attributes:
        operations: of each stream, 0 for the one that it all began on, 1 for the lane.
        races: pairs of operations on the same bytes that nothing holds in order.
        strays: what was made within a run in one of them and used in the other.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter = Counter()
        self.races: list[str] = []
        self.strays: list[str] = []
        self._lane = 0
        self._clocks: dict[int, Counter] = {0: Counter(), 1: Counter()}
        self._seen: dict[int, list[_Access]] = {}
        self._maker: dict[int, int] = {}
        self._kept: list = []  # so that no two results have the same address

    def streams_of(self, device):
        """As `lanes.streams_of`."""
        return self

    def current(self):
        """As `lanes.Streams`, as are the next four."""
        return self._lane

    def lane(self):
        return 1

    @contextlib.contextmanager
    def use(self, stream):
        before, self._lane = self._lane, stream
        try:
            yield
        finally:
            self._lane = before

    def record(self, stream):
        return Counter(self._clocks[stream])

    def wait(self, stream, event):
        self._clocks[stream] |= event

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        result = function(*arguments, **(named or {}))
        schema, given = function._schema, named or {}
        if any(a.alias_info and not a.alias_info.is_write for a in schema.arguments):
            return result  # a view touches nothing
        lane, clock = self._lane, self._clocks[self._lane]
        clock[lane] += 1
        self.operations[lane] += 1
        for index, argument in enumerate(schema.arguments):
            value = arguments[index] if index < len(arguments) else given.get(argument.name)
            writes = bool(argument.alias_info and argument.alias_info.is_write)
            for tensor in tree_leaves(value):
                if isinstance(tensor, torch.Tensor) and tensor.numel():
                    self._note(tensor, writes, str(function))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.numel():
                self._kept.append(tensor)
                place = tensor.untyped_storage().data_ptr()
                if place not in self._seen:
                    self._maker[place] = lane
                self._note(tensor, True, str(function))
        return result

    def _note(self, tensor, writes, name):
        lane, clock = self._lane, self._clocks[self._lane]
        place = tensor.untyped_storage().data_ptr()
        reach = sum(
            (size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True)
        )
        first = tensor.data_ptr()
        last = first + (reach + 1) * tensor.element_size()
        found = _Access(lane, clock[lane], first, last, writes, name)
        if self._maker.get(place, lane) != lane:
            self.strays.append(f'{name}: made in lane {self._maker[place]}, used in {lane}')
        earlier = self._seen.setdefault(place, [])
        for other in earlier:
            meets = other.first < last and first < other.last and (writes or other.writes)
            if meets and other.time > clock[other.lane]:
                self.races.append(f'{other.name} in lane {other.lane}, {name} in {lane}')
        earlier.append(found)
