# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""pi0.5 gives the reference implementation's actions, and every intermediate on the way."""
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from quantvla_ros.models import load_model

FIXTURE = Path(__file__).resolve().parents[2] / 'shared' / 'fixtures' / 'pi05_tiny'
needs_fixture = pytest.mark.skipif(not FIXTURE.exists(), reason='parity fixtures not at hand')


@pytest.fixture(scope='module')
def reference():
    return load_file(FIXTURE / 'io.safetensors')


@pytest.fixture(scope='module')
def model():
    return load_model(FIXTURE)


def inputs(reference):
    images = [reference[f'in.image{i}'] for i in range(3)]
    masks = [reference[f'in.image_mask{i}'] for i in range(3)]
    return images, masks, reference['in.tokens'], reference['in.token_mask']


@needs_fixture
def test_actions_equal_the_reference(model, reference):
    trace = []
    actions = model.sample_actions(
        *inputs(reference),
        reference['in.noise'],
        on_step=lambda step, x, v: trace.append((x, v)),
    )
    torch.testing.assert_close(actions, reference['out.actions'], atol=2e-5, rtol=0)
    for step, (x, v) in enumerate(trace):
        torch.testing.assert_close(x, reference['out.x_t'][step], atol=2e-5, rtol=0)
        torch.testing.assert_close(v, reference['out.v_t'][step], atol=2e-5, rtol=0)


@needs_fixture
def test_prefix_equals_the_reference_at_valid_tokens(model, reference):
    embeddings, valid = model.embed_prefix(*inputs(reference))
    torch.testing.assert_close(embeddings, reference['out.prefix_embs'], atol=2e-5, rtol=0)
    assert torch.equal(valid, reference['out.prefix_pad_masks'])
    prefix = model.encode_prefix(*inputs(reference))
    for layer in (0, 2):
        for mine, name in ((prefix.keys, 'k'), (prefix.values, 'v')):
            difference = mine[layer] - reference[f'out.prefix_{name}.{layer}']
            assert difference[:, :, valid[0]].abs().max() < 2e-5


@needs_fixture
def test_an_absent_camera_may_be_left_out_altogether(model, reference):
    # The engine does so: 256 masked tokens cost time and change nothing.
    images, masks, tokens, token_mask = inputs(reference)
    actions = model.sample_actions(
        images[:2], masks[:2], tokens, token_mask, reference['in.noise']
    )
    torch.testing.assert_close(actions, reference['out.actions'], atol=2e-5, rtol=0)


@needs_fixture
def test_prepared_steps_do_not_outlive_the_weights(model, reference):
    before = model.sample_actions(*inputs(reference), reference['in.noise'])
    state = {k: v.clone() for k, v in model.state_dict().items()}
    changed = {k: v * 1.1 if k.startswith('time_mlp_out') else v for k, v in state.items()}
    model.load_state_dict(changed)
    after = model.sample_actions(*inputs(reference), reference['in.noise'])
    model.load_state_dict(state)
    assert (before - after).abs().max() > 1e-3


@needs_fixture
def test_every_linear_layer_has_a_role(model):
    linears = {n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    assert set(model.linear_places()) == linears
