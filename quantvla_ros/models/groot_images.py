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
    if crop is not None:
        height, width = x.shape[-2:]
        rows, columns = max(1, int(height * crop)), max(1, int(width * crop))
        top, left = round((height - rows) / 2), round((width - columns) / 2)
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


def _pixels(picture: np.ndarray) -> Tensor:
    """[1, H, W, 3] uint8."""
    if not picture.flags.writeable:  # a view of a message's bytes: torch warns about those
        picture = picture.copy()
    return torch.from_numpy(np.ascontiguousarray(picture))[None]


def _normalized(x: Tensor) -> Tensor:
    """[1, 3, S, S] uint8 to [3, S, S] float32: Eagle's rescaling and mean and deviation of 0.5."""
    return ((x[0].float() - 127.5) / 127.5).contiguous()
