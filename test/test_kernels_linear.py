# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""INT8 linears on the CPU against their float64 definition."""
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantvla_ros.errors import BackendError
from quantvla_ros.kernels import blocked, onednn, reference
from quantvla_ros.kernels.linear import available_backends, int8_linear

CPU_BACKENDS = available_backends('cpu')
SHAPES = [(1, 1, 1), (3, 1, 8), (1, 1024, 40), (2, 7, 5), (17, 33, 65), (50, 300, 70), (3, 5000, 9)]


def make(rows, columns, outputs, seed=None, dtype=torch.float32):
    generator = torch.Generator()
    seed = generator.seed() if seed is None else generator.manual_seed(seed).initial_seed()
    x = torch.randn(rows, columns, generator=generator).to(dtype)
    weight_q = torch.randint(-127, 128, (outputs, columns), dtype=torch.int8, generator=generator)
    weight_scale = torch.rand(outputs, generator=generator) * 0.02 + 1e-4
    bias = torch.randn(outputs, generator=generator)
    return x, weight_q, weight_scale, bias


def check(x, weight_q, weight_scale, bias, backend):
    """Against the definition given the same quantized rows, and those within one rounding."""
    module = {'torch': onednn, 'blocked': blocked}[backend]
    q, scale = module.quantize_rows(x)
    q64, scale64 = reference.quantize_rows(x)
    torch.testing.assert_close(scale.double(), scale64, rtol=1e-6, atol=0.0, equal_nan=True)
    # float32 may round the other way only where the quotient lies on the edge between two integers
    differs = q != q64
    assert (q.int() - q64.int()).abs().max() <= 1
    quotient = (x.double() / scale64[:, None])[differs]
    assert ((quotient - quotient.floor() - 0.5).abs() < 1e-4).all()
    expected = reference.scaled_matmul(q, scale, weight_q, weight_scale, bias, torch.float64)
    found = int8_linear(x, weight_q, weight_scale, bias, backend=backend)
    assert found.dtype == x.dtype
    size = expected.abs().amax().item() + 1e-30
    tolerance = {torch.float32: 1e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}[x.dtype]
    assert (found.double() - expected).abs().max().item() <= tolerance * size


@pytest.mark.parametrize('backend', CPU_BACKENDS)
@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('with_bias', [True, False])
def test_a_backend_gives_what_the_definition_says(backend, shape, with_bias):
    x, weight_q, weight_scale, bias = make(*shape)
    check(x, weight_q, weight_scale, bias if with_bias else None, backend)


@pytest.mark.parametrize('backend', CPU_BACKENDS)
@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 130),
    outputs=st.integers(1, 70),
    magnitude=st.sampled_from([1e-35, 1e-12, 1.0, 1e8, 1e30]),
    seed=st.integers(0, 2**31),
)
def test_any_shape_and_magnitude(backend, rows, columns, outputs, magnitude, seed):
    x, weight_q, weight_scale, bias = make(rows, columns, outputs, seed)
    check(x * magnitude, weight_q, weight_scale, bias, backend)


@pytest.mark.parametrize('backend', CPU_BACKENDS)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_inputs_keep_their_dtype(backend, dtype):
    x, weight_q, weight_scale, bias = make(9, 256, 31, dtype=dtype)
    check(x, weight_q, weight_scale, bias.to(dtype), backend)


@pytest.mark.parametrize('backend', CPU_BACKENDS)
def test_sums_at_the_end_of_the_range_do_not_saturate(backend):
    # The pairs of products that oneDNN adds in 16 bits on a CPU without VNNI.
    for weight in (-128, 127):
        weight_q = torch.full((33, 4096), weight, dtype=torch.int8)
        for value in (1.0, -1.0):
            x = torch.full((5, 4096), value)
            found = int8_linear(x, weight_q, torch.ones(33), backend=backend)
            torch.testing.assert_close(found, torch.full((5, 33), value * weight * 4096.0))


@pytest.mark.parametrize('backend', CPU_BACKENDS)
def test_a_small_sum_of_large_parts_is_exact(backend):
    # 100 million, more than float32 counts to, comes and goes on the way to some hundred thousand
    x = torch.ones(3, 16384)
    x[:, 8192:] = -1.0
    weight_q = torch.randint(64, 128, (200, 16384), dtype=torch.int8)
    found = int8_linear(x, weight_q, torch.ones(200), backend=backend)
    expected = x.double() @ weight_q.double().t()
    torch.testing.assert_close(found.double(), expected, rtol=2e-7, atol=0.0)


def test_a_cpu_without_an_exact_dot_product_gets_the_blocked_backend():
    # oneDNN limited to AVX2 saturates: the probe must see it and the result must stay right.
    if 'torch' not in CPU_BACKENDS or torch.backends.cpu.get_cpu_capability() not in (
        'AVX2',
        'AVX512',
    ):
        pytest.skip('this CPU has no instruction set to take away')
    program = (
        'import torch\n'
        'from quantvla_ros.kernels.linear import available_backends, int8_linear\n'
        'y = int8_linear(torch.ones(1, 4096), torch.full((8, 4096), -128, dtype=torch.int8),'
        ' torch.ones(8))\n'
        "print(','.join(available_backends('cpu')), y.unique().tolist())\n"
    )
    environment = {**os.environ, 'ONEDNN_MAX_CPU_ISA': 'AVX2', 'OMP_NUM_THREADS': '1'}
    environment.pop('TRITON_INTERPRET', None)
    result = subprocess.run(
        [sys.executable, '-c', program], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ['blocked', '[-524288.0]'], result.stdout + result.stderr


@pytest.mark.parametrize('backend', [*CPU_BACKENDS, 'reference'])
def test_zero_rows_give_the_bias(backend):
    x, weight_q, weight_scale, bias = make(4, 96, 11)
    x[1] = 0.0
    found = int8_linear(x, weight_q, weight_scale, bias, backend=backend)
    torch.testing.assert_close(found[1], bias)
    assert torch.isfinite(found).all()


@pytest.mark.parametrize('backend', [*CPU_BACKENDS, 'reference'])
@pytest.mark.parametrize('poison', [float('nan'), float('inf'), -float('inf')])
def test_a_row_that_is_not_finite_is_all_nan_and_leaves_the_others_alone(backend, poison):
    # A wrong number must reach the guard as NaN, not as a plausible motion.
    x, weight_q, weight_scale, bias = make(4, 96, 11)
    clean = int8_linear(x, weight_q, weight_scale, bias, backend=backend)
    x[2, 17] = poison
    found = int8_linear(x, weight_q, weight_scale, bias, backend=backend)
    assert found[2].isnan().all()
    assert torch.equal(found[[0, 1, 3]], clean[[0, 1, 3]])
    assert onednn.quantize_rows(x)[1].isnan().tolist() == [False, False, True, False]


@pytest.mark.parametrize('backend', [*CPU_BACKENDS, 'reference'])
def test_leading_dimensions_and_strided_rows_are_kept(backend):
    x, weight_q, weight_scale, bias = make(24, 40, 8)
    flat = int8_linear(x, weight_q, weight_scale, bias, backend=backend)
    shaped = int8_linear(x.reshape(2, 3, 4, 40), weight_q, weight_scale, bias, backend=backend)
    assert torch.equal(shaped.reshape(24, 8), flat)
    wide = torch.cat([x, x], dim=1)[:, :40]
    assert torch.equal(int8_linear(wide, weight_q, weight_scale, bias, backend=backend), flat)
    empty = int8_linear(x[:0], weight_q, weight_scale, bias, backend=backend)
    assert empty.shape == (0, 8)


@pytest.mark.parametrize('backend', [*CPU_BACKENDS, 'reference'])
def test_inputs_are_not_written_to(backend):
    arguments = make(5, 32, 6)
    arguments[0][0, 0] = float('nan')
    before = [tensor.clone() for tensor in arguments]
    int8_linear(*arguments, backend=backend)
    for tensor, copy in zip(arguments, before, strict=True):
        torch.testing.assert_close(tensor, copy, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'x': torch.zeros(3, 5)}, r'floating point \[\.\.\., 4\]'),
        ({'x': torch.zeros(3, 4, dtype=torch.int32)}, 'floating point'),
        ({'weight_q': torch.zeros(2, 4)}, 'int8 tensor'),
        ({'weight_q': torch.zeros(4, 2, dtype=torch.int8).t()}, 'contiguous'),
        ({'weight_scale': torch.ones(3)}, r'float32 \[2\]'),
        ({'weight_scale': torch.ones(2, dtype=torch.float64)}, 'float32'),
        ({'bias': torch.ones(1)}, r'bias: expected \[2\]'),
        ({'backend': 'cuda'}, 'no such backend'),
        ({'backend': 'triton'}, 'triton'),
    ],
)
def test_a_misfit_is_named(change, message, monkeypatch):
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    arguments = {
        'x': torch.zeros(3, 4),
        'weight_q': torch.zeros(2, 4, dtype=torch.int8),
        'weight_scale': torch.ones(2),
        **change,
    }
    with pytest.raises(BackendError, match=message):
        int8_linear(**arguments)


def test_too_many_columns_for_an_int32_sum_are_refused():
    columns = reference.MAX_COLUMNS + 1
    with pytest.raises(BackendError, match='columns'):
        int8_linear(
            torch.zeros(1, columns), torch.zeros(1, columns, dtype=torch.int8), torch.ones(1)
        )
