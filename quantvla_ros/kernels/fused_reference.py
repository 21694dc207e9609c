# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The fused operations in plain PyTorch: the definition that every kernel is held to.

Knows tensors on any device; knows nothing of models or recipes. Slow on purpose and exact: inside
an operation everything is float64 and is rounded once, to the type of the result. The result has
the dtype of `out`, else of `residual`, else of x (for `Quantized`: of what it stands for).

All rows are tokens of one observation: tensors are [M, width], there is no batch. With `out` the
result is written there and returned; `out` may be `residual` itself.
"""
from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from quantvla_ros.errors import BackendError
from quantvla_ros.kernels import reference
from quantvla_ros.kernels.fused_types import (
    FloatWeight,
    Int4Weight,
    Int8Weight,
    Norm,
    Quantized,
    Stacked,
    Weight,
)
from quantvla_ros.kernels.packing import expand
from quantvla_ros.kernels.rows import Rows

ACTIVATIONS = {
    'gelu_tanh': lambda x: F.gelu(x, approximate='tanh'),
    'silu': F.silu,
    'relu': F.relu,
}


def rms_norm(
    x: Tensor,
    weight: Tensor | None,
    *,
    eps: float,
    offset: float = 0.0,
    modulation: tuple[Tensor, Tensor] | None = None,
    rows: Rows | None = None,
    out: Tensor | None = None,
) -> Tensor | Quantized:
    """`x / sqrt(mean(x^2) + eps)`, times `offset + weight` or, modulated, `1 + scale`, plus shift.

    Args:
        x: [M, W]. weight: [W], or None: no weight (then `offset` is not used).
        modulation: scale and shift, [W] float32 each (adaRMS); not together with a weight.
        rows: give the result in integers, as `quantize_rows` of the result in x's dtype.
        out: without rows; the result is rounded to x's dtype even where `out` is wider.
    """
    if weight is not None and modulation is not None:
        raise BackendError('rms_norm: expected a weight or a modulation, found both')
    y = x.double()
    y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps)
    if weight is not None:
        y = y * (offset + weight.double())
    return _normed(y, x.dtype, modulation, rows, out)


def layer_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    eps: float,
    modulation: tuple[Tensor, Tensor] | None = None,
    rows: Rows | None = None,
    out: Tensor | None = None,
) -> Tensor | Quantized:
    """Layer norm with weight and bias (None: without), then `(1 + scale) y + shift` if modulated.

    Args:
        x: [M, W]. weight, bias: [W] or None.
        modulation, rows, out: as in `rms_norm`; a weight may come before a modulation.
    """
    y = x.double()
    y = y - y.mean(-1, keepdim=True)
    y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps)
    if weight is not None:
        y = y * weight.double()
    if bias is not None:
        y = y + bias.double()
    return _normed(y, x.dtype, modulation, rows, out)


def quantize_rows(x: Tensor, rows: Rows) -> Quantized:
    """Permute, rotate and quantize each row of x [M, K], as `reference.quantize_rows`."""
    values, scale = reference.quantize_rows(x, rows)
    return Quantized(values, scale.float(), x.dtype)


def linear(
    x: Tensor | Quantized,
    weight: Weight,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
    gate: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """`y = activation(x W^T + b)`; with a residual `residual + gate y`.

    Args:
        x: [M, K]; a tensor before an integer weight is quantized as the weight's `rows` say.
        activation: a name of `ACTIVATIONS` or None.
        residual: [M, N] or None. gate: [N] float32, or None: 1; only with a residual.
    Returns:
        [M, N].
    """
    return finish_linear(_product(x, weight), x.dtype, activation, residual, gate, out)


def normed(x: Tensor, norm: Norm) -> Tensor | Quantized:
    """A norm as `Norm` describes it."""
    options: dict[str, Any] = {
        'eps': norm.eps, 'modulation': norm.modulation, 'rows': norm.rows, 'out': norm.out,
    }  # fmt: skip
    if norm.centered:
        return layer_norm(x, norm.weight, norm.bias, **options)
    return rms_norm(x, norm.weight, offset=norm.offset, **options)


def linear_norm(
    x: Tensor | Quantized,
    weight: Weight,
    norm: Norm,
    *,
    residual: Tensor,
    gate: Tensor | None = None,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor | Quantized]:
    """`linear` with a residual, and the norm of its result (rounded to its type): both."""
    y = linear(x, weight, residual=residual, gate=gate, out=out)
    return y, normed(y, norm)


def gated_linear(
    x: Tensor | Quantized, weight: Weight, *, activation: str, out: Tensor | None = None
) -> Tensor:
    """`activation(gate) up` of one product: [M, K] to [M, N / 2].

    Args:
        weight: rows interleaved gate, up, gate, up, ...; `Stacked`: (gate, up), not interleaved.
        activation: a name of `ACTIVATIONS`.
    """
    interleaved = not isinstance(weight, Stacked)
    return finish_gated(_product(x, weight), x.dtype, activation, out, interleaved)


def attention_inputs(
    x: Tensor | Quantized,
    weight: Weight,
    rotary: tuple[Tensor, Tensor] | None,
    heads: int,
    kv_heads: int,
    head_dim: int,
    keys: Tensor,
    values: Tensor,
    first: int,
    *,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    eps: float = 1e-6,
) -> Tensor:
    """Queries, keys and values of one product; keys and values are written to where they are read.

    Args:
        x: [M, K]. weight: [(heads + 2 kv_heads) head_dim, K], queries, keys, values.
        rotary: cos and sin [M, head_dim / 2] float32, half-split, of queries and keys; None: none.
        heads: of the queries; 0: there are none, only keys and values are made.
        keys, values: [T, kv_heads, head_dim], contiguous rows; rows first to first + M are written.
        q_norm, k_norm: [head_dim] RMS norm of each head before the rotary embedding (Qwen3).
    Returns:
        [M, heads, head_dim] queries of x's dtype.
    """
    y = _product(x, weight).unflatten(-1, (heads + 2 * kv_heads, head_dim))
    return finish_attention_inputs(
        y, x.dtype, rotary, heads, keys, values, first, q_norm=q_norm, k_norm=k_norm, eps=eps
    )


def attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    count: int | Tensor | None = None,
    causal: bool = False,
    own: int = 0,
    scale: float,
    segment: int | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Softmax attention of grouped heads over the first `count` keys.

    Args:
        queries: [M, heads, D].
        keys, values: [T, kv_heads, D]; head h reads h // (heads / kv_heads).
        count: valid keys, 1 to T, an int or an int32 [] or [1] on the device; None: all. What lies
            beyond may be anything, not a number too.
        causal: query i sees keys 0 to i only.
        own: so many first keys are the queries' own tokens, of which query i sees 0 to i only; it
            sees all others. Without segment or causal.
        scale: of the logits.
        segment: queries and keys come in segments of so many rows and a query sees its own only
            (pictures of several cameras); then M = T, without count, causal or own. None: one
            segment.
    Returns:
        [M, heads D] of the queries' dtype.
    """
    rows, heads, size = queries.shape
    if segment is not None:
        if count is not None or causal or own or rows != keys.shape[0] or rows % segment:
            raise BackendError(
                f'attention: expected as many queries as keys in segments of {segment}, without '
                f'count or causal; found {rows} and {keys.shape[0]}, count {count}, causal {causal}'
            )
        parts = [
            attention(*(t[at : at + segment] for t in (queries, keys, values)), scale=scale)
            for at in range(0, rows, segment)
        ]
        return _result(torch.cat(parts), queries.dtype, out)
    total = keys.shape[0] if count is None else int(count)
    group = heads // keys.shape[1]
    query = queries.double().transpose(0, 1)
    key, value = (
        t[:total].double().transpose(0, 1).repeat_interleave(group, 0) for t in (keys, values)
    )
    logits = query @ key.transpose(1, 2) * scale
    if own and causal:
        raise BackendError('attention: expected causal or keys of its own, found both')
    if own:
        places = torch.arange(max(rows, total), device=queries.device)
        hidden = (places[:total] > places[:rows, None]) & (places[:total] < own)
        logits = logits.masked_fill(hidden, -torch.inf)
    if causal:
        places = torch.arange(max(rows, total), device=queries.device)
        logits = logits.masked_fill(places[:total] > places[:rows, None], -torch.inf)
    y = (logits.softmax(-1) @ value).transpose(0, 1).reshape(rows, heads * size)
    return _result(y, queries.dtype, out)


def finish_linear(
    y: Tensor,
    dtype: torch.dtype,
    activation: str | None,
    residual: Tensor | None,
    gate: Tensor | None,
    out: Tensor | None,
) -> Tensor:
    """What `linear` does after the product y [M, N], in y's arithmetic; dtype: of x."""
    if activation is not None:
        y = ACTIVATIONS[activation](y)
    if residual is not None:
        y = residual.to(y.dtype) + (y if gate is None else gate.to(y.dtype) * y)
    elif gate is not None:
        raise BackendError('linear: expected a residual with the gate, found none')
    return _result(y, residual.dtype if residual is not None else dtype, out)


def finish_gated(
    y: Tensor, dtype: torch.dtype, activation: str, out: Tensor | None, interleaved: bool
) -> Tensor:
    """What `gated_linear` does after the product y [M, N], in y's arithmetic; dtype: of x."""
    gate, up = (y[:, 0::2], y[:, 1::2]) if interleaved else y.chunk(2, dim=-1)
    return _result(ACTIVATIONS[activation](gate) * up, dtype, out)


def finish_attention_inputs(
    y: Tensor,
    dtype: torch.dtype,
    rotary: tuple[Tensor, Tensor] | None,
    heads: int,
    keys: Tensor,
    values: Tensor,
    first: int,
    *,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
    eps: float,
) -> Tensor:
    """What `attention_inputs` does after the product y [M, heads + 2 kv_heads, head_dim]."""
    rows, kv_heads = y.shape[0], keys.shape[1]
    query, key, value = y.split((heads, kv_heads, kv_heads), dim=1)
    if q_norm is not None:
        query = _head_norm(query, q_norm, eps)
    if k_norm is not None:
        key = _head_norm(key, k_norm, eps)
    if rotary is not None:
        query, key = _rotated(query, rotary), _rotated(key, rotary)
    keys[first : first + rows] = key.to(keys.dtype)
    values[first : first + rows] = value.to(values.dtype)
    return query.to(dtype)


def _product(x: Tensor | Quantized, weight: Weight) -> Tensor:
    """[M, N] float64: x W^T with turn and bias."""
    if isinstance(weight, Stacked):
        return torch.cat([_product(x, part) for part in weight.parts], dim=-1)
    if isinstance(weight, FloatWeight):
        if isinstance(x, Quantized):
            raise BackendError('linear: expected a tensor before a weight in floating point')
        y = x.double() @ weight.weight.double().t()
    else:
        q = x if isinstance(x, Quantized) else quantize_rows(x, weight.rows)
        y = q.values.double() @ _integers(weight).double().t()
        y = y * q.scale.double()[:, None] * weight.scale.double()
        if weight.turn is not None:
            y = turned(y, weight.turn)
    return y if weight.bias is None else y + weight.bias.double()


def turned(y: Tensor, turn: Tensor) -> Tensor:
    """Products [M, N] by a weight's `turn`, in y's arithmetic."""
    blocks = y.unflatten(-1, (-1, turn.shape[-1]))
    return torch.einsum('mni,noi->mno', blocks, turn.to(y.dtype)).flatten(-2)


def _integers(weight: Int8Weight | Int4Weight) -> Tensor:
    if isinstance(weight, Int8Weight):
        return weight.weight
    return expand(weight.packed, weight.group_scale, weight.group)


def _normed(
    y: Tensor,
    dtype: torch.dtype,
    modulation: tuple[Tensor, Tensor] | None,
    rows: Rows | None,
    out: Tensor | None,
) -> Tensor | Quantized:
    if modulation is not None:
        scale, shift = modulation
        y = y * (1.0 + scale.double()) + shift.double()
    result = y.to(dtype)
    if rows is None:
        return _result(result, dtype, out)
    if out is not None:
        raise BackendError('norm: expected out or rows, found both')
    return quantize_rows(result, rows)


def _head_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight.to(x.dtype)


def _rotated(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = (table.to(x.dtype)[:, None] for table in rotary)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def _result(y: Tensor, dtype: torch.dtype, out: Tensor | None) -> Tensor:
    return y.to(dtype) if out is None else out.copy_(y)
