# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A network's norms as the fused operations read them, alone and behind a product.

Knows norm modules and operations; knows nothing of any one architecture. A norm gives integers
where the layer that reads it wants them: that is decided by the reader, not by the norm.
"""
from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, float32, nn

from quantvla_ros.engine.weights import WeightLoader
from quantvla_ros.errors import BackendError
from quantvla_ros.kernels import fused
from quantvla_ros.kernels.fused_types import Norm, Quantized, Weight, rows_of
from quantvla_ros.models.layers import RMSNorm

# What is added to the weight, and whether the mean is taken away.
_KINDS = {nn.LayerNorm: (0.0, True), nn.RMSNorm: (0.0, False), RMSNorm: (1.0, False)}


def load_norm(load: WeightLoader, norm: Any) -> Norm:
    """A norm's numbers on the device, float32; its result stays a tensor.

    Raises:
        BackendError: a kind that the operations do not have.
    """
    if type(norm) not in _KINDS:
        raise BackendError(
            f'engine: expected a layer norm or an RMS norm, found {type(norm).__name__}'
        )
    offset, centered = _KINDS[type(norm)]
    weight, bias = (
        None if tensor is None else load.tensor(tensor, float32)
        for tensor in (norm.weight, getattr(norm, 'bias', None))
    )
    return Norm(weight, bias, norm.eps, offset, centered)


def normed(
    x: Tensor, norm: Norm, reader: Weight | None, out: Tensor | None = None
) -> Tensor | Quantized:
    """[M, width] normed as `reader` reads it; None: as a tensor, to `out` if there is one."""
    return fused.normed(x, _before(norm, reader, out))


def linear_normed(
    y: Tensor | Quantized,
    weight: Weight,
    x: Tensor,
    norm: Norm,
    reader: Weight | None,
    out: Tensor | None = None,
) -> Tensor | Quantized:
    """The residual stream x [M, width] gets `y W^T + b`, in place; what the next norm makes of it.

    Args:
        norm, reader, out: as `normed` takes them.
    """
    return fused.linear_norm(y, weight, _before(norm, reader, out), residual=x, out=x)[1]


def _before(norm: Norm, reader: Weight | None, out: Tensor | None) -> Norm:
    return replace(norm, rows=None if reader is None else rows_of(reader), out=out)
