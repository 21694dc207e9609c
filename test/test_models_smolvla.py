# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""SmolVLA's network against the reference's recorded tensors, and what its checkpoints may be."""
import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from smolvla_samples import (
    SIZES,
    tiny_config,
    tiny_inputs,
    tiny_network,
    tiny_noise,
    write_checkpoint,
)

from quantvla_ros.errors import CheckpointError
from quantvla_ros.models import load_model
from quantvla_ros.models.architectures import build_network
from quantvla_ros.models.network import act
from quantvla_ros.models.smolvla_checkpoint import canonical_key, smolvla_config

FIXTURE = Path(__file__).resolve().parents[2] / 'shared' / 'fixtures' / 'smolvla_tiny'
needs_fixture = pytest.mark.skipif(not FIXTURE.exists(), reason='reference tensors not at hand')


@pytest.fixture(scope='module')
def reference():
    return load_file(FIXTURE / 'io.safetensors')


def prefix_inputs(reference):
    return (
        [reference['in.image0'], reference['in.image1']],
        [reference['in.image_mask0'], reference['in.image_mask1']],
        reference['in.tokens'],
        reference['in.token_mask'],
        reference['in.state'],
    )


@needs_fixture
def test_actions_and_velocities_are_the_references(reference):
    model = load_model(FIXTURE)
    seen = []
    actions = model.sample_actions(
        *prefix_inputs(reference), reference['in.noise'], on_step=lambda *step: seen.append(step)
    )
    torch.testing.assert_close(actions, reference['out.actions'], rtol=0, atol=2e-5)
    for index, (step, x, velocity) in enumerate(seen):
        assert step == index
        torch.testing.assert_close(x, reference['out.x_t'][index], rtol=0, atol=2e-5)
        torch.testing.assert_close(velocity, reference['out.v_t'][index], rtol=0, atol=2e-5)


@needs_fixture
def test_what_comes_before_the_actions_is_the_references_too(reference):
    model = load_model(FIXTURE)
    inputs = dataclasses.make_dataclass('Inputs', ('images', 'image_masks', 'tokens', 'token_mask',
                                                   'state'))(*prefix_inputs(reference))
    close = {'rtol': 1e-5, 'atol': 2e-5}
    feature = model.connector(model.vision(inputs.images[0]))
    torch.testing.assert_close(feature, reference['out.image_feat0'], **close)
    embeddings, valid = model.embed(inputs)
    torch.testing.assert_close(embeddings, reference['out.prefix_embs'], **close)
    assert torch.equal(valid, reference['out.prefix_pad_masks'])
    prefix = model.backbone(embeddings, valid)
    for index in (0, 1, 3):
        for ours, theirs in ((prefix.keys, 'k'), (prefix.values, 'v')):
            expected = reference[f'out.prefix_{theirs}.{index}'].transpose(1, 2)
            real = valid[0]
            torch.testing.assert_close(
                ours[index][:, :, real], expected[:, :, real], **close
            )
    tokens = model.action_tokens(reference['in.noise'], model.instants()[0])
    torch.testing.assert_close(tokens, reference['out.suffix_embs0'], **close)


@needs_fixture
def test_in_bfloat16_the_first_velocity_stays_near(reference):
    velocities = []
    for dtype in (torch.float32, torch.bfloat16):
        model = load_model(FIXTURE, dtype=dtype)
        model.sample_actions(
            *prefix_inputs(reference),
            reference['in.noise'],
            on_step=lambda step, x, velocity: velocities.append(velocity) if step == 0 else None,
        )
    assert model.state_proj.weight.dtype == model.action_time_mlp_in.weight.dtype == torch.float32
    assert model.expert.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    exact, rounded = velocities
    assert 0 < (rounded - exact).norm() / exact.norm() < 0.03


def test_padding_and_absent_cameras_change_nothing():
    # the processor leaves both out; lerobot masks them
    model, noise = tiny_network(), tiny_noise()
    inputs = tiny_inputs(words=7)
    bare = dataclasses.replace(
        inputs, images=inputs.images[:1], image_masks=inputs.image_masks[:1]
    )
    padded = dataclasses.replace(
        inputs,
        image_masks=[inputs.image_masks[0], ~inputs.image_masks[1]],
        tokens=torch.nn.functional.pad(inputs.tokens, (0, 3), value=5),
        token_mask=torch.nn.functional.pad(inputs.token_mask, (0, 3)),
    )
    expected = act(model, bare, noise)
    torch.testing.assert_close(act(model, padded, noise), expected, rtol=0, atol=1e-5)
    assert (act(model, inputs, noise) - expected).abs().max() > 1e-3


def test_rows_of_a_batch_do_not_see_each_other():
    model = tiny_network()
    parts = [tiny_inputs(seed) for seed in (1, 2)]
    both = dataclasses.replace(
        parts[0],
        images=[torch.cat(pair) for pair in zip(*(p.images for p in parts), strict=True)],
        image_masks=[torch.ones(2, dtype=torch.bool)] * 2,
        tokens=torch.cat([p.tokens for p in parts]),
        token_mask=torch.cat([p.token_mask for p in parts]),
        state=torch.cat([p.state for p in parts]),
    )
    noise = tiny_noise(batch=2)
    together = act(model, both, noise)
    for row, part in enumerate(parts):
        alone = act(model, part, noise[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-5)


def test_words_do_not_see_the_state_and_actions_do():
    model, inputs = tiny_network(), tiny_inputs()
    other = dataclasses.replace(inputs, state=inputs.state + 1)
    prefixes = [model.backbone(*model.embed(i)) for i in (inputs, other)]
    for first, second in zip(prefixes[0].values, prefixes[1].values, strict=True):
        assert torch.equal(first[:, :, :-1], second[:, :, :-1])
        assert not torch.equal(first[:, :, -1], second[:, :, -1])
    noise = tiny_noise()
    assert not torch.equal(act(model, inputs, noise), act(model, other, noise))


def test_prepared_instants_follow_the_weights():
    model = tiny_network()
    before = model.instants()
    assert model.instants() is before
    weights = model.state_dict()
    weights['action_time_mlp_in.bias'] = weights['action_time_mlp_in.bias'] + 1
    model.load_state_dict(weights)
    torch.testing.assert_close(model.instants(), before + 1)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'attention_mode': 'self_attn'}, 'attention_mode: expected'),
        ({'num_expert_layers': 2}, 'num_expert_layers: expected'),
        ({'add_image_special_tokens': True}, 'add_image_special_tokens: expected'),
        ({'adapt_to_pi_aloha': True}, 'adapt_to_pi_aloha: expected'),
        ({'resize_imgs_with_padding': [32, 48]}, 'expected resize_imgs_with_padding of 32 x 32'),
        ({'self_attn_every_n_layers': 0}, 'self_attn_every_n_layers: expected'),
        ({'num_steps': 'ten'}, 'num_steps: expected'),
        ({'num_vlm_layers': 'all'}, 'num_vlm_layers: expected'),
        ({'expert_width_multiplier': '1'}, 'expert_width_multiplier: expected'),
        ({'expert_width_multiplier': 0.1}, 'even width of the expert, found 3'),
        ({'min_period': -1.0}, 'min_period: expected'),
        ({'_sizes': {**SIZES, 'vis': [24, 2]}}, 'vis: expected a list of 5'),
        ({'_sizes': {**SIZES, 'vis': [24, 2, 5, 40, 8]}}, 'its 5 heads share'),
        ({'_sizes': {**SIZES, 'txt': [32, 6, 4, 3, 16, 48]}}, 'heads of even size'),
        ({'_sizes': [1]}, '_sizes: expected an object'),
        ({'_sizes': None, 'vlm_model_name': 'HuggingFaceTB/SmolVLM2-2.2B'}, 'vlm_model_name'),
    ],
)
def test_a_config_of_another_smolvla_is_refused_in_one_line(changes, message):
    config = {**tiny_config(), **changes}
    config = {key: value for key, value in config.items() if value is not None}
    with pytest.raises(CheckpointError, match=message) as error:
        smolvla_config(config)
    assert '\n' not in str(error.value)


def test_public_sizes_hold_where_the_config_gives_none():
    config = smolvla_config({'type': 'smolvla'})
    assert (config.text.depth, config.text.width, config.text.mlp) == (16, 960, 2560)
    assert (config.expert.width, config.expert.mlp) == (720, 2048)
    assert smolvla_config({'num_vlm_layers': 0}).text.depth == 32  # all of them


@pytest.mark.parametrize(
    'rename',
    [
        lambda name: name.removeprefix('model.'),
        lambda name: name.replace('model.', 'model._orig_mod.', 1),
    ],
)
def test_spellings_of_public_keys_load_alike(tmp_path, rename):
    source = write_checkpoint(tmp_path / 'source')
    other = Path(shutil.copytree(source, tmp_path / 'other'))
    tensors = {rename(k): v for k, v in load_file(source / 'model.safetensors').items()}
    # what lerobot before 0.4 kept in the same file
    tensors['normalize_inputs.so100-red_buffer_observation_state.mean'] = torch.zeros(6)
    # an output layer, which nothing reads beside an embedding
    head = next(k for k in tensors if k.endswith('embed_tokens.weight'))
    spare = head.replace('model.text_model.embed_tokens', 'lm_head')
    tensors[spare] = torch.randn_like(tensors[head])
    save_file(tensors, other / 'model.safetensors', metadata={'format': 'pt'})
    ours, theirs = (load_model(path).state_dict() for path in (source, other))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_keys_of_other_places_stay_unknown():
    assert canonical_key('model.unknown.weight') == 'unknown.weight'
    assert canonical_key('unnormalize_outputs.buffer_action.mean') is None


def test_the_network_is_made_without_weights_on_the_meta_device():
    with torch.device('meta'):
        network = build_network(json.loads(json.dumps(tiny_config())))
    assert {p.device.type for p in network.parameters()} == {'meta'}
