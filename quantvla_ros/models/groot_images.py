# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Camera pictures to GR00T N1.5's, in the two ways in which its checkpoints were trained.

Isaac-GR00T's evaluation cuts out the middle, resizes in float and rounds down to bytes; lerobot
hands Eagle's image processor the whole picture. Both squash to a square without regard to shape,
and both work on the CPU here as they do there: on a GPU the same resize gives other bytes.
Knows arrays and tensors; knows nothing of cameras or prompts. Sources: video.py and
image_processing_eagle2_5_vl_fast.py of Isaac-GR00T, and torchvision's v2 resize, which is torch's
`interpolate` with antialiasing (on bytes where it is bicubic).
"""
from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from quantvla_ros.models.fitting import Fit, bicubic_byte_taps, float_taps


def isaac_picture(picture: np.ndarray, size: int, crop: float | None = None) -> Tensor:
    """Centre crop, bilinear resize with antialiasing in float, down to bytes, to [-1, 1].

    Args:
        picture: [H, W, 3] uint8.
        size: side of the result.
        crop: share of height and width that is kept; None: all.
    Returns:
        [3, size, size] float32.
    """
    x = (_pixels(picture).float() / 255.0).permute(0, 3, 1, 2)
    top, left, rows, columns = _middle(x.shape[2], x.shape[3], crop)
    x = x[..., top : top + rows, left : left + columns]
    if tuple(x.shape[-2:]) != (size, size):
        x = F.interpolate(
            x, size=(size, size), mode='bilinear', antialias=True, align_corners=False
        )
    return _normalized((x * 255).to(torch.uint8))


def lerobot_picture(picture: np.ndarray, size: int) -> Tensor:
    """Bicubic resize of the bytes with antialiasing, to [-1, 1].

    Args:
        picture: [H, W, 3] uint8.
        size: side of the result.
    Returns:
        [3, size, size] float32.
    """
    x = _pixels(picture).permute(0, 3, 1, 2)
    if tuple(x.shape[-2:]) != (size, size):
        x = F.interpolate(x, size=(size, size), mode='bicubic', antialias=True, align_corners=False)
    return _normalized(x)


def isaac_fit(height: int, width: int, size: int, crop: float | None = None) -> Fit:
    """`isaac_picture` of pictures of one size, written out."""
    window = _middle(height, width, crop)
    _, _, rows, columns = window
    same = (rows, columns) == (size, size)
    return Fit(
        window,
        None if same else float_taps(columns, size, antialias=True),
        None if same else float_taps(rows, size, antialias=True),
        False,
        _rescaled(torch.arange(256)),
    )


def lerobot_fit(height: int, width: int, size: int) -> Fit:
    """`lerobot_picture` of pictures of one size, written out."""
    return Fit(
        (0, 0, height, width),
        None if width == size else bicubic_byte_taps(width, size),
        None if height == size else bicubic_byte_taps(height, size),
        True,
        _rescaled(torch.arange(256)),
    )


def _middle(height: int, width: int, crop: float | None) -> tuple[int, int, int, int]:
    """First row, first column, rows and columns of what is kept."""
    if crop is None:
        return 0, 0, height, width
    rows, columns = max(1, int(height * crop)), max(1, int(width * crop))
    return round((height - rows) / 2), round((width - columns) / 2), rows, columns


def _pixels(picture: np.ndarray) -> Tensor:
    """[1, H, W, 3] uint8."""
    if not picture.flags.writeable:  # a view of a message's bytes: torch warns about those
        picture = picture.copy()
    return torch.from_numpy(np.ascontiguousarray(picture))[None]


def _normalized(x: Tensor) -> Tensor:
    """[1, 3, S, S] uint8 to [3, S, S] float32: Eagle's rescaling and mean and deviation of 0.5."""
    return _rescaled(x[0]).contiguous()


def _rescaled(x: Tensor) -> Tensor:
    return (x.float() - 127.5) / 127.5
