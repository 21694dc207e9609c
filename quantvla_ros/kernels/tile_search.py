# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The best tile of a product, or of an attention, by trying: a quick look, then a longer one.

Knows tiles and times; knows nothing of tensors, kernels or files. How a tile is run and timed is
the caller's (`tile_trial` on a GPU), so that the search can be tested without one.
"""
from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from quantvla_ros.kernels.gemm_tiles import GemmTile, Product

_CLOSE = 1.25  # times the best of the first look: what takes longer is not looked at again
_FINALISTS = 6
_WAVES = 2  # of programs, up to which a split may pay
_ROUNDS = 5  # of the second look; interleaved, as the clock of a GPU drifts


class Trial(Protocol):
    """One product, or attention, ready to run with any tile."""

    def refusal(self, tile: Any) -> str | None:
        """Why this tile cannot run here or is wrong; None: it ran once, and the result is right."""

    def microseconds(self, tile: Any, *, quick: bool) -> float:
        """The time of one run with a tile that was not refused."""


@dataclass(frozen=True)
class Found:
    """What a search has found.

    Attributes:
        tile: the fastest; None: none could run.
        microseconds: its time; infinite without a tile.
        refused: the tiles that could not run, each with the reason.
        tried: how many could.
    """

    tile: Any | None
    microseconds: float
    refused: tuple[tuple[Any, str], ...]
    tried: int


def promising(
    tiles: Iterable[GemmTile], product: Product, *, processors: int
) -> Iterator[GemmTile]:
    """Without those that split the columns of a product whose tiles fill the GPU anyway."""
    for tile in tiles:
        programs = -(-product.rows // tile.rows) * -(-product.outputs // tile.outputs) * tile.split
        if tile.split == 1 or programs <= _WAVES * processors:
            yield tile


def search(tiles: Iterable[Any], trial: Trial) -> Found:
    """Run every tile once, time those that are right, and time the good ones again."""
    refused: list[tuple[Any, str]] = []
    first: list[tuple[float, Any]] = []
    for tile in tiles:
        reason = trial.refusal(tile)
        if reason is None:
            first.append((trial.microseconds(tile, quick=True), tile))
        else:
            refused.append((tile, reason))
    if not first:
        return Found(None, float('inf'), tuple(refused), 0)
    first.sort(key=lambda one: one[0])
    good = [tile for time, tile in first[:_FINALISTS] if time <= _CLOSE * first[0][0]]
    rounds = [[trial.microseconds(tile, quick=False) for tile in good] for _ in range(_ROUNDS)]
    times = [statistics.median(column) for column in zip(*rounds, strict=True)]
    best = min(range(len(good)), key=times.__getitem__)
    return Found(good[best], times[best], tuple(refused), len(first))
