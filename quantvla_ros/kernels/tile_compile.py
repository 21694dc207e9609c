# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Tiles compiled by many processes at once, into the cache on disk that all of them share.

A GPU times one tile in milliseconds that its compiler takes seconds for, on one core. Knows
products, attentions and tiles; knows nothing of times. What cannot be compiled is left for the
trial to say.
"""
from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

from quantvla_ros.kernels.attention_tiles import Attention
from quantvla_ros.kernels.gemm_tiles import Product

_AT_ONCE = 4  # tiles of a product that one process takes: they share operands

Piece = tuple[Product | Attention, tuple[Any, ...]]


def pieces(work: Iterable[tuple[Product | Attention, Sequence[Any]]]) -> list[Piece]:
    """What one process compiles at a time."""
    return [
        (product, tuple(tiles[start : start + _AT_ONCE]))
        for product, tiles in work
        for start in range(0, len(tiles), _AT_ONCE)
    ]


def compile_tiles(work: Sequence[Piece], device: str, jobs: int) -> Iterator[int]:
    """Compile all of them; yields how many tiles are done, as they come.

    Args:
        device: cuda or cuda:N. jobs: processes; each takes some 500 MB of the GPU's memory.
    """
    done = 0
    # A process that has touched a GPU cannot be forked.
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        running = [pool.submit(_compile, device, *piece) for piece in work]
        for one in as_completed(running):
            done += one.result()
            yield done


def _compile(device: str, product: Product | Attention, tiles: Sequence[Any]) -> int:
    import torch
    import triton

    from quantvla_ros.kernels.tile_trial import trial_of

    trial = trial_of(product, torch.device(device), copies=1)
    for tile in tiles:
        with contextlib.suppress(triton.errors.TritonError):
            trial.run_once(tile)
    torch.cuda.empty_cache()
    return len(tiles)
