# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How the GPU's attention is cut into programs: rows of queries, blocks and splits of the keys.

Knows sizes; knows nothing of tensors, kernels or devices. `choose_attention_tile` is an estimate
from what one multiprocessor loads and multiplies, for shapes that nobody has measured; `candidates`
are what `tune` tries.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

MOST_SPLITS = 16
COUNTERS = 4096  # tiles of rows whose splits one launch may join
KINDS = {'float32': 4, 'float16': 2, 'bfloat16': 2}  # of queries, keys and values: bytes
_BARRIERS = 2048  # bytes, of the pipelines' own
# Of one multiprocessor: operations in the time of a byte from the cache, and in bytes what starting
# on a block of keys (a chain of product, exponential, product) and joining splits cost in time.
_OPERATIONS_PER_BYTE = 30
_BLOCK_COST = 25_000
_JOIN_COST = 70_000


# Rows and keys of a block, most splits, warps: the best of those tried on an H100.
_TOGETHER = (64, 64, 7, 4)


@dataclass(frozen=True)
class Attention:
    """An attention as far as its tile depends on it.

    Attributes:
        kind: one of `KINDS`.
        queries, keys: of a segment.
        heads, kv_heads: of the queries, and of the keys. size: of a head.
        segments: of queries and keys, that see nothing of each other.
        causal: query i sees keys 0 to i only.
    """

    kind: str
    queries: int
    keys: int
    heads: int
    kv_heads: int
    size: int
    segments: int = 1
    causal: bool = False

    @property
    def rows(self) -> int:
        """Query rows that read the same keys."""
        return self.queries * (self.heads // self.kv_heads)

    @property
    def groups(self) -> int:
        """Sets of keys that rows read."""
        return self.kv_heads * self.segments

    @property
    def fresh(self) -> bool:
        """Whether the keys were made just before, by the product that made the queries."""
        return self.keys <= self.queries


@dataclass(frozen=True)
class AttentionTile:
    """How programs cover an attention.

    Attributes:
        rows, keys: of queries, and of a block of keys.
        splits: programs that share the keys of a tile.
        warps, stages: of a program, and of its pipeline.
        after: a kernel of its own joins the splits, not the last program of a tile.
        whole: blocks of keys that every row sees come first, without masks.
        described: those are fetched by descriptors (TMA, compute capability 9.0 and later), where
            the heads allow it.
    """

    rows: int
    keys: int
    splits: int
    warps: int
    stages: int
    after: bool = False
    whole: bool = False
    described: bool = False

    def shared(self, width: int, element: int) -> int:
        """The most bytes of shared memory, with heads of `width` columns of `element` bytes."""
        # Wgmma takes the queries from there, and of float32 two parts, for three products of TF32.
        queries = self.rows * (2 if element == 4 else 1)
        pipeline = (queries + 2 * self.stages * self.keys) * width * element
        # Sums that are left to be joined are turned on their way out.
        return max(pipeline, 4 * self.rows * width if self.splits > 1 else 0) + _BARRIERS


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


@dataclass(frozen=True)
class Exclusion:
    """Tiles that cannot work well, by name."""

    name: str
    reason: str
    covers: Callable[[AttentionTile, Attention, tuple[int, int]], bool]


def _has_wgmma(capability: tuple[int, int]) -> bool:
    """Whether four warps multiply together, 64 rows at a time, from the shared memory.

    That is Hopper's `wgmma` and the fifth generation's `tcgen05` of Blackwell's data centres.
    """
    return 9 <= capability[0] < 12


def _held(tile: AttentionTile, shape: Attention) -> int:
    """Sums and logits that a thread keeps in registers, of the 255 that it has."""
    return tile.rows * (sum(head_parts(shape.size)) + tile.keys) // (32 * tile.warps)


# Found by compiling ahead of time (test_kernels_aot_attention.py).
EXCLUDED: tuple[Exclusion, ...] = (
    Exclusion(
        'more than 160 sums and logits a thread',
        'weights and addresses are beside them',
        lambda tile, shape, capability: _held(tile, shape) > 160,
    ),
    Exclusion(
        'splits of 144 sums and logits a thread joined by the last program',
        'the sums of another program are beside its own',
        lambda tile, shape, capability: (
            tile.splits > 1 and not tile.after and _held(tile, shape) >= 144
        ),
    ),
    Exclusion(
        '160 sums and logits a thread and no split, without wgmma',
        'a matrix instruction of a warp takes both operands from registers, and the result is '
        'made before it is stored',
        lambda tile, shape, capability: (
            tile.splits == 1 and not _has_wgmma(capability) and _held(tile, shape) >= 160
        ),
    ),
    Exclusion(
        '256 keys a block, without wgmma',
        'a matrix instruction of a warp takes the weights of all of them from registers',
        lambda tile, shape, capability: tile.keys > 128 and not _has_wgmma(capability),
    ),
    Exclusion(
        '32 rows a warp, without wgmma',
        'a matrix instruction of a warp takes 16: it would hold the operands of two',
        lambda tile, shape, capability: (
            tile.rows >= 32 * tile.warps and not _has_wgmma(capability)
        ),
    ),
)


def exclusion(
    tile: AttentionTile, shape: Attention, capability: tuple[int, int] = (9, 0)
) -> Exclusion | None:
    """Why a tile is not taken for an attention on GPUs of this compute capability; None: it is."""
    return next((one for one in EXCLUDED if one.covers(tile, shape, capability)), None)


# Worth a measurement: rows and keys of a block, and warps. For many rows, and for few.
_MANY = (
    (64, 64, 4), (128, 64, 8), (64, 32, 4), (64, 128, 4), (128, 128, 8), (64, 256, 8), (64, 64, 8),
    (128, 32, 8), (128, 64, 4), (32, 64, 4),
)  # fmt: skip
_FEW = ((64, 64, 4), (32, 64, 4), (16, 64, 4), (64, 32, 4), (64, 64, 8), (32, 32, 4), (64, 128, 4))
_MOST_CANDIDATES = 24
_LONG = 4  # blocks of keys that a program goes through, or splits


def candidates(
    shape: Attention, *, processors: int, shared: int, capability: tuple[int, int] = (9, 0)
) -> list[AttentionTile]:
    """Tiles that are worth a measurement for this attention, each once, the rule's the first."""
    limits: dict[str, Any] = {'shared': shared, 'capability': capability}
    rule = choose_attention_tile(
        shape.rows, shape.keys, shape.groups, shape.size, KINDS[shape.kind],
        processors=processors, shared=shared,
    )  # fmt: skip
    wanted = [
        replace(tile, after=tile.splits > 1 and after, **ways)
        for stages, after, ways in _ROUNDS
        for tile in _covers(shape, stages, processors, **limits)
        if not ways or -(-shape.keys // tile.keys // tile.splits) >= _LONG
    ]
    found = [rule]
    for tile in wanted:
        fitting = fitted(tile, shape, **limits)
        # What had to be made shallower, or cannot have its way, is one of the others.
        if fitting == tile and _of_use(tile, shape, shared):
            found.append(tile)
    return list(dict.fromkeys(found))[:_MOST_CANDIDATES]


# What is tried first: stages, whether a kernel of its own joins splits, and ways of going through
# the keys, which are for programs that go through many.
_ROUNDS: tuple[tuple[int, bool, dict[str, bool]], ...] = (
    (2, True, {'whole': True, 'described': True}),
    (3, True, {'whole': True, 'described': True}),
    (1, True, {'whole': True, 'described': True}),
    (2, True, {}),
    (3, True, {}),
    (1, True, {}),
    (2, True, {'whole': True}),
    (2, False, {}),
)


def _covers(
    shape: Attention, stages: int, processors: int, *, shared: int, capability: tuple[int, int]
) -> list[AttentionTile]:
    """Blocks and splits that suit the numbers of rows and keys."""
    many = -(-shape.rows // 64) * shape.groups * 2 >= processors
    least = 64 if many and _has_wgmma(capability) else 16
    return [
        replace(tile, splits=splits)
        for rows, keys, warps in (_MANY if many else _FEW)
        if rows >= least and (rows == 16 or rows < 2 * shape.rows)
        if keys == 32 or keys < 2 * shape.keys
        for tile in (AttentionTile(rows, keys, 1, warps, stages),)
        for splits in _splits(tile, shape, processors, shared)
    ]


def _of_use(tile: AttentionTile, shape: Attention, shared: int) -> bool:
    """Whether the depth of a pipeline is of any use: to what it goes through, or to others."""
    each = -(-shape.keys // tile.keys // tile.splits)
    if tile.stages == 1:
        # So that another program has place beside this one.
        deeper = replace(tile, stages=2)
        return _two_fit(tile, shape, shared) and not _two_fit(deeper, shape, shared)
    return tile.stages == 2 or tile.stages <= each


def _two_fit(tile: AttentionTile, shape: Attention, shared: int) -> bool:
    """Whether two programs have place on a multiprocessor."""
    return 2 * tile.shared(sum(head_parts(shape.size)), KINDS[shape.kind]) <= shared


def _splits(tile: AttentionTile, shape: Attention, processors: int, shared: int) -> list[int]:
    """Numbers of programs that share the keys, so that all programs run at once, or one."""
    tiles = -(-shape.rows // tile.rows) * shape.groups
    blocks = -(-shape.keys // tile.keys)
    found = {1}
    for programs in (processors // 2, processors, 2 * processors):
        most = max(1, min(MOST_SPLITS, blocks, programs // tiles))
        each = -(-blocks // most)
        # Two programs to a multiprocessor take turns: that is for long ones.
        if programs <= processors or (each >= _LONG and _two_fit(tile, shape, shared)):
            found.add(-(-blocks // each))  # none of them empty
    if max(found) >= _LONG:
        found.remove(1)  # most of the GPU would have nothing to do
    return sorted(found)


def fitted(
    tile: AttentionTile, shape: Attention, *, shared: int, capability: tuple[int, int] = (9, 0)
) -> AttentionTile | None:
    """The same tile as this attention can take it; None: it cannot.

    No split is empty, the pipeline is as deep as the shared memory allows, so many tiles that no
    counters are there for them are joined by a kernel of its own, and descriptors are for GPUs that
    read them and for heads of a power of two.
    """
    if exclusion(tile, shape, capability) is not None:
        return None
    blocks = -(-shape.keys // tile.keys)
    splits = -(-blocks // -(-blocks // min(tile.splits, MOST_SPLITS)))
    tiles = -(-shape.rows // tile.rows) * shape.groups
    after = splits > 1 and (tile.after or tiles > COUNTERS)
    described = tile.described and capability >= (9, 0) and head_parts(shape.size)[0] == shape.size
    tile = replace(tile, splits=splits, after=after, described=described)
    return _deepest(tile, sum(head_parts(shape.size)), KINDS[shape.kind], shared)
