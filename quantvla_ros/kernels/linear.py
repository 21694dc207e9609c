# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The one interface to INT8 linears: int8 or packed 4-bit weights, activations quantized here.

Knows which backend serves which device; knows nothing of models, recipes or how a kernel works.
`reference` defines the result. A backend is a module of three functions (`unavailable`,
`quantize_rows`, `scaled_matmul`) and, where it multiplies packed weights as they are, a fourth,
`packed_linear`; adding one adds a file and one line here.
"""
from __future__ import annotations

import functools
import importlib
from types import ModuleType

import torch
from torch import Tensor

from quantvla_ros.errors import BackendError
from quantvla_ros.kernels.packing import expand
from quantvla_ros.kernels.reference import MAX_COLUMNS
from quantvla_ros.kernels.rows import Rows

__all__ = ['BACKENDS', 'Rows', 'available_backends', 'int4_linear', 'int8_linear']

# In the order of preference on a device. Modules are imported when asked for.
BACKENDS = {
    'torch': 'quantvla_ros.kernels.onednn',  # CPUs with an exact int8 dot product
    'blocked': 'quantvla_ros.kernels.blocked',  # any CPU
    'triton': 'quantvla_ros.kernels.triton_int8',  # NVIDIA GPUs
}
_REFERENCE = 'quantvla_ros.kernels.reference'
_DYNAMIC = Rows()


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
    rows: Rows = _DYNAMIC,
    backend: str | None = None,
) -> Tensor:
    """`x' @ (weight_scale * weight_q).T + bias`, x' being the rows of x quantized as `rows` says.

    Args:
        x: [..., K] float32, bfloat16 or float16; any number of rows, none included.
        weight_q: [N, K] int8, contiguous. weight_scale: [N] float32.
        bias: [N] or None.
        rows: how x becomes integers; by default 8 bits, each row by its own largest magnitude.
        backend: a name of `available_backends`, or 'reference'; None takes the preferred one.
    Returns:
        [..., N] of x's dtype. A row of x with a NaN or an infinity gives a row of NaN.
    Raises:
        BackendError: the backend is not there on x's device, or the shapes or dtypes do not fit.
    """
    _check_matrix('weight_q', weight_q, torch.int8)
    outputs, columns = weight_q.shape
    _check(x, outputs, columns, {'weight_q': weight_q}, weight_scale, bias, rows)
    module = _module(backend, x.device)
    flat = x.reshape(-1, columns)
    shape = (*x.shape[:-1], outputs)
    if flat.shape[0] == 0:
        return x.new_empty(shape)
    q, scale = module.quantize_rows(flat, rows)
    return module.scaled_matmul(q, scale, weight_q, weight_scale, bias, x.dtype).reshape(shape)


def int4_linear(
    x: Tensor,
    weight_packed: Tensor,
    group_scale: Tensor | None,
    group: int,
    weight_scale: Tensor,
    bias: Tensor | None = None,
    *,
    rows: Rows = _DYNAMIC,
    backend: str | None = None,
) -> Tensor:
    """`int8_linear` with the int8 weights that packed ones stand for (see `packing`).

    A backend without packed weights expands them at every call; who has the memory expands once
    and calls `int8_linear`.

    Args:
        x, weight_scale, bias, rows, backend: as for `int8_linear`; K even.
        weight_packed: [N, K / 2] uint8, contiguous.
        group_scale: [N, ceil(K / group)] uint8 in 1..15, contiguous, or None.
        group: columns that share a group scale, even; 0 without group_scale.
    Returns, raises:
        As `int8_linear`.
    """
    _check_matrix('weight_packed', weight_packed, torch.uint8)
    outputs, columns = weight_packed.shape[0], 2 * weight_packed.shape[1]
    weights = {'weight_packed': weight_packed}
    if group_scale is not None:
        _check_groups(group_scale, group, outputs, columns)
        weights['group_scale'] = group_scale
    elif group != 0:
        raise BackendError(f'group: expected 0 without group_scale, found {group}')
    _check(x, outputs, columns, weights, weight_scale, bias, rows)
    module = _module(backend, x.device)
    flat = x.reshape(-1, columns)
    shape = (*x.shape[:-1], outputs)
    if flat.shape[0] == 0:
        return x.new_empty(shape)
    if hasattr(module, 'packed_linear'):
        y = module.packed_linear(flat, weight_packed, group_scale, group, weight_scale, bias, rows)
    else:
        q, scale = module.quantize_rows(flat, rows)
        weight_q = expand(weight_packed, group_scale, group)
        y = module.scaled_matmul(q, scale, weight_q, weight_scale, bias, x.dtype)
    return y.reshape(shape)


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


def _check_matrix(name: str, weight: Tensor, dtype: torch.dtype) -> None:
    if weight.dtype != dtype or weight.dim() != 2 or not weight.is_contiguous():
        raise BackendError(
            f'{name}: expected a contiguous [N, {"K" if dtype == torch.int8 else "K / 2"}] '
            f'{str(dtype).removeprefix("torch.")} tensor, found {weight.dtype} {list(weight.shape)}'
        )


def _check_groups(group_scale: Tensor, group: int, outputs: int, columns: int) -> None:
    if group < 2 or group % 2:
        raise BackendError(f'group: expected an even number of columns, found {group}')
    groups = -(-columns // group)
    if (
        group_scale.dtype != torch.uint8
        or group_scale.shape != (outputs, groups)
        or not group_scale.is_contiguous()
    ):
        raise BackendError(
            f'group_scale: expected contiguous uint8 [{outputs}, {groups}], found '
            f'{group_scale.dtype} {list(group_scale.shape)}'
        )


def _check(
    x: Tensor,
    outputs: int,
    columns: int,
    weights: dict[str, Tensor],
    weight_scale: Tensor,
    bias: Tensor | None,
    rows: Rows,
) -> None:
    if not x.is_floating_point() or x.dim() == 0 or x.shape[-1] != columns:
        raise BackendError(
            f'x: expected floating point [..., {columns}], found {x.dtype} {list(x.shape)}'
        )
    if columns == 0 or columns > MAX_COLUMNS:
        raise BackendError(
            f'{next(iter(weights))}: expected K from 1 to {MAX_COLUMNS}, found {columns} columns'
        )
    if weight_scale.dtype != torch.float32 or weight_scale.shape != (outputs,):
        raise BackendError(
            f'weight_scale: expected float32 [{outputs}], found {weight_scale.dtype} '
            f'{list(weight_scale.shape)}'
        )
    if bias is not None and bias.shape != (outputs,):
        raise BackendError(f'bias: expected [{outputs}], found {list(bias.shape)}')
    rotation, permutation = rows.rotation, rows.permutation
    if rotation is not None and not (
        (rotation.dim() == 2
        and columns % rows.block == 0)
        or (rotation.dim() == 3
        and columns == rotation.shape[0] * rows.block)
    ):
        raise BackendError(
            f'rows.rotation: expected [B, B] or [{columns} / B, B, B] with B a divisor of '
            f'{columns}, found {list(rotation.shape)}'
        )
    if permutation is not None and permutation.shape != (columns,):
        raise BackendError(
            f'rows.permutation: expected [{columns}], found {list(permutation.shape)}'
        )
    tensors = {
        **weights,
        'weight_scale': weight_scale,
        'bias': bias,
        'rows.scale': rows.scale,
        'rows.rotation': rotation,
        'rows.permutation': permutation,
    }
    for name, tensor in tensors.items():
        if tensor is not None and tensor.device != x.device:
            raise BackendError(f'{name}: expected on {x.device} like x, found on {tensor.device}')
