# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""GR00T N1.5 gives the reference implementation's actions, and every intermediate on the way."""
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from groot_samples import EAGLE, act, tiny_config, tiny_inputs, tiny_network, tiny_noise
from safetensors.torch import load_file, save_file
from torch import nn

from quantvla_ros.errors import CheckpointError
from quantvla_ros.models import export, groot_export, load_model
from quantvla_ros.models.architectures import build_network
from quantvla_ros.models.dit import AdaptiveLayerNorm
from quantvla_ros.models.embodiment import distinct
from quantvla_ros.models.groot_n15 import GrootInputs
from quantvla_ros.models.network import integrate

FIXTURE = Path(__file__).resolve().parents[2] / 'shared' / 'fixtures' / 'groot_tiny'
needs_fixture = pytest.mark.skipif(not FIXTURE.exists(), reason='parity fixtures not at hand')
FIELDS = ('pixel_values', 'input_ids', 'attention_mask', 'state', 'embodiment_id')
BLOCK = 'action_head.model.transformer_blocks.'


@pytest.fixture(scope='module')
def reference():
    return load_file(FIXTURE / 'io.safetensors')


@pytest.fixture(scope='module')
def public():
    return load_model(FIXTURE)


@pytest.fixture
def network():
    return tiny_network()


@pytest.fixture
def checkpoint(tmp_path):
    """A tiny random checkpoint on disk."""
    config = tiny_config()
    (tmp_path / 'config.json').write_text(json.dumps(config))
    export.write_weights(tmp_path, export.random_weights(config, 0), torch.float32, str)
    return tmp_path


def inputs_of(reference):
    return GrootInputs(*(reference[f'in.{name}'] for name in FIELDS))


def close(mine, reference, atol=2e-5):
    torch.testing.assert_close(mine, reference, atol=atol, rtol=0)


@needs_fixture
def test_actions_equal_the_reference(public, reference):
    trace = []
    actions = public.sample_actions(
        *(reference[f'in.{name}'] for name in FIELDS),
        reference['in.noise'],
        on_step=lambda step, x, v: trace.append((x, v)),
    )
    close(actions, reference['out.actions'])
    assert len(trace) == len(reference['out.x_t'])
    for step, (x, v) in enumerate(trace):
        close(x, reference['out.x_t'][step])
        close(v, reference['out.v_t'][step])


@needs_fixture
def test_every_intermediate_equals_the_reference(public, reference):
    backbone, head, inputs = public.backbone, public.action_head, inputs_of(reference)
    close(backbone.projector(backbone.vision(inputs.pixel_values)), reference['out.vit_embeds'])
    features = backbone(*public.embed(inputs))
    close(features, reference['out.backbone_features'])
    close(head.vlln(features), reference['out.vlln'])
    close(head.refine(features), reference['out.vl_embs'])
    state = head.state_encoder.select(inputs.embodiment_id)(inputs.state)
    close(state, reference['out.state_features'])
    assert torch.equal(public.times(), reference['out.times'])
    close(head.model.condition(public.times()[:1]), reference['out.temb0'])
    encoder = head.action_encoder.select(inputs.embodiment_id, public.times())
    close(encoder(0, reference['in.noise']), reference['out.action_enc0'])
    flow = public.flow(features, inputs)
    tokens = flow.tokens(0, reference['in.noise'])
    close(tokens, reference['out.sa_embs0'])
    context = head.model.context(head.refine(features))
    close(head.model(tokens, context, public.modulations()[0]), reference['out.dit_out0'])


def test_stage_by_stage_gives_what_sampling_gives(network):
    inputs, noise = tiny_inputs(), tiny_noise()
    state = network.backbone.start(*network.embed(inputs))
    for index in range(len(network.backbone.layers)):
        before = state.x.clone()
        following = network.backbone.step(index, state)
        assert torch.equal(state.x, before)
        state = following
    flow = network.flow(network.backbone.finish(state), inputs)
    torch.testing.assert_close(integrate(flow, noise), act(network, inputs, noise))
    assert tuple(noise.shape[1:]) == network.noise_shape
    assert flow.steps == network.denoising_steps == 4


def test_each_row_of_a_batch_is_computed_alone_with_its_own_embodiment(network):
    inputs, noise = tiny_inputs(batch=3), tiny_noise(batch=3)
    assert len(set(inputs.embodiment_id.tolist())) > 1
    together = act(network, inputs, noise)
    for row in range(3):
        alone = replace(
            inputs,
            **{name: getattr(inputs, name)[row : row + 1] for name in FIELDS[1:]},
            pixel_values=inputs.pixel_values[2 * row : 2 * row + 2],
        )
        close(act(network, alone, noise[row : row + 1]), together[row : row + 1])
    other = replace(inputs, embodiment_id=(inputs.embodiment_id + 1) % 32)
    assert (act(network, other, noise) - together).abs().max() > 0.1


def test_rows_of_one_embodiment_share_a_copy_of_its_weights(network):
    # what one robot uses is 39 MB in full size, and calibration runs batches of one robot
    inputs, noise = tiny_inputs(batch=3), tiny_noise(batch=3)
    same = replace(inputs, embodiment_id=torch.full((3,), 7))
    encoder = network.action_head.action_encoder
    assert len(encoder.select(distinct(same.embodiment_id), network.times()).layer1.weight) == 1
    assert len(encoder.select(distinct(inputs.embodiment_id), network.times()).layer1.weight) == 3
    mixed = act(network, replace(inputs, embodiment_id=torch.tensor([7, 7, 8])), noise)
    close(act(network, same, noise)[:2], mixed[:2])


def test_left_padding_is_seen_by_no_word_but_by_the_action_head(network):
    # The public head has no mask: padded and unpadded prompts differ, and stay finite.
    inputs = tiny_inputs()
    features = network.backbone(*network.embed(inputs))
    padded = replace(
        inputs,
        input_ids=nn.functional.pad(inputs.input_ids, (2, 0), value=1),
        attention_mask=nn.functional.pad(inputs.attention_mask, (2, 0)),
    )
    embeddings, valid = network.embed(padded)
    state = network.backbone.start(embeddings, valid)
    # queries of the padding see no key at all: their attention is zero
    layer = network.backbone.layers[0]
    normed = layer.input_layernorm(state.x)
    query = layer.self_attn.query(normed, state.rotary)
    mixed = layer.self_attn.attend(
        query, *layer.self_attn.key_value(normed, state.rotary), state.mask
    )
    assert torch.equal(mixed[:, :2], torch.zeros_like(mixed[:, :2]))
    # positions count the padding, and rotary embedding knows differences only
    close(network.backbone(embeddings, valid)[:, 2:], features)
    actions = act(network, padded, tiny_noise())
    assert torch.isfinite(actions).all()
    assert (actions - act(network, inputs, tiny_noise())).abs().max() > 1e-3


def test_words_see_only_what_comes_before_them(network):
    embeddings, valid = network.embed(tiny_inputs())
    before = network.backbone(embeddings, valid)
    changed = embeddings.clone()
    changed[:, -1] += 1.0
    after = network.backbone(changed, valid)
    assert torch.equal(before[:, :-1], after[:, :-1])
    assert (before[:, -1] - after[:, -1]).abs().max() > 1e-3


def test_another_number_of_picture_tokens_than_pictures_is_refused(network):
    inputs = tiny_inputs()
    with pytest.raises(ValueError, match=r'expected 4 picture tokens .* found 8'):
        network.embed(replace(inputs, pixel_values=inputs.pixel_values[:1]))


def test_what_the_steps_share_is_computed_once_for_each_flow(network):
    calls = {}

    def count(name):
        return lambda *_: calls.__setitem__(name, calls.get(name, 0) + 1)

    for name in network.linear_places():
        network.get_submodule(name).register_forward_hook(count(name))
    for _ in range(2):
        act(network, tiny_inputs(), tiny_noise())
    steps, flows = 4, 2
    for index in range(network.config.dit.depth):
        cross = index % 2 == 0
        for part in ('to_k', 'to_v'):
            assert calls[f'{BLOCK}{index}.attn1.{part}'] == flows * (1 if cross else steps)
        assert calls[f'{BLOCK}{index}.attn1.to_q'] == flows * steps
    refined = 'action_head.vl_self_attention.transformer_blocks.1.ff.net.2'
    assert calls[refined] == flows


def test_prepared_steps_do_not_outlive_the_weights(network):
    inputs, noise = tiny_inputs(), tiny_noise()
    before = act(network, inputs, noise)
    state = {k: v.clone() for k, v in network.state_dict().items()}
    modulation = f'{BLOCK}1.norm1.linear.bias'
    network.load_state_dict({**state, modulation: state[modulation] + 0.5})
    assert (act(network, inputs, noise) - before).abs().max() > 1e-3
    network.load_state_dict(state)
    assert torch.equal(act(network, inputs, noise), before)


def test_the_flow_says_which_step_its_layers_are_in(network):
    seen = []
    layer = network.get_submodule(f'{BLOCK}0.ff.net.2')
    layer.register_forward_pre_hook(lambda *_: seen.append(network.denoising_step.index))
    crossing = network.get_submodule(f'{BLOCK}0.attn1.to_k')
    crossing.register_forward_pre_hook(lambda *_: seen.append(-1 - network.denoising_step.index))
    for _ in range(2):  # what runs once for all steps is in the first, also after another flow
        act(network, tiny_inputs(), tiny_noise())
    assert seen == [-1, 0, 1, 2, 3] * 2


def test_probes_see_logits_and_outputs_of_cross_and_self_attention(network):
    inputs, seen = tiny_inputs(), {}
    tokens = 1 + network.config.future_tokens + network.config.chunk
    words = inputs.input_ids.shape[1]
    for index, layer in enumerate(network.head_layers()):
        layer.attention.probe = lambda *args, index=index: seen.setdefault(index, []).append(args)
    act(network, inputs, tiny_noise())
    for index, layer in enumerate(network.head_layers()):
        attention, keys = layer.attention, words if index % 2 == 0 else tokens
        assert len(seen[index]) == 4
        logits, valid, output = seen[index][0]
        assert logits.shape == (1, attention.num_heads, tokens, keys)
        assert valid.shape == (1, 1, 1, keys) and bool(valid.all())
        assert output.shape == (1, tokens, network.config.dit.width)
        assert attention.query_projection.out_features == attention.num_heads * attention.head_dim
        attention.probe = None
    # the logits are those that the softmax works on
    block = network.action_head.model.transformer_blocks[1]
    x = torch.randn(1, 5, network.config.dit.width, generator=torch.Generator().manual_seed(0))
    key, value = block.attn1.key_value(x)
    caught = []
    block.attn1.probe = lambda *args: caught.append(args)
    block.attn1.attend(x, (key, value))
    logits, _, output = caught[0]
    mixed = (logits.softmax(-1) @ value).transpose(1, 2).flatten(2)
    torch.testing.assert_close(block.attn1.to_out[0](mixed), output)


def test_the_head_reads_its_features_through_the_interface_alone(network):
    # Doubling these weights is doubling what the head reads, biases aside.
    inputs, noise = tiny_inputs(), tiny_noise()
    features = network.backbone(*network.embed(inputs))
    refine = network.action_head.refine
    network.action_head.refine = lambda x: 2.0 * refine(x)
    expected = integrate(network.flow(features, inputs), noise)
    network.action_head.refine = refine
    points = network.interface()
    assert {point.side for point in points} == {'input'}
    assert len(points) == network.config.dit.depth  # two in every other block
    for point in points:
        network.get_submodule(point.projection).weight.mul_(2.0)
    torch.testing.assert_close(integrate(network.flow(features, inputs), noise), expected)


def fold(network, point, scale):
    """Divide what the source gives by a scale and multiply the readers' columns by it."""
    source = network.get_submodule(point.source)
    shared = list(range(len(scale))) if point.shared is None else list(point.shared)
    if point.kind == 'adaptive_norm':
        width = len(scale)
        source.linear.weight[:width] /= scale[:, None]
        source.linear.weight[width:] /= scale[:, None]
        source.linear.bias[:width] = (1.0 + source.linear.bias[:width]) / scale - 1.0
        source.linear.bias[width:] /= scale
    else:
        source.weight.div_(scale[:, None] if point.kind == 'linear' else scale)
        if getattr(source, 'bias', None) is not None:
            source.bias.div_(scale)
    for reader in point.readers:
        network.get_submodule(reader).weight.mul_(scale[shared])


def sources_width(network, point):
    if point.shared is not None:
        return max(point.shared) + 1
    return network.get_submodule(point.readers[0]).in_features


def test_scales_fold_away_at_every_equalization(network):
    inputs, noise = tiny_inputs(), tiny_noise()
    before = act(network, inputs, noise)
    generator = torch.Generator().manual_seed(5)
    points = network.equalizations()
    for point in points:
        fresh = tiny_network()
        width = sources_width(fresh, point)
        scale = (torch.rand(width, generator=generator) * 2 - 1).exp()
        fold(fresh, point, scale)
        close(act(fresh, inputs, noise), before, atol=3e-5)
    kinds = {(point.kind, type(network.get_submodule(point.source))) for point in points}
    assert kinds == {
        ('norm', nn.RMSNorm),
        ('norm', nn.LayerNorm),
        ('linear', nn.Linear),
        ('adaptive_norm', AdaptiveLayerNorm),
    }


def test_equalizations_cover_every_layer_whose_source_can_take_a_scale(network):
    readers = [reader for point in network.equalizations() for reader in point.readers]
    assert len(readers) == len(set(readers))
    config = network.config
    language = {
        f'backbone.eagle_model.language_model.model.layers.{layer}.{part}'
        for layer in range(config.language.depth)
        for part in (
            *(f'self_attn.{p}_proj' for p in 'qkvo'),
            *(f'mlp.{p}_proj' for p in ('gate', 'up', 'down')),
        )
    }
    assert language <= set(readers)
    # the norm before a DiT's MLP has no weights, and nothing folds through a GELU
    assert not any(r.startswith(BLOCK) and '.ff.' in r for r in readers)


def test_grouped_heads_share_the_scale_of_their_value(network):
    point = next(p for p in network.equalizations() if p.shared is not None)
    config = network.config.language
    assert len(point.shared) == config.heads * config.head_dim
    assert set(point.shared) == set(range(config.kv_heads * config.head_dim))
    # the first two query heads read the first value head
    first = list(range(config.head_dim))
    assert list(point.shared[: 2 * config.head_dim]) == first + first


def test_a_copy_of_the_head_shares_everything_that_runs_before_it(network):
    shared = {id(p) for module in network.encoders() for p in module.parameters()}
    own = {n for n, p in network.named_parameters() if id(p) not in shared}
    assert own and all(name.startswith('action_head.') for name in own)
    head = {n for n, p in network.named_parameters() if n.startswith(BLOCK)}
    assert head <= own
    assert not any('vlln' in name or 'vl_self_attention' in name for name in own)


def test_a_written_checkpoint_loads_and_acts_as_it_did(checkpoint, network):
    inputs, noise = tiny_inputs(), tiny_noise()
    close(act(load_model(checkpoint), inputs, noise), act(network, inputs, noise), atol=1e-5)


def test_bfloat16_stays_near_float32_and_keeps_the_projections_of_actions_and_time(checkpoint):
    inputs, noise = tiny_inputs(), tiny_noise()
    loaded = load_model(checkpoint, dtype=torch.bfloat16)
    exact = act(load_model(checkpoint), inputs, noise)
    actions = act(loaded, inputs, noise)
    assert actions.dtype == torch.float32
    assert (actions - exact).norm() < 0.05 * (exact - noise).norm()
    head = loaded.action_head
    assert head.model.proj_out_2.weight.dtype == torch.float32
    assert head.model.transformer_blocks[0].ff.net[2].weight.dtype == torch.bfloat16
    assert head.action_encoder.W2.W.dtype == torch.bfloat16


def rewrite(checkpoint, change):
    path = checkpoint / 'model.safetensors'
    save_file(change(load_file(path)), path)


EMBEDDING = 'backbone.eagle_model.language_model.model.embed_tokens.weight'
LM_HEAD = 'backbone.eagle_model.language_model.lm_head.weight'
TOWER = 'backbone.eagle_model.vision_model.'


def prefixed(tensors):
    return {f'_groot_model.{name}': tensor for name, tensor in tensors.items()}


def tied(tensors):
    embedding = tensors.pop(EMBEDDING)
    return {**tensors, LM_HEAD: embedding}


def both(tensors):
    return {**tensors, LM_HEAD: tensors[EMBEDDING] * 0}


def flattened(tensors):
    return {n.replace(TOWER + 'vision_model.', TOWER): t for n, t in tensors.items()}


def pooled(tensors):
    return {**tensors, TOWER + 'vision_model.head.probe': torch.zeros(1, 1, 24)}


@pytest.mark.parametrize('change', [prefixed, tied, both, flattened, pooled])
def test_spellings_of_public_files_load_alike(checkpoint, network, change):
    rewrite(checkpoint, change)
    inputs, noise = tiny_inputs(), tiny_noise()
    # not equal to the bit: where a tensor lies in the file decides how sums are split
    close(act(load_model(checkpoint), inputs, noise), act(network, inputs, noise), atol=1e-5)


def test_a_missing_tensor_is_named(checkpoint):
    rewrite(checkpoint, lambda t: {n: v for n, v in t.items() if n != 'action_head.vlln.bias'})
    with pytest.raises(CheckpointError, match=r'by config.json, found 1 missing .*vlln\.bias'):
        load_model(checkpoint)


@pytest.mark.parametrize(
    ('path', 'value', 'message'),
    [
        (('backbone_cfg', 'project_to_dim'), 1536, 'backbone_cfg.project_to_dim: expected None'),
        (('_eagle', 'use_pixel_shuffle'), True, '_eagle.use_pixel_shuffle: expected False'),
        (('action_head_cfg', 'use_vlln'), False, 'action_head_cfg.use_vlln: expected True'),
        (('action_head_cfg', 'diffusion_model_cfg', 'norm_type'), 'ada_norm_zero', 'norm_type'),
        (('action_head_cfg', 'input_embedding_dim'), 77, 'found 77 and 24'),
        (('action_head_cfg',), [], 'action_head_cfg: expected an object'),
    ],
)
def test_a_network_of_another_kind_is_refused_by_its_config(path, value, message):
    config = tiny_config()
    place = config
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(CheckpointError, match=message):
        build_network(config)


def test_the_exported_config_of_full_size_is_the_public_one():
    with torch.device('meta'):
        exported = build_network(groot_export.hub_config())
        default = build_network({'model_type': 'gr00t_n1_5'})
    assert exported.config == default.config
    assert EAGLE['image'] != exported.config.vision.image


def test_random_weights_are_of_their_seed_and_keep_activations_of_order_one(network):
    state = dict(export.random_weights(tiny_config(), 0))
    again = dict(export.random_weights(tiny_config(), 0))
    assert all(torch.equal(state[name], again[name]) for name in state)
    assert any(not torch.equal(t, state[n]) for n, t in export.random_weights(tiny_config(), 1))
    # norms multiply by about one, and a robot's weights have the scale of their own inputs
    assert state['backbone.eagle_model.language_model.model.norm.weight'].mean() > 0.9
    assert state['action_head.vlln.weight'].mean() > 0.9
    weight = state['action_head.action_encoder.W2.W']
    assert weight.std().item() == pytest.approx(weight.shape[1] ** -0.5, rel=0.05)
    features = network.backbone(*network.embed(tiny_inputs()))
    assert 0.5 < features.square().mean().sqrt() < 2.0
    velocity = network.flow(features, tiny_inputs()).velocity(0, tiny_noise())
    assert 0.2 < velocity.square().mean().sqrt() < 5.0
