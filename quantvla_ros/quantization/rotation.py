# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Orthogonal maps over blocks of channels, which spread outliers before rounding.

Knows weights and blocks; knows nothing of layers or of how a rotated number is rounded. A layer
computes `y = (x[perm] R) (W[:, perm] R^-T)^T`: R is applied to what it reads and undone in its
weight. Sources: QuaRot (arXiv 2404.00456) for Hadamard; QuantVLA's code for the permutation and for
PCA blocks; Omega-QVLA (arXiv 2605.28803) for their product, which spreads what PCA gathers.
"""
from __future__ import annotations

import functools

import torch
from torch import Tensor

_SEED = 20_260_223  # of the signs; part of the format: a Hadamard rotation is not stored


def block_of(size: int, largest: int) -> int:
    """The largest power of two up to `largest` that divides `size`."""
    return min(largest, size & -size)


@functools.cache
def hadamard(size: int) -> Tensor:
    """[size, size] float32: a normalised Hadamard matrix with fixed random signs of its rows.

    The same for every block and layer, so that nothing needs to be stored.

    Args:
        size: a power of two.
    """
    matrix = torch.ones(1, 1)
    while matrix.shape[0] < size:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)))
    generator = torch.Generator().manual_seed(_SEED)
    signs = torch.randint(0, 2, (size, 1), generator=generator) * 2 - 1
    return signs * matrix * size**-0.5


def principal_axes(weight: Tensor, block: int) -> Tensor:
    """PCA basis of a weight's input channels, block by block (QuantVLA's code, 2.2).

    Args:
        weight: [N, K], K a multiple of `block`.
    Returns:
        [K / block, block, block] orthogonal; columns by falling energy.
    """
    parts = weight.unflatten(1, (-1, block)).transpose(0, 1)  # [K / block, N, block]
    energy = parts.transpose(1, 2).float() @ parts.float()
    return torch.linalg.eigh(energy).eigenvectors.flip(-1)


def row_axes(weight: Tensor, block: int) -> Tensor:
    """PCA basis of a weight's outputs, block by block: [N / block, block, block] orthogonal."""
    return principal_axes(weight.t(), block)


def zigzag(weight: Tensor, blend: float = 0.15) -> Tensor:
    """Input channels dealt from the strong and the weak end in turn (QuantVLA's code, 2.2).

    Args:
        weight: [N, K].
        blend: share of the mean in each channel's energy; it orders equal channels only.
    Returns:
        [K] int32 permutation: channel `result[i]` comes i-th.
    """
    energy = weight.float().square().mean(0)
    energy = (1 - blend) * energy + blend * energy.mean()
    order = energy.argsort(descending=True, stable=True)
    count = order.numel()
    ends = torch.empty_like(order)
    ends[0::2] = torch.arange(0, (count + 1) // 2, device=order.device)
    ends[1::2] = torch.arange(count - 1, (count + 1) // 2 - 1, -1, device=order.device)
    return order[ends].int()


def rotate_columns(x: Tensor, rotation: Tensor) -> Tensor:
    """`x R` over blocks of the last dimension.

    Args:
        x: [..., K]; rotation: [block, block] for all blocks, or [K / block, block, block].
    Returns:
        [..., K] of x's dtype and the rotation's, whichever is wider.
    """
    blocks = x.unflatten(-1, (-1, rotation.shape[-1]))
    if rotation.dim() == 2:
        return (blocks @ rotation).flatten(-2)
    return torch.einsum('...kb,kbc->...kc', blocks, rotation).flatten(-2)


def inverse_transpose(rotation: Tensor) -> Tensor:
    """R^-T: what the weight is multiplied by. Equal to R but for the rounding of a stored R."""
    return torch.linalg.inv(rotation.double()).transpose(-1, -2).float()
