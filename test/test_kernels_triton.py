# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels: interpreted on the CPU, run on a GPU if there is one; the choice of tiles."""
import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from quantvla_ros.kernels.tiles import PACKED_TILES, TILES, Tile, choose_tile

if importlib.util.find_spec('triton') is None:
    pytest.skip('triton is not installed', allow_module_level=True)

# bytes of shared memory that one program may use on Orin, Ada and Blackwell desktops, Hopper
SHARED = [163 * 1024, 99 * 1024, 227 * 1024]

# Triton decides at import whether to interpret, hence a process of its own.
INTERPRETED = '''
import torch
from quantvla_ros.kernels import onednn, reference, tiles, triton_int8
from quantvla_ros.kernels.linear import int8_linear

seed = torch.seed() % 2**31
print('seed', seed)
torch.manual_seed(seed)
shapes = [(1, 1, 1), (3, 7, 5), (17, 33, 65), (50, 300, 70), (130, 129, 40), (2, 20000, 3)]
for rows, columns, outputs in shapes:
    x = torch.randn(rows, columns) * 10.0 ** torch.randint(-12, 9, (rows, 1))
    if rows > 1:
        x[0] = 0.0
    weight_q = torch.randint(-127, 128, (outputs, columns), dtype=torch.int8)
    weight_scale = torch.rand(outputs) * 0.02 + 1e-4
    bias = torch.randn(outputs)
    q, scale = triton_int8.quantize_rows(x)
    q_cpu, scale_cpu = onednn.quantize_rows(x)
    assert torch.equal(q, q_cpu) and torch.equal(scale, scale_cpu), (rows, columns)
    for b in (bias, None):
        for dtype in (torch.float32, torch.bfloat16):
            poisoned = torch.full((rows, outputs), float('nan'), dtype=dtype)
            y = triton_int8.scaled_matmul(
                q, scale, weight_q, weight_scale, b, dtype, out=poisoned)
            exact = reference.scaled_matmul(q, scale, weight_q, weight_scale, b, torch.float64)
            relative = 1e-6 if dtype == torch.float32 else 8e-3
            size = exact.abs().amax(dim=1, keepdim=True) + 1e-30
            assert ((y.double() - exact).abs() <= relative * size).all(), (rows, columns, dtype)
    if rows > 1:
        for poison in (float('nan'), float('inf'), -float('inf')):
            bad = x.clone()
            bad[1, columns // 2] = poison
            y = int8_linear(bad, weight_q, weight_scale, bias, backend='triton')
            clean = int8_linear(x, weight_q, weight_scale, bias, backend='triton')
            assert y[1].isnan().all() and torch.equal(y[0], clean[0])
            assert torch.equal(y[2:], clean[2:])
# every tile, on a shape that none divides
q = torch.randint(-127, 128, (70, 270), dtype=torch.int8)
weight_q = torch.randint(-127, 128, (90, 270), dtype=torch.int8)
scale, weight_scale = torch.rand(70), torch.rand(90)
exact = reference.scaled_matmul(q, scale, weight_q, weight_scale, None, torch.float64)
for _, candidates in tiles.TILES:
    for tile, _ in candidates:
        out = torch.full((70, 90), float('nan'))
        triton_int8.scaled_matmul(
            q, scale, weight_q, weight_scale, None, torch.float32, tile=tile, out=out)
        torch.testing.assert_close(out.double(), exact, rtol=1e-6, atol=1e-6)
print('done')
'''


INTERPRETED_ROWS = '''
import torch
from quantvla_ros.errors import BackendError
from quantvla_ros.kernels import onednn, reference, triton_int8
from quantvla_ros.kernels.linear import Rows

seed = torch.seed() % 2**31
print('seed', seed)
torch.manual_seed(seed)

def orthogonal(*shape):
    return torch.linalg.qr(torch.randn(*shape).double())[0].float()

# rows, blocks, block: long rows take more than one program, odd blocks are padded
triton_int8._ROW_BLOCK = 1024
shapes = [(1, 1, 2), (3, 5, 16), (18, 2, 128), (7, 4, 10), (2, 17, 64), (3, 14, 170)]
for rows, blocks, block in shapes:
    columns = blocks * block
    x = torch.randn(rows, columns) * 10.0 ** torch.randint(-12, 9, (rows, 1))
    x[0] = x[0] / x[0].abs().max()
    if rows > 2:
        x[2] = 0.0
    order = torch.randperm(columns)
    rotations = [None]
    if block <= 128:
        rotations += [orthogonal(block, block), orthogonal(blocks, block, block)]
    for number, rotation in enumerate(rotations):
        for bits in (8, 4):
            rows_ = Rows(
                bits=bits,
                scale=torch.tensor(0.4 / 127) if (number + bits // 4) % 2 else None,
                rotation=rotation,
                permutation=order.int() if bits == 8 else None,
            )
            q, scale = triton_int8.quantize_rows(x, rows_)
            exact_q, exact_scale = reference.quantize_rows(x, rows_)
            case = (rows, blocks, block, number, bits)
            torch.testing.assert_close(scale.double(), exact_scale, rtol=1e-5, atol=0.0)
            assert (q.int() - exact_q.int()).abs().max() <= 1, case
            assert (q != exact_q).float().mean() < 1e-3 + 1 / q.numel(), case
            assert q.abs().max() <= rows_.largest
            if rotation is None:
                same_q, same_scale = onednn.quantize_rows(x, rows_)
                assert torch.equal(q, same_q) and torch.equal(scale, same_scale), case
            if columns % 2 == 0:
                split, _ = triton_int8.quantize_rows(x, rows_, split=True)
                assert torch.equal(split, torch.cat([q[:, 0::2], q[:, 1::2]], dim=1)), case
            if rows > 1:
                bad = x.clone()
                bad[1, columns // 2] = (float('nan'), float('inf'), -float('inf'))[number]
                bad_q, bad_scale = triton_int8.quantize_rows(bad, rows_)
                assert bad_scale.isnan().tolist() == [i == 1 for i in range(rows)], case
                assert torch.equal(bad_q[0], q[0]) and torch.equal(bad_q[2:], q[2:]), case
for step in (0.0, -1.0, float('nan'), float('inf')):
    for rotation in (None, orthogonal(16, 16), orthogonal(2, 16, 16)):
        rows_ = Rows(scale=torch.tensor(step), rotation=rotation)
        assert triton_int8.quantize_rows(torch.ones(2, 32), rows_)[1].isnan().all()
try:
    triton_int8.quantize_rows(torch.ones(2, 512), Rows(rotation=orthogonal(256, 256)))
except BackendError as error:
    assert 'at most 128' in str(error)
else:
    raise AssertionError('a block that does not fit')
print('done')
'''

INTERPRETED_PACKED = '''
import torch
from quantvla_ros.errors import BackendError
from quantvla_ros.kernels import reference, tiles, triton_int8
from quantvla_ros.kernels.linear import Rows, int4_linear
from quantvla_ros.kernels.packing import expand

seed = torch.seed() % 2**31
print('seed', seed)
torch.manual_seed(seed)

def weights(outputs, columns, group):
    packed = torch.randint(0, 256, (outputs, columns // 2), dtype=torch.uint8)
    if not group:
        return packed, None
    shape = (outputs, -(-columns // group))
    return packed, torch.randint(1, 16, shape, dtype=torch.uint8)

def check(rows, columns, outputs, group, bias, dtype, tile=None):
    packed, group_scale = weights(outputs, columns, group)
    q = torch.randint(-127, 128, (rows, columns), dtype=torch.int8)
    scale, weight_scale = torch.rand(rows) + 1e-6, torch.rand(outputs) * 0.02 + 1e-4
    out = torch.full((rows, outputs), float('nan'), dtype=dtype)
    split = torch.cat([q[:, 0::2], q[:, 1::2]], dim=1)
    triton_int8.packed_matmul(
        split, scale, packed, group_scale, group, weight_scale, bias, dtype, tile=tile, out=out)
    exact = reference.scaled_matmul(
        q, scale, expand(packed, group_scale, group), weight_scale, bias, torch.float64)
    relative = 1e-6 if dtype == torch.float32 else 8e-3
    size = exact.abs().amax(dim=1, keepdim=True) + 1e-30
    assert ((out.double() - exact).abs() <= relative * size).all(), (rows, columns, outputs, group)

for group in (0, 64, 128):
    for rows, columns, outputs in [(1, 2, 1), (3, 14, 5), (17, 128, 65), (50, 332, 70),
                                   (130, 258, 40), (2, 2048, 3)]:
        check(rows, columns, outputs, group, torch.randn(outputs), torch.float32)
        check(rows, columns, outputs, group, None, torch.bfloat16)
    # every tile, on a shape that none divides
    for _, candidates in tiles.PACKED_TILES:
        for tile, _ in candidates:
            check(70, 274, 90, group, None, torch.float32, tile)
    packed, group_scale = weights(9, 320, group)
    x = torch.randn(2, 3, 320)
    x[1, 2, 7] = float('nan')
    hadamard = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    for _ in range(4):
        hadamard = torch.kron(hadamard, torch.tensor([[1.0, 1.0], [1.0, -1.0]]) / 2**0.5)
    rows_ = Rows(rotation=hadamard / 2**0.5, permutation=torch.randperm(320))
    arguments = (x, packed, group_scale, group, torch.rand(9), torch.randn(9))
    y = int4_linear(*arguments, rows=rows_, backend='triton')
    exact = int4_linear(*arguments, rows=rows_, backend='reference')
    assert y[1, 2].isnan().all() and torch.isfinite(y.reshape(6, 9)[:5]).all()
    error = (y - exact).reshape(6, 9)[:5].norm() / exact.reshape(6, 9)[:5].norm()
    assert error < 2e-3, error
try:
    check(2, 64, 3, 32, None, torch.float32)
except BackendError as error:
    assert 'multiple of 64' in str(error)
else:
    raise AssertionError('a group that is shorter than a step')
print('done')
'''


@pytest.mark.parametrize(
    'program',
    [INTERPRETED, INTERPRETED_ROWS, INTERPRETED_PACKED],
    ids=['int8_weights', 'row_kernels', 'packed_weights'],
)
def test_interpreted_kernels_give_what_the_definition_says(program):
    environment = {**os.environ, 'TRITON_INTERPRET': '1', 'OMP_NUM_THREADS': '1'}
    result = subprocess.run(
        [sys.executable, '-c', program], env=environment, capture_output=True, text=True
    )
    if 'only 0-dimensional arrays can be converted' in result.stderr:
        pytest.skip('this Triton (3.6) cannot interpret a loop with this NumPy (2.4)')
    assert result.returncode == 0 and 'done' in result.stdout, result.stdout + result.stderr


@pytest.mark.parametrize('shared', SHARED)
@pytest.mark.parametrize('rows', [1, 16, 17, 33, 64, 65, 200, 816, 8192])
@pytest.mark.parametrize('outputs', [1, 256, 2048, 32768])
@pytest.mark.parametrize('group', [None, 0, 64, 128])
def test_a_chosen_tile_fits_and_wastes_no_rows(shared, rows, outputs, group):
    packed = group is not None
    tile = choose_tile(
        rows, outputs, processors=16, shared=shared, packed=packed, group=group or 0
    )
    assert (tile.packed_shared if packed else tile.shared) <= shared
    assert not group or group % tile.columns == 0
    if rows <= 64:
        assert rows <= tile.rows < 2 * max(rows, 16)


def test_few_outputs_are_spread_over_the_multiprocessors():
    # one wave of half-empty tiles is slower than small tiles everywhere
    wide = choose_tile(816, 32768, processors=132, shared=227 * 1024)
    narrow = choose_tile(816, 512, processors=132, shared=227 * 1024)
    assert narrow.rows * narrow.outputs < wide.rows * wide.outputs


def test_every_tile_is_a_power_of_two():
    for _, tiles in TILES + PACKED_TILES:
        for tile, speed in tiles:
            assert isinstance(tile, Tile) and 0.0 < speed <= 1.0
            for size in (tile.rows, tile.outputs, tile.columns, tile.warps):
                assert size & (size - 1) == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here')
@pytest.mark.parametrize(
    'shape', [(1, 64, 48), (50, 1024, 2560), (77, 333, 129), (816, 2048, 2560)]
)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_on_the_gpu_the_result_is_that_of_the_cpu(shape, dtype):
    from quantvla_ros.kernels.linear import int8_linear

    rows, columns, outputs = shape
    x = torch.randn(rows, columns, dtype=dtype)
    x[0] = 0.0
    weight_q = torch.randint(-127, 128, (outputs, columns), dtype=torch.int8)
    weight_scale = torch.rand(outputs) * 0.02 + 1e-4
    bias = torch.randn(outputs)
    expected = int8_linear(x, weight_q, weight_scale, bias)
    arguments = [tensor.cuda() for tensor in (x, weight_q, weight_scale, bias)]
    found = int8_linear(*arguments, backend='triton').cpu()
    torch.testing.assert_close(found, expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here')
@pytest.mark.parametrize('block', [16, 32, 64, 128, 24])
@pytest.mark.parametrize('blocks', [1, 9, 16, 256])
@pytest.mark.parametrize('per_block', [False, True])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_on_the_gpu_rows_are_rotated_in_float32(block, blocks, per_block, dtype):
    # TF32 alone would be off by 5e-4, that is, by one integer in some 6 % of the places
    from quantvla_ros.kernels import reference, triton_int8
    from quantvla_ros.kernels.linear import Rows

    columns = block * blocks
    x = torch.randn(77, columns, dtype=dtype, device='cuda')
    shape = (blocks, block, block) if per_block else (block, block)
    rotation = torch.linalg.qr(torch.randn(*shape, dtype=torch.float64, device='cuda'))[0]
    rotation = rotation.to(torch.float16 if dtype == torch.bfloat16 else torch.float32)
    for static in (None, torch.tensor(0.02, device='cuda')):
        rows = Rows(
            rotation=rotation, scale=static, permutation=torch.randperm(columns, device='cuda')
        )
        q, scale = triton_int8.quantize_rows(x, rows)
        exact_q, exact_scale = reference.quantize_rows(x, rows)
        torch.testing.assert_close(scale.double(), exact_scale, rtol=1e-5, atol=0.0)
        assert (q.int() - exact_q.int()).abs().max() <= 1
        assert (q != exact_q).double().mean() < 1e-3
        x[5, 1] = float('nan')
        assert triton_int8.quantize_rows(x, rows)[1].isnan().nonzero().tolist() == [[5]]
        x[5, 1] = 0.0


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here')
@pytest.mark.parametrize('group', [0, 64, 128])
@pytest.mark.parametrize(
    'shape', [(1, 64, 48), (10, 588, 65), (50, 1024, 2560), (77, 332, 129), (816, 4304, 1152)]
)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_on_the_gpu_packed_weights_give_what_their_int8_numbers_give(shape, group, dtype):
    from quantvla_ros.kernels.linear import int4_linear, int8_linear
    from quantvla_ros.kernels.packing import expand

    count, columns, outputs = shape
    x = torch.randn(count, columns, dtype=dtype, device='cuda')
    packed = torch.randint(0, 256, (outputs, columns // 2), dtype=torch.uint8, device='cuda')
    group_scale = None
    if group:
        shape = (outputs, -(-columns // group))
        group_scale = torch.randint(1, 16, shape, dtype=torch.uint8, device='cuda')
    weight_scale = torch.rand(outputs, device='cuda') * 0.02 + 1e-4
    bias = torch.randn(outputs, device='cuda')
    found = int4_linear(x, packed, group_scale, group, weight_scale, bias)
    expected = int8_linear(x, expand(packed, group_scale, group), weight_scale, bias)
    torch.testing.assert_close(found, expected)
