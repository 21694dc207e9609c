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

Beside the end of the kernel before (see `triton_start`) a norm loads all that does not change: its
weights or modulation, permutation and rotation; where it finishes a product, also scales, bias,
gate and residual. These were written before that product, which has waited for what is before it
when it lets a norm come. The sums, and x where nothing is finished, are all that is waited for.

A row with a value that is not finite, or whose squares overflow float32 (beyond 1e19), becomes NaN:
`x / inf` would be a row of plausible zeros.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
import triton
import triton.language as tl
from torch import Tensor

from quantvla_ros.errors import BackendError
from quantvla_ros.kernels import triton_int8
from quantvla_ros.kernels.fused_types import Norm, Quantized
from quantvla_ros.kernels.gpu import launch_options
from quantvla_ros.kernels.reference import SMALLEST
from quantvla_ros.kernels.rows import Rows
from quantvla_ros.kernels.triton_rows import _integers, _magnitudes, _static, _step
from quantvla_ros.kernels.triton_start import release, wait

LONGEST = 16384  # a row is held in registers
LARGEST_BLOCK = 128  # of a rotation: larger ones do not fit into the shared memory
# What the compiler may use. Without a bound it keeps to few, and asks for some parts of a product
# only after others have come: each turn is a trip to the L2.
REGISTERS = 255

# Rotations in the type that the tensor cores take, by the settings they belong to.
_prepared: WeakKeyDictionary[Rows, dict[torch.dtype, tuple[Tensor, str]]] = WeakKeyDictionary()


@triton.jit
def _inverse_deviation(squares, WIDTH, eps):
    """1 / sqrt(mean of squares + eps); NaN where the squares have overflowed."""
    inverse = 1.0 / tl.sqrt_rn(squares / WIDTH + eps)
    return tl.where(squares < float('inf'), inverse, float('nan'))


@triton.jit
def _vectors(
    weight_ptr,
    bias_ptr,
    scale_ptr,
    shift_ptr,
    sources,
    inside,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    MODULATED: tl.constexpr,
):
    """What a norm multiplies by and adds, in turn, as stored; nothing where it does not."""
    weight, bias, scale, shift = 1.0, 0.0, 0.0, 0.0
    if HAS_WEIGHT:
        weight = tl.load(weight_ptr + sources, mask=inside, other=0.0)
    if HAS_BIAS:
        bias = tl.load(bias_ptr + sources, mask=inside, other=0.0)
    if MODULATED:
        scale = tl.load(scale_ptr + sources, mask=inside, other=0.0)
        shift = tl.load(shift_ptr + sources, mask=inside, other=0.0)
    return weight, bias, scale, shift


@triton.jit
def _stretched(
    y,
    weight,
    bias,
    scale,
    shift,
    offset,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    MODULATED: tl.constexpr,
):
    """A row by what `_vectors` gives; float32."""
    if HAS_WEIGHT:
        y = y * (offset + weight.to(tl.float32))
    if HAS_BIAS:
        y = y + bias.to(tl.float32)
    if MODULATED:
        y = y * (1.0 + scale.to(tl.float32)) + shift.to(tl.float32)
    return y


@triton.jit
def _rotation_tile(rotation_ptr, B: tl.constexpr, BLOCK: tl.constexpr):
    """A rotation [B, B], zeros around it."""
    inner = tl.arange(0, BLOCK)
    corner = (inner[:, None] < B) & (inner[None, :] < B)
    return tl.load(rotation_ptr + inner[:, None] * B + inner[None, :], mask=corner, other=0.0)


@triton.jit
def _turned(y, rotation, PRECISION: tl.constexpr):
    """Blocks [.., BLOCK] in x's type times the rotation; float32."""
    if PRECISION == 'own':
        return tl.dot(y, rotation)
    else:
        return tl.dot(y.to(tl.float32), rotation.to(tl.float32), input_precision=PRECISION)


@triton.jit
def _rounded(y, kind: tl.constexpr, PTX: tl.constexpr):
    """Float32 rounded to `kind`."""
    if PTX and kind == tl.bfloat16:  # two at a time: one alone is a conversion of a quarter rate
        return tl.inline_asm_elementwise(
            'cvt.rn.bf16x2.f32 $0, $2, $1;',
            constraints='=r,r,r',
            args=[y],
            dtype=tl.bfloat16,
            is_pure=True,
            pack=2,
        )
    else:
        return y.to(kind)


@triton.jit
def _finish_with(
    row_scale_ptr,
    w_scale_ptr,
    w_bias_ptr,
    residual_ptr,
    gate_ptr,
    row,
    sources,
    inside,
    WIDTH,
    INTEGER: tl.constexpr,
    PLUS_BIAS: tl.constexpr,
    GATED: tl.constexpr,
):
    """What finishes a row of a product, as stored: scales, bias, gate and residual."""
    row_scale, w_scale, w_bias, gate = 1.0, 1.0, 0.0, 1.0
    if INTEGER:
        row_scale = tl.load(row_scale_ptr + row, cache_modifier='.cg')
        w_scale = tl.load(w_scale_ptr + sources, mask=inside, other=0.0)
    if PLUS_BIAS:
        w_bias = tl.load(w_bias_ptr + sources, mask=inside, other=0.0)
    if GATED:
        gate = tl.load(gate_ptr + sources, mask=inside, other=0.0)
    # From the L2: whatever the caches of this multiprocessor hold of it may be older.
    at = residual_ptr + row * WIDTH + sources
    residual = tl.load(at, mask=inside, other=0.0, cache_modifier='.cg')
    return row_scale, w_scale, w_bias, gate, residual


@triton.jit
def _joined(
    sums_ptr,
    row_scale,
    w_scale,
    w_bias,
    gate,
    residual,
    row,
    sources,
    inside,
    M,
    WIDTH,
    PARTS: tl.constexpr,
    INTEGER: tl.constexpr,
    SIXTEENTHS: tl.constexpr,
    PLUS_BIAS: tl.constexpr,
    GATED: tl.constexpr,
):
    """A row of what `gemm_kernel` has left unfinished, finished as a product with a residual is."""
    at = sums_ptr + row * WIDTH + sources
    sums = tl.load(at, mask=inside, other=0)
    for _ in tl.static_range(PARTS - 1):
        at += M.to(tl.int64) * WIDTH
        sums += tl.load(at, mask=inside, other=0)
    y = sums.to(tl.float32)
    if INTEGER:
        if SIXTEENTHS:
            y *= 0.0625  # the 16 of `_halves`; exact
        y = y * row_scale
        y = y * w_scale
    if PLUS_BIAS:
        y += w_bias.to(tl.float32)
    if GATED:
        y *= gate.to(tl.float32)
    return y + residual.to(tl.float32)


@triton.jit
def _largest(y):
    """The largest of `_magnitudes` in a row [blocks, block]."""
    if y.dtype == tl.bfloat16:  # they are as ordered by the half of float32 that they are
        magnitudes = (y.to(tl.int16, bitcast=True) & 0x7FFF).to(tl.int32)
        return tl.max(tl.max(magnitudes, axis=1), axis=0) << 16
    else:
        return tl.max(tl.max(_magnitudes(y.to(tl.float32)), axis=1), axis=0)


@triton.jit(do_not_specialize=['M'])
def norm_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    modulation_scale_ptr,
    modulation_shift_ptr,
    order_ptr,
    rotation_ptr,
    step_ptr,
    y_ptr,
    scale_ptr,
    sums_ptr,
    row_scale_ptr,
    w_scale_ptr,
    w_bias_ptr,
    residual_ptr,
    gate_ptr,
    x_stride,
    M,
    WIDTH: tl.constexpr,
    eps,
    offset,
    PARTS: tl.constexpr,
    INTEGER: tl.constexpr,
    SIXTEENTHS: tl.constexpr,
    PLUS_BIAS: tl.constexpr,
    GATED: tl.constexpr,
    NORMED: tl.constexpr,
    CENTERED: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    MODULATED: tl.constexpr,
    QUANTIZED: tl.constexpr,
    PERMUTED: tl.constexpr,
    ROTATED: tl.constexpr,
    STATIC: tl.constexpr,
    LARGEST: tl.constexpr,
    SMALLEST: tl.constexpr,
    PRECISION: tl.constexpr,
    B: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    PTX: tl.constexpr,
    AHEAD: tl.constexpr,
):
    """One program per row of x [M, WIDTH]: y [M, WIDTH] of its own type, or int8 with scale [M].

    The row is a tile of its blocks, [BLOCKS, BLOCK], which a rotation [B, B] multiplies at once;
    without a rotation it is one block of LONGEST columns at most. Not NORMED, the row is quantized
    as it is. With PARTS the row is first made, and stored in x, of the unfinished sums of a product
    [PARTS, M, WIDTH] and a residual.
    """
    release(AHEAD)
    row = tl.program_id(0).to(tl.int64)
    inner = tl.arange(0, BLOCK)
    columns = tl.arange(0, BLOCKS)[:, None] * B + inner[None, :]
    if B == BLOCK and BLOCKS * B == WIDTH:
        inside = tl.full((BLOCKS, BLOCK), True, dtype=tl.int1)  # no masks remain
    else:
        inside = (columns < WIDTH) & (inner[None, :] < B)
    # Before the wait only what the kernel before does not write, see above.
    if PERMUTED:
        sources = tl.load(order_ptr + columns, mask=inside, other=0)
    else:
        sources = columns
    weight, bias, modulation_scale, modulation_shift = _vectors(
        weight_ptr, bias_ptr, modulation_scale_ptr, modulation_shift_ptr, sources, inside,
        HAS_WEIGHT, HAS_BIAS, MODULATED,
    )  # fmt: skip
    step = _static(step_ptr, STATIC)
    if ROTATED:
        rotation = _rotation_tile(rotation_ptr, B, BLOCK)
    if PARTS > 0:
        row_scale, w_scale, w_bias, gate, residual = _finish_with(
            row_scale_ptr, w_scale_ptr, w_bias_ptr, residual_ptr, gate_ptr, row, sources, inside,
            WIDTH, INTEGER, PLUS_BIAS, GATED,
        )  # fmt: skip
    wait(AHEAD)
    if PARTS > 0:
        x = _joined(
            sums_ptr, row_scale, w_scale, w_bias, gate, residual, row, sources, inside, M, WIDTH,
            PARTS, INTEGER, SIXTEENTHS, PLUS_BIAS, GATED,
        )  # fmt: skip
        stored = _rounded(x, x_ptr.dtype.element_ty, PTX)
        tl.store(x_ptr + row * x_stride + sources, stored, mask=inside)
        x = tl.where(inside, stored.to(tl.float32), 0.0)
    else:
        stored = tl.load(x_ptr + row * x_stride + sources, mask=inside, other=0.0)
        x = stored.to(tl.float32)
    if CENTERED:
        mean = tl.sum(tl.sum(x, axis=1), axis=0) / WIDTH
        x = tl.where(inside, x - mean, 0.0)
    if NORMED:
        x *= _inverse_deviation(tl.sum(tl.sum(x * x, axis=1), axis=0), WIDTH, eps)
    y = _stretched(
        x, weight, bias, modulation_scale, modulation_shift, offset, HAS_WEIGHT, HAS_BIAS, MODULATED
    )
    if NORMED or not QUANTIZED:
        y = _rounded(y, x_ptr.dtype.element_ty, PTX)
    else:
        y = stored  # a long row need not lie in the registers as float32
    if QUANTIZED:
        if ROTATED:
            y = _turned(y, rotation, PRECISION)
        # A shift or a NaN beyond the edge must not decide about the scale.
        y = tl.where(inside, y, 0.0)
        largest = _largest(y)
        y = y.to(tl.float32)
        scale, inverse, usable = _step(largest, step, LARGEST, SMALLEST, STATIC)
        tl.store(scale_ptr + row, tl.where(usable, scale, float('nan')))
        y = _integers(y, inverse, usable, LARGEST, STATIC)
    tl.store(y_ptr + row * WIDTH + columns, y, mask=inside)


@triton.jit
def norm_blocks_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    modulation_scale_ptr,
    modulation_shift_ptr,
    order_ptr,
    rotation_ptr,
    step_ptr,
    y_ptr,
    scale_ptr,
    x_stride,
    M,
    WIDTH,
    eps,
    offset,
    CENTERED: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    MODULATED: tl.constexpr,
    PERMUTED: tl.constexpr,
    STATIC: tl.constexpr,
    LARGEST: tl.constexpr,
    SMALLEST: tl.constexpr,
    PRECISION: tl.constexpr,
    B: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    AHEAD: tl.constexpr,
):
    """`norm_kernel` with a rotation for each block, [WIDTH / B, B, B]; a program has ROWS rows.

    The rows are read from the cache again for each pass: mean, squares, maxima, integers.
    """
    release(AHEAD)
    step = _static(step_ptr, STATIC)
    wait(AHEAD)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = rows < M
    inner = tl.arange(0, BLOCK)
    within = inner < B
    # Rows beyond the edge read row 0; they are never stored.
    x_rows = x_ptr + tl.where(there, rows, 0).to(tl.int64)[:, None] * x_stride
    y_rows = y_ptr + tl.where(there, rows, 0).to(tl.int64)[:, None] * WIDTH
    mean = tl.zeros((ROWS,), dtype=tl.float32)
    if CENTERED:
        for start in range(0, WIDTH, B):
            x = tl.load(x_rows + (start + inner)[None, :], mask=within[None, :], other=0.0)
            mean += tl.sum(x.to(tl.float32), axis=1)
        mean = mean / WIDTH
    squares = tl.zeros((ROWS,), dtype=tl.float32)
    for start in range(0, WIDTH, B):
        x = tl.load(x_rows + (start + inner)[None, :], mask=within[None, :], other=0.0)
        x = tl.where(within[None, :], x.to(tl.float32) - mean[:, None], 0.0)
        squares += tl.sum(x * x, axis=1)
    deviation = _inverse_deviation(squares, WIDTH, eps)
    largest = tl.zeros((ROWS,), dtype=tl.int32)
    scale, inverse, usable = _step(largest, step, LARGEST, SMALLEST, STATIC)
    for turn in tl.static_range(2):
        if turn == 1:
            scale, inverse, usable = _step(largest, step, LARGEST, SMALLEST, STATIC)
            tl.store(scale_ptr + rows, tl.where(usable, scale, float('nan')), mask=there)
        for start in range(0, WIDTH, B):
            columns = start + inner
            if PERMUTED:
                sources = tl.load(order_ptr + columns, mask=within, other=0)
            else:
                sources = columns
            x = tl.load(x_rows + sources[None, :], mask=within[None, :], other=0.0).to(tl.float32)
            y = (x - mean[:, None]) * deviation[:, None]
            weight, bias, modulation_scale, modulation_shift = _vectors(
                weight_ptr, bias_ptr, modulation_scale_ptr, modulation_shift_ptr,
                sources[None, :], within[None, :], HAS_WEIGHT, HAS_BIAS, MODULATED,
            )  # fmt: skip
            y = _stretched(
                y, weight, bias, modulation_scale, modulation_shift, offset,
                HAS_WEIGHT, HAS_BIAS, MODULATED,
            )  # fmt: skip
            # What lies beyond the block meets zeros of the rotation, and zero times NaN is NaN.
            y = tl.where(within[None, :], y, 0.0).to(x_ptr.dtype.element_ty)
            y = _turned(y, _rotation_tile(rotation_ptr + start * B, B, BLOCK), PRECISION)
            if turn == 0:
                largest = tl.maximum(largest, tl.max(_magnitudes(y), axis=1))
            else:
                q = _integers(y, inverse[:, None], usable[:, None], LARGEST, STATIC)
                tl.store(y_rows + columns[None, :], q, mask=there[:, None] & within[None, :])


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
