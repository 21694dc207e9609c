# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How rows become integers, and packed 4-bit weights, on the CPU against their definition."""
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantvla_ros.errors import BackendError
from quantvla_ros.kernels import blocked, onednn, reference
from quantvla_ros.kernels.linear import Rows, available_backends, int4_linear, int8_linear
from quantvla_ros.kernels.packing import expand, pack_int4, unpack_int4

CPU_BACKENDS = available_backends('cpu')
MODULES = {'torch': onednn, 'blocked': blocked}


def orthogonal(*shape):
    return torch.linalg.qr(torch.randn(*shape).double())[0].float()


def packed_weight(outputs, columns, group):
    q = torch.randint(-8, 8, (outputs, columns), dtype=torch.int8)
    if not group:
        return pack_int4(q), None, q
    scale = torch.randint(1, 16, (outputs, -(-columns // group)), dtype=torch.uint8)
    w8 = q.int() * scale.int().repeat_interleave(group, dim=1)[:, :columns]
    return pack_int4(q), scale, w8.to(torch.int8)


settings_of_rows = st.fixed_dictionaries(
    {
        'bits': st.sampled_from([8, 4]),
        'static': st.booleans(),
        'rotation': st.sampled_from(['none', 'shared', 'blocks']),
        'permuted': st.booleans(),
        'block': st.sampled_from([1, 3, 16, 64]),
        'blocks': st.integers(1, 5),
        'count': st.integers(1, 20),
        'seed': st.integers(0, 2**31),
        'magnitude': st.sampled_from([1e-12, 1.0, 1e8]),
    }
)


def make_rows(s):
    torch.manual_seed(s['seed'])
    columns = s['block'] * s['blocks']
    x = torch.randn(s['count'], columns) * s['magnitude']
    rotation = {
        'none': None,
        'shared': orthogonal(s['block'], s['block']),
        'blocks': orthogonal(s['blocks'], s['block'], s['block']),
    }[s['rotation']]
    # about every third value is beyond the range of the static step
    step = torch.tensor(s['magnitude'] / (127 if s['bits'] == 8 else 7))
    rows = Rows(
        bits=s['bits'],
        scale=step if s['static'] else None,
        rotation=rotation,
        permutation=torch.randperm(columns).int() if s['permuted'] else None,
    )
    return x, rows


@pytest.mark.parametrize('backend', CPU_BACKENDS)
@settings(max_examples=150, deadline=None)
@given(settings_of_rows)
def test_rows_become_the_integers_of_the_definition(backend, chosen):
    x, rows = make_rows(chosen)
    q, scale = MODULES[backend].quantize_rows(x, rows)
    q64, scale64 = reference.quantize_rows(x, rows)
    assert scale.dtype == torch.float32 and q.dtype == q64.dtype == torch.int8
    torch.testing.assert_close(scale.double(), scale64, rtol=1e-5, atol=0.0)
    assert q.abs().max() <= rows.largest
    # The backends and the definition turn the rows by the same function, so once more by hand.
    turned = x.double()
    if rows.permutation is not None:
        turned = turned[:, rows.permutation.long()]
    if rows.rotation is not None:
        blocks = turned.reshape(x.shape[0], -1, rows.block)
        r = rows.rotation.double().expand(blocks.shape[1], -1, -1)
        turned = torch.einsum('mbi,bij->mbj', blocks, r).reshape(x.shape)
    quotient = turned / scale64[:, None]
    # Rounding goes the other way only near the edge between two integers.
    for found in (q, q64):
        assert ((quotient.clamp(-rows.largest, rows.largest) - found).abs() <= 0.5 + 1e-3).all()


def test_a_rotation_goes_from_the_right_after_the_permutation():
    # two orders and a transpose are easily mistaken; an orthogonal R would hide none of them here
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    rotation = torch.tensor([[[1.0, 10.0], [0.0, 1.0]], [[2.0, 0.0], [5.0, 1.0]]])
    rows = Rows(
        scale=torch.tensor(1.0), rotation=rotation, permutation=torch.tensor([3, 0, 1, 2])
    )
    q, _ = reference.quantize_rows(x, rows)
    assert q.tolist() == [[4, 41, 2 * 2 + 5 * 3, 3]]
    for backend in CPU_BACKENDS:
        assert MODULES[backend].quantize_rows(x, rows)[0].tolist() == q.tolist()


@pytest.mark.parametrize('backend', [*CPU_BACKENDS, 'reference'])
def test_rotated_weights_undo_rotated_rows(backend):
    x = torch.randn(40, 192)
    weight = torch.randn(30, 192)
    rotation, order = orthogonal(3, 64, 64), torch.randperm(192)
    turned = weight[:, order].reshape(30, 3, 64)
    turned = torch.einsum('nbi,bij->nbj', turned, rotation).reshape(30, 192)
    scale = turned.abs().amax(dim=1) / 127
    weight_q = (turned / scale[:, None]).round().to(torch.int8)
    rows = Rows(rotation=rotation.half(), permutation=order)
    found = int8_linear(x, weight_q, scale, rows=rows, backend=backend)
    exact = x @ weight.t()
    assert (found - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize('backend', [*CPU_BACKENDS, 'reference'])
@pytest.mark.parametrize('poison', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('static', [True, False])
@pytest.mark.parametrize('rotated', [True, False])
def test_a_row_that_is_not_finite_is_all_nan(backend, poison, static, rotated):
    # under a static scale an infinity would otherwise be clamped into a plausible number
    x = torch.randn(4, 96)
    weight_q = torch.randint(-127, 128, (11, 96), dtype=torch.int8)
    rows = Rows(
        scale=torch.tensor(0.02) if static else None,
        rotation=orthogonal(32, 32) if rotated else None,
    )
    clean = int8_linear(x, weight_q, torch.ones(11), rows=rows, backend=backend)
    assert torch.isfinite(clean).all()
    x[2, 17] = poison
    found = int8_linear(x, weight_q, torch.ones(11), rows=rows, backend=backend)
    assert found[2].isnan().all()
    assert torch.equal(found[[0, 1, 3]], clean[[0, 1, 3]])


@pytest.mark.parametrize('backend', [*CPU_BACKENDS, 'reference'])
@pytest.mark.parametrize('scale', [0.0, -1.0, float('nan'), float('inf')])
def test_a_static_scale_that_is_no_step_gives_nan_not_zero(backend, scale):
    rows = Rows(scale=torch.tensor(scale))
    weight_q = torch.ones(2, 4, dtype=torch.int8)
    found = int8_linear(torch.ones(3, 4), weight_q, torch.ones(2), rows=rows, backend=backend)
    assert found.isnan().all()


@given(
    outputs=st.integers(1, 9),
    pairs=st.integers(1, 90),
    group=st.sampled_from([0, 2, 6, 32, 128]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_packed_weights_stand_for_their_int8_numbers(outputs, pairs, group, seed):
    torch.manual_seed(seed)
    packed, group_scale, w8 = packed_weight(outputs, 2 * pairs, group)
    assert packed.shape == (outputs, pairs) and packed.dtype == torch.uint8
    assert torch.equal(expand(packed, group_scale, group), w8)
    q = unpack_int4(packed)
    assert torch.equal(pack_int4(q), packed)


def test_the_even_column_is_in_the_low_half():
    assert pack_int4(torch.tensor([[-8, 7, 0, -1]], dtype=torch.int8)).tolist() == [[0xF0, 0x78]]


@pytest.mark.parametrize('backend', [*CPU_BACKENDS, 'reference'])
@pytest.mark.parametrize('group', [0, 32, 128])
@pytest.mark.parametrize('shape', [(1, 2, 1), (3, 300, 9), (17, 128, 65), (50, 1024, 40)])
def test_int4_is_int8_with_the_expanded_weights(backend, group, shape):
    count, columns, outputs = shape
    packed, group_scale, w8 = packed_weight(outputs, columns, group)
    x = torch.randn(2, count, columns)
    weight_scale, bias = torch.rand(outputs), torch.randn(outputs)
    rows = Rows(bits=4)
    found = int4_linear(
        x, packed, group_scale, group, weight_scale, bias, rows=rows, backend=backend
    )
    expected = int8_linear(x, w8, weight_scale, bias, rows=rows, backend=backend)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'bits': 3}, '8 or 4'),
        ({'scale': torch.ones(1)}, r'float32 \[\]'),
        ({'scale': torch.tensor(1.0).double()}, 'float32'),
        ({'rotation': torch.ones(2, 3)}, r'\[B, B\]'),
        ({'rotation': torch.ones(2, 2, dtype=torch.int8)}, 'floating point'),
        ({'permutation': torch.ones(4)}, 'int32 or int64'),
        ({'permutation': torch.arange(3)}, r'permutation: expected \[4\]'),
        ({'rotation': torch.eye(3)}, 'divisor of 4'),
        ({'rotation': torch.ones(3, 2, 2)}, 'divisor of 4'),
        ({'rotation': torch.ones(2, 2, device='meta')}, 'rotation: expected on cpu'),
    ],
)
def test_rows_that_do_not_fit_are_named(change, message):
    weight_q = torch.zeros(2, 4, dtype=torch.int8)
    with pytest.raises(BackendError, match=message):
        int8_linear(torch.zeros(3, 4), weight_q, torch.ones(2), rows=Rows(**change))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'weight_packed': torch.zeros(2, 4, dtype=torch.int8)}, r'\[N, K / 2\] uint8'),
        ({'weight_packed': torch.zeros(4, 2, dtype=torch.uint8).t()}, 'contiguous'),
        ({'x': torch.zeros(3, 4)}, r'\[\.\.\., 8\]'),
        ({'group': 4}, 'expected 0'),
        ({'group': 3, 'group_scale': torch.ones(2, 3, dtype=torch.uint8)}, 'even'),
        ({'group': 6, 'group_scale': torch.ones(2, 1, dtype=torch.uint8)}, r'uint8 \[2, 2\]'),
        ({'group': 4, 'group_scale': torch.ones(2, 2)}, 'uint8'),
    ],
)
def test_packed_weights_that_do_not_fit_are_named(change, message):
    arguments = {
        'x': torch.zeros(3, 8),
        'weight_packed': torch.zeros(2, 4, dtype=torch.uint8),
        'group_scale': None,
        'group': 0,
        'weight_scale': torch.ones(2),
        **change,
    }
    with pytest.raises(BackendError, match=message):
        int4_linear(**arguments)


@pytest.mark.parametrize('values', [[[8, 0]], [[-9, 0]], [[1]]])
def test_what_is_no_4_bit_weight_is_not_packed(values):
    with pytest.raises(BackendError):
        pack_int4(torch.tensor(values, dtype=torch.int8))
