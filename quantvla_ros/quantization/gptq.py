# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""GPTQ: round a weight column by column, each column's error made up for by those to come.

Knows one weight matrix, its grid and the second moments of its inputs; knows nothing of layers.
Source: GPTQ (arXiv 2210.17323), with columns in the order of falling energy and the groups' scales
fixed beforehand, so that the order leaves no trace in what is stored.
"""
from __future__ import annotations

import torch
from torch import Tensor

from quantvla_ros.errors import CalibrationError
from quantvla_ros.quantization.weights import Grid

_COLUMNS = 128  # updated lazily at a time
_TRIES = 5  # each with ten times the damping


def round_with_feedback(weight: Tensor, grid: Grid, moments: Tensor, damping: float) -> Tensor:
    """Round a weight so that the error of its outputs is small, rather than that of its numbers.

    Args:
        weight: [N, K] float32.
        moments: [K, K] float32 second moments of the inputs, `X^T X` up to a factor.
        damping: added to the diagonal, relative to its mean.
    Returns:
        [N, K] integers of the grid, as float32.
    """
    order = moments.diagonal().argsort(descending=True, stable=True)
    factor = _inverse_factor(moments[order][:, order], damping)
    # Columns as rows: what the loop reads and writes lies together.
    steps = grid.steps(weight.shape[1]).expand_as(weight)[:, order].t().contiguous()
    left = weight[:, order].t().contiguous()
    inverse, low, high = 1.0 / steps, *grid.range
    pivots = (1.0 / factor.diagonal()).tolist()
    rounded = torch.empty_like(left)
    for start in range(0, len(left), _COLUMNS):
        end = min(start + _COLUMNS, len(left))
        errors = torch.empty_like(left[start:end])
        for column in range(start, end):
            q = rounded[column]
            torch.mul(left[column], inverse[column], out=q).round_().clamp_(low, high)
            error = errors[column - start]
            torch.addcmul(left[column], q, steps[column], value=-1, out=error)
            error.mul_(pivots[column])
            left[column + 1 : end].addr_(factor[column, column + 1 : end], error, alpha=-1)
        left[end:].addmm_(factor[start:end, end:].t(), errors, alpha=-1)
    return rounded[order.argsort()].t().contiguous()


def match_target(weight: Tensor, cross: Tensor, moments: Tensor, damping: float) -> Tensor:
    """The weight that gives, on the quantized policy's inputs, what the float layer gave on its.

    The ridge solution of `min |X_f W^T - X V^T|^2 + d |V - W|^2`, `V = W (C + d)(H + d)^-1`.

    Args:
        weight: [N, K] float32.
        cross: [K, K] `X_f^T X`, float inputs against quantized ones.
        moments: [K, K] `X^T X`.
        damping: d relative to the mean of the diagonal.
    """
    ridge = damping * moments.diagonal().mean()
    eye = torch.eye(len(moments), device=moments.device, dtype=moments.dtype)
    lower = _cholesky(moments, damping)
    right = weight @ (cross + ridge * eye)
    return torch.cholesky_solve(right.t(), lower).t().contiguous()


def refit_scale(weight: Tensor, grid: Grid, q: Tensor, moments: Tensor) -> Grid:
    """The grid with each channel's scale at the least squares optimum for its integers.

    `scale = (w H v) / (v H v)` with v the integers times their multipliers.
    """
    units = grid.value(q) / grid.scale[:, None]
    projected = units @ moments
    over = (projected * weight).sum(1)
    under = (projected * units).sum(1)
    good = (over > 0) & (under > 0)
    scale = torch.where(good, over / under.clamp_min(torch.finfo(torch.float32).tiny), grid.scale)
    return Grid(grid.bits, grid.group, scale, grid.multiplier)


def output_error(weight: Tensor, value: Tensor, moments: Tensor) -> float:
    """Relative error of a layer's outputs, `|X (W - V)^T| / |X W^T|`, of its inputs' moments."""
    difference = value - weight
    wrong = ((difference @ moments) * difference).sum().clamp_min(0)
    whole = ((weight @ moments) * weight).sum()
    return float((wrong / whole.clamp_min(torch.finfo(torch.float32).tiny)).sqrt())


def _inverse_factor(moments: Tensor, damping: float) -> Tensor:
    """[K, K] upper triangular U with `U^T U = (H + d)^-1`.

    Of the factor of the reversed matrix, `H = R R^T` with R upper triangular: U is its inverse. So
    nothing is squared twice, which float32 would not survive for wide layers.
    """
    upper = _cholesky(moments.flip(0, 1), damping).flip(0, 1)
    eye = torch.eye(len(upper), device=upper.device, dtype=upper.dtype)
    return torch.linalg.solve_triangular(upper, eye, upper=True)


def _cholesky(moments: Tensor, damping: float) -> Tensor:
    """Lower factor of the damped moments; more damping where rounding has made them indefinite."""
    mean = moments.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
    for attempt in range(_TRIES):
        damped = moments.clone()
        damped.diagonal().add_(max(damping, 1e-6) * 10**attempt * mean)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            return lower
    raise CalibrationError(
        'inputs of a layer: expected finite second moments, found ones that cannot be factored; '
        'the checkpoint is damaged'
    )
