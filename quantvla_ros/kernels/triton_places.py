# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Where a tile of a fused product lies, in Triton: its outputs, their weights' rows, its halves.

Knows numbers of tiles and places in them; knows nothing of what is computed. Where two rows of the
weight make one output (gate and up, or the two halves of a head that rotary embedding mixes), the
first ones fill the first half of the tile and the second ones the other: one product, whose sums
are then taken apart. LEFT: the weights are the left operand, so outputs lie down a tile, rows
across it.
"""
import triton
import triton.language as tl


@triton.jit
def _outputs(tile, PAIR: tl.constexpr, BLOCK_N: tl.constexpr):
    """The outputs of a tile, for each row of the weight in it, and those rows.

    PAIR is the distance of the two rows that make an output; 0: one row does.
    """
    places = tl.arange(0, BLOCK_N)
    if PAIR == 0:
        outputs = tile * BLOCK_N + places
        return outputs, outputs
    else:
        HALF: tl.constexpr = BLOCK_N // 2
        outputs = tile * HALF + places % HALF
        return outputs, _first(outputs, PAIR) + (places // HALF) * PAIR


@triton.jit
def _first(outputs, PAIR: tl.constexpr):
    """The first of the two rows of the weight that make an output."""
    return (outputs // PAIR) * (2 * PAIR) + outputs % PAIR


@triton.jit
def _tails_last(tile, tiles_m, tiles_n, TAIL: tl.constexpr):
    """The tile of rows and that of outputs of a program, if the last tile of rows is less work.

    Long programs before short ones, so that all end together; but only for the last TAIL tiles of
    outputs, whose weights are still in the L2 when the short ones come.
    """
    early = tiles_n - tl.minimum(TAIL, tiles_n)
    late = tile - early * tiles_m
    longer = (tiles_n - early) * (tiles_m - 1)
    if late < 0:
        row_tile, output_tile = tile % tiles_m, tile // tiles_m
    elif late < longer:
        row_tile, output_tile = late % (tiles_m - 1), early + late // (tiles_m - 1)
    else:
        row_tile, output_tile = tiles_m - 1, early + late - longer
    return row_tile, output_tile


@triton.jit
def _parted(sums, LEFT: tl.constexpr):
    """Both halves of a tile along its outputs."""
    if LEFT:
        sums = tl.reshape(sums, (2, sums.shape[0] // 2, sums.shape[1]))
        return tl.split(tl.permute(sums, (1, 2, 0)))
    else:
        sums = tl.reshape(sums, (sums.shape[0], 2, sums.shape[1] // 2))
        return tl.split(tl.permute(sums, (0, 2, 1)))


@triton.jit
def _along_rows(x, LEFT: tl.constexpr):
    """A vector over the rows of a tile, to be spread over its outputs."""
    if LEFT:
        return x[None, :]
    else:
        return x[:, None]


@triton.jit
def _along_outputs(x, LEFT: tl.constexpr):
    """A vector over the outputs of a tile, to be spread over its rows."""
    if LEFT:
        return x[:, None]
    else:
        return x[None, :]
