# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Counters by which the programs of a launch find out which of them is the last.

A launch finds zeros and leaves zeros, so launches one after the other share them. Launches that may
run side by side must not: each would count the other's programs, and a result would be put together
before its parts are there. Graphs are such: two policies on one GPU replay theirs at any time. So
is what runs in a lane, beside the rest of its graph.

Knows tensors and threads; knows nothing of what is counted.
"""
from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch
from torch import Tensor

from quantvla_ros.errors import BackendError

Held = dict[tuple[torch.device, bool], Tensor]  # by device and whether in a lane

_shared: Held = {}
_thread = threading.local()


@contextlib.contextmanager
def own_counters() -> Iterator[Held]:
    """Launches of this thread get counters that no others have.

    What is given holds them: keep it for as long as what was captured inside may run.
    """
    outer = getattr(_thread, 'held', None)
    held: Held = {}
    _thread.held = held
    try:
        yield held
    finally:
        _thread.held = outer


@contextlib.contextmanager
def lane_counters() -> Iterator[None]:
    """Launches of this thread get others than outside, held with those.

    Always the same ones: what is captured finds them as the runs before it did.
    """
    outer = getattr(_thread, 'lane', False)
    _thread.lane = True
    try:
        yield
    finally:
        _thread.lane = outer


def counters(count: int, device: torch.device) -> Tensor:
    """[count] int32 zeros that outlive the launch; made at the first, of always the same count.

    Raises:
        BackendError: a graph is being captured and there was no launch before: they would belong
            to the graph's memory, and be zeroed at each of its runs only.
    """
    own = getattr(_thread, 'held', None)
    held = _shared if own is None else own
    key = (device, getattr(_thread, 'lane', False))
    if key not in held:
        if device.type == 'cuda' and torch.cuda.is_current_stream_capturing():
            raise BackendError('counters: run once before a graph is captured')
        held[key] = torch.zeros(count, dtype=torch.int32, device=device)
    return held[key]
