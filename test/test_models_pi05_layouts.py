# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""However a pi0.5 is spelled on disk, the same network comes of it."""
import re
import shutil

import pytest
import torch
from pi05_directories import EMBEDDING, LM_HEAD, edit, lerobot
from safetensors.torch import load_file, save_file

from quantvla_ros.errors import CheckpointError
from quantvla_ros.models import load_model
from quantvla_ros.models.architectures import architecture_of, build_network
from quantvla_ros.models.checkpoint import read_config


def unprefixed(weights):
    return {name.removeprefix('model.'): tensor for name, tensor in weights.items()}


def both(weights):
    # lerobot 0.5 and later save both, untied: the output layer has gone its own way.
    return {**weights, EMBEDDING: weights[LM_HEAD], LM_HEAD: weights[LM_HEAD] + 1}


def embedding_alone(weights):
    return {(EMBEDDING if name == LM_HEAD else name): t for name, t in weights.items()}


def flat_vision(weights):
    return {name.replace('vision_tower.vision_model.', 'vision_tower.'): tensor
            for name, tensor in weights.items()}


def renamed(weights):
    return {name.replace('.time_mlp_', '.action_time_mlp_'): t for name, t in weights.items()}


def ignored(weights):
    expert = 'model.paligemma_with_expert.gemma_expert.'
    extra = ('model.state_proj.weight', 'model.state_proj.bias', f'{expert}lm_head.weight',
             f'{expert}model.embed_tokens.weight', f'{expert}model.norm.weight',
             f'{expert}model.layers.0.input_layernorm.weight',
             f'{expert}model.layers.1.post_attention_layernorm.weight')
    return {**weights, **{name: torch.ones(3) for name in extra}}


def everything(weights):
    return unprefixed(ignored(flat_vision(renamed(both(weights)))))


@pytest.fixture(scope='module', params=[torch.bfloat16, torch.float32], ids=['bf16', 'fp32'])
def hub(request, tmp_path_factory):
    return lerobot(tmp_path_factory.mktemp('hub') / 'checkpoint', dtype=request.param)


@pytest.mark.parametrize('spelling', [
    unprefixed, both, embedding_alone, flat_vision, renamed, ignored, everything,
])
def test_every_spelling_gives_the_same_network(hub, tmp_path, spelling):
    shutil.copy(hub / 'config.json', tmp_path)
    weights = spelling(load_file(hub / 'model.safetensors'))
    save_file({name: tensor.clone() for name, tensor in weights.items()},
              tmp_path / 'model.safetensors')
    ours, theirs = load_model(tmp_path).state_dict(), load_model(hub).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(('change', 'message'), [
    ({'use_visual_memory': True}, 'use_visual_memory is on'),
    ({'use_proprioceptive_memory': True}, 'use_proprioceptive_memory is on'),
    ({'image_resolution': [28, 42]}, 'image_resolution: expected a square'),
    ({'image_resolution': 28}, 'image_resolution: expected a square'),
    ({'image_resolution': ['28', '28']}, 'image_resolution: expected a square'),
    ({'_sizes': None, 'paligemma_variant': 'gemma_7b'}, 'paligemma_variant: expected one of'),
    ({'empty_cameras': -1}, 'empty_cameras: expected a whole number'),
    ({'input_features': {'a': 3}}, 'input_features: expected objects'),
    ({'input_features': {}}, 'at least one VISUAL feature'),
])
def test_a_config_that_cannot_be_run_is_refused_before_weights_are_read(
    hub, tmp_path, change, message
):
    directory = shutil.copytree(hub, tmp_path / 'checkpoint')
    edit(directory / 'config.json', lambda config: config.update(change))
    config = read_config(directory)
    with pytest.raises(CheckpointError, match=message):
        build_network(config)
        architecture_of(config).processor(directory, config, None)


def test_openpis_config_is_known_by_its_fields():
    config = {'action_dim': 32, 'action_horizon': 15, 'paligemma_variant': 'gemma_2b',
              'action_expert_variant': 'gemma_300m', 'precision': 'bfloat16'}
    assert architecture_of(config).kind == 'pi05'
    with torch.device('meta'):
        network = build_network(config)
    assert network.noise_shape == (15, 32)
    with pytest.raises(CheckpointError):
        architecture_of({**config, 'type': 'pi7'})
    with pytest.raises(CheckpointError):
        architecture_of({'action_dim': 32})


def test_no_linear_layer_of_the_hub_is_ignored():
    # The pattern of ignored names must not swallow one that a network has.
    kind = architecture_of({'type': 'pi05'})
    with torch.device('meta'):
        names = build_network({'type': 'pi05'}).state_dict()
    assert all(kind.canonical_key(kind.hub_key(name)) in (name, *kind.tied) for name in names)
    assert not any(re.search('lm_head', name) for name in names)
