# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""W8A8: int8 weights with one scale per output channel, int8 activations with one per token.

Knows one linear layer: how its weight is quantized, what is stored, the module that runs it; knows
nothing of models, recipes or which backend multiplies. Both scales are symmetric. The weight's
scale is the one of a few candidates with the least squared error, as in QuantVLA's code (there 4
bits and a grid on both sides of the maximum; at 8 bits a larger scale only coarsens).
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from quantvla_ros.errors import CalibrationError
from quantvla_ros.kernels.linear import int8_linear

PRECISION = 'w8a8'
LARGEST = 127
_ROWS = 1024  # rows quantized at a time: bounds the float32 copies of a large weight


def quantize_weight(weight: Tensor, scale_grid: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Quantize a weight per output channel.

    Args:
        weight: [N, K] floating point.
        scale_grid: candidates for the scale as fractions of max|row| / 127.
    Returns:
        [N, K] int8 in -127..127, and [N] float32 scales, positive; zero rows stay zero.
    Raises:
        CalibrationError: the weight holds a NaN or an infinity.
    """
    parts = [_quantize_rows(rows.float(), scale_grid) for rows in weight.split(_ROWS)]
    return torch.cat([q for q, _ in parts]), torch.cat([scale for _, scale in parts])


def _quantize_rows(weight: Tensor, scale_grid: Sequence[float]) -> tuple[Tensor, Tensor]:
    largest = weight.abs().amax(dim=1)
    if not torch.isfinite(largest).all():
        raise CalibrationError(
            f'weight: expected finite numbers, found {int((~torch.isfinite(largest)).sum())} of '
            f'{len(largest)} rows with NaN or infinity; the checkpoint is damaged'
        )
    # The smallest normal float32 as a bound: a scale must stay positive and invertible.
    full = (largest / LARGEST).clamp_min(torch.finfo(torch.float32).tiny)
    full = torch.where(largest > 0, full, 1.0)
    best_scale = full.clone()
    least = torch.full_like(full, torch.inf)
    for fraction in scale_grid:
        scale = (full * fraction).clamp_min(torch.finfo(torch.float32).tiny)
        rounded = (weight / scale[:, None]).round_().clamp_(-LARGEST, LARGEST)
        error = rounded.mul_(scale[:, None]).sub_(weight).square_().sum(dim=1)
        better = error < least
        least = torch.where(better, error, least)
        best_scale = torch.where(better, scale, best_scale)
    q = (weight / best_scale[:, None]).round_().clamp_(-LARGEST, LARGEST).to(torch.int8)
    return q, best_scale


class LinearW8A8(nn.Module):
    """A linear layer that runs in int8.

    Attributes:
        weight_q: [N, K] int8.
        weight_scale: [N] float32; stays float32 whatever the module is cast to.
        bias: [N] or None.
    """

    weight_q: Tensor
    weight_scale: Tensor
    bias: Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: Tensor | None = None) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.register_buffer('weight_q', torch.zeros(out_features, in_features, dtype=torch.int8))
        self.register_buffer('weight_scale', torch.ones(out_features, dtype=torch.float32))
        self.register_buffer('bias', bias)

    @classmethod
    def from_linear(cls, linear: nn.Linear, scale_grid: Sequence[float]) -> LinearW8A8:
        """Quantize a float layer; the layer itself is left as it is."""
        weight = linear.weight.detach()
        with torch.device('meta'):
            module = cls(linear.in_features, linear.out_features)
        module.weight_q, module.weight_scale = quantize_weight(weight, scale_grid)
        module.bias = None if linear.bias is None else linear.bias.detach().clone()
        return module

    @classmethod
    def like(cls, linear: nn.Linear) -> LinearW8A8:
        """An empty layer of a float layer's sizes, for loading into; on the default device."""
        bias = None if linear.bias is None else torch.zeros(linear.out_features)
        return cls(linear.in_features, linear.out_features, bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] to [..., out_features] of the same dtype."""
        return int8_linear(x, self.weight_q, self.weight_scale, self.bias)

    def dequantized(self) -> Tensor:
        """The weight that this layer stands for: [N, K] float32."""
        return self.weight_q.float() * self.weight_scale[:, None]

    def extra_repr(self) -> str:
        """Sizes, for printing."""
        return f'in_features={self.in_features}, out_features={self.out_features}, {PRECISION}'

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]
        # A cast of the model to bfloat16 must not touch the scale: as integers it only moves.
        scale = self.weight_scale
        super()._apply(fn, recurse)
        self.weight_scale = fn(scale.view(torch.int32)).view(torch.float32)
        return self
