# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the fused products are held to: run interpreted (`python gemm_cases.py NAME`) or on a GPU.

Every result is compared with `fused_reference` in float64. What the kernels write into is poisoned
before each run: numbers that are left there are found.
"""
from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from quantvla_ros.errors import BackendError
from quantvla_ros.kernels import fused_reference as exact
from quantvla_ros.kernels import triton_gemm_launch as fused
from quantvla_ros.kernels.fused_types import (
    FloatWeight,
    Int4Weight,
    Int8Weight,
    Norm,
    Quantized,
    Weight,
)
from quantvla_ros.kernels.gemm_tiles import FEW_ROWS, GemmTile, Product, candidates
from quantvla_ros.kernels.halves import from_halves, halved, to_halves
from quantvla_ros.kernels.packing import pack_int4
from quantvla_ros.kernels.rows import Rows, turn

RELATIVE = {torch.float32: 2e-6, torch.float16: 1.5e-3, torch.bfloat16: 8e-3}
STEEPEST = 1.13  # of GELU: what it makes of an error before it
SMALL = GemmTile(16, 16, 64, 4, 2)
KINDS = ('float32', 'float16', 'bfloat16', 'int8', 'int4', 'int4 of 64', 'int4 of 128')


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """New tensors are full of NaN, or of 77 where there is none."""
    empty = torch.empty

    def full(*args, **kwargs):
        tensor = empty(*args, **kwargs)
        return tensor.fill_(float('nan') if tensor.is_floating_point() else 77)

    torch.empty = full
    try:
        yield
    finally:
        torch.empty = empty


class Case:
    """An input [M, K] and a weight [N, K] of one kind, on a device."""

    def __init__(
        self,
        kind: str,
        rows: int,
        columns: int,
        outputs: int,
        *,
        device: str = 'cpu',
        dtype: torch.dtype = torch.float32,
        bias: bool = True,
        spread: float = 0.0,
    ) -> None:
        self.name = f'{kind}, M {rows}, K {columns}, N {outputs}, {dtype}, bias {bias}'
        self.device, self.kind = device, kind
        b = torch.randn(outputs, device=device) if bias else None
        if kind in ('float32', 'float16', 'bfloat16'):
            self.dtype = getattr(torch, kind)
            self.x = beside_nan(torch.randn(rows, columns, device=device).to(self.dtype))
            w = torch.randn(outputs, columns, device=device) * columns**-0.5
            w = beside_nan(w.to(self.dtype))
            self.weight: Weight = FloatWeight(w, None if b is None else b.to(self.dtype))
            x, w = self.x.double(), w.double()
        else:
            self.dtype = dtype
            q = torch.randint(-127, 128, (rows, columns), device=device, dtype=torch.int8)
            scale = (torch.rand(rows, device=device) + 1e-3) / 127
            scale = scale * 10.0 ** (spread * (2 * torch.rand(rows, device=device) - 1))
            self.x = Quantized(q, scale, dtype)
            step = (torch.rand(outputs, device=device) + 0.1) * columns**-0.5
            if kind == 'int8':
                w = torch.randint(-127, 128, (outputs, columns), device=device, dtype=torch.int8)
                self.weight = Int8Weight(w, step / 127, b, Rows())
            else:
                group = int(kind.split()[-1]) if ' ' in kind else 0
                self.weight = packed(outputs, columns, group, step / 8, b, device)
                w = exact._integers(self.weight)
            x = q.double() * scale.double()[:, None]
            w = w.double() * self.weight.scale.double()[:, None]
        # What the terms of a sum amount to: the unit of its rounding.
        self.size = (x.abs() @ w.abs().t()).amax(1, keepdim=True) + (3.0 if bias else 0.0)

    @property
    def ready(self) -> fused.MatrixWeight:
        return halved(self.weight) if isinstance(self.weight, Int4Weight) else self.weight

    def out(self, outputs: int) -> Tensor:
        """NaN to write to; what lies around it is for `unharmed` to see."""
        count = self.size.shape[0] * outputs
        self.around = torch.full((count + 1024,), 77.0, dtype=self.dtype, device=self.device)
        return self.around[512 : count + 512].view(-1, outputs).fill_(float('nan'))

    def unharmed(self) -> bool:
        """Nothing was written beside the last `out`."""
        return bool((self.around[:512] == 77.0).all() and (self.around[-512:] == 77.0).all())

    def double(self, outputs: int) -> Tensor:
        return self.out(outputs).double()


def beside_nan(x: Tensor) -> Tensor:
    """The same with NaN behind it in memory: who reads there gets them."""
    whole = torch.full((x.numel() + 1024,), float('nan'), dtype=x.dtype, device=x.device)
    return whole[: x.numel()].view(x.shape).copy_(x)


def packed(outputs, columns, group, step, bias, device) -> Int4Weight:
    """Random packed weights with whatever nibbles and group scales there can be."""
    nibbles = torch.randint(
        0, 256, (outputs, columns // 2), dtype=torch.uint8, device=device
    )
    scales = None
    if group:
        shape = (outputs, -(-columns // group))
        scales = torch.randint(1, 16, shape, dtype=torch.uint8, device=device)
        step = step / 15
    return Int4Weight(nibbles, scales, group, step, bias, Rows())


def close(
    found: Tensor, expected: Tensor, size: Tensor, name: str, slack: Tensor | float = 0.0
) -> None:
    assert found.shape == expected.shape, (name, found.shape, expected.shape)
    error = (found.double() - expected).abs()
    # The last rounding is of the result, those before it of float32 sums.
    bound = RELATIVE[found.dtype] * expected.abs() + RELATIVE[torch.float32] * size + slack + 1e-30
    if found.dtype == torch.float16:
        bound = bound + 1e-7  # half the smallest step
    worst = (error / bound).nan_to_num(float('inf')).max() if error.numel() else 0.0
    assert worst <= 1.0, (name, float(worst))


def by_library(case: Case, tile=None, activation=None, residual=None, gate=None) -> bool:
    """Whether it is cuBLAS's product and GELU: 16 bits, many rows, a bias, no residual."""
    return (
        case.device == 'cuda'
        and tile is None
        and activation == 'gelu_tanh'
        and residual is None
        and case.kind in ('float16', 'bfloat16')
        and case.weight.bias is not None
        and case.x.shape[0] > FEW_ROWS
    )


def slack_of_library(case: Case) -> Tensor:
    """What one rounding before GELU makes of its result; more than an approximate tanh does."""
    product = exact.linear(case.x, case.weight, out=case.double(case.weight.outputs))
    return STEEPEST * RELATIVE[case.dtype] * product.abs()


def check_linear(case: Case, tile=None, activation=None, residual=False, gate=False) -> Tensor:
    outputs = case.weight.outputs
    size = case.size
    options = {'activation': activation}
    if residual:
        options['residual'] = torch.randn(
            size.shape[0], outputs, device=case.device
        ).to(case.dtype)
        size = size + 5.0
    if gate:
        options['gate'] = torch.randn(outputs, device=case.device)
        size = size * (1.0 + options['gate'].abs().max())
    expected = exact.linear(case.x, case.weight, out=case.double(outputs), **options)
    with poisoned():
        y = fused.linear(case.x, case.ready, out=case.out(outputs), tile=tile, **options)
    name = f'{case.name}, {activation}, residual {residual}, gate {gate}, {tile}'
    assert case.unharmed(), name
    slack = slack_of_library(case) if by_library(case, tile, **options) else 0.0
    close(y, expected, size, name, slack)
    if residual:  # in place, as a residual stream is kept
        stream = options.pop('residual').clone()
        with poisoned():
            again = fused.linear(
                case.x, case.ready, residual=stream, out=stream, tile=tile, **options
            )
        assert again is stream and torch.equal(again, y), name
    return y


def check_gated(case: Case, activation: str, tile=None) -> Tensor:
    outputs = case.weight.outputs // 2
    expected = exact.gated_linear(
        case.x, case.weight, activation=activation, out=case.double(outputs)
    )
    with poisoned():
        y = fused.gated_linear(
            case.x, case.ready, activation=activation, out=case.out(outputs), tile=tile
        )
    assert case.unharmed(), case.name
    close(y, expected, 2.0 * case.size**2, f'{case.name}, gated {activation}, {tile}')
    return y


def check_attention(
    kind: str,
    rows: int,
    columns: int,
    heads: int,
    kv_heads: int,
    size: int,
    *,
    device: str,
    dtype: torch.dtype = torch.float32,
    rotary: bool = True,
    normed: bool = False,
    first: int = 0,
    on_device: bool = False,
    tile=None,
) -> None:
    case = Case(kind, rows, columns, (heads + 2 * kv_heads) * size, device=device, dtype=dtype)
    angle = torch.rand(rows, size // 2, device=device) * 6.0
    total = first + rows + 3
    norms = {}
    if normed:
        norms = {
            'q_norm': (torch.rand(size, device=device) + 0.5).to(case.dtype),
            'k_norm': (torch.rand(size, device=device) + 0.5).to(case.dtype),
            'eps': 1e-3,
        }
    results = []
    for run in (exact, fused):
        kept = torch.float64 if run is exact else case.dtype
        x, w = case.x, case.weight if run is exact else case.ready
        if run is exact:  # for queries that are not rounded
            x = Quantized(x.values, x.scale, kept) if isinstance(x, Quantized) else x.double()
            w = FloatWeight(w.weight.double(), w.bias) if isinstance(w, FloatWeight) else w
        cache = torch.full((2, total, kv_heads, size), 77.0, dtype=kept, device=device)
        place = first
        if on_device and run is fused:
            place = torch.tensor(first, dtype=torch.int32, device=device)
        options = {} if run is exact else {'tile': tile}
        with poisoned() if run is fused else contextlib.nullcontext():
            query = run.attention_inputs(
                x,
                w,
                (angle.cos(), angle.sin()) if rotary else None,
                heads,
                kv_heads,
                size,
                cache[0],
                cache[1],
                place,
                **norms,
                **options,
            )
        results.append((query, cache))
    (query, cache), (found, found_cache) = results
    name = f'{case.name}, {heads} + 2 x {kv_heads} of {size}, normed {normed}, {tile}'
    scale = (40.0 if normed else 2.0) * case.size.max()
    assert query.shape == found.shape == (rows, heads, size)
    close(found.flatten(1), query.flatten(1), scale, name)
    close(found_cache.flatten(2), cache.flatten(2), scale, name)
    untouched = torch.cat((found_cache[:, :first], found_cache[:, first + rows :]), dim=1)
    assert (untouched == 77.0).all(), name


SHAPES = [(1, 2, 1), (3, 14, 5), (17, 66, 33), (50, 130, 70), (70, 300, 40), (2, 2050, 3)]


def int8_epilogues(device: str) -> None:
    """Every epilogue of one weight, on shapes that no tile divides."""
    for rows, columns, outputs in SHAPES:
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            case = Case('int8', rows, columns + 1, outputs, device=device, dtype=dtype)
            check_linear(case)
            for activation in (None, 'gelu_tanh', 'silu', 'relu'):
                check_linear(case, activation=activation, residual=True, gate=True)
        plain = Case('int8', rows, columns, outputs, device=device, bias=False)
        for residual, gate in ((False, False), (True, False), (True, True)):
            check_linear(plain, residual=residual, gate=gate)
        for activation in ('gelu_tanh', 'silu', 'relu'):
            check_linear(plain, activation=activation)


def other_kinds(device: str) -> None:
    """Float and packed weights, and their epilogues."""
    for kind in KINDS:
        for rows, columns, outputs in SHAPES:
            case = Case(kind, rows, columns, outputs, device=device, dtype=torch.bfloat16)
            check_linear(case)
            check_linear(case, activation='gelu_tanh', residual=True, gate=True)
            check_linear(case, activation='gelu_tanh')
        check_linear(Case(kind, 19, 256, 48, device=device, bias=False))


def gated_pairs(device: str) -> None:
    """Gate and up of interleaved rows."""
    for kind in KINDS:
        for rows, columns, outputs in SHAPES:
            case = Case(kind, rows, columns, 2 * outputs, device=device, bias=rows % 2 == 0)
            for activation in ('gelu_tanh', 'silu'):
                check_gated(case, activation)
        check_gated(Case(kind, 21, 192, 96, device=device), 'relu', SMALL)


def heads_and_caches(device: str) -> None:
    """Queries, and keys and values where they are read, of every head size in the networks."""
    layouts = [(8, 1, 32), (2, 2, 72), (3, 1, 96), (4, 2, 64), (1, 1, 256), (0, 1, 64)]
    for kind in KINDS:
        for number, (heads, kv_heads, size) in enumerate(layouts):
            check_attention(
                kind,
                (1, 5, 18)[number % 3],
                66,
                heads,
                kv_heads,
                size,
                device=device,
                dtype=(torch.float32, torch.bfloat16)[number % 2],
                rotary=number != 1,
                first=(0, 7)[number % 2],
                on_device=number > 3,
            )
        for tile in (None, GemmTile(16, 32, 64, 4, 2, split=2)):
            check_attention(
                kind, 18, 66, 2, 1, 128, device=device, normed=True, first=3, tile=tile
            )
    check_attention('int8', 5, 33, 0, 2, 64, device=device, normed=True)


def split_columns(device: str) -> None:
    """Several programs share the columns of a tile; more of them than there are steps too."""
    splits = ((2, (18, 330, 70)), (4, (33, 832, 40)), (8, (1, 66, 9)))
    for (number, kind), (split, shape) in itertools.product(enumerate(KINDS), splits):
        if device == 'cpu' and split != splits[number % 3][0]:
            continue  # slow there
        tile = GemmTile(16, 32, 64, 4, 2, split=split, left=split == 4)
        rows, columns, outputs = shape
        case = Case(kind, rows, columns, outputs, device=device)
        y = check_linear(case, tile)
        assert torch.equal(y, check_linear(case, tile)), case.name
        if kind.startswith('int'):  # integers: the same whatever the order
            assert torch.equal(y, check_linear(case, replace(tile, split=1))), case.name
        check_linear(case, tile, 'silu', residual=True, gate=True)
        check_gated(Case(kind, rows, columns, 2 * outputs, device=device), 'silu', tile)
        check_attention(kind, 9, 330, 2, 1, 64, device=device, first=2, tile=tile)


def joined_norms(device: str) -> None:
    """A product, its residual and the norm of that, finished in one kernel or in two."""
    hadamard = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    for _ in range(3):
        hadamard = torch.kron(hadamard, torch.tensor([[1.0, 1.0], [1.0, -1.0]]).double())
    hadamard = (hadamard / 4).to(device)
    rows_of_norms = (None, Rows(), Rows(rotation=hadamard.float()))
    splits = (1, 2, 4)
    for number, (kind, rows) in enumerate(itertools.product(KINDS, (1, 21, 66))):
        outputs = 48
        case = Case(kind, rows, 330, outputs, device=device, bias=number % 2 == 0)
        tile = GemmTile(16, 32, 64, 4, 2, split=splits[number % 3], left=number % 4 == 0)
        gate = torch.randn(outputs, device=device) if number % 3 else None
        stream = torch.randn(rows, outputs, device=device).to(case.dtype)
        modulation = tuple(torch.randn(outputs, device=device) for _ in range(2))
        weight = torch.rand(outputs, device=device) + 0.5
        norms = [
            Norm(None, eps=1e-5, modulation=modulation, rows=rows_of_norms[number % 3]),
            Norm(weight, weight - 1.0, 1e-5, centered=True, rows=rows_of_norms[(number + 1) % 3]),
        ]
        for norm in norms:
            wanted = exact.linear(case.x, case.weight, residual=stream, gate=gate,
                                  out=case.double(outputs))  # fmt: skip
            size = (case.size + 5.0) * (1.0 + (0.0 if gate is None else gate.abs().max()))
            with poisoned():
                y, found = fused.linear_norm(
                    case.x, case.ready, norm, residual=stream, gate=gate,
                    out=case.out(outputs), tile=tile,
                )  # fmt: skip
            name = f'{case.name}, {norm.centered}, {norm.rows}, {tile}'
            assert case.unharmed(), name
            close(y, wanted, size, name)
            # Of what was found, not rounded any more.
            normed = exact.normed(y.double(), replace(norm, rows=None))
            if isinstance(found, Quantized):
                normed = turn(normed, norm.rows, torch.float64)
                step = found.scale[:, None].double()
                error = (found.values * step - normed).abs()
                # The norm is rounded to its type before it is turned.
                rounding = RELATIVE[case.dtype] * 4.0 * normed.abs().amax(1, keepdim=True)
                assert (error <= 0.501 * step + rounding + 1e-5 * step).all(), name
                assert (found.values.abs().amax(1) == 127).all(), name
            else:
                close(found, normed.double(), 10.0 * torch.ones_like(case.size), name)


def every_tile(device: str) -> None:
    """Whatever tile may be chosen or tuned gives the same, on a shape that none divides."""
    for kind, rows in itertools.product(KINDS, (10, 30, 60, 70)):
        name, _, group = kind.partition(' of ')
        case = Case(kind, rows, 330, 90, device=device)
        product = Product(name, rows, 90, 330, group=int(group or 0))
        tiles = list(candidates(product, **fused._limits(case.size.device)))
        assert len(tiles) >= 4, product
        # On the CPU some are enough: the interpreter does not know of warps and stages.
        for tile in tiles if device != 'cpu' else tiles[:: 1 + len(tiles) // 5]:
            check_linear(case, tile)


def bulk_tiles(device: str) -> None:
    """Tiles that Hopper's memory accelerator fetches: nothing from beyond the edge."""
    if device == 'cuda' and torch.cuda.get_device_capability()[0] != 9:
        return
    plain = GemmTile(64, 64, 64, 4, 3, bulk=True)
    for kind in ('float16', 'bfloat16', 'int8'):
        for rows, columns, outputs in ((70, 336, 90), (130, 80, 66), (1, 2064, 33)):
            case = Case(kind, rows, columns, outputs, device=device)
            for tile in (plain, replace(plain, left=True), replace(plain, split=2)):
                y = check_linear(case, tile, 'gelu_tanh', residual=True, gate=True)
                by_address = replace(tile, bulk=False)
                assert kind != 'int8' or torch.equal(
                    check_linear(case, tile), check_linear(case, by_address)
                ), (case.name, y)
            check_gated(Case(kind, rows, columns, 2 * outputs, device=device), 'silu', plain)
        for size in (128, 64, 48):  # a head of two tiles, of one, and tiles of several heads
            check_attention(kind, 66, 80, 3, 1, size, device=device, first=2, tile=plain)


def tiles_at_once(device: str) -> None:
    """Programs of one step, whose weights come first, give what a pipeline gives."""
    in_bulk = device == 'cpu' or torch.cuda.get_device_capability()[0] == 9
    for kind in ('float16', 'bfloat16', 'int8'):
        for rows, columns, outputs in ((50, 256, 96), (10, 336, 90), (1, 80, 33)):
            case = Case(kind, rows, columns, outputs, device=device)
            for columns_each, split in ((512, 1), (256, 2), (64, 8)):
                if columns_each * split < columns or columns_each * (split - 1) >= columns:
                    continue
                for left, bulk in itertools.product((False, True), (False, True)[: 1 + in_bulk]):
                    tile = GemmTile(64, 32, columns_each, 4, 1, split, left, bulk)
                    check_linear(case, tile, 'gelu_tanh', residual=True, gate=True)
                    check_gated(Case(kind, rows, columns, 2 * outputs, device=device), 'silu', tile)
                    found = check_linear(case, tile)
                    slow = replace(tile, columns=64, stages=2, split=1)
                    assert kind != 'int8' or torch.equal(found, check_linear(case, slow)), case.name
        tile = GemmTile(64, 64, 128, 4, 1, bulk=in_bulk)
        for size in (128, 64, 32):
            check_attention(kind, 50, 80, 3, 1, size, device=device, first=2, tile=tile)
            check_attention(kind, 9, 128, 2, 2, size, device=device, tile=replace(tile, bulk=False))


def half_tails(device: str) -> None:
    """A last tile of half the height, whether its program comes last or beside the others."""
    if device == 'cuda' and torch.cuda.get_device_capability()[0] != 9:
        return
    tile = GemmTile(128, 64, 64, 4, 3, bulk=True)
    kept = fused._LATE
    try:
        # One row, all but one of the half, all of it; and tiles that are high after all.
        for rows, tail in ((129, True), (319, True), (192, True), (193, False), (256, False)):
            assert tile.has_tail(rows) == tail
            for kind in ('bfloat16', 'int8'):
                case = Case(kind, rows, 80, 200, device=device)
                for fused._LATE, split in ((1, 1), (48, 1), (2, 2)):
                    chosen = replace(tile, split=split)
                    check_linear(case, chosen, 'gelu_tanh', residual=True)
                assert kind != 'int8' or torch.equal(
                    check_linear(case, tile), check_linear(case, replace(tile, bulk=False))
                ), case.name
            fused._LATE = 2
            check_gated(Case('int8', rows, 80, 400, device=device), 'silu', tile)
            check_attention('int8', rows, 80, 3, 1, 64, device=device, first=2, tile=tile)
    finally:
        fused._LATE = kept
    # As high as the product, or too low for the matrix instruction, or lying across it: none.
    assert not tile.has_tail(60) and not replace(tile, rows=64).has_tail(80)
    assert not any(replace(tile, **one).has_tail(129) for one in ({'left': True}, {'bulk': False}))


def extremes(device: str) -> None:
    """Rows of very different size, zero rows, and rows that are not finite."""
    for kind in ('int8', 'int4', 'int4 of 64'):
        check_linear(Case(kind, 33, 130, 40, device=device, bias=False, spread=12.0))
    for kind in ('float32', 'int8', 'int4 of 64'):
        for tile in (None, GemmTile(16, 16, 64, 4, 2, split=2)):
            case = Case(kind, 5, 194, 34, device=device)
            clean = check_linear(case, tile)
            gated = check_gated(case, 'gelu_tanh', tile)
            for poison in (float('nan'), float('inf')):
                if isinstance(case.x, Quantized):
                    case.x.scale[1] = float('nan')
                    case.x.values[3] = 0
                else:
                    case.x[1, 100] = poison
                    case.x[3] = 0.0
                y = fused.linear(case.x, case.ready, tile=tile)
                assert not y[1].isfinite().any() and torch.equal(y[3], case.weight.bias)
                for activation in ('gelu_tanh', 'silu', 'relu'):
                    bad = fused.linear(case.x, case.ready, activation=activation, tile=tile)
                    if isinstance(case.x, Quantized) or poison != poison:
                        assert bad[1].isnan().all(), activation
                others = [0, 2, 4]
                assert torch.equal(y[others], clean[others])
                y = fused.gated_linear(case.x, case.ready, activation='gelu_tanh', tile=tile)
                assert torch.equal(y[others], gated[others])
    x = torch.linspace(-12.0, 12.0, 97, device=device)[:, None]
    one = FloatWeight(torch.ones(1, 1, device=device))
    for activation in fused.ACTIVATIONS:  # without a sum whose rounding could hide a constant
        y = fused.linear(x, one, activation=activation)
        assert (y - exact.linear(x.double(), one, activation=activation)).abs().max() < 3e-6
    large = Case('float32', 3, 40, 20, device=device)
    large.x.mul_(1e4)  # an exponential overflows in both directions
    large.size = large.size * 1e4
    for activation in ('gelu_tanh', 'silu', 'relu'):
        check_linear(large, activation=activation)


def expanded_weights(device: str) -> None:
    """Packed weights written out as int8 are the integers that they stand for."""
    from quantvla_ros.kernels.triton_expand import expanded

    for outputs, columns, group in ((1, 2, 0), (9, 66, 0), (17, 330, 64), (33, 4224, 128)):
        weight = packed(outputs, columns, group, torch.rand(outputs, device=device), None, device)
        with poisoned():
            found = expanded(halved(weight))
        wanted = exact._integers(weight)
        assert torch.equal(found.weight.double(), wanted.double()), (outputs, columns, group)
        assert found.scale is weight.scale


def refusals(device: str) -> None:
    """What does not fit is said, with what was expected and what came."""
    case, packed_case = (Case(kind, 4, 64, 8, device=device) for kind in ('int8', 'int4'))
    x, weight = case.x, case.weight
    narrow = Case('int8', 4, 30, 8, device=device).x
    groups = Case('int4 of 64', 4, 64, 8, device=device).weight
    cache = torch.zeros(5, 1, 2, device=device)
    ones = torch.ones(8, device=device)
    stream = torch.zeros(4, 8, device=device)
    tile = GemmTile(256, 256, 256, 8, 4)

    def attend(**options):
        arguments = {
            'rotary': None,
            'heads': 2,
            'kv_heads': 1,
            'head_dim': 2,
            'keys': cache,
            'values': cache,
            'first': 0,
        }
        return fused.attention_inputs(x, weight, **{**arguments, **options})

    for words, call in (
        ('a residual with the gate', lambda: fused.linear(x, weight, gate=ones)),
        ('one of gelu_tanh', lambda: fused.linear(x, weight, activation='tanh')),
        ('as `fused.prepared` gives', lambda: fused.linear(x, packed_case.weight)),
        ('contiguous [4, 8]', lambda: fused.linear(x, weight, out=torch.zeros(8, 4).t())),
        ('expected [M, 64]', lambda: fused.linear(narrow, weight)),
        ('rows in integers', lambda: fused.linear(torch.zeros(4, 64), weight)),
        ('contiguous [4, 8]', lambda: fused.linear(x, weight, residual=ones)),
        ('gate: expected [8]', lambda: fused.linear(x, weight, residual=stream, gate=ones[:3])),
        ('does not fit', lambda: fused.linear(x, weight, tile=tile)),
        ('multiple of 64', lambda: halved(replace(groups, group=32))),
        ('found 8 rows', lambda: attend(heads=1)),
        ('first: expected 4 rows from 2', lambda: attend(first=2)),
        ('float32 [4, 1]', lambda: attend(rotary=(ones, ones))),
        ('queries and keys, or none', lambda: attend(q_norm=ones)),
        ('keys: expected contiguous [T, 1, 2]', lambda: attend(keys=cache[..., :1])),
    ):
        try:
            call()
        except BackendError as error:
            assert words in str(error), (words, str(error))
        else:
            raise AssertionError(words)


def packed_order(device: str) -> None:
    """The order of halves is one to one, and fills up with zeros."""
    for columns in (2, 30, 64, 66, 130):
        nibbles = torch.randint(0, 256, (3, columns // 2), dtype=torch.uint8, device=device)
        halves = to_halves(nibbles)
        assert halves.shape == (3, -(-columns // 64) * 32)
        assert torch.equal(from_halves(halves, columns), nibbles)
    q = torch.arange(-8, 8, dtype=torch.int8).repeat(4)[None]  # 64 columns
    byte = to_halves(pack_int4(q))[0, 5]
    assert (int(byte) & 15) - 8 == q[0, 5] and (int(byte) >> 4) - 8 == q[0, 37]


CASES = {
    case.__name__: case
    for case in (
        int8_epilogues,
        other_kinds,
        gated_pairs,
        heads_and_caches,
        split_columns,
        joined_norms,
        every_tile,
        bulk_tiles,
        tiles_at_once,
        half_tails,
        expanded_weights,
        extremes,
        refusals,
        packed_order,
    )
}


def run(name: str, device: str) -> None:
    seed = torch.seed() % 2**31
    print('seed', seed)
    torch.manual_seed(seed)
    CASES[name](device)
    print('done', name)


if __name__ == '__main__':
    for wanted in sys.argv[1:] or CASES:
        run(wanted, 'cpu')
