# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Attention temperature matching: one scalar per head restores the spread of the attention logits.

Knows attention modules and captured logits; knows nothing of bags, ROS or kernels.
Source: QuantVLA (arXiv 2602.20309), section 4 and appendix D; where we differ and why,
docs/quantization.md. In short: the spread is taken row by row (a softmax ignores its row's mean)
and over all valid keys, prefix and suffix; alpha is folded into W_q instead of multiplied.
"""
from __future__ import annotations

from torch import Tensor

from quantvla_ros.models.layers import GroupedAttention
from quantvla_ros.quantization.correction import bounded_ratio, scale_outputs


def logit_spread(logits: Tensor, valid: Tensor) -> Tensor:
    """Spread of each head's logits: standard deviation over the keys, averaged over the queries.

    Args:
        logits: [B, heads, Q, K] float32, scaled, before the mask.
        valid: [B, 1, 1 or Q, K] bool, keys that a query may see.
    Returns:
        [heads] float64.
    """
    count = valid.sum(-1, keepdim=True).clamp_min(1)
    # where, not a product: a masked logit may be anything, infinite included
    mean = logits.where(valid, 0.0).sum(-1, keepdim=True) / count
    variance = (logits - mean).where(valid, 0.0).square().sum(-1, keepdim=True) / count
    return variance.sqrt().double().mean(dim=(0, 2, 3))


def temperature(teacher: Tensor, student: Tensor, *, log_clip: float, dead_band: float) -> Tensor:
    """Alpha per head: what the student's logits are multiplied by to spread like the teacher's.

    Args:
        teacher, student: [heads] mean `logit_spread` of the float and the quantized policy on the
            same observations, noise and steps.
        log_clip, dead_band: see `bounded_ratio`.
    Returns:
        [heads] float64.
    """
    return bounded_ratio(teacher, student, log_clip=log_clip, dead_band=dead_band)


def fold_temperature(attention: GroupedAttention, alpha: Tensor) -> None:
    """Multiply each head's rows of W_q (and b_q) by its alpha, in place.

    Exact, because rotary embedding is linear in the query; a norm of the query would undo it.

    Args:
        attention: its query projection may be float or quantized.
        alpha: [heads].
    """
    scale_outputs(attention.q_proj, alpha.repeat_interleave(attention.head_dim))
