# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels without a GPU: interpreted on the CPU, and compiled ahead of time per GPU."""
import importlib.util
import os
import re
import subprocess
import sys

import pytest
import torch

from quantvla_ros.kernels.triton_int8 import _TILES, Tile, choose_tile

if importlib.util.find_spec('triton') is None:
    pytest.skip('triton is not installed', allow_module_level=True)

# capability: bytes of shared memory that one program may use (CUDA programming guide)
SHARED = {87: 163 * 1024, 89: 99 * 1024, 90: 227 * 1024, 110: 227 * 1024, 120: 99 * 1024}

# Triton decides at import whether to interpret, hence a process of its own.
INTERPRETED = '''
import torch
from quantvla_ros.kernels import onednn, reference, triton_int8
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
for _, tiles in triton_int8._TILES:
    for tile, _ in tiles:
        out = torch.full((70, 90), float('nan'))
        triton_int8.scaled_matmul(
            q, scale, weight_q, weight_scale, None, torch.float32, tile=tile, out=out)
        torch.testing.assert_close(out.double(), exact, rtol=1e-6, atol=1e-6)
print('done')
'''


def test_interpreted_kernels_give_what_the_definition_says():
    environment = {**os.environ, 'TRITON_INTERPRET': '1', 'OMP_NUM_THREADS': '1'}
    result = subprocess.run(
        [sys.executable, '-c', INTERPRETED], env=environment, capture_output=True, text=True
    )
    if 'only 0-dimensional arrays can be converted' in result.stderr:
        pytest.skip('this Triton (3.6) cannot interpret a loop with this NumPy (2.4)')
    assert result.returncode == 0 and 'done' in result.stdout, result.stdout + result.stderr


def compile_for(capability, kernel, signature, constants, **options):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    pointers = [i for i, kind in enumerate(signature.values()) if kind.startswith('*')]
    source = ASTSource(
        kernel,
        {**signature, **dict.fromkeys(constants, 'constexpr')},
        constexprs=constants,
        attrs={(i,): [['tt.divisibility', 16]] for i in pointers},
    )
    try:
        return triton.compile(source, target=GPUTarget('cuda', capability, 32), options=options)
    except triton.runtime.errors.PTXASError as error:
        if 'is not defined for option' in str(error):
            pytest.skip(f'the ptxas of Triton {triton.__version__} does not know sm_{capability}')
        raise


@pytest.mark.skipif(bool(os.environ.get('TRITON_INTERPRET')), reason='kernels are interpreted here')
@pytest.mark.parametrize('capability', sorted(SHARED))
@pytest.mark.parametrize(('rows', 'even'), [(16, True), (50, False), (816, True)])
def test_a_tile_compiles_to_integer_matrix_instructions(capability, rows, even):
    from quantvla_ros.kernels.triton_kernels import scaled_matmul_kernel

    tile = choose_tile(rows, 2048, processors=16, shared=SHARED[capability])
    compiled = compile_for(
        capability,
        scaled_matmul_kernel,
        {
            'q_ptr': '*i8',
            'weight_ptr': '*i8',
            'scale_ptr': '*fp32',
            'weight_scale_ptr': '*fp32',
            'bias_ptr': '*fp32',
            'y_ptr': '*bf16',
            'M': 'i32',
            'N': 'i32',
            'K': 'i32',
        },
        {
            'HAS_BIAS': not even,
            'EVEN_K': even,
            'BLOCK_M': tile.rows,
            'BLOCK_N': tile.outputs,
            'BLOCK_K': tile.columns,
        },
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    instruction = r'(wgmma\.mma_async\.\S*s32\.s8\.s8|mma\.sync\.\S*s32\.s8\.s8\.s32)'
    assert re.search(instruction, compiled.asm['ptx']), f'{tile} on sm_{capability}'
    assert compiled.metadata.shared <= SHARED[capability]


@pytest.mark.skipif(bool(os.environ.get('TRITON_INTERPRET')), reason='kernels are interpreted here')
@pytest.mark.parametrize('capability', sorted(SHARED))
@pytest.mark.parametrize('one_pass', [True, False])
def test_the_row_kernel_compiles(one_pass, capability):
    from quantvla_ros.kernels.triton_kernels import quantize_rows_kernel

    compile_for(
        capability,
        quantize_rows_kernel,
        {'x_ptr': '*bf16', 'q_ptr': '*i8', 'scale_ptr': '*fp32', 'K': 'i32'},
        {'SMALLEST': 1e-30, 'BLOCK': 2048, 'ONE_PASS': one_pass},
        num_warps=4,
        enable_fp_fusion=False,
    )


@pytest.mark.parametrize('shared', sorted(set(SHARED.values())))
@pytest.mark.parametrize('rows', [1, 16, 17, 33, 64, 65, 200, 816, 8192])
@pytest.mark.parametrize('outputs', [1, 256, 2048, 32768])
def test_a_chosen_tile_fits_and_wastes_no_rows(shared, rows, outputs):
    tile = choose_tile(rows, outputs, processors=16, shared=shared)
    assert tile.shared <= shared
    if rows <= 64:
        assert rows <= tile.rows < 2 * max(rows, 16)


def test_few_outputs_are_spread_over_the_multiprocessors():
    # one wave of half-empty tiles is slower than small tiles everywhere
    wide = choose_tile(816, 32768, processors=132, shared=227 * 1024)
    narrow = choose_tile(816, 512, processors=132, shared=227 * 1024)
    assert narrow.rows * narrow.outputs < wide.rows * wide.outputs


def test_every_tile_is_a_power_of_two():
    for _, tiles in _TILES:
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
