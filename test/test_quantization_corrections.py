# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Attention temperature matching and output head balancing: statistics, bounds, exact folding."""
import math

import pytest
import torch
from matching_samples import balance as settings
from torch import nn

from quantvla_ros.errors import CalibrationError
from quantvla_ros.models.layers import GroupedAttention, rotary_table
from quantvla_ros.models.network import DenoisingStep
from quantvla_ros.quantization.balance import OutputMoments
from quantvla_ros.quantization.correction import Fold, bounded, ratio, scale_outputs
from quantvla_ros.quantization.quantize import quantize_linear
from quantvla_ros.quantization.recipe import LayerFormat, Weights
from quantvla_ros.quantization.temperature import LogitMoments, head_factors

ALPHA = torch.tensor([0.75, 1.0, 1.3, 1.1], dtype=torch.float64)
WEIGHTS = {'damping': 0.01, 'match_float': False, 'scale_grid': (1.0, 0.9), 'eight_bits': ()}


def attention(dtype=torch.float64, bias=False, head_dim=8):
    module = GroupedAttention(24, 4, 1, head_dim)
    if bias:  # pi0.5 has none, other heads do
        for name in ('q_proj', 'k_proj', 'v_proj', 'o_proj'):
            old = getattr(module, name)
            setattr(module, name, nn.Linear(old.in_features, old.out_features))
    return module.to(dtype).requires_grad_(False)


def capture(module, x):
    seen = []
    module.probe = lambda *captured: seen.append(captured)
    places = torch.arange(x.shape[1])[None].expand(x.shape[0], -1)
    rotary = rotary_table(places, module.head_dim, 1e4)
    key, value = module.key_value(x, rotary)
    valid = torch.ones(x.shape[0], 1, 1, x.shape[1], dtype=torch.bool)
    output = module.attend(module.query(x, rotary), key, value, valid)
    module.probe = None
    return seen[0][0], output


def quantized(linear, bits, output_rotation=False, block=8):
    layout = LayerFormat(
        weight_bits=bits,
        group=0,
        activation_bits=8,
        activation_scale='dynamic_per_token',
        rotation='none',
        block=block,
        permute=False,
        output_rotation=output_rotation,
    )
    weights = Weights(bits=bits, group=0, rounding='nearest', **WEIGHTS)
    return quantize_linear(linear, layout, weights, DenoisingStep())[0]


@pytest.mark.parametrize('bias', [False, True])
def test_alpha_folds_into_w_q_exactly(bias):
    # a run-time multiply would change the operator schedule
    module, x = attention(bias=bias), torch.randn(2, 5, 24, dtype=torch.float64)
    before, _ = capture(module, x)
    Fold(module.query_projection, {}).set(head_factors(module, ALPHA))
    after, _ = capture(module, x)
    # rotary embedding computes in float32, hence not 1e-12
    torch.testing.assert_close(after, before * ALPHA[None, :, None, None].float())


@pytest.mark.parametrize('bias', [False, True])
def test_beta_folds_into_w_o_exactly(bias):
    module, x = attention(bias=bias), torch.randn(2, 5, 24, dtype=torch.float64)
    _, before = capture(module, x)
    Fold(module.output_projection, {}).set(torch.tensor(1.2, dtype=torch.float64))
    _, after = capture(module, x)
    torch.testing.assert_close(after, before * 1.2, rtol=1e-12, atol=1e-12)


# a block of 8 holds one head, a block of 16 two with an alpha each
@pytest.mark.parametrize('bits', [8, 4])
@pytest.mark.parametrize(
    ('rotated', 'block'), [(False, 8), (True, 8), (True, 16)], ids=['plain', 'head', 'two heads']
)
def test_both_fold_into_a_quantized_attention_as_exactly(bits, rotated, block):
    module, x = attention(torch.float32, bias=True), torch.randn(1, 5, 24)
    module.q_proj = quantized(module.q_proj, bits, rotated, block)
    module.o_proj = quantized(module.o_proj, bits, rotated, block)
    logits, output = capture(module, x)
    Fold(module.output_projection, {}).set(torch.tensor(0.8, dtype=torch.float64))
    _, balanced = capture(module, x)
    # rotations are stored in float16
    exact = {'rtol': 2e-3, 'atol': 2e-3} if rotated else {}
    torch.testing.assert_close(balanced, output * 0.8, **exact)
    integers = module.q_proj.integers().clone()
    Fold(module.query_projection, {}).set(head_factors(module, ALPHA))
    scaled, _ = capture(module, x)
    torch.testing.assert_close(scaled, logits * ALPHA[None, :, None, None].float(), **exact)
    assert torch.equal(module.q_proj.integers(), integers)


@pytest.mark.parametrize('make', [lambda x: x, lambda x: quantized(x, 8)], ids=['float', 'int8'])
def test_a_scalar_on_the_input_leaves_the_bias_alone(make):
    linear = make(nn.Linear(16, 8).requires_grad_(False))
    x = torch.randn(3, 16)
    bias, before = linear.bias.clone(), linear(x)
    Fold(linear, {}, bias=False).set(torch.tensor(1.25))
    torch.testing.assert_close(linear(x), (before - bias) * 1.25 + bias)
    assert torch.equal(linear.bias, bias)


def test_a_fold_that_is_set_again_starts_from_the_layer_as_it_was():
    linear = nn.Linear(16, 8).bfloat16().requires_grad_(False)
    weight, bias = linear.weight.clone(), linear.bias.clone()
    fold = Fold(linear, {})
    for value in (0.9, 1.3, 0.77):
        fold.set(torch.tensor(value, dtype=torch.float64))
    assert torch.equal(linear.weight, (weight.double() * 0.77).bfloat16())
    fold.set(torch.tensor(1.0))
    assert torch.equal(linear.weight, weight) and torch.equal(linear.bias, bias)


def test_outputs_scale_one_by_one():
    linear, x = nn.Linear(16, 8).requires_grad_(False), torch.randn(3, 16)
    factor, before = torch.linspace(0.5, 2.0, 8), linear(x)
    scale_outputs(linear, factor)
    torch.testing.assert_close(linear(x), before * factor)


def test_dead_band_then_shrinkage_then_clip():
    measured = torch.tensor([0.02, -0.02, 0.1, -0.1, 2.0, -2.0]).exp()
    log = bounded(measured, settings(dead_band=0.03, shrinkage=0.5, log_clip=0.3)).log()
    assert log.tolist() == pytest.approx([0.0, 0.0, 0.05, -0.05, 0.3, -0.3], abs=1e-6)
    exactly = bounded(measured, settings(dead_band=0.03, log_clip=0.3))
    assert exactly[0] == exactly[1] == 1.0


def test_the_clip_bounds_the_total():
    applied = torch.tensor([1.25, 0.8])
    total = bounded(torch.tensor([1.25, 1.25]), settings(log_clip=0.3), applied)
    assert total.tolist() == pytest.approx([math.exp(0.3), 1.0])


@pytest.mark.parametrize('value', [-1.0, float('nan'), float('inf')])
def test_a_statistic_that_cannot_be_is_refused(value):
    with pytest.raises(CalibrationError, match='float policy'):
        ratio(torch.tensor([value]), torch.ones(1), 'it', [])
    with pytest.raises(CalibrationError, match='quantized policy'):
        ratio(torch.ones(1), torch.tensor([value]), 'it', [])


def test_a_head_that_quantization_has_silenced_is_refused_and_one_that_never_spoke_is_not():
    with pytest.raises(CalibrationError, match='react'):
        ratio(torch.ones(2), torch.tensor([1.0, 0.0]), 'it', [])
    notes = []
    both = ratio(torch.tensor([2.0, 0.0]), torch.tensor([1.0, 0.0]), 'layer 3, head', notes)
    assert both.tolist() == [2.0, 1.0]
    assert len(notes) == 1 and 'layer 3, head 1' in notes[0]


def moments(logits, student=None, valid=None):
    found = LogitMoments()
    found.add(logits, logits if student is None else student, valid)
    return found


def spread(logits, valid=None):
    return moments(logits, valid=valid).spreads()[0]


def test_the_spread_ignores_masked_keys_whatever_they_hold():
    logits = torch.randn(2, 3, 4, 6)
    valid = torch.ones(2, 1, 1, 6, dtype=torch.bool)
    valid[..., 4:] = False
    expected = logits[..., :4].double().std(dim=-1, correction=0).mean(dim=(0, 2))
    logits[..., 4] = float('inf')
    logits[..., 5] = float('nan')
    torch.testing.assert_close(spread(logits, valid), expected, rtol=1e-5, atol=1e-6)
    assert moments(logits, logits * 1.5, valid).relative_error() == pytest.approx((0.5,) * 3)


def test_no_mask_means_all_keys():
    logits = torch.randn(2, 3, 4, 6)
    valid = torch.ones(2, 1, 1, 6, dtype=torch.bool)
    torch.testing.assert_close(spread(logits), spread(logits, valid))


def test_the_spread_takes_a_mask_per_query():
    logits = torch.randn(1, 2, 3, 5)
    valid = torch.ones(1, 1, 3, 5, dtype=torch.bool).tril(2)
    rows = [logits[0, :, q, : q + 3].double().std(dim=-1, correction=0) for q in range(3)]
    expected = torch.stack(rows).mean(dim=0)
    torch.testing.assert_close(spread(logits, valid), expected, rtol=1e-5, atol=1e-6)


def test_an_offset_common_to_the_keys_of_a_query_moves_nothing():
    # softmax does not see it
    logits = torch.randn(1, 2, 3, 7)
    shifted = logits + torch.randn(1, 2, 3, 1) * 10
    torch.testing.assert_close(spread(shifted), spread(logits), rtol=1e-4, atol=1e-5)
    found = moments(logits, shifted)
    for method in ('std_ratio', 'least_squares'):
        alpha = found.scalar(method, 'it', [])
        torch.testing.assert_close(alpha, torch.ones(2).double(), rtol=1e-4, atol=1e-5)
    assert max(found.relative_error()) < 1e-4


def test_statistics_add_up_over_calls():
    teacher, student = torch.randn(4, 2, 3, 5), torch.randn(4, 2, 3, 5)
    parts = LogitMoments()
    for t, s in zip(teacher.split(1), student.split(1), strict=True):
        parts.add(t, s, None)
    whole = moments(teacher, student)
    torch.testing.assert_close(parts.spreads(), whole.spreads())
    assert parts.relative_error() == pytest.approx(whole.relative_error())


def test_least_squares_is_the_scalar_with_the_least_error():
    teacher = torch.randn(1, 1, 40, 30)
    student = 0.8 * teacher + 0.5 * torch.randn(1, 1, 40, 30)
    found = moments(teacher, student)
    errors = {}
    for method in ('std_ratio', 'least_squares'):
        alpha = float(found.scalar(method, 'it', []))
        errors[method] = moments(teacher, student * alpha).relative_error()[0]
        for other in (0.97 * alpha, 1.03 * alpha):
            if method == 'least_squares':
                assert errors[method] < moments(teacher, student * other).relative_error()[0]
    assert errors['least_squares'] < errors['std_ratio']


def test_outputs_are_measured_over_valid_tokens_and_all_channels():
    teacher = torch.randn(2, 3, 8)
    student = teacher * 0.5
    valid = torch.tensor([[True, True, False], [True, True, True]])
    student[0, 2] = float('nan')
    found = OutputMoments()
    found.add(teacher, student, valid)
    first = teacher[0, :2].square().mean().sqrt()
    second = teacher[1].square().mean().sqrt()
    assert float(found.rms()[0]) == pytest.approx(float(first + second) / 2, rel=1e-5)
    for method in ('rms_ratio', 'least_squares'):
        assert float(found.scalar(method, 'it', [])) == pytest.approx(2.0)
    assert found.relative_error() == pytest.approx(0.5)
