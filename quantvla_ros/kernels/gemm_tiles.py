# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Which tile of a fused product serves which shape.

Knows sizes; knows nothing of tensors, kernels or devices. What is chosen here is what serves where
nothing was measured: it follows `tiles`, whose order was, and splits the columns where the tiles
are fewer than the multiprocessors.
"""
from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

KINDS = ('float32', 'float16', 'bfloat16', 'int8', 'int4')
_BYTES = {'float32': 4, 'float16': 2, 'bfloat16': 2, 'int8': 1, 'int4': 1}  # of an input's column
_BULK_KINDS = ('float16', 'bfloat16', 'int8')
FEW_ROWS = 64  # up to so many a product waits for its weights, not for its arithmetic
_EXPANDED_ROWS = 128  # from so many on packed weights become int8 first, on Hopper
_MOST_LOADED = 256  # bytes of an operand that a thread has in registers
_SHORTEST = 4  # steps that a program of a split product takes at least
_MOST_PARTS = 8


@dataclass(frozen=True)
class Product:
    """A product as far as its tile depends on it.

    Attributes:
        kind: one of `KINDS`, of the weight.
        rows, outputs, columns: M, N (rows of the weight) and K.
        pairs: two rows of the weight make one output.
        head: pairs that one tile has to hold exactly, where heads are normed; 0: any.
        group: columns that share a group scale; 0: none do.
        heads: the pairs are of heads, stored as queries, keys and values.
        joined: the sums are left to the norm that follows, split or not.
    """

    kind: str
    rows: int
    outputs: int
    columns: int
    pairs: bool = False
    head: int = 0
    group: int = 0
    heads: bool = False
    joined: bool = False


@dataclass(frozen=True)
class GemmTile:
    """How programs cover a product.

    Attributes:
        rows, outputs, columns: of a tile, and of one step. Powers of two. Outputs are rows of the
            weight: where two make one output, half as many are stored.
        warps, stages: of a program, and of its pipeline; one stage: a program's columns are one
            step, whose weights are loaded before the kernel's turn comes.
        split: programs that share the columns of a tile.
        left: the weights are the left operand; packed ones always are.
        bulk: operands come through the tensor memory accelerator of Hopper, a tile at a time.
    """

    rows: int
    outputs: int
    columns: int
    warps: int
    stages: int
    split: int = 1
    left: bool = False
    bulk: bool = False

    @property
    def at_once(self) -> bool:
        """Whether a program's columns are one step."""
        return self.stages == 1

    def has_tail(self, rows: int) -> bool:
        """Whether the last tile of so many rows is one of half the height.

        Only where Hopper's matrix instruction, 64 rows high, is filled by that: in bulk, with the
        rows as the left operand.
        """
        half = self.rows // 2
        fills = self.bulk and not self.left and half >= 64
        return fills and rows > self.rows and 0 < rows % self.rows <= half

    def shared(self, kind: str) -> int:
        """Bytes of shared memory that the pipeline holds, or the sums on their way out."""
        weights = self.outputs * self.columns * _BYTES[kind]
        if kind == 'int4':
            weights //= 2
        pipeline = (self.rows * self.columns * _BYTES[kind] + weights) * self.stages
        pipeline += 8 * self.stages if self.bulk else 0  # a barrier each
        # A tile that lies across is turned before it is stored: as it is, if split or in float32.
        return max(pipeline, 4 * self.rows * self.outputs if self.left else 0)


@dataclass(frozen=True)
class Exclusion:
    """Tiles that cannot work well, by name."""

    name: str
    reason: str
    covers: Callable[[GemmTile, Product, tuple[int, int]], bool]


def expands(rows: int, capability: tuple[int, int]) -> bool:
    """Whether a product of so many rows reads packed weights as int8 (`triton_expand`).

    Where that was measured to be faster: Hopper's wgmma waits for what unpacks in registers.
    """
    return capability[0] == 9 and rows >= _EXPANDED_ROWS


def _sums(tile: GemmTile) -> int:
    """That a thread keeps in registers, of the 255 that it has."""
    return tile.rows * tile.outputs // (32 * tile.warps)


# Found by compiling ahead of time (test_kernels_aot_fused.py): what does not fit into a thread's
# registers goes through the memory. The others fit.
EXCLUDED = (
    Exclusion(
        'pairs in 128 integer sums a thread, without wgmma',
        'the halves of a tile change warps on their way out, beside all the sums',
        lambda tile, product, capability: (
            product.kind in ('int8', 'int4')
            and product.pairs
            and capability[0] != 9
            and _sums(tile) >= 128
        ),
    ),
    Exclusion(
        'int8 in 128 sums a thread, before Hopper',
        'a matrix instruction of a warp takes both operands from registers too',
        lambda tile, product, capability: (
            product.kind == 'int8' and capability[0] == 8 and _sums(tile) >= 128
        ),
    ),
    Exclusion(
        'packed groups in 128 sums a thread, without wgmma',
        'a matrix instruction of a warp takes the other operand from registers too',
        lambda tile, product, capability: (
            product.kind == 'int4'
            and product.group > 0
            and capability[0] != 9
            and _sums(tile) >= 128
        ),
    ),
)


def exclusion(
    tile: GemmTile, product: Product, capability: tuple[int, int] = (9, 0)
) -> Exclusion | None:
    """Why a tile is not taken for a product on GPUs of this compute capability; None: it is."""
    return next((one for one in EXCLUDED if one.covers(tile, product, capability)), None)


# (rows, outputs, bytes of a step, warps, stages), relative speed; by the number of rows
_TILES = (
    (16, ((16, 64, 256, 4, 4, 1.0), (16, 32, 256, 4, 4, 0.8))),
    (32, ((32, 64, 256, 4, 4, 1.0), (32, 32, 256, 4, 4, 0.8))),
    (64, ((64, 64, 256, 4, 3, 1.0), (64, 32, 256, 4, 4, 0.8))),
    (
        2**31,
        (
            (128, 256, 128, 8, 3, 1.0),
            (64, 128, 128, 4, 4, 0.93),
            (128, 128, 128, 8, 3, 0.9),
            (128, 64, 128, 4, 4, 0.7),
            (64, 64, 128, 4, 4, 0.5),
        ),
    ),
)
_PACKED_TILES = (
    *_TILES[:3],
    (
        2**31,
        (
            (256, 128, 128, 8, 3, 1.0),
            (128, 128, 128, 8, 4, 0.9),
            (128, 64, 128, 4, 4, 0.8),
            (64, 64, 128, 4, 4, 0.5),
        ),
    ),
)
# On Hopper, whose memory accelerator fills a tile with one instruction.
_BULK_TILES = (
    (128, 256, 128, 8, 4, 1.0),
    (128, 128, 128, 8, 4, 0.9),
    (64, 256, 128, 4, 4, 0.9),
    (64, 128, 128, 4, 4, 0.85),
    (64, 64, 128, 4, 6, 0.6),
)
# Worth a measurement beside those, for few rows and for many.
_FEW = (
    (16, 64, 256, 4, 8),
    (16, 32, 512, 4, 4),
    (32, 64, 256, 4, 4),
    (32, 64, 256, 4, 8),
    (32, 32, 256, 4, 4),
    (32, 32, 256, 4, 8),
    (32, 32, 512, 4, 5),
    (64, 32, 128, 4, 5),
    (64, 32, 256, 4, 8),
    (64, 64, 128, 4, 4),
    (64, 64, 128, 4, 8),
    (64, 64, 256, 4, 6),
    (64, 64, 256, 8, 4),
)
_MANY = (
    (128, 128, 128, 4, 4),
    (256, 128, 128, 8, 3),
    (128, 256, 128, 8, 3),
    (64, 256, 128, 8, 3),
    # Triton waits for an integer wgmma at every step: fewer steps, or two programs side by side.
    (128, 256, 256, 8, 2),
    (128, 128, 256, 8, 3),
    (64, 128, 256, 4, 2),
    (128, 64, 256, 4, 3),
    (64, 64, 256, 4, 3),
    (128, 128, 256, 4, 2),
    (256, 64, 128, 4, 4),
)
# The same in bulk.
_FEW_BULK = (
    (64, 32, 256, 4, 6),
    (64, 64, 128, 4, 8),
    (64, 64, 256, 4, 4),
)
_MANY_BULK = (
    (128, 128, 128, 4, 4),
    (128, 128, 256, 4, 3),
    (64, 128, 256, 4, 4),
    (64, 64, 256, 4, 4),
    # Two or three programs to a multiprocessor: one's sums go out beside the other's products.
    (128, 128, 128, 4, 3),
    (128, 128, 128, 4, 2),
    (64, 256, 128, 4, 2),
    (64, 128, 128, 4, 3),
    (64, 128, 256, 4, 2),
)


def _at_once(product: Product) -> Iterator[GemmTile]:
    """Tiles of few rows whose programs have one step each, with what registers and memory hold."""
    bytes_ = _BYTES[product.kind]
    least = max(16, 1 << (product.rows - 1).bit_length())
    for split in (1, 2, 4, 8):
        columns = 1 << (-(-product.columns // split) - 1).bit_length()
        if columns * (split - 1) >= product.columns:
            continue  # the last program would have none
        for rows, outputs, warps, left, bulk in itertools.product(
            {least, 64}, (16, 32, 64, 128), (4, 8), (False, True), (False, True)
        ):
            loaded = columns * max(rows, outputs) * bytes_ // (32 * warps)
            if bulk or loaded <= _MOST_LOADED:
                yield GemmTile(rows, outputs, columns, warps, 1, split, left, bulk)


def _shapes(product: Product, capability: tuple[int, int]) -> list[tuple[tuple, bool]]:
    """What the rule chooses from: (rows, outputs, ..., relative speed), and whether in bulk."""
    if product.rows > FEW_ROWS and capability[0] == 9 and product.kind in _BULK_KINDS:
        return [(numbers, True) for numbers in _BULK_TILES]
    table = _PACKED_TILES if product.kind == 'int4' else _TILES
    return [(n, False) for n in next(t for most, t in table if product.rows <= most)]


def choose_gemm_tile(
    product: Product, *, processors: int, shared: int, capability: tuple[int, int] = (9, 0)
) -> GemmTile:
    """The tile with the least work on the busiest multiprocessor.

    Args:
        processors: multiprocessors of the GPU.
        shared: bytes of shared memory that one program may use.
        capability: of the GPU, for what is excluded.
    """
    best, least = None, float('inf')
    for (*numbers, speed), bulk in _shapes(product, capability):
        wanted = replace(_of(product.kind, *numbers), bulk=bulk)
        tile = fitted(wanted, product, shared=shared, capability=capability)
        if tile is None:
            continue
        tiles = -(-product.rows // tile.rows) * -(-product.outputs // tile.outputs)
        steps = -(-product.columns // tile.columns)
        split = 1
        while tiles * split * 2 <= processors and steps >= 2 * split * _SHORTEST:
            split *= 2
        tile = replace(tile, split=min(split, _MOST_PARTS))
        waves = -(-tiles * tile.split // processors)
        work = waves * tile.rows * tile.outputs * -(-steps // tile.split) * tile.columns / speed
        if work < least:
            best, least = tile, work
    assert best is not None  # the smallest tile fits every GPU since Ampere
    return best


def candidates(
    product: Product, *, shared: int, capability: tuple[int, int] = (9, 0)
) -> Iterator[GemmTile]:
    """Tiles that are worth a measurement for this product, each once."""
    shapes = [(numbers[:5], bulk) for numbers, bulk in _shapes(product, capability)]
    few, in_bulk = product.rows <= FEW_ROWS, shapes[0][1]
    if few:
        shapes += [(numbers, False) for numbers in _FEW] + [(n, True) for n in _FEW_BULK]
    else:
        shapes += [(numbers, in_bulk) for numbers in (_MANY_BULK if in_bulk else _MANY)]
    seen = set()
    for numbers, bulk in shapes:
        # With many rows in bulk, which operand is the left one matters for the widest tiles alone.
        narrow = bulk and not few and numbers[1] < 256
        for left in (False,) if narrow else (False, True):
            for split in (1, 2, 4, 8, 16):
                tile = replace(_of(product.kind, *numbers), split=split, left=left, bulk=bulk)
                fitting = fitted(tile, product, shared=shared, capability=capability)
                if fitting is None or fitting in seen:
                    continue
                steps = -(-product.columns // fitting.columns)
                if split > 1 and steps < split * (1 if product.joined else 2):
                    continue
                seen.add(fitting)
                yield fitting
    if few and product.kind != 'int4':
        for tile in _at_once(product):
            fitting = fitted(tile, product, shared=shared, capability=capability)
            if fitting == tile and tile not in seen:
                seen.add(tile)
                yield tile


def fitted(
    tile: GemmTile, product: Product, *, shared: int, capability: tuple[int, int] = (9, 0)
) -> GemmTile | None:
    """The same tile as this product can take it; None: it cannot.

    Packed weights are the left operand and a step stays within a group; a tile of normed heads is
    one head; what the memory accelerator cannot fetch comes by addresses; the pipeline is as deep
    as the shared memory allows, two stages at least.
    """
    if tile.bulk and not _in_bulk(tile, product, capability):
        tile = replace(tile, bulk=False)
    if tile.at_once and (
        product.kind == 'int4' or tile.columns * tile.split < product.columns
    ):
        tile = _in_steps(tile, product.kind)
    if product.kind == 'int4':
        columns = max(tile.columns, 64)
        if product.group:
            columns = min(columns, product.group & -product.group)
        tile = replace(tile, columns=columns, left=True)
    if product.head:
        tile = replace(tile, outputs=2 * product.head)
    if exclusion(tile, product, capability) is not None:
        return None
    if tile.at_once:
        if tile.shared(product.kind) <= shared:
            return tile
        tile = _in_steps(tile, product.kind)
    for stages in range(tile.stages, 1, -1):
        shallower = replace(tile, stages=stages)
        if shallower.shared(product.kind) <= shared:
            return shallower
    return None


def _in_bulk(tile: GemmTile, product: Product, capability: tuple[int, int]) -> bool:
    """Whether the memory accelerator can fetch a tile's operands, and it is known to be faster.

    Its rows start at 16 bytes each; pairs as the left operand would go through the registers.
    """
    return (
        capability[0] == 9
        and product.kind in _BULK_KINDS
        and not (product.pairs and tile.left)
        and product.columns * _BYTES[product.kind] % 16 == 0
    )


def _in_steps(tile: GemmTile, kind: str) -> GemmTile:
    """A tile of one step, as a pipeline."""
    return replace(tile, columns=256 // _BYTES[kind], stages=4)


def _of(kind: str, rows: int, outputs: int, size: int, warps: int, stages: int) -> GemmTile:
    return GemmTile(rows, outputs, size // _BYTES[kind], warps, stages, left=kind == 'int4')
