# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The GPU's norms against the definition in float64: interpreted, and on a GPU if there is one."""
import importlib.util
import os
import subprocess
import sys

import pytest
import torch

if importlib.util.find_spec('triton') is None:
    pytest.skip('triton is not installed', allow_module_level=True)

# Triton decides at import whether to interpret, hence a process of its own.
COMMON = '''
import sys
import torch
from quantvla_ros.errors import BackendError
from quantvla_ros.kernels import fused_reference, reference, triton_norms
from quantvla_ros.kernels.fused_types import Quantized
from quantvla_ros.kernels.rows import Rows

seed = torch.seed() % 2**31
print('seed', seed)
torch.manual_seed(seed)
torch.set_default_device(sys.argv[1])
BFLOAT16 = 2**-7  # the interpreter cuts off where a GPU rounds

def orthogonal(*shape):
    return torch.linalg.qr(torch.randn(*shape).double())[0].float()

def hadamard(size):
    matrix = torch.ones(1, 1)
    while matrix.shape[0] < size:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)))
    return matrix * size**-0.5

def inputs(rows, width, dtype):
    # rows of all sizes, from those that eps rules to those whose squares nearly overflow
    x = torch.randn(rows, width) * 10.0 ** torch.randint(-9, 15, (rows, 1))
    if rows > 2:
        x[2] = 0.0
    padded = torch.full((rows, width + 16), float('nan'), dtype=dtype)
    padded[:, :width] = x.to(dtype)
    return padded[:, :width]  # rows further apart than they are long

def variants(width):
    weight, bias = torch.randn(width), torch.randn(width)
    modulation = (torch.randn(width), torch.randn(width))
    return [
        (triton_norms.rms_norm, fused_reference.rms_norm, (weight,), {'offset': 1.0}),
        (triton_norms.rms_norm, fused_reference.rms_norm, (weight.bfloat16(),), {}),
        (triton_norms.rms_norm, fused_reference.rms_norm, (None,), {'modulation': modulation}),
        (triton_norms.layer_norm, fused_reference.layer_norm, (weight, bias), {}),
        (triton_norms.layer_norm, fused_reference.layer_norm, (None, None), {}),
        (triton_norms.layer_norm, fused_reference.layer_norm, (weight, bias),
         {'modulation': modulation}),
    ]

def poisoned(rows, width):
    values = torch.full((rows, width), 77, dtype=torch.int8)
    return Quantized(values, torch.full((rows,), float('nan')), torch.float32)

def close(q, scale, exact, rows_, dtype, case):
    """Whether integers and scales are those of the exact norm, but for its rounding to dtype."""
    from quantvla_ros.kernels.rows import turn
    turned = turn(exact, rows_, torch.float64)
    ulp = 1e-5 if dtype == torch.float32 else BFLOAT16
    largest = turned.abs().amax(dim=1)
    size = exact.abs().amax(dim=1) * max(rows_.block, 1) ** 0.5
    if rows_.scale is None:
        expected = largest.clamp_min(reference.SMALLEST) / rows_.largest
        assert ((scale - expected).abs() <= ulp * size / rows_.largest + 1e-36).all(), case
    else:
        assert (scale == rows_.scale).all(), case
    limit = rows_.largest * scale[:, None].double()
    error = (q * scale[:, None].double() - turned.maximum(-limit).minimum(limit)).abs()
    allowed = 0.501 * scale[:, None] + ulp * size[:, None] + 1e-36
    assert (error <= allowed).all(), (case, (error / allowed).max())
    assert q.abs().max() <= rows_.largest, case
'''

TENSORS = '''
for rows, width in [(1, 1), (3, 7), (18, 64), (3, 960), (2, 2050)]:
    for dtype in (torch.float32, torch.bfloat16):
        x = inputs(rows, width, dtype)
        for ours, definition, vectors, options in variants(width):
            out = torch.full((rows, width), float('nan'), dtype=dtype)
            assert ours(x, *vectors, eps=1e-6, out=out, **options) is out
            exact = definition(x.double(), *vectors, eps=1e-6, **options)
            relative = 1e-5 if dtype == torch.float32 else BFLOAT16
            size = exact.abs().amax(dim=1, keepdim=True)
            case = (rows, width, dtype, definition.__name__, list(options))
            assert ((out.double() - exact).abs() <= relative * size + 1e-30).all(), case
    # a row that is not finite, or too large to be squared, becomes NaN as a whole, no other does
    if rows > 1:
        x = torch.randn(rows, width)
        for ours, _, vectors, options in variants(width):
            clean = ours(x, *vectors, eps=1e-6, **options)
            for poison in (float('nan'), float('inf'), -float('inf'), 3e38):
                bad = x.clone()
                bad[1, width // 2] = poison
                y = ours(bad, *vectors, eps=1e-6, **options)
                assert y[1].isnan().all() and torch.equal(y[0], clean[0])
                assert torch.equal(y[2:], clean[2:])
print('done')
'''

INTEGERS = '''
# rows, blocks, block: as Gemma's and odd ones that no tile divides
shapes = [(1, 1, 2), (3, 5, 16), (17, 3, 64), (3, 4, 10), (2, 18, 64), (2, 7, 128)]
for rows, blocks, block in shapes:
    width = blocks * block
    order = torch.randperm(width)
    turns = {
        'none': None,
        'one': orthogonal(block, block),
        'each': orthogonal(blocks, block, block).half(),
        'hadamard': hadamard(block) if block & (block - 1) == 0 else None,
    }
    for number, (name, rotation) in enumerate(turns.items()):
        for bits in (8, 4):
            rows_ = Rows(
                bits=bits,
                scale=torch.tensor(0.03) if number % 2 == bits // 8 else None,
                rotation=rotation,
                permutation=order.int() if bits == 8 else None,
            )
            # two of the variants here, the others at the settings that follow
            for which in range((number + bits // 8) % 3, 6, 3):
                ours, definition, vectors, options = variants(width)[which]
                dtype = (torch.float32, torch.bfloat16)[(which // 3 + number // 2 + blocks) % 2]
                x = inputs(rows, width, dtype)
                case = (rows, blocks, block, name, bits, definition.__name__, list(options), dtype)
                out = poisoned(rows, width)
                assert ours(x, *vectors, eps=1e-6, rows=rows_, out=out, **options) is out
                exact = definition(x.double(), *vectors, eps=1e-6, **options)
                close(out.values, out.scale, exact, rows_, dtype, case)
                if dtype == torch.float32 and rows_.scale is None:
                    same = definition(x, *vectors, eps=1e-6, rows=rows_, **options)
                    assert (out.values.int() - same.values.int()).abs().max() <= 1, case
                    different = (out.values != same.values).float().mean()
                    assert different < 1e-3 + 1.5 / out.values.numel(), (case, different)
                if rows > 1 and which < 3:
                    bad = x.clone()
                    bad[1, width // 2] = (float('nan'), float('inf'), -float('inf'), 3e38)[number]
                    broken = ours(bad, *vectors, eps=1e-6, rows=rows_, **options)
                    assert broken.scale.isnan().tolist() == [i == 1 for i in range(rows)], case
                    assert torch.equal(broken.values[0], out.values[0]), case
                    assert torch.equal(broken.values[2:], out.values[2:]), case
            # rows that become integers as they are
            found = triton_norms.quantize_rows(x.contiguous(), rows_)
            assert found.dtype == dtype
            close(found.values, found.scale, x.double(), rows_, torch.float32, case)
print('done')
'''

SETTINGS = '''
x, weight = torch.randn(3, 512), torch.randn(512)
# a norm in integers is the norm, rounded to its type, in integers: as two layers would do it
for dtype in (torch.float32, torch.bfloat16):
    for bits in (8, 4):
        once = triton_norms.rms_norm(x.to(dtype), weight, eps=1e-6, rows=Rows(bits=bits))
        y = triton_norms.rms_norm(x.to(dtype), weight, eps=1e-6)
        twice = triton_norms.quantize_rows(y, Rows(bits=bits))
        assert torch.equal(once.values, twice.values) and torch.equal(once.scale, twice.scale)

# a Hadamard matrix is exact in bfloat16, blocks of float16 in one TF32 product, others in three
for rotation, dtype, expected in [
    (hadamard(64), torch.bfloat16, 'own'),
    (orthogonal(64, 64).half().float(), torch.bfloat16, 'tf32'),
    (orthogonal(64, 64), torch.bfloat16, 'tf32x3'),
    (orthogonal(64, 64).half(), torch.float16, 'own'),
    (hadamard(64), torch.float32, 'tf32x3'),
]:
    kept, precision = triton_norms._rotation(Rows(rotation=rotation), dtype)
    assert precision == expected and torch.equal(kept.double(), rotation.double())

for step in (0.0, -1.0, float('nan'), float('inf')):
    for rotation in (None, orthogonal(16, 16), orthogonal(32, 16, 16)):
        rows_ = Rows(scale=torch.tensor(step), rotation=rotation)
        found = triton_norms.rms_norm(x, weight, eps=1e-6, rows=rows_)
        assert found.scale.isnan().all() and (found.values == 0).all()

def refused(message, *arguments, **options):
    try:
        triton_norms.rms_norm(*arguments, eps=1e-6, **options)
    except BackendError as error:
        assert message in str(error), error
    else:
        raise AssertionError(message)

pair = (weight, weight)
refused('found both', x, weight, modulation=pair)
refused('expected weight [512]', x, weight[:-1])
refused('expected weight [512]', x, torch.randn(1024)[::2])
refused('expected scale [512]', x, None, modulation=(weight[None], weight))
refused('side by side', torch.randn(512, 3).t(), weight)
refused('1 to 16384', torch.randn(1, 20000), None)
refused('rotation', x, weight, rows=Rows(rotation=orthogonal(256, 256)))
refused('rotation', x, weight, rows=Rows(rotation=orthogonal(7, 64, 64)))
refused('rotation', x, weight, rows=Rows(rotation=orthogonal(48, 48)))
refused('permutation', x, weight, rows=Rows(permutation=torch.arange(511)))
refused('out', x, weight, out=torch.empty(3, 511))
refused('out', x, weight, rows=Rows(), out=torch.empty(3, 512))
print('done')
'''


@pytest.mark.parametrize(
    'program', [TENSORS, INTEGERS, SETTINGS], ids=['tensors', 'integers', 'settings']
)
@pytest.mark.parametrize('device', ['cpu', 'cuda'])
def test_norms_give_what_the_definition_says(program, device):
    environment = {**os.environ, 'TRITON_INTERPRET': '1', 'OMP_NUM_THREADS': '1'}
    if device == 'cuda':
        if not torch.cuda.is_available():
            pytest.skip('no GPU here')
        del environment['TRITON_INTERPRET']
    result = subprocess.run(
        [sys.executable, '-c', COMMON + program, device],
        env=environment,
        capture_output=True,
        text=True,
    )
    if 'only 0-dimensional arrays can be converted' in result.stderr:
        pytest.skip('this Triton (3.6) cannot interpret a loop with this NumPy (2.4)')
    assert result.returncode == 0 and 'done' in result.stdout, result.stdout + result.stderr
