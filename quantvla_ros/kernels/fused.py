# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The fused operations, each by what runs it on its tensors' device.

Knows which implementation serves which device, and how an operation is put together where no one
kernel does it (weights that cannot be one matrix, outputs that are turned); knows nothing of models
or recipes. `fused_reference` documents and defines the operations; on NVIDIA GPUs, and with
TRITON_INTERPRET=1, they run in Triton.

The Triton modules have functions of the same names and arguments, but never see `Stacked` or a
weight with a `turn`. `out` may be of another dtype than x, float32 too.
"""
from __future__ import annotations

import functools
import importlib
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from quantvla_ros.errors import BackendError
from quantvla_ros.kernels import fused_reference, triton_int8
from quantvla_ros.kernels.fused_types import (
    FloatWeight,
    Int4Weight,
    Norm,
    Quantized,
    Stacked,
    Weight,
)
from quantvla_ros.kernels.halves import halved
from quantvla_ros.kernels.rows import Rows

# The modules that have each operation in Triton, imported when asked for.
_TRITON = {
    'rms_norm': 'quantvla_ros.kernels.triton_norms',
    'layer_norm': 'quantvla_ros.kernels.triton_norms',
    'quantize_rows': 'quantvla_ros.kernels.triton_norms',
    'normed': 'quantvla_ros.kernels.triton_norms',
    'linear': 'quantvla_ros.kernels.triton_gemm_launch',
    'linear_norm': 'quantvla_ros.kernels.triton_gemm_launch',
    'gated_linear': 'quantvla_ros.kernels.triton_gemm_launch',
    'attention_inputs': 'quantvla_ros.kernels.triton_gemm_launch',
    'attention': 'quantvla_ros.kernels.triton_attention',
}


def unavailable(device: torch.device) -> str | None:
    """Why Triton does not run the operations on `device`; None: it does."""
    return triton_int8.unavailable(device)


def rms_norm(x: Tensor, weight: Tensor | None, **options: Any) -> Tensor | Quantized:
    """As `fused_reference.rms_norm`."""
    return _module('rms_norm', x).rms_norm(x, weight, **options)


def layer_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, **options: Any
) -> Tensor | Quantized:
    """As `fused_reference.layer_norm`."""
    return _module('layer_norm', x).layer_norm(x, weight, bias, **options)


def normed(x: Tensor, norm: Norm) -> Tensor | Quantized:
    """As `fused_reference.normed`."""
    return _module('normed', x).normed(x, norm)


def quantize_rows(x: Tensor, rows: Rows) -> Quantized:
    """As `fused_reference.quantize_rows`."""
    return _module('quantize_rows', x).quantize_rows(x, rows)


def linear(
    x: Tensor | Quantized,
    weight: Weight,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
    gate: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """As `fused_reference.linear`.

    Rounded once, at the end; but where cuBLAS has it (16 bits on a GPU, many rows, a bias and no
    residual) GELU may be of a product that is rounded too, as in the network.
    """
    module = _module('linear', x)
    options: dict[str, Any] = {'activation': activation, 'residual': residual, 'gate': gate}
    if module is fused_reference:
        return module.linear(x, weight, out=out, **options)
    if _composed(weight):
        return fused_reference.finish_linear(_product(x, weight), x.dtype, out=out, **options)
    read = _operand(x, weight)
    if isinstance(x, Tensor) and out is None and residual is None and read.dtype != x.dtype:
        out = x.new_empty((x.shape[0], weight.outputs))
    return module.linear(read, weight, out=out, **options)


def linear_norm(
    x: Tensor | Quantized,
    weight: Weight,
    norm: Norm,
    *,
    residual: Tensor,
    gate: Tensor | None = None,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor | Quantized]:
    """As `fused_reference.linear_norm`."""
    module = _module('linear_norm', x)
    if module is fused_reference or not _composed(weight):
        read = x if module is fused_reference else _operand(x, weight)
        return module.linear_norm(read, weight, norm, residual=residual, gate=gate, out=out)
    y = linear(x, weight, residual=residual, gate=gate, out=out)
    return y, normed(y, norm)


def gated_linear(
    x: Tensor | Quantized, weight: Weight, *, activation: str, out: Tensor | None = None
) -> Tensor:
    """As `fused_reference.gated_linear`."""
    module = _module('gated_linear', x)
    if module is fused_reference:
        return module.gated_linear(x, weight, activation=activation, out=out)
    if _composed(weight):
        interleaved = not isinstance(weight, Stacked)
        y = _product(x, weight)
        return fused_reference.finish_gated(y, x.dtype, activation, out, interleaved)
    return module.gated_linear(_operand(x, weight), weight, activation=activation, out=out)


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
    """As `fused_reference.attention_inputs`."""
    module = _module('attention_inputs', x)
    norms: dict[str, Any] = {'q_norm': q_norm, 'k_norm': k_norm, 'eps': eps}
    if module is not fused_reference:
        if _composed(weight):
            y = _product(x, weight).unflatten(-1, (heads + 2 * kv_heads, head_dim))
            return fused_reference.finish_attention_inputs(
                y, x.dtype, rotary, heads, keys, values, first, **norms
            )
        x = _operand(x, weight)
    return module.attention_inputs(
        x, weight, rotary, heads, kv_heads, head_dim, keys, values, first, **norms
    )


def attention(queries: Tensor, keys: Tensor, values: Tensor, **options: Any) -> Tensor:
    """As `fused_reference.attention`."""
    return _module('attention', queries).attention(queries, keys, values, **options)


def prepared(weight: Weight) -> Any:
    """The weight as its device's kernels read it; done once, where a network is loaded."""
    if isinstance(weight, Stacked):
        return Stacked(tuple(prepared(part) for part in weight.parts))
    if isinstance(weight, Int4Weight) and unavailable(weight.packed.device) is None:
        return halved(weight)
    return weight


def _module(name: str, x: Tensor | Quantized) -> ModuleType:
    device = x.values.device if isinstance(x, Quantized) else x.device
    return _implementation(name, device.type, device.index)


@functools.cache
def _implementation(name: str, kind: str, index: int | None) -> ModuleType:
    device = torch.device(kind) if index is None else torch.device(kind, index)
    reason = unavailable(device)
    if reason is None:
        return importlib.import_module(_TRITON[name])
    if device.type == 'cpu':
        return fused_reference
    # The definition would run there too, a thousand times slower: nobody means that.
    raise BackendError(f'fused operations on {device}: {reason}')


def _composed(weight: Weight) -> bool:
    """No one kernel multiplies by this weight."""
    return isinstance(weight, Stacked) or getattr(weight, 'turn', None) is not None


def _operand(x: Tensor | Quantized, weight: Any) -> Any:
    """X as one product reads it: in integers before integers, else in the weight's own type."""
    if isinstance(x, Quantized):
        return x
    if isinstance(weight, FloatWeight):
        return x.to(weight.weight.dtype)
    return quantize_rows(x, weight.rows)


def _product(x: Tensor | Quantized, weight: Any) -> Tensor:
    """[M, N] float32: products of the parts side by side, turned, with their biases."""
    if isinstance(weight, Stacked):
        return torch.cat([_product(x, part) for part in weight.parts], dim=-1)
    x = _operand(x, weight)
    values = x.values if isinstance(x, Quantized) else x
    shape = (values.shape[0], weight.outputs)
    y = torch.empty(shape, dtype=torch.float32, device=values.device)
    turn = getattr(weight, 'turn', None)
    if turn is None:
        return linear(x, weight, out=y)
    linear(x, replace(weight, bias=None, turn=None), out=y)
    y = fused_reference.turned(y, turn)
    return y if weight.bias is None else y + weight.bias.float()
