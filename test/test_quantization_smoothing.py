# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Smoothing: scales that move outliers into weights, and a policy that stays what it was."""
import dataclasses

import pytest
import torch
from groot_samples import act as act_groot
from groot_samples import tiny_inputs, tiny_network, tiny_noise
from torch import nn

from quantvla_ros.errors import CalibrationError
from quantvla_ros.models.gemma import GemmaConfig
from quantvla_ros.models.layers import RMSNorm
from quantvla_ros.models.network import Equalization
from quantvla_ros.models.pi05 import PI05, ModelInputs, PI05Config
from quantvla_ros.models.siglip import VisionConfig
from quantvla_ros.quantization.gather import watch
from quantvla_ros.quantization.smoothing import (
    LARGEST,
    channel_scale,
    equalize,
    shifted_tensors,
)

EXPERT = 'paligemma_with_expert.gemma_expert.model.layers.'
BACKBONE = 'paligemma_with_expert.paligemma.model.language_model.layers.'


def policy(dtype=torch.float64) -> PI05:
    """Random weights, norms of every channel, and outliers in what layers read."""
    torch.manual_seed(0)
    sizes = {'depth': 2, 'heads': 4, 'kv_heads': 2, 'head_dim': 16}
    model = PI05(
        PI05Config(
            vision=VisionConfig(width=16, depth=1, heads=2, mlp=24, image=28, patch=14),
            prefix=GemmaConfig(width=24, mlp=40, **sizes),
            expert=GemmaConfig(width=32, mlp=48, **sizes),
            vocabulary=50,
            action_dim=8,
            chunk=4,
            steps=3,
        )
    )
    for norm in model.modules():
        if isinstance(norm, RMSNorm):
            nn.init.normal_(norm.weight, std=0.5)
            norm.weight.data[3] = 30.0
    for layer in model.backbone.layers:
        layer.mlp.up_proj.weight.data[5] *= 40.0
    return model.to(dtype).eval().requires_grad_(False)


def inputs(dtype=torch.float64) -> ModelInputs:
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1, 4:] = False
    return ModelInputs(
        images=[torch.randn(2, 3, 28, 28, generator=generator).to(dtype)],
        image_masks=[torch.ones(2, dtype=torch.bool)],
        tokens=torch.randint(0, 50, (2, 6), generator=generator),
        token_mask=mask,
    )


def act(model, x) -> torch.Tensor:
    noise = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(2))
    return model.sample_actions(x.images, x.image_masks, x.tokens, x.token_mask, noise)


def maxima_while(model, run):
    """Largest inputs of every reader that runs."""
    maxima = {}

    def see(path, x):
        largest = x.abs().flatten(0, -2).amax(0)
        maxima[path] = torch.maximum(maxima[path], largest) if path in maxima else largest

    with watch(model, readers(model), see):
        run()
    return maxima


def maxima_of(model, x):
    return maxima_while(model, lambda: act(model, x))


def readers(model):
    return {path for point in model.equalizations() for path in point.readers}


def run_in_float64(monkeypatch):
    """Norms and rotary embedding compute in float32; exactness needs them wider."""
    monkeypatch.setattr(torch.Tensor, 'float', torch.Tensor.double)


@pytest.mark.parametrize('strength', [0.15, 0.5, 0.85])
def test_the_policy_stays_what_it_was(strength, monkeypatch):
    run_in_float64(monkeypatch)
    model, x = policy(), inputs()
    before, maxima = act(model, x), maxima_of(model, x)
    scales = equalize(model, maxima, strength, readers(model))
    assert set(scales) >= set(maxima)
    assert all(scale.log().abs().max() > 0.02 for scale in scales.values())
    torch.testing.assert_close(act(model, x), before, rtol=1e-9, atol=1e-9)


def test_groot_stays_what_it_was(monkeypatch):
    model, x, noise = tiny_network(dtype=torch.float64), tiny_inputs(batch=2), tiny_noise(batch=2)
    run_in_float64(monkeypatch)
    x = to_float64(x)
    for norm in model.modules():
        if isinstance(norm, (nn.RMSNorm, nn.LayerNorm)) and norm.weight is not None:
            norm.weight.data[3] = 30.0
    before = act_groot(model, x, noise)
    maxima = maxima_while(model, lambda: act_groot(model, x, noise))
    scales = equalize(model, maxima, 0.5, readers(model))
    assert set(scales) >= set(maxima)
    kinds = {point.kind for point in model.equalizations() if point.readers[0] in scales}
    assert kinds == {'norm', 'adaptive_norm', 'linear'}
    assert any(point.shared is not None for point in model.equalizations())
    torch.testing.assert_close(act_groot(model, x, noise), before, rtol=1e-9, atol=1e-9)


def to_float64(inputs):
    wide = {k: v.double() for k, v in vars(inputs).items() if v.is_floating_point()}
    return dataclasses.replace(inputs, **wide)


def test_what_layers_read_is_divided_by_the_scale():
    model, x = policy(), inputs()
    before = maxima_of(model, x)
    scales = equalize(model, before, 0.5, readers(model))
    after = maxima_of(model, x)
    for path, scale in scales.items():
        if path in after:
            expected = before[path].double() / scale
            torch.testing.assert_close(after[path].double(), expected, rtol=1e-3, atol=1e-5)


def test_outliers_become_smaller():
    model, x = policy(), inputs()
    before = maxima_of(model, x)
    equalize(model, before, 0.5, readers(model))
    after = maxima_of(model, x)
    for path in (f'{BACKBONE}0.self_attn.k_proj', f'{BACKBONE}0.mlp.down_proj'):
        ratios = [float(m[path].max() / m[path].median()) for m in (before, after)]
        assert ratios[1] < 0.5 * ratios[0]


def test_only_tensors_that_a_quantized_layer_reads_are_smoothed():
    model, x = policy(), inputs()
    maxima = maxima_of(model, x)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    quantized = f'{EXPERT}1.mlp.up_proj'
    scales = equalize(model, maxima, 0.5, {quantized})
    # its twin reads the same tensor and must follow
    assert set(scales) == {quantized, f'{EXPERT}1.mlp.gate_proj'}
    changed = {n for n, t in model.state_dict().items() if not torch.equal(before[n], t)}
    norm = f'{EXPERT}1.post_attention_layernorm.dense'
    assert changed == {f'{path}.weight' for path in scales} | {f'{norm}.weight', f'{norm}.bias'}


def test_a_layer_that_never_ran_is_left_alone():
    model, x = policy(), inputs()
    maxima = maxima_of(model, x)
    last = f'{BACKBONE}1.mlp.down_proj'  # nothing reads the last block's MLP
    assert last not in maxima
    assert last not in equalize(model, maxima, 0.5, {last})


def test_values_that_heads_share_have_one_scale(monkeypatch):
    run_in_float64(monkeypatch)
    torch.manual_seed(0)

    class Mixing(nn.Module):
        """Values [4] that two heads of four channels share."""

        def __init__(self):
            super().__init__()
            self.value, self.output = nn.Linear(6, 4), nn.Linear(8, 5)

        def forward(self, x):
            return self.output(torch.cat([self.value(x)] * 2, dim=-1))

        def equalizations(self):
            shared = (0, 1, 2, 3, 0, 1, 2, 3)
            return [Equalization(('output',), 'value', 'linear', shared)]

    model, x = Mixing().double().requires_grad_(False), torch.randn(7, 6).double()
    before = model(x)
    maxima = {'output': torch.tensor([1.0, 2.0, 3.0, 4.0, 50.0, 2.0, 0.5, 0.1])}
    expected = channel_scale(
        torch.tensor([50.0, 2.0, 3.0, 4.0]),
        model.output.weight.abs().amax(0).reshape(2, 4).amax(0),
        0.5,
    )
    scale = equalize(model, maxima, 0.5, {'output'})['output']
    torch.testing.assert_close(scale, expected.repeat(2))
    torch.testing.assert_close(model(x), before, rtol=1e-12, atol=1e-12)


def test_a_layer_norm_is_divided_with_its_bias():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.reader = nn.LayerNorm(6), nn.Linear(6, 5)

        def forward(self, x):
            return self.reader(self.norm(x))

        def equalizations(self):
            return [Equalization(('reader',), 'norm', 'norm')]

    torch.manual_seed(0)
    model, x = Block().double().requires_grad_(False), torch.randn(7, 6).double()
    model.norm.weight.normal_()
    model.norm.bias.normal_()
    before = model(x)
    equalize(model, {'reader': torch.arange(1.0, 7.0)}, 0.5, {'reader'})
    torch.testing.assert_close(model(x), before, rtol=1e-12, atol=1e-12)


def test_the_scale_is_the_formula_with_a_mean_of_one_and_bounds():
    inputs, weights = torch.tensor([1.0, 4.0, 16.0, 8.0]), torch.tensor([1.0, 2.0, 0.5, 4.0])
    raw = inputs.double() ** 0.7 / weights.double() ** 0.3
    scale = channel_scale(inputs, weights, 0.7)
    torch.testing.assert_close(scale / scale[0], raw / raw[0])
    assert float(scale.log().mean()) == pytest.approx(0.0, abs=1e-12)
    wild = channel_scale(torch.tensor([1e-9, 1.0, 1.0, 1e9]), torch.ones(4), 1.0)
    assert wild.tolist() == pytest.approx([1 / LARGEST, 1.0, 1.0, LARGEST])


def test_silent_channels_keep_their_scale_and_do_not_move_the_others():
    inputs, weights = torch.tensor([1.0, 4.0, 0.0, 3.0]), torch.tensor([1.0, 2.0, 5.0, 0.0])
    scale = channel_scale(inputs, weights, 0.5)
    assert scale[2] == scale[3] == 1.0
    torch.testing.assert_close(scale[:2], channel_scale(inputs[:2], weights[:2], 0.5))
    assert channel_scale(torch.zeros(3), torch.ones(3), 0.5).tolist() == [1.0] * 3


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -1.0])
def test_magnitudes_that_cannot_be_are_refused(value):
    with pytest.raises(CalibrationError, match='finite magnitudes of inputs'):
        channel_scale(torch.tensor([1.0, value]), torch.ones(2), 0.5)


def test_factors_less_one_are_kept_in_float32_and_named():
    # bfloat16 gives 1 + w = 0.02 to 10 % only
    model, x = policy(torch.bfloat16), inputs(torch.bfloat16)
    scales = equalize(model, maxima_of(model, x), 0.5, readers(model))
    names = shifted_tensors(model, scales)
    expected = {f'{BACKBONE}{i}.input_layernorm.weight' for i in range(2)}
    expected |= {f'{BACKBONE}0.post_attention_layernorm.weight'}
    expected |= {f'{BACKBONE}1.post_attention_layernorm.weight'} & set(names)
    for index in range(2):
        for norm in ('input_layernorm', 'post_attention_layernorm'):
            expected.add(f'{EXPERT}{index}.{norm}.dense.bias')
    assert set(names) == expected
    assert all(model.get_parameter(name).dtype == torch.float32 for name in names)
    others = [p.dtype for n, p in model.named_parameters() if n not in names]
    assert set(others) == {torch.bfloat16}
    assert torch.isfinite(act(model, x)).all()


def test_a_layer_that_is_quantized_already_is_refused():
    model, x = policy(), inputs()
    maxima = maxima_of(model, x)
    model.get_submodule(f'{EXPERT}0.mlp').up_proj = nn.Identity()
    with pytest.raises(CalibrationError, match='smoothing comes before quantization'):
        equalize(model, maxima, 0.5, {f'{EXPERT}0.mlp.gate_proj'})
