# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How long something takes: on the device's own clock, and on the host's.

Knows calls and devices; knows nothing of what is called.
"""
from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

Call = Callable[[], object]


@dataclass(frozen=True)
class Spread:
    """Times of many runs, in milliseconds."""

    runs: int
    mean: float
    p50: float
    p90: float
    p99: float
    max: float

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> Spread:
        """Of at least one time."""
        times = np.asarray(milliseconds, np.float64)
        p50, p90, p99 = (float(q) for q in np.quantile(times, (0.5, 0.9, 0.99)))
        return cls(len(times), float(times.mean()), p50, p90, p99, float(times.max()))

    def as_json(self) -> dict[str, float]:
        """Its fields."""
        return asdict(self)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def warm(call: Call, device: torch.device, seconds: float) -> None:
    """Run at least twice, and on until so many seconds have passed.

    A GPU that was idle takes its time to raise its clocks: the first shapes that a Jetson runs
    were seen to take twice as long.
    """
    runs, began = 0, time.perf_counter()
    while runs < 2 or time.perf_counter() - began < seconds:
        call()
        synchronize(device)
        runs += 1


def device_times(
    call: Call, device: torch.device, runs: int, before: Call | None = None
) -> list[float]:
    """Milliseconds of each run from its first to its last work on the device.

    On a GPU between two events in its own stream, so that the host's time counts only where the
    device waits for it; on a CPU by the host's clock.

    Args:
        before: called before each run, not timed.
    """
    if device.type != 'cuda':
        return host_times(call, device, runs, before)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    found = []
    for _ in range(runs):
        if before is not None:
            before()
        torch.cuda.synchronize(device)
        start.record()
        call()
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end))
    return found


def host_times(
    call: Call, device: torch.device, runs: int, before: Call | None = None
) -> list[float]:
    """Milliseconds of each run on the host's clock, until the device is done too."""
    found = []
    for _ in range(runs):
        if before is not None:
            before()
        synchronize(device)
        began = time.perf_counter()
        call()
        synchronize(device)
        found.append(1e3 * (time.perf_counter() - began))
    return found
