# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Camera pictures to a network's pictures, pixel for pixel as the references do it.

Knows arrays and tensors; knows nothing of cameras, slots or any one network. Two ways to fit a
picture into a square: lerobot's, in float without antialiasing, and openpi's, which is Pillow's
antialiased bilinear on bytes, repeated here in Pillow's own fixed-point arithmetic.
"""
from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from quantvla_ros.models.fitting import Fit, Taps, float_taps

# Bits after the point of Pillow's weights (libImaging/Resample.c: 32 - 8 - 2).
_PRECISION = 22


def fitted_size(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width of a picture that is scaled to just fit into a square, as all do it."""
    ratio = max(width / size, height / size)
    return int(height / ratio), int(width / ratio)


def resize_with_pad(image: Tensor, size: int, *, bar: float = 0.0) -> Tensor:
    """Fit a picture into a square, keeping its shape.

    Bilinear without antialiasing, `align_corners=False`; the padding is split with the smaller
    half above and left. This is lerobot's rule for pi0.5.

    Args:
        image: [B, 3, H, W] float32 in [0, 1].
        bar: what fills the rest, before [0, 1] becomes [-1, 1]: 0 from lerobot 0.5 on; -1 (that is
            -3 for the network) up to 0.4.
    Returns:
        [B, 3, size, size] float32 in [-1, 1].
    """
    height, width = image.shape[-2:]
    if (height, width) != (size, size):
        fitted = fitted_size(height, width, size)
        image = F.interpolate(image, size=fitted, mode='bilinear', align_corners=False)
        image = _pad(image.clamp(0.0, 1.0), size, bar)
    return image * 2.0 - 1.0


def resize_with_pad_antialiased(image: Tensor, size: int) -> Tensor:
    """Fit a picture into a square, keeping its shape; openpi's rule.

    Equal to the bit, on any device, to `Image.resize(..., BILINEAR)` of Pillow as openpi pins it:
    both passes are integer arithmetic, with bytes between them. (Pillow 13 takes the passes of
    very tall pictures in the other order, which moves single pixels by 1/255.)

    Args:
        image: [B, 3, H, W] uint8.
    Returns:
        [B, 3, size, size] float32 in [-1, 1]; bars are black.
    """
    height, width = image.shape[-2:]
    if (height, width) != (size, size):
        rows, columns = fitted_size(height, width, size)
        # Pillow's order: along the rows first.
        image = _resample(image, 3, columns)
        image = _resample(image, 2, rows)
        image = _pad(image, size, 0)
    return image.float() / 255.0 * 2.0 - 1.0


def padded_fit(height: int, width: int, size: int, *, bar: float = 0.0) -> Fit:
    """`resize_with_pad` of pictures of one size, written out."""
    rows, columns = fitted_size(height, width, size)
    return float_fit(height, width, size, (size - rows) // 2, (size - columns) // 2, bar=bar)


def float_fit(
    height: int, width: int, size: int, top: int, left: int, *, bar: float = 0.0
) -> Fit:
    """Bilinear in float without antialiasing into a square, with so many rows and columns of bar
    above and left of it.
    """
    window = (0, 0, height, width)
    if (height, width) == (size, size):
        return Fit(window, None, None, False, base=torch.full((size, size), -1.0))
    rows, columns = fitted_size(height, width, size)
    base = torch.full((size, size), bar * 2.0 - 1.0)
    base[top : top + rows, left : left + columns] = -1.0
    return Fit(
        window,
        float_taps(width, columns, antialias=False).placed(left, size),
        float_taps(height, rows, antialias=False).placed(top, size),
        False,
        base=base,
    )


def antialiased_fit(height: int, width: int, size: int) -> Fit:
    """`resize_with_pad_antialiased` of pictures of one size, written out."""
    levels = torch.arange(256).float() / 255.0 * 2.0 - 1.0
    window = (0, 0, height, width)
    if (height, width) == (size, size):
        return Fit(window, None, None, True, levels)
    rows, columns = fitted_size(height, width, size)
    return Fit(
        window,
        _byte_taps(width, columns).placed((size - columns) // 2, size),
        _byte_taps(height, rows).placed((size - rows) // 2, size),
        True,
        levels,
    )


def to_bytes(picture: np.ndarray, device: torch.device | str = 'cpu') -> Tensor:
    """[H, W, 3] uint8 to [1, 3, H, W] uint8."""
    if not picture.flags.writeable:  # a view of a message's bytes: torch warns about those
        picture = picture.copy()
    return torch.from_numpy(np.ascontiguousarray(picture)).to(device).permute(2, 0, 1)[None]


def to_tensor(picture: np.ndarray, device: torch.device | str = 'cpu') -> Tensor:
    """[H, W, 3] uint8 to [1, 3, H, W] float32 in [0, 1]; the bytes cross to the device as uint8."""
    return to_bytes(picture, device).float() / 255.0


def _pad(image: Tensor, size: int, value: float) -> Tensor:
    """Centre in a square; the odd row or column below or right."""
    rows, columns = size - image.shape[-2], size - image.shape[-1]
    top, left = rows // 2, columns // 2
    return F.pad(image, (left, columns - left, top, rows - top), value=value)


def _resample(image: Tensor, dim: int, size: int) -> Tensor:
    """One pass of Pillow's bilinear resampling of bytes along one dimension."""
    if image.shape[dim] == size:  # Pillow leaves the pass out
        return image
    shape = [1] * image.ndim
    shape[dim] = size
    total: Tensor | None = None
    # A term for each of the few pixels that an output pixel reads; 255 * 2^22 fits in 31 bits.
    for index, weight in _taps(image.shape[dim], size, str(image.device)):
        term = image.index_select(dim, index).int() * weight.view(shape)
        total = term if total is None else total + term
    assert total is not None
    total = (total + (1 << (_PRECISION - 1))) >> _PRECISION
    return total.clamp(0, 255).to(torch.uint8)


@lru_cache(maxsize=32)
def _taps(source: int, size: int, device: str) -> list[tuple[Tensor, Tensor]]:
    """The k-th pixel that each output pixel reads and its fixed-point weight, for every k.

    The triangle filter of Pillow's `precompute_coeffs`, widened by the scale when shrinking.
    """
    scale = source / size
    support = max(scale, 1.0)
    taps = math.ceil(support) * 2 + 1
    index = np.zeros((taps, size), np.int64)
    weight = np.zeros((taps, size), np.int32)
    for out in range(size):
        center = (out + 0.5) * scale
        first = max(int(center - support + 0.5), 0)
        last = min(int(center + support + 0.5), source)
        distance = (np.arange(first, last) - center + 0.5) * (1.0 / support)
        share = np.maximum(1.0 - np.abs(distance), 0.0)
        # Summed in order, as C does: NumPy's own sum pairs the terms.
        whole = 0.0
        for one in share:
            whole += one
        share = share * (1.0 / whole) if whole else share
        count = last - first
        index[:count, out] = np.arange(first, last)
        weight[:count, out] = (0.5 + share * (1 << _PRECISION)).astype(np.int32)
    return [
        (torch.from_numpy(i).to(device), torch.from_numpy(w).to(device))
        for i, w in zip(index, weight, strict=True)
    ]


def _byte_taps(source: int, size: int) -> Taps:
    """As `_resample`: a resize to the same size, which Pillow leaves out, changes nothing."""
    index, weight = zip(*_taps(source, size, 'cpu'), strict=True)
    used = max(n for n, w in enumerate(weight, 1) if w.any())
    return Taps(torch.stack(index[:used]), torch.stack(weight[:used]), _PRECISION)
