# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The definition of the fused operations against plain formulas; the dispatch against it."""
import importlib.util
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from quantvla_ros.errors import BackendError
from quantvla_ros.kernels import fused, reference
from quantvla_ros.kernels.fused_types import (
    FloatWeight,
    Int4Weight,
    Int8Weight,
    Quantized,
    Stacked,
    rows_of,
)
from quantvla_ros.kernels.packing import expand, pack_int4
from quantvla_ros.kernels.rows import Rows
from quantvla_ros.models.layers import rms_normalize, rotary_table, rotate
from quantvla_ros.quantization.rotation import hadamard, rotate_columns

CLOSE = {'rtol': 1e-5, 'atol': 1e-5}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def int8_weight(outputs=24, columns=32, rows=None, turn=None) -> Int8Weight:
    q = torch.randint(-127, 128, (outputs, columns), dtype=torch.int8)
    return Int8Weight(q, torch.rand(outputs) * 0.01, torch.randn(outputs), rows or Rows(), turn)


def int4_weight(outputs=24, columns=32, rows=None) -> Int4Weight:
    packed = pack_int4(torch.randint(-8, 8, (outputs, columns), dtype=torch.int8))
    groups = torch.randint(1, 16, (outputs, columns // 16), dtype=torch.uint8)
    return Int4Weight(packed, groups, 16, torch.rand(outputs) * 0.01, None, rows or Rows())


def test_rms_norm_is_the_layers_norm_with_its_weight_or_modulated():
    x, weight = torch.randn(5, 32), torch.randn(32)
    scale, shift = torch.randn(32), torch.randn(32)
    plain = rms_normalize(x, 1e-6)
    assert torch.allclose(fused.rms_norm(x, weight, eps=1e-6), plain * weight, **CLOSE)
    assert torch.allclose(
        fused.rms_norm(x, weight, eps=1e-6, offset=1.0), plain * (1 + weight), **CLOSE
    )
    modulated = fused.rms_norm(x, None, eps=1e-6, modulation=(scale, shift))
    assert torch.allclose(modulated, plain * (1 + scale) + shift, **CLOSE)


def test_layer_norm_is_torchs_and_a_modulation_comes_after_it():
    x, weight, bias = torch.randn(5, 32), torch.randn(32), torch.randn(32)
    scale, shift = torch.randn(32), torch.randn(32)
    plain = F.layer_norm(x, (32,), weight, bias, 1e-6)
    assert torch.allclose(fused.layer_norm(x, weight, bias, eps=1e-6), plain, **CLOSE)
    modulated = fused.layer_norm(x, None, None, eps=1e-6, modulation=(scale, shift))
    wanted = F.layer_norm(x, (32,), None, None, 1e-6) * (1 + scale) + shift
    assert torch.allclose(modulated, wanted, **CLOSE)


def test_a_norm_in_integers_is_the_norm_then_the_integers():
    x, weight = torch.randn(5, 32).bfloat16(), torch.randn(32)
    rows = Rows(rotation=hadamard(16), permutation=torch.randperm(32))
    y = fused.rms_norm(x, weight, eps=1e-6)
    found = fused.rms_norm(x, weight, eps=1e-6, rows=rows)
    values, scale = reference.quantize_rows(y, rows)
    assert torch.equal(found.values, values) and torch.equal(found.scale, scale.float())
    assert found.dtype == y.dtype == torch.bfloat16


def test_a_norm_writes_into_a_wider_out_what_it_would_have_returned():
    x, out = torch.randn(5, 32).bfloat16(), torch.full((5, 32), torch.nan)
    assert fused.rms_norm(x, None, eps=1e-6, out=out) is out
    assert torch.equal(out, fused.rms_norm(x, None, eps=1e-6).float())


@pytest.mark.parametrize('make', [int8_weight, int4_weight])
def test_a_product_in_integers_is_that_of_what_they_stand_for(make):
    weight = make(rows=Rows(rotation=hadamard(16)))
    packed = isinstance(weight, Int4Weight)
    integers = expand(weight.packed, weight.group_scale, 16) if packed else weight.weight
    x = torch.randn(5, 32)
    q = fused.quantize_rows(x, weight.rows)
    wanted = (q.values.float() * q.scale[:, None]) @ (integers.float() * weight.scale[:, None]).t()
    wanted = wanted if weight.bias is None else wanted + weight.bias
    assert torch.allclose(fused.linear(x, weight), wanted, **CLOSE)
    assert torch.equal(fused.linear(q, weight), fused.linear(x, weight))


def test_activation_gate_and_residual_come_in_this_order():
    x, weight = torch.randn(5, 32), FloatWeight(torch.randn(24, 32), torch.randn(24))
    residual, gate = torch.randn(5, 24), torch.randn(24)
    y = F.gelu(F.linear(x, weight.weight, weight.bias), approximate='tanh')
    wanted = residual + gate * y
    found = fused.linear(x, weight, activation='gelu_tanh', residual=residual, gate=gate)
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-4)
    # the residual stream may be written in place
    assert fused.linear(x, weight, activation='gelu_tanh', residual=residual, gate=gate,
                        out=residual) is residual
    assert torch.equal(residual, found)


def test_the_result_has_the_type_of_out_then_of_the_residual_then_of_the_input():
    x, weight = torch.randn(5, 32).bfloat16(), int8_weight()
    q = fused.quantize_rows(x, weight.rows)
    assert fused.linear(x, weight).dtype == fused.linear(q, weight).dtype == torch.bfloat16
    assert fused.linear(x, weight, residual=torch.zeros(5, 24)).dtype == torch.float32


def test_gate_and_up_lie_in_turn_and_stacked_ones_side_by_side():
    x, gate, up = torch.randn(5, 32), torch.randn(24, 32), torch.randn(24, 32)
    wanted = F.silu(x @ gate.t()) * (x @ up.t())
    both = FloatWeight(torch.stack((gate, up), 1).flatten(0, 1))
    apart = Stacked((FloatWeight(gate), FloatWeight(up)))
    for weight in (both, apart):
        found = fused.gated_linear(x, weight, activation='silu')
        assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('heads', [4, 0])
def test_attention_inputs_rotate_queries_and_keys_and_write_their_rows_only(heads):
    x, kv_heads, size, first = torch.randn(5, 32), 2, 8, 3
    weight = FloatWeight(torch.randn((heads + 2 * kv_heads) * size, 32))
    cos, sin = rotary_table(torch.arange(7, 12)[None], size, 10_000.0)
    keys, values = (torch.full((9, kv_heads, size), torch.nan) for _ in range(2))
    queries = fused.attention_inputs(
        x, weight, (cos[0, 0], sin[0, 0]), heads, kv_heads, size, keys, values, first
    )
    y = (x @ weight.weight.t()).unflatten(-1, (-1, size)).transpose(0, 1)[None]
    turned = rotate(y, (cos, sin))[0].transpose(0, 1)
    assert queries.shape == (5, heads, size)
    assert torch.allclose(queries, turned[:, :heads], rtol=1e-4, atol=1e-4)
    assert torch.allclose(keys[3:8], turned[:, heads : heads + kv_heads], rtol=1e-4, atol=1e-4)
    plain = y[0].transpose(0, 1)[:, heads + kv_heads :]
    assert torch.allclose(values[3:8], plain, rtol=1e-4, atol=1e-4)
    for cache in (keys, values):
        assert cache[:3].isnan().all() and cache[8:].isnan().all()


def attended(queries, keys, values, **options):
    group = queries.shape[1] // keys.shape[1]
    q, k, v = (t.transpose(0, 1) for t in (queries, keys, values))
    k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
    y = F.scaled_dot_product_attention(q[None], k[None], v[None], scale=0.3, **options)
    return y[0].transpose(0, 1).flatten(1)


def test_attention_reads_the_first_keys_only():
    queries = torch.randn(5, 4, 8)
    keys, values = torch.randn(9, 2, 8), torch.randn(9, 2, 8)
    wanted = attended(queries, keys[:6], values[:6])
    keys[6:], values[6:] = torch.nan, torch.nan
    for count in (6, torch.tensor(6, dtype=torch.int32), torch.tensor([6], dtype=torch.int32)):
        found = fused.attention(queries, keys, values, count=count, scale=0.3)
        assert torch.allclose(found, wanted, **CLOSE)


def test_keys_of_ones_own_are_causal_and_the_others_seen_by_all():
    queries, keys, values = torch.randn(5, 4, 8), torch.randn(9, 2, 8), torch.randn(9, 2, 8)
    mask = torch.ones(5, 9, dtype=torch.bool)
    mask[:, :5] = mask[:, :5].tril()
    found = fused.attention(queries, keys, values, own=5, scale=0.3)
    assert torch.allclose(found, attended(queries, keys, values, attn_mask=mask), **CLOSE)


def test_causal_attention_does_not_look_ahead():
    queries, keys, values = torch.randn(9, 4, 8), torch.randn(9, 2, 8), torch.randn(9, 2, 8)
    found = fused.attention(queries, keys, values, causal=True, scale=0.3)
    assert torch.allclose(found, attended(queries, keys, values, is_causal=True), **CLOSE)


def test_segments_do_not_see_each_other():
    queries, keys, values = torch.randn(9, 4, 8), torch.randn(9, 4, 8), torch.randn(9, 4, 8)
    found = fused.attention(queries, keys, values, segment=3, scale=0.3)
    for at in range(0, 9, 3):
        part = (t[at : at + 3] for t in (queries, keys, values))
        assert torch.allclose(found[at : at + 3], attended(*part), **CLOSE)


def test_outputs_are_turned_before_the_bias():
    turn = torch.randn(3, 8, 8)
    weight = int8_weight(turn=turn)
    x = torch.randn(5, 32)
    plain = fused.linear(x, Int8Weight(weight.weight, weight.scale, None, weight.rows))
    wanted = rotate_columns(plain, turn.transpose(1, 2)) + weight.bias
    assert torch.allclose(fused.linear(x, weight), wanted, **CLOSE)


def test_weights_tell_how_a_norm_before_them_ends():
    rows = Rows()
    assert rows_of(int8_weight(rows=rows)) is rows and rows_of(int4_weight(rows=rows)) is rows
    assert rows_of(FloatWeight(torch.zeros(2, 2))) is None
    assert rows_of(Stacked((int8_weight(), int8_weight()))) is None


@pytest.mark.parametrize(
    'wrong',
    [
        lambda x, w: fused.linear(x, w, gate=torch.ones(24)),
        lambda x, w: fused.linear(
            Quantized(x.to(torch.int8), torch.ones(5), x.dtype), FloatWeight(torch.ones(24, 32))
        ),
        lambda x, w: fused.rms_norm(x, x[0], eps=0.0, modulation=(x[0], x[0])),
        lambda x, w: fused.attention(
            x.view(5, 4, 8), x.view(5, 4, 8), x.view(5, 4, 8), segment=2, scale=1.0
        ),
    ],
)
def test_what_has_no_meaning_is_refused(wrong):
    with pytest.raises(BackendError, match='expected'):
        wrong(torch.randn(5, 32), int8_weight())


# What no one kernel does is put together of kernels. Triton decides at import whether to interpret,
# hence a process of its own.
COMPOSED = '''
import torch
from test_kernels_fused import int4_weight, int8_weight
from quantvla_ros.kernels import fused, fused_reference
from quantvla_ros.kernels.fused_types import FloatWeight, Int4Weight, Stacked
from quantvla_ros.kernels.packing import pack_int4
from quantvla_ros.kernels.rows import Rows
from quantvla_ros.quantization.rotation import hadamard

torch.manual_seed(0)
order = Rows(permutation=torch.randperm(64))
packed = pack_int4(torch.randint(-8, 8, (16, 64), dtype=torch.int8))
int4 = Int4Weight(packed, None, 0, torch.rand(16) * 0.01, None, Rows(rotation=hadamard(16)))
parts = (
    int8_weight(16, 64, rows=order, turn=torch.randn(2, 8, 8)),
    int4,
    FloatWeight(torch.randn(16, 64), torch.randn(16)),
)
x, residual, gate = torch.randn(5, 64), torch.randn(5, 48), torch.rand(48)
stacked = Stacked(parts)
ready = fused.prepared(stacked)
rotary = (torch.rand(5, 4), torch.rand(5, 4))
def caches():
    return [torch.full((9, 2, 8), float('nan')) for _ in range(2)]
keys, values = caches()
other_keys, other_values = caches()
cases = [
    (fused.linear(x, ready, activation='silu', residual=residual, gate=gate),
     fused_reference.linear(x, stacked, activation='silu', residual=residual, gate=gate)),
    (fused.linear(x, parts[0]), fused_reference.linear(x, parts[0])),
    (fused.linear(x, ready.parts[1]), fused_reference.linear(x, int4)),
    (fused.gated_linear(x, ready, activation='relu'),
     fused_reference.gated_linear(x, stacked, activation='relu')),
    (fused.attention_inputs(x, ready, rotary, 2, 2, 8, keys, values, 1),
     fused_reference.attention_inputs(x, stacked, rotary, 2, 2, 8, other_keys, other_values, 1)),
    (keys[1:6], other_keys[1:6]),
    (values[1:6], other_values[1:6]),
    # a weight of another float type, for one product in float32
    (fused.linear(x.half(), parts[2], out=torch.empty(5, 16)),
     fused_reference.linear(x.half(), parts[2], out=torch.empty(5, 16))),
]
for index, (found, wanted) in enumerate(cases):
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-4), index
assert fused.linear(x.half(), parts[2]).dtype == torch.float16
'''


@pytest.mark.skipif(importlib.util.find_spec('triton') is None, reason='triton is not installed')
def test_what_no_one_kernel_does_is_put_together_of_kernels():
    path = os.pathsep.join(sys.path)
    environment = {**os.environ, 'TRITON_INTERPRET': '1', 'PYTHONPATH': path}
    done = subprocess.run(
        [sys.executable, '-c', COMPOSED], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
