# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The one interface to INT8 linears: int8 weights, dynamic per-token int8 activations.

Knows which backend serves which device; knows nothing of models, recipes or how a kernel works.
`reference` defines the result. A backend is a module of three functions (`unavailable`,
`quantize_rows`, `scaled_matmul`); adding one adds a file and one line here.
"""
from __future__ import annotations

import functools
import importlib
from types import ModuleType

import torch
from torch import Tensor

from quantvla_ros.errors import BackendError
from quantvla_ros.kernels.reference import MAX_COLUMNS

# In the order of preference on a device. Modules are imported when asked for.
BACKENDS = {
    'torch': 'quantvla_ros.kernels.onednn',  # CPUs with an exact int8 dot product
    'blocked': 'quantvla_ros.kernels.blocked',  # any CPU
    'triton': 'quantvla_ros.kernels.triton_int8',  # NVIDIA GPUs
}
_REFERENCE = 'quantvla_ros.kernels.reference'


def available_backends(device: torch.device | str) -> tuple[str, ...]:
    """Names of the backends that run on `device`, the preferred one first."""
    device = torch.device(device)
    return tuple(name for name in BACKENDS if _unavailable(name, device) is None)


def int8_linear(
    x: Tensor,
    weight_q: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None = None,
    *,
    backend: str | None = None,
) -> Tensor:
    """`x @ (weight_scale * weight_q).T + bias` with the rows of x quantized to int8 on the way.

    Args:
        x: [..., K] float32, bfloat16 or float16; any number of rows, none included.
        weight_q: [N, K] int8, contiguous. weight_scale: [N] float32.
        bias: [N] or None.
        backend: a name of `available_backends`, or 'reference'; None takes the preferred one.
    Returns:
        [..., N] of x's dtype. A row of x with a NaN or an infinity gives a row of NaN.
    Raises:
        BackendError: the backend is not there on x's device, or the shapes or dtypes do not fit.
    """
    _check(x, weight_q, weight_scale, bias)
    module = _module(backend, x.device)
    rows = x.reshape(-1, x.shape[-1])
    shape = (*x.shape[:-1], weight_q.shape[0])
    if rows.shape[0] == 0:
        return x.new_empty(shape)
    q, scale = module.quantize_rows(rows)
    return module.scaled_matmul(q, scale, weight_q, weight_scale, bias, x.dtype).reshape(shape)


def _module(name: str | None, device: torch.device) -> ModuleType:
    if name == 'reference':
        return importlib.import_module(_REFERENCE)
    if name is None:
        name = _preferred(device.type, device.index)
    reason = _unavailable(name, device)
    if reason is not None:
        found = ', '.join(available_backends(device)) or 'none'
        raise BackendError(
            f'int8 backend {name!r} on {device}: {reason}; available here: {found}'
        )
    return importlib.import_module(BACKENDS[name])


@functools.cache
def _preferred(kind: str, index: int | None) -> str:
    device = torch.device(kind) if index is None else torch.device(kind, index)
    names = available_backends(device)
    if not names:
        reasons = '; '.join(f'{name}: {_unavailable(name, device)}' for name in BACKENDS)
        raise BackendError(f'no int8 backend runs on {device} ({reasons})')
    return names[0]


def _unavailable(name: str, device: torch.device) -> str | None:
    if name not in BACKENDS:
        return f'there is no such backend (there are {", ".join(BACKENDS)})'
    return importlib.import_module(BACKENDS[name]).unavailable(device)


def _check(x: Tensor, weight_q: Tensor, weight_scale: Tensor, bias: Tensor | None) -> None:
    if weight_q.dtype != torch.int8 or weight_q.dim() != 2 or not weight_q.is_contiguous():
        raise BackendError(
            'weight_q: expected a contiguous [N, K] int8 tensor, found '
            f'{weight_q.dtype} {list(weight_q.shape)}'
        )
    outputs, columns = weight_q.shape
    if not x.is_floating_point() or x.dim() == 0 or x.shape[-1] != columns:
        raise BackendError(
            f'x: expected floating point [..., {columns}], found {x.dtype} {list(x.shape)}'
        )
    if columns == 0 or columns > MAX_COLUMNS:
        raise BackendError(f'weight_q: expected 1 to {MAX_COLUMNS} columns, found {columns}')
    if weight_scale.dtype != torch.float32 or weight_scale.shape != (outputs,):
        raise BackendError(
            f'weight_scale: expected float32 [{outputs}], found {weight_scale.dtype} '
            f'{list(weight_scale.shape)}'
        )
    if bias is not None and bias.shape != (outputs,):
        raise BackendError(f'bias: expected [{outputs}], found {list(bias.shape)}')
    others = [tensor for tensor in (weight_q, weight_scale, bias) if tensor is not None]
    if any(tensor.device != x.device for tensor in others):
        raise BackendError(f'weights: expected on {x.device} like x, found on {weight_q.device}')
