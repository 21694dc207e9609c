# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Output head balancing: one scalar per layer restores the energy of the head's attention output.

Knows attention modules and captured outputs; knows nothing of bags, ROS or kernels.
Source: QuantVLA (arXiv 2602.20309), section 4 and appendix D. The scalar belongs after W_o and
before the residual sum, so it is folded into W_o and b_o.
"""
from __future__ import annotations

import torch
from torch import Tensor

from quantvla_ros.models.layers import GroupedAttention
from quantvla_ros.quantization.correction import bounded_ratio, scale_outputs


def output_rms(output: Tensor) -> Tensor:
    """Root mean square of an attention output [B, Q, width] after W_o: [] float64."""
    return output.double().square().mean().sqrt()


def balance(teacher: Tensor, student: Tensor, *, log_clip: float, dead_band: float) -> Tensor:
    """Beta of a layer: what the student's output is multiplied by to have the teacher's energy.

    Args:
        teacher, student: [] mean `output_rms` of the float and the quantized policy on the same
            observations, noise and steps.
        log_clip, dead_band: see `bounded_ratio`.
    Returns:
        [] float64.
    """
    return bounded_ratio(teacher, student, log_clip=log_clip, dead_band=dead_band)


def fold_balance(attention: GroupedAttention, beta: Tensor) -> None:
    """Multiply W_o (and b_o) by beta, in place; exact.

    Args:
        attention: its output projection may be float or quantized.
        beta: [].
    """
    output = attention.o_proj
    scale_outputs(output, torch.as_tensor(beta).expand(output.out_features))
