# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How the GPU's attention is cut into programs: rows of queries, blocks and splits of the keys.

Knows sizes; knows nothing of tensors, kernels or devices. The choice is an estimate from what one
multiprocessor loads and multiplies, for shapes that nobody has measured.
"""
from __future__ import annotations

from dataclasses import dataclass, replace

MOST_SPLITS = 16
_BARRIERS = 1024  # bytes, of the pipeline's own
# Of one multiprocessor: operations in the time of a byte from the cache, and in bytes what starting
# on a block of keys (a chain of product, exponential, product) and joining splits cost in time.
_OPERATIONS_PER_BYTE = 30
_BLOCK_COST = 25_000
_JOIN_COST = 70_000


# Rows and keys of a block, most splits, warps: the best of those tried on an H100.
_TOGETHER = (64, 64, 7, 4)


@dataclass(frozen=True)
class AttentionTile:
    """How programs cover an attention.

    Attributes:
        rows, keys: of queries, and of a block of keys.
        splits: programs that share the keys of a tile.
        warps, stages: of a program, and of its pipeline.
        after: a kernel of its own joins the splits, not the last program of a tile.
    """

    rows: int
    keys: int
    splits: int
    warps: int
    stages: int
    after: bool = False

    def shared(self, width: int, element: int) -> int:
        """The most bytes of shared memory, with heads of `width` columns of `element` bytes."""
        return (self.rows + 2 * self.stages * self.keys) * width * element + _BARRIERS


def head_parts(size: int) -> tuple[int, int]:
    """Two powers of two, the second perhaps 0, that hold a head's columns: 72 is 64 and 16.

    A product takes powers of two only: as one, 72 columns would cost as much as 128.
    """
    wide = max(16, 1 << (size.bit_length() - 1))
    if size <= wide:
        return wide, 0
    rest = max(16, 1 << (size - wide - 1).bit_length())
    return (wide, rest) if rest < wide else (2 * wide, 0)


def choose_attention_tile(
    rows: int,
    keys: int,
    groups: int,
    size: int,
    element: int,
    *,
    processors: int,
    shared: int,
) -> AttentionTile:
    """The tile with the least estimated time.

    Args:
        rows: query rows that read the same keys: queries times query heads of a key head.
        keys: T.
        groups: key heads times segments.
        size: of a head. element: bytes of a number.
        processors: multiprocessors of the GPU.
        shared: bytes of shared memory that one program may use.
    """
    width = sum(head_parts(size))
    together = _together(rows, keys, groups, width, element, processors, shared)
    if together is not None:
        return together
    best, least = AttentionTile(16, 16, 1, 4, 1), float('inf')  # fits every GPU since Ampere
    for tile_rows in (16, 32, 64, 128):
        if tile_rows > 16 and tile_rows >= 2 * rows:
            continue
        for tile_keys in (32, 64, 128):
            blocks = -(-keys // tile_keys)
            # By what fits into the registers: sums, logits, addresses.
            warps = 8 if tile_rows * width >= 64 * 128 else 4
            if tile_rows * width > 64 * 256 or tile_keys > max(64, tile_rows):
                continue
            widest = AttentionTile(tile_rows, tile_keys, 1, warps, 3)
            tile = _deepest(widest, width, element, shared)
            if tile is None or (tile_keys == 128 and width * element > 256):
                continue
            for splits in range(1, min(MOST_SPLITS, blocks) + 1):
                each = -(-blocks // splits)
                if splits > 1 and -(-blocks // each) != splits:
                    continue  # a split would be empty
                tiles = -(-rows // tile_rows) * groups
                loaded = 2 * tile_keys * width * element
                multiplied = 4 * tile_rows * tile_keys * width / _OPERATIONS_PER_BYTE
                hidden = min(loaded, multiplied) if tile.stages > 1 else 0
                part = tile_rows * width * 4 if splits > 1 else 0
                time = each * (loaded + multiplied - hidden + _BLOCK_COST) + part
                time *= -(-tiles * splits // processors)
                if splits > 1:
                    time += -(-tiles // processors) * (_JOIN_COST + splits * part)
                if time < least:
                    least = time
                    best = replace(tile, splits=splits)
    return best


def _together(
    rows: int, keys: int, groups: int, width: int, element: int, processors: int, shared: int
) -> AttentionTile | None:
    """A tile for few rows and many keys: all splits run at once, and a kernel joins them.

    None: that needs more multiprocessors, or there is little to split.
    """
    height, block, splits, warps = _TOGETHER
    blocks = -(-keys // block)
    splits = -(-blocks // -(-blocks // splits))  # none of them empty
    tile = _deepest(AttentionTile(height, block, splits, warps, 3, True), width, element, shared)
    programs = -(-rows // height) * groups * splits
    if tile is None or splits < 4 or width < 128 or not processors // 3 < programs <= processors:
        return None
    return tile


def _deepest(
    tile: AttentionTile, width: int, element: int, shared: int
) -> AttentionTile | None:
    """The same tile, its pipeline as deep as the shared memory allows; None: not even one stage."""
    for stages in range(tile.stages, 0, -1):
        shallower = replace(tile, stages=stages)
        if shallower.shared(width, element) <= shared:
            return shallower
    return None
