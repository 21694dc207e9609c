# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""RMS and layer norms on a GPU, modulated or not, their result a tensor or int8 rows: one kernel.

Knows tensors and sizes; knows nothing of models or recipes. Needs triton, so it is imported where
a norm is launched. `fused_reference` defines the results.

A norm that ends in integers rounds its result to x's type first, as a layer would read it, then
permutes, rotates and quantizes it as `Rows` says. Sums over a row do not depend on the order of its
columns, so a permutation is how the row is loaded and costs nothing else. A rotation runs on the
tensor cores: in x's own type where it holds the rotation exactly (a Hadamard matrix in bfloat16),
else in one TF32 product where TF32 does (16-bit blocks), else in three.

A row with a value that is not finite, or whose squares overflow float32 (beyond 1e19), becomes NaN:
`x / inf` would be a row of plausible zeros.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
import triton
from torch import Tensor

from quantvla_ros.errors import BackendError
from quantvla_ros.kernels import triton_int8
from quantvla_ros.kernels.fused_types import Norm, Quantized
from quantvla_ros.kernels.gpu import launch_options
from quantvla_ros.kernels.reference import SMALLEST
from quantvla_ros.kernels.rows import Rows
from quantvla_ros.kernels.triton_norm_kernels import norm_blocks_kernel, norm_kernel

LONGEST = 16384  # a row is held in registers
LARGEST_BLOCK = 128  # of a rotation: larger ones do not fit into the shared memory
# What the compiler may use. Without a bound it keeps to few, and asks for some parts of a product
# only after others have come: each turn is a trip to the L2.
REGISTERS = 255

# Rotations in the type that the tensor cores take, by the settings they belong to.
_prepared: WeakKeyDictionary[Rows, dict[torch.dtype, tuple[Tensor, str]]] = WeakKeyDictionary()


def rms_norm(
    x: Tensor,
    weight: Tensor | None,
    *,
    eps: float,
    offset: float = 0.0,
    modulation: tuple[Tensor, Tensor] | None = None,
    rows: Rows | None = None,
    out: Tensor | Quantized | None = None,
) -> Tensor | Quantized:
    """`fused_reference.rms_norm` in one kernel.

    Args:
        x: [M, W], columns side by side; rows may lie further apart.
        out: written and returned instead of something new.
    Raises:
        BackendError: sizes that do not fit, both a weight and a modulation, a row too long, or a
            block of the rotation too large.
    """
    if weight is not None and modulation is not None:
        raise BackendError('rms_norm: expected a weight or a modulation, found both')
    return _norm(x, weight, None, eps, modulation, rows, out, offset=offset)


def layer_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    eps: float,
    modulation: tuple[Tensor, Tensor] | None = None,
    rows: Rows | None = None,
    out: Tensor | Quantized | None = None,
) -> Tensor | Quantized:
    """`fused_reference.layer_norm` in one kernel; x, out and errors as for `rms_norm`."""
    return _norm(x, weight, bias, eps, modulation, rows, out, centered=True)


@dataclass(frozen=True, eq=False)
class Unfinished:
    """A product that `triton_gemm` has left as sums, and what finishes its rows.

    Attributes:
        sums: [parts, M, W] int32 or float32.
        row_scale, scale: [M] and [W] float32 of integers; None: the sums are of floats.
        sixteenths: the sums are 16 times what they are.
        bias, gate: [W] or None.
        residual: [M, W].
    """

    sums: Tensor
    row_scale: Tensor | None
    scale: Tensor | None
    sixteenths: bool
    bias: Tensor | None
    gate: Tensor | None
    residual: Tensor


def joins(width: int, rows: Rows | None) -> bool:
    """Whether `norm` can finish a product on its way."""
    return width <= LONGEST and (
        rows is None or rows.rotation is None or rows.rotation.dim() == 2
    )


def normed(x: Tensor, norm: Norm) -> Tensor | Quantized:
    """`fused_reference.normed` in one kernel."""
    return _norm(
        x, norm.weight, norm.bias, norm.eps, norm.modulation, norm.rows, norm.out,
        offset=norm.offset, centered=norm.centered,
    )  # fmt: skip


def finish(product: Unfinished, x: Tensor, norm: Norm) -> Tensor | Quantized:
    """Finish a product into x [M, W], and norm that, in one kernel."""
    return _norm(
        x, norm.weight, norm.bias, norm.eps, norm.modulation, norm.rows, norm.out,
        offset=norm.offset, centered=norm.centered, product=product,
    )  # fmt: skip


def quantize_rows(x: Tensor, rows: Rows) -> Quantized:
    """`fused_reference.quantize_rows`; x and errors as for `rms_norm`.

    In one kernel, but for a rotation of each block and rows too long: there as `triton_int8`.
    """
    width, block = x.shape[-1], rows.block
    tile = _matrix_size(width // block) * _matrix_size(block) if 0 < block <= width else width
    if tile > LONGEST or (rows.rotation is not None and rows.rotation.dim() == 3):
        values, scale = triton_int8.quantize_rows(x, rows)
        return Quantized(values, scale, x.dtype)
    found = _norm(x, None, None, 0.0, None, rows, None, normed=False)
    assert isinstance(found, Quantized)
    return found


def _norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    modulation: tuple[Tensor, Tensor] | None,
    rows: Rows | None,
    out: Tensor | Quantized | None,
    *,
    offset: float = 0.0,
    centered: bool = False,
    normed: bool = True,
    product: Unfinished | None = None,
) -> Tensor | Quantized:
    count, width = x.shape
    scale, shift = (None, None) if modulation is None else modulation
    vectors = {'weight': weight, 'bias': bias, 'scale': scale, 'shift': shift}
    _check(x, vectors, rows)
    y, row_scale = _results(x, rows, out)
    arguments: dict[str, Any] = {
        'x_ptr': x,
        'weight_ptr': x if weight is None else weight,
        'bias_ptr': x if bias is None else bias,
        'modulation_scale_ptr': x if scale is None else scale,
        'modulation_shift_ptr': x if shift is None else shift,
        'order_ptr': x,
        'rotation_ptr': x,
        'step_ptr': x,
        'y_ptr': y,
        'scale_ptr': row_scale,
        'x_stride': x.stride(0),
        'M': count,
        'WIDTH': width,
        'eps': eps,
        'offset': offset,
        'CENTERED': centered,
        'HAS_WEIGHT': weight is not None,
        'HAS_BIAS': bias is not None,
        'MODULATED': modulation is not None,
        'PERMUTED': False,
        'STATIC': False,
        'LARGEST': 127.0,
        'SMALLEST': SMALLEST,
        'PRECISION': 'own',
        'enable_fp_fusion': False,  # a fused multiply-add would round ties unlike the CPU
    }
    block, blocks, apart = width, 1, False
    if rows is not None:
        arguments['LARGEST'] = float(rows.largest)
        if rows.permutation is not None:
            arguments.update(PERMUTED=True, order_ptr=rows.permutation)
        if rows.scale is not None:
            arguments.update(STATIC=True, step_ptr=rows.scale)
        if rows.rotation is not None:
            rotation, precision = _rotation(rows, x.dtype)
            if x.device.type == 'cpu':
                precision = 'tf32'  # the interpreter multiplies the bits of 16-bit numbers
            arguments.update(rotation_ptr=rotation, PRECISION=precision)
            block, blocks, apart = rows.block, width // rows.block, rotation.dim() == 3
    with torch.cuda.device(x.device if x.device.type == 'cuda' else -1):
        if apart:
            size = _matrix_size(block)
            norm_blocks_kernel[(triton.cdiv(count, 16),)](
                **arguments,
                B=block,
                ROWS=16,
                BLOCK=size,
                num_warps=4 if size <= 64 else 8,
                **launch_options(x.device, count),
            )
        else:
            rotated = arguments['rotation_ptr'] is not x
            size = _matrix_size(block) if rotated else triton.next_power_of_2(block)
            high = _matrix_size(blocks) if rotated else 1
            norm_kernel[(count,)](
                **arguments,
                **_product(product, x),
                NORMED=normed,
                QUANTIZED=rows is not None,
                ROTATED=rotated,
                B=block,
                BLOCKS=high,
                BLOCK=size,
                PTX=x.device.type == 'cuda',
                num_warps=4 if size * high <= 4096 else 8,
                **({} if product is None else {'maxnreg': REGISTERS}),
                **launch_options(x.device, count),
            )
    if rows is None:
        return y
    return out if isinstance(out, Quantized) else Quantized(y, row_scale, x.dtype)


def _product(product: Unfinished | None, x: Tensor) -> dict[str, Any]:
    """The kernel's arguments for what is to be finished first."""
    names = ('sums', 'row_scale', 'w_scale', 'w_bias', 'residual', 'gate')
    if product is None:
        switches = ('PARTS', 'INTEGER', 'SIXTEENTHS', 'PLUS_BIAS', 'GATED')
        return {f'{name}_ptr': x for name in names} | dict.fromkeys(switches, 0)
    tensors = (
        product.sums, product.row_scale, product.scale, product.bias, product.residual,
        product.gate,
    )  # fmt: skip
    # An absent one is never read.
    found: dict[str, Any] = {
        f'{name}_ptr': x if tensor is None else tensor
        for name, tensor in zip(names, tensors, strict=True)
    }
    found.update(
        PARTS=product.sums.shape[0],
        INTEGER=product.scale is not None,
        SIXTEENTHS=product.sixteenths,
        PLUS_BIAS=product.bias is not None,
        GATED=product.gate is not None,
    )
    return found


def _check(x: Tensor, vectors: dict[str, Tensor | None], rows: Rows | None) -> None:
    """Raise BackendError for what the kernels would misread."""
    width = x.shape[-1]
    if x.dim() != 2 or not 0 < width <= LONGEST or x.stride(1) != 1 or x.shape[0] == 0:
        raise BackendError(
            f'norm: expected rows [M, 1 to {LONGEST}] with their columns side by side, found '
            f'{list(x.shape)} with strides {x.stride()}'
        )
    for name, vector in vectors.items():
        if vector is not None and (vector.shape != (width,) or vector.stride(0) != 1):
            raise BackendError(
                f'norm: expected {name} [{width}] side by side, found {list(vector.shape)} with '
                f'strides {vector.stride()}'
            )
    if rows is None:
        return
    order, rotation = rows.permutation, rows.rotation
    if order is not None and (order.shape != (width,) or order.stride(0) != 1):
        raise BackendError(f'norm: expected permutation [{width}], found {list(order.shape)}')
    if rotation is not None:
        block = rows.block
        whole = width % block == 0 and rotation.shape[:-2] in ((), (width // block,))
        tile = _matrix_size(width // block) * _matrix_size(block)
        if not whole or block > LARGEST_BLOCK or (rotation.dim() == 2 and tile > LONGEST):
            raise BackendError(
                f'norm: expected rotation [B, B] or [{width} / B, B, B], B up to '
                f'{LARGEST_BLOCK} and a divisor of {width}, found {list(rotation.shape)}'
            )


def _results(
    x: Tensor, rows: Rows | None, out: Tensor | Quantized | None
) -> tuple[Tensor, Tensor]:
    """Where the result goes, and its scales (x where there are none)."""
    if rows is None:
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device) if out is None else out
        if not isinstance(y, Tensor) or y.shape != x.shape or not y.is_contiguous():
            raise BackendError(f'norm: expected out {list(x.shape)}, contiguous')
        return y, x
    if out is None:
        values = torch.empty(x.shape, dtype=torch.int8, device=x.device)
        return values, torch.empty(x.shape[0], dtype=torch.float32, device=x.device)
    if not isinstance(out, Quantized) or out.values.shape != x.shape:
        raise BackendError(f'norm: expected out Quantized {list(x.shape)}')
    return out.values, out.scale


def _rotation(rows: Rows, dtype: torch.dtype) -> tuple[Tensor, str]:
    """The rotation in the type that costs least without an error, and the precision of products.

    Looked at once for each setting: it waits for the device, which a captured graph must not.
    """
    kept = _prepared.setdefault(rows, {})
    if dtype not in kept:
        assert rows.rotation is not None
        rotation = rows.rotation.contiguous()
        kept[dtype] = (rotation.float(), 'tf32x3')
        if dtype in (torch.bfloat16, torch.float16):
            for smaller, precision in ((dtype, 'own'), (torch.float16, 'tf32')):
                rounded = rotation.to(smaller)
                if torch.equal(rounded.double(), rotation.double()):
                    kept[dtype] = (rounded, precision)
                    break
    return kept[dtype]


def _matrix_size(size: int) -> int:
    """The power of two from 16 up that a matrix instruction of `size` rows or columns takes."""
    return max(16, triton.next_power_of_2(size))
