# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How a picture of one size becomes a network's: which pixels each result reads, by which weights.

The same resizes as `images` and `groot_images` carry out, written down as data once, so that a
device can follow them with gathers, products and sums alone. Knows arithmetic; knows nothing of
cameras or devices. Weights come from torch's own `interpolate`, asked what it makes of a picture of
one bright pixel, or from where the CPU path has them: no formula stands here a second time.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_BLOCK = 256  # bright pixels asked for at a time


@dataclass(frozen=True, eq=False)
class Taps:
    """A resize along one dimension, each result the sum of a few weighted pixels.

    Attributes:
        index: [taps, size] int64, the k-th pixel that each result reads.
        weight: [taps, size] of each; float32, or int32 in units of 2^-bits. 0 where a result reads
            fewer, and where there is a bar.
        bits: of int32 weights after the point; 0 for float32.
    """

    index: Tensor
    weight: Tensor
    bits: int = 0

    def placed(self, before: int, size: int) -> Taps:
        """The same within a longer line of `size`, from `before` on; the rest reads nothing."""
        around = (before, size - before - self.index.shape[1])
        return Taps(F.pad(self.index, around), F.pad(self.weight, around), self.bits)


@dataclass(frozen=True, eq=False)
class Fit:
    """How pictures of one size become a network's.

    The window is cut out, resized along its columns, then along its rows. Either in integers
    (`exact`): bytes between the passes, sums in int32, rounded by adding a half, at the end a level
    by its byte. Or in float32 of [0, 1]: products and sums each rounded, in the order of the taps;
    at the end 2 x + base, or where there are levels, that of 255 x without its fraction.

    Attributes:
        window: first row, first column, rows and columns of the picture that are used.
        columns, rows: None: as they are.
        exact: in integers.
        levels: [256] float32, what the network gets for a byte.
        base: [size, size] float32, where there are no levels.
    """

    window: tuple[int, int, int, int]
    columns: Taps | None
    rows: Taps | None
    exact: bool
    levels: Tensor | None = None
    base: Tensor | None = None

    def __post_init__(self) -> None:
        if (self.levels is None) == (self.base is None) or (self.exact and self.levels is None):
            raise ValueError('a fit ends in levels, or, in float32, in a base')


def float_taps(source: int, size: int, *, antialias: bool) -> Taps:
    """Of torch's bilinear resize of float32 from `source` pixels to `size`, to the last bit."""
    return _taps(_weights(source, size, 'bilinear', antialias, torch.float32))


def bicubic_byte_taps(source: int, size: int) -> Taps:
    """Of torch's antialiased bicubic resize of bytes, which has 16-bit weights.

    As `compute_index_ranges_int16_weights` of torch (UpSampleKernel.cpp): as many bits after the
    point as let the largest weight fit, at most 22.
    """
    weight = _weights(source, size, 'bicubic', True, torch.float64)
    largest, bits = float(weight.max()), 0
    while bits < 22 and int(0.5 + largest * 2 ** (bits + 1)) < 2**15:
        bits += 1
    halves = torch.where(weight < 0, -0.5, 0.5)
    taps = _taps((weight * 2**bits + halves).trunc().to(torch.int32))
    return Taps(taps.index, taps.weight, bits)


def _weights(source: int, size: int, mode: str, antialias: bool, dtype: torch.dtype) -> Tensor:
    """[size, source], by what becomes of pictures of one row with one pixel of 1."""
    found = []
    for first in range(0, source, _BLOCK):
        count = min(_BLOCK, source - first)
        bright = torch.zeros(count, source, dtype=dtype)
        bright.diagonal(first).fill_(1.0)
        found.append(
            F.interpolate(
                bright[:, None, None],
                size=(1, size),
                mode=mode,
                antialias=antialias,
                align_corners=False,
            )[:, 0, 0]
        )
    return torch.cat(found).T.contiguous()


def _taps(weight: Tensor) -> Taps:
    """From the first pixel that a result reads to the last, for all results as many."""
    used = (weight != 0).int()
    first = used.argmax(1)
    past = weight.shape[1] - used.flip(1).argmax(1)
    place = first[:, None] + torch.arange(int((past - first).max()))
    read = place < past[:, None]
    place = torch.where(read, place, first[:, None])
    held = torch.where(read, weight.gather(1, place), 0)
    return Taps(place.T.contiguous(), held.to(weight.dtype).T.contiguous())
