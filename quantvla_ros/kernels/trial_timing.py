# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What trials of tiles have in common: how they are timed, and when a result is wrong.

Knows tensors and CUDA graphs; knows nothing of kernels or of what is tried. The time is that of
many runs in one CUDA graph, one after the other, as a network runs them.
"""
from __future__ import annotations

import statistics
from typing import Any

import torch
from torch import Tensor

CALLS = 20  # in a graph, or as many as there are operands
_REPLAYS = {True: 5, False: 25}
# Of the result's type, relative to the value and to the largest of all.
_TOLERANCE = {torch.bfloat16: 2**-7, torch.float16: 2**-9, torch.float32: 2**-16}


class TimedTrial:
    """The half of a `tile_search.Trial` that takes the time.

    Attributes:
        calls: in a graph.
    """

    calls = CALLS

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._graphs: dict[Any, torch.cuda.CUDAGraph] = {}

    def launch(self, call: int, tile: Any) -> None:
        """Run once, as number `call` of a graph."""
        raise NotImplementedError

    def microseconds(self, tile: Any, *, quick: bool) -> float:
        """The median time of one run."""
        if tile not in self._graphs:
            self._graphs[tile] = self._captured(tile)
        graph = self._graphs[tile]
        graph.replay()
        times = []
        for _ in range(_REPLAYS[quick]):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) * 1e3 / self.calls)
        return statistics.median(times)

    def _captured(self, tile: Any) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self.device), torch.cuda.graph(graph):
            for call in range(self.calls):
                self.launch(call, tile)
        return graph


def cold_copies(device: torch.device, size: float, most: int) -> int:
    """So many operands of `size` bytes that none is in the L2 when its turn comes again."""
    if device.type != 'cuda':
        return 1
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    return max(2, min(most, int(2 * cache / size) + 1))


def unlike(found: Tensor, expected: Tensor) -> str | None:
    """How far a result is from the definition's; None: as near as its type lets it be."""
    tolerance = _TOLERANCE[found.dtype]
    one, other = found.float(), expected.float()
    if other.numel() == 0:  # no queries
        return None
    least = tolerance * float(other.abs().max())
    if torch.allclose(one, other, rtol=tolerance, atol=least):
        return None
    return f'wrong by up to {float((one - other).abs().max()):.3g}'


def fault_of(error: Exception) -> str:
    """A tile that asks for too much memory, or that is not compiled, in one line."""
    return f'{type(error).__name__}: {str(error).strip().splitlines()[-1]}'
