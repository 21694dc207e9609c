# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Camera pictures to a network's pictures, pixel for pixel as the references do it.

Knows arrays and tensors; knows nothing of cameras, slots or any one network.
"""
from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def resize_with_pad(image: Tensor, size: int) -> Tensor:
    """Fit a picture into a square, keeping its shape, with the rest at -1.

    Bilinear without antialiasing, `align_corners=False`; the padding is split with the smaller
    half above and left. This is lerobot's rule for pi0.5 (from 0.5 on).

    Args:
        image: [B, 3, H, W] float32 in [0, 1].
    Returns:
        [B, 3, size, size] float32 in [-1, 1].
    """
    height, width = image.shape[-2:]
    if (height, width) != (size, size):
        ratio = max(width / size, height / size)
        fitted = int(height / ratio), int(width / ratio)
        image = F.interpolate(image, size=fitted, mode='bilinear', align_corners=False)
        image = image.clamp(0.0, 1.0)
        rows, columns = size - fitted[0], size - fitted[1]
        top, left = rows // 2, columns // 2
        image = F.pad(image, (left, columns - left, top, rows - top))
    return image * 2.0 - 1.0


def to_tensor(picture: np.ndarray, device: torch.device | str = 'cpu') -> Tensor:
    """[H, W, 3] uint8 to [1, 3, H, W] float32 in [0, 1]; the bytes cross to the device as uint8."""
    if not picture.flags.writeable:  # a view of a message's bytes: torch warns about those
        picture = picture.copy()
    tensor = torch.from_numpy(np.ascontiguousarray(picture)).to(device)
    return tensor.permute(2, 0, 1)[None].float() / 255.0
