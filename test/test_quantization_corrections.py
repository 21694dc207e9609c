# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Attention temperature matching and output head balancing: statistics and exact folding."""
import math

import pytest
import torch
from quantization_samples import write_checkpoint
from torch import nn

from quantvla_ros.errors import CalibrationError
from quantvla_ros.models import load_model
from quantvla_ros.models.layers import GroupedAttention, rotary_table
from quantvla_ros.quantization.balance import balance, fold_balance, output_rms
from quantvla_ros.quantization.capture import observe_heads
from quantvla_ros.quantization.correction import bounded_ratio
from quantvla_ros.quantization.temperature import fold_temperature, logit_spread, temperature
from quantvla_ros.quantization.w8a8 import LinearW8A8

GRID = (1.0, 0.9)


def attention(dtype=torch.float64, bias=False):
    module = GroupedAttention(24, 4, 1, 8)
    if bias:  # pi0.5 has none, other heads do
        for name in ('q_proj', 'k_proj', 'v_proj', 'o_proj'):
            old = getattr(module, name)
            setattr(module, name, nn.Linear(old.in_features, old.out_features))
    return module.to(dtype).requires_grad_(False)


def capture(module, x, valid):
    seen = []
    module.probe = lambda *captured: seen.append(captured)
    rotary = rotary_table(torch.arange(x.shape[1])[None].expand(x.shape[0], -1), 8, 1e4)
    key, value = module.key_value(x, rotary)
    output = module.attend(module.query(x, rotary), key, value, valid)
    module.probe = None
    return seen[0][0], output


@pytest.mark.parametrize('bias', [False, True])
def test_alpha_folds_into_w_q_exactly(bias):
    # a run-time multiply would change the operator schedule
    module = attention(bias=bias)
    x, valid = torch.randn(2, 5, 24, dtype=torch.float64), torch.ones(2, 1, 1, 5, dtype=torch.bool)
    before, _ = capture(module, x, valid)
    alpha = torch.tensor([0.75, 1.0, 1.3, 1.1], dtype=torch.float64)
    fold_temperature(module, alpha)
    after, _ = capture(module, x, valid)
    # rotary embedding computes in float32, hence not 1e-12
    torch.testing.assert_close(after, before * alpha[None, :, None, None].float())


@pytest.mark.parametrize('bias', [False, True])
def test_beta_folds_into_w_o_exactly(bias):
    module = attention(bias=bias)
    x, valid = torch.randn(2, 5, 24, dtype=torch.float64), torch.ones(2, 1, 1, 5, dtype=torch.bool)
    _, before = capture(module, x, valid)
    fold_balance(module, torch.tensor(1.2, dtype=torch.float64))
    _, after = capture(module, x, valid)
    torch.testing.assert_close(after, before * 1.2, rtol=1e-12, atol=1e-12)


def test_both_fold_into_a_quantized_attention_as_exactly():
    module = attention(torch.float32, bias=True)
    module.q_proj = LinearW8A8.from_linear(module.q_proj, GRID)
    module.o_proj = LinearW8A8.from_linear(module.o_proj, GRID)
    x, valid = torch.randn(1, 5, 24), torch.ones(1, 1, 1, 5, dtype=torch.bool)
    logits, output = capture(module, x, valid)
    alpha = torch.tensor([0.75, 1.0, 1.3, 1.1])
    fold_balance(module, torch.tensor(0.8))
    _, balanced = capture(module, x, valid)
    torch.testing.assert_close(balanced, output * 0.8)
    fold_temperature(module, alpha)
    scaled, _ = capture(module, x, valid)
    torch.testing.assert_close(scaled, logits * alpha[None, :, None, None])


def test_a_matched_student_is_left_alone_and_a_shrunk_one_restored():
    spread = torch.tensor([0.5, 1.0, 2.0])
    shrunk = spread * torch.tensor([0.99, 0.8, 0.5])
    alpha = temperature(spread, shrunk, log_clip=0.30, dead_band=0.03)
    assert alpha[0] == 1.0  # within the dead band
    assert alpha[1].item() == pytest.approx(1.25)
    assert alpha[2].item() == pytest.approx(math.exp(0.30))  # clipped
    assert balance(torch.tensor(1.0), torch.tensor(1.1), log_clip=0.3, dead_band=0.03).item() == (
        pytest.approx(1 / 1.1)
    )


def test_the_ratio_is_bounded_alike_in_both_directions():
    teacher = torch.tensor([1e-3, 1e3])
    ratio = bounded_ratio(teacher, torch.ones(2), log_clip=0.3, dead_band=0.03)
    assert ratio.prod().item() == pytest.approx(1.0)


@pytest.mark.parametrize('value', [0.0, -1.0, float('nan'), float('inf')])
def test_a_statistic_that_cannot_be_is_refused(value):
    with pytest.raises(CalibrationError, match='expected positive statistics'):
        bounded_ratio(torch.tensor([value]), torch.ones(1), log_clip=0.3, dead_band=0.0)
    with pytest.raises(CalibrationError, match='quantized policy'):
        bounded_ratio(torch.ones(1), torch.tensor([value]), log_clip=0.3, dead_band=0.0)


def test_the_spread_ignores_masked_keys_whatever_they_hold():
    logits = torch.randn(2, 3, 4, 6)
    valid = torch.ones(2, 1, 1, 6, dtype=torch.bool)
    valid[..., 4:] = False
    expected = logits[..., :4].double().std(dim=-1, correction=0).mean(dim=(0, 2))
    logits[..., 4] = float('inf')
    logits[..., 5] = float('nan')
    torch.testing.assert_close(logit_spread(logits, valid), expected, rtol=1e-5, atol=1e-6)


def test_the_spread_takes_a_mask_per_query():
    logits = torch.randn(1, 2, 3, 5)
    valid = torch.ones(1, 1, 3, 5, dtype=torch.bool).tril(2)
    rows = [
        logits[0, :, q, : q + 3].double().std(dim=-1, correction=0) for q in range(3)
    ]
    torch.testing.assert_close(
        logit_spread(logits, valid), torch.stack(rows).mean(dim=0), rtol=1e-5, atol=1e-6
    )


def test_the_spread_is_blind_to_the_mean_of_a_row():
    # softmax is: an offset common to all keys of a query must not move alpha
    logits, valid = torch.randn(1, 2, 3, 7), torch.ones(1, 1, 1, 7, dtype=torch.bool)
    shifted = logits + torch.randn(1, 2, 3, 1) * 10
    torch.testing.assert_close(
        logit_spread(shifted, valid), logit_spread(logits, valid), rtol=1e-4, atol=1e-5
    )


def test_the_rms_is_over_batch_tokens_and_channels():
    output = torch.randn(2, 3, 8)
    expected = output.square().mean().sqrt().item()
    assert output_rms(output).item() == pytest.approx(expected, rel=1e-5)


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    return load_model(write_checkpoint(tmp_path_factory.mktemp('checkpoint')))


def run(model, batch=1):
    generator = torch.Generator().manual_seed(1)
    images = [torch.randn(batch, 3, 28, 28, generator=generator) for _ in range(2)]
    masks = [torch.ones(batch, dtype=torch.bool), torch.zeros(batch, dtype=torch.bool)]
    tokens = torch.randint(4, 100, (batch, 6), generator=generator)
    mask = torch.ones(batch, 6, dtype=torch.bool)
    noise = torch.randn(batch, 4, 8, generator=generator)
    return model.sample_actions(images, masks, tokens, mask, noise)


def test_statistics_cover_every_layer_step_and_valid_key_and_probes_come_off(model):
    seen = []
    attentions = [layer.attention for layer in model.head_layers()]
    with observe_heads(attentions) as statistics:
        original = attentions[0].probe
        attentions[0].probe = lambda *c: (seen.append(c), original(*c))
        run(model)
        run(model)
    assert statistics.calls == (6, 6)  # two runs of three denoising steps, in each layer
    assert all(a.probe is None for a in attentions)
    logits, valid, _ = seen[0]
    # prefix (two cameras of four patches, six tokens) and the suffix of four actions
    assert logits.shape[-1] == valid.shape[-1] == 2 * 4 + 6 + 4
    assert valid.sum() == 4 + 6 + 4  # the second camera is absent
    expected = torch.stack([logit_spread(lo, v) for lo, v, _ in seen]).mean(dim=0)
    torch.testing.assert_close(statistics.spread()[0], expected)
    expected = torch.stack([output_rms(o) for *_, o in seen]).mean()
    torch.testing.assert_close(statistics.energy()[0], expected)


def test_probes_come_off_when_the_run_fails(model):
    attentions = [layer.attention for layer in model.head_layers()]
    with pytest.raises(ZeroDivisionError), observe_heads(attentions):
        raise ZeroDivisionError
    assert all(attention.probe is None for attention in attentions)
