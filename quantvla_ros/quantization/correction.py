# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the two corrections share: a bounded ratio, and scaling a layer's outputs without a trace.

Knows numbers and linear layers; knows nothing of what is matched (see `temperature`, `balance`).
"""
from __future__ import annotations

import torch
from torch import Tensor, nn

from quantvla_ros.errors import CalibrationError
from quantvla_ros.quantization.w8a8 import LinearW8A8


def bounded_ratio(teacher: Tensor, student: Tensor, *, log_clip: float, dead_band: float) -> Tensor:
    """`teacher / student`, bounded in the logarithm, and exactly 1 where it is nearly 1.

    Args:
        teacher, student: positive statistics of equal shape.
        log_clip: bound on |log ratio|.
        dead_band: |log ratio| below this counts as noise.
    Returns:
        float64 of the same shape, in [exp(-log_clip), exp(log_clip)].
    Raises:
        CalibrationError: a statistic is zero, negative or not finite.
    """
    teacher, student = teacher.double(), student.double()
    for name, value in (('float', teacher), ('quantized', student)):
        if not bool((torch.isfinite(value) & (value > 0)).all()):
            raise CalibrationError(
                f'the {name} policy: expected positive statistics of its attention, found '
                f'{value.tolist()}; it does not react to its inputs, or returns NaN'
            )
    log = (teacher.log() - student.log()).clamp(-log_clip, log_clip)
    return torch.where(log.abs() < dead_band, 0.0, log).exp()


@torch.no_grad()
def scale_outputs(linear: nn.Linear | LinearW8A8, factor: Tensor) -> None:
    """Multiply a layer's outputs by constants, in its weights: no work at run time.

    Args:
        linear: float or quantized; changed in place.
        factor: [N], one per output.
    """
    rows = linear.weight_scale if isinstance(linear, LinearW8A8) else linear.weight
    for tensor in (rows, linear.bias):
        if tensor is None:
            continue
        scale = factor.to(tensor.device).double().reshape(-1, *[1] * (tensor.dim() - 1))
        # A single rounding, to the tensor's own dtype.
        tensor.copy_(tensor.double() * scale)
