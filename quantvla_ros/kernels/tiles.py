# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Which tile of a GPU product serves which shape.

Knows sizes; knows nothing of tensors, kernels or devices.
"""
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tile:
    """How one program covers the result: rows x outputs x columns a step, warps, pipeline depth."""

    rows: int
    outputs: int
    columns: int
    warps: int
    stages: int

    @property
    def shared(self) -> int:
        """Bytes of shared memory that the pipeline holds."""
        return (self.rows + self.outputs) * self.columns * self.stages

    @property
    def packed_shared(self) -> int:
        """The same with packed 4-bit weights."""
        return (2 * self.rows + self.outputs) * self.columns // 2 * self.stages


_DEEPEST = 8  # stages of a pipeline that was made deeper
_Tiles = tuple[tuple[int, tuple[tuple[Tile, float], ...]], ...]

# By the number of rows (tokens): the tiles to choose from and the relative speed of one, larger
# tiles reusing more of what they load. Measured with `benchmarks/kernels.py --tune`.
TILES: _Tiles = (
    (16, ((Tile(16, 64, 256, 4, 4), 1.0), (Tile(16, 32, 256, 4, 4), 0.8))),
    (32, ((Tile(32, 64, 256, 4, 4), 1.0), (Tile(32, 32, 256, 4, 4), 0.8))),
    (64, ((Tile(64, 64, 256, 4, 3), 1.0), (Tile(64, 32, 256, 4, 4), 0.8))),
    (
        2**31,
        (
            (Tile(128, 256, 128, 8, 3), 1.0),
            (Tile(64, 128, 128, 4, 4), 0.93),  # two to a multiprocessor of the H100
            (Tile(128, 128, 128, 8, 3), 0.9),
            (Tile(128, 64, 128, 4, 4), 0.7),
            (Tile(64, 64, 128, 4, 4), 0.5),
        ),
    ),
)
# With packed weights many rows a tile spread the unpacking; 64 outputs are the fewest that Hopper's
# matrix instruction takes.
PACKED_TILES: _Tiles = (
    (16, ((Tile(16, 64, 256, 4, 4), 1.0), (Tile(16, 32, 256, 4, 4), 0.8))),
    (32, ((Tile(32, 64, 256, 4, 4), 1.0), (Tile(32, 32, 256, 4, 4), 0.8))),
    (64, ((Tile(64, 64, 256, 4, 4), 1.0), (Tile(64, 32, 256, 4, 4), 0.8))),
    (
        2**31,
        (
            (Tile(256, 128, 128, 8, 3), 1.0),
            (Tile(128, 128, 128, 8, 4), 0.9),
            (Tile(128, 64, 128, 4, 4), 0.8),
            (Tile(64, 64, 128, 4, 4), 0.5),
        ),
    ),
)


def choose_tile(
    rows: int, outputs: int, *, processors: int, shared: int, packed: bool = False, group: int = 0
) -> Tile:
    """The tile with the least work on the busiest multiprocessor.

    Args:
        rows, outputs: M and N of the product.
        processors: multiprocessors of the GPU.
        shared: bytes of shared memory that one program may use.
        packed: whether the weights are packed.
        group: columns that share a group scale, a step stays within one; 0: none do.
    """
    table = PACKED_TILES if packed else TILES
    candidates = next(tiles for largest, tiles in table if rows <= largest)
    best, least = None, float('inf')
    for preferred, speed in candidates:
        tile = _fit(within(preferred, group), shared, packed)
        if tile is None:
            continue
        tiles = -(-rows // tile.rows) * -(-outputs // tile.outputs)
        waves = -(-tiles // processors)
        work = waves * tile.rows * tile.outputs / speed
        if work < least:
            best, least = tile, work
    assert best is not None  # the smallest tile fits every GPU since Ampere
    return best


def within(tile: Tile, group: int) -> Tile:
    """The same tile, its step not longer than the largest power of two that divides a group.

    Shorter steps are more at a time, so that as many bytes are on their way.
    """
    columns = min(tile.columns, group & -group) if group else tile.columns
    stages = min(tile.stages * (tile.columns // columns), max(tile.stages, _DEEPEST))
    return Tile(tile.rows, tile.outputs, columns, tile.warps, stages)


def _fit(tile: Tile, shared: int, packed: bool) -> Tile | None:
    """The same tile, its pipeline as deep as the shared memory allows; None: not even two."""
    for stages in range(tile.stages, 1, -1):
        shallower = Tile(tile.rows, tile.outputs, tile.columns, tile.warps, stages)
        if (shallower.packed_shared if packed else shallower.shared) <= shared:
            return shallower
    return None
