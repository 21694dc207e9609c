# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A written checkpoint loads again, gives the same actions, and says clearly what is wrong."""
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from quantvla_ros.errors import CheckpointError, ObservationError
from quantvla_ros.models import export, load_model, pi05_export
from quantvla_ros.models.architectures import architecture_of, load_processor
from quantvla_ros.models.checkpoint import read_config
from quantvla_ros.observation.types import Observation

SIZES = {
    'vlm': [64, 2, 96, 4, 1, 16],
    'exp': [32, 2, 64, 4, 1, 16],
    'vis': [32, 2, 4, 48],
    'vocab': 512,
}


@pytest.fixture
def checkpoint(tmp_path):
    rng = np.random.default_rng(0)
    features = export.Features(
        slots=('observation.images.overhead', 'observation.images.wrist'),
        state=export.statistics(rng.normal(size=(100, 5))),
        action=export.statistics(rng.normal(size=(100, 5))),
        action_names=tuple('abcde'),
    )
    config = pi05_export.hub_config(features, image=56, chunk=6, max_action_dim=8, sizes=SIZES)
    weights = export.random_weights(config, seed=1)
    words = ['touch', 'the', 'red', 'cube']
    pi05_export.write_checkpoint(tmp_path, config, weights, features, words)
    return tmp_path


def observation(**changes):
    picture = np.random.default_rng(1).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    fields = {
        'stamp': 0,
        'images': {f'observation.images.{name}': picture for name in ('overhead', 'wrist')},
        'state': np.zeros(5, np.float32),
        'instruction': 'touch the red cube',
    }
    return Observation(**(fields | changes))


def act(directory, dtype=torch.float32):
    processor = load_processor(directory, read_config(directory))
    inputs = processor.inputs(observation())
    noise = torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(3))
    raw = load_model(directory, dtype=dtype).sample_actions(
        inputs.images, inputs.image_masks, inputs.tokens, inputs.token_mask, noise
    )
    return processor.actions(raw, observation().state)


def test_a_written_checkpoint_gives_finite_actions_of_the_robots_size(checkpoint):
    actions = act(checkpoint)
    assert actions.shape == (6, 5)
    assert np.isfinite(actions).all() and actions.std() > 0.1


def test_bfloat16_stays_near_float32(checkpoint):
    error = act(checkpoint, torch.bfloat16) - act(checkpoint)
    assert np.linalg.norm(error) < 0.05 * np.linalg.norm(act(checkpoint))


def test_shards_load_like_one_file(checkpoint):
    expected = act(checkpoint)
    tensors = load_file(checkpoint / 'model.safetensors')
    (checkpoint / 'model.safetensors').unlink()
    names = {}
    for index, part in enumerate((list(tensors)[::2], list(tensors)[1::2])):
        save_file({k: tensors[k] for k in part}, checkpoint / f'part{index}.safetensors')
        names |= dict.fromkeys(part, f'part{index}.safetensors')
    index_file = checkpoint / 'model.safetensors.index.json'
    index_file.write_text(json.dumps({'weight_map': names}))
    np.testing.assert_array_equal(act(checkpoint), expected)


def test_weights_too_large_for_one_file_are_written_as_indexed_shards(
    checkpoint, monkeypatch
):
    monkeypatch.setattr(export, 'SHARD_BYTES', 50_000)
    config = read_config(checkpoint)
    for file in checkpoint.glob('*.safetensors'):
        if file.name.startswith('model'):
            file.unlink()
    hub_key = architecture_of(config).hub_key
    export.write_weights(checkpoint, export.random_weights(config, seed=1), torch.bfloat16, hub_key)
    shards = sorted(file.name for file in checkpoint.glob('model-*'))
    assert len(shards) > 1
    assert shards[0] == f'model-00001-of-{len(shards):05d}.safetensors'
    assert np.isfinite(act(checkpoint)).all()


def test_known_words_and_bins_are_one_token_each_and_others_are_spelled(checkpoint):
    tokenizer = load_processor(checkpoint, read_config(checkpoint)).tokenizer
    # <bos> Task : touch the red cube , State : 128 0 ; Action :
    assert len(tokenizer.encode('Task: touch the red cube, State: 128 0;\nAction: ')) == 15
    assert len(tokenizer.encode('wug')) == 1 + 3
    assert 3 not in tokenizer.encode('Task: grasp ~ the wug!')


def test_an_embedding_wins_over_the_tied_output_layer(checkpoint):
    # Files saved again by newer tools hold both, no longer tied.
    path = checkpoint / 'model.safetensors'
    tensors = load_file(path)
    head = 'model.paligemma_with_expert.paligemma.lm_head.weight'
    embedding = 'model.paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight'
    expected = act(checkpoint)
    save_file({**tensors, embedding: tensors[head], head: tensors[head] * 0}, path)
    np.testing.assert_array_equal(act(checkpoint), expected)


@pytest.mark.parametrize('prefix', ['model.', ''])
def test_keys_load_with_and_without_the_leading_model(checkpoint, prefix):
    path = checkpoint / 'model.safetensors'
    expected = act(checkpoint)
    save_file({prefix + k.removeprefix('model.'): v for k, v in load_file(path).items()}, path)
    np.testing.assert_array_equal(act(checkpoint), expected)


def damage_missing(tensors):
    tensors.pop('model.action_in_proj.weight')


def damage_extra(tensors):
    tensors['model.unheard_of.weight'] = torch.zeros(2)


def damage_shape(tensors):
    tensors['model.action_in_proj.weight'] = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (damage_missing, 'missing .*action_in_proj.weight'),
        (damage_extra, 'unknown .*unheard_of'),
        (damage_shape, r'expected shape \[32, 8\]'),
    ],
)
def test_wrong_weights_are_named(checkpoint, damage, message):
    path = checkpoint / 'model.safetensors'
    tensors = load_file(path)
    damage(tensors)
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=message):
        load_model(checkpoint)


def test_a_truncated_file_is_an_error_that_names_it(checkpoint):
    path = checkpoint / 'model.safetensors'
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r'model\.safetensors: expected a whole'):
        load_model(checkpoint)


def test_an_unknown_model_is_named(checkpoint):
    config = json.loads((checkpoint / 'config.json').read_text())
    (checkpoint / 'config.json').write_text(json.dumps({**config, 'type': 'pi7'}))
    with pytest.raises(CheckpointError, match="'pi7'"):
        load_model(checkpoint)


def test_an_unknown_processor_step_is_an_error_not_skipped(checkpoint):
    path = checkpoint / 'policy_preprocessor.json'
    content = json.loads(path.read_text())
    content['steps'].append({'registry_name': 'mirror_processor', 'config': {}})
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match='mirror_processor'):
        load_processor(checkpoint, read_config(checkpoint))


def test_an_observation_of_another_robot_is_refused(checkpoint):
    processor = load_processor(checkpoint, read_config(checkpoint))
    with pytest.raises(ObservationError, match='expected 5 numbers'):
        processor.inputs(observation(state=np.zeros(6, np.float32)))
    with pytest.raises(ObservationError, match='expected pictures for'):
        processor.inputs(observation(images={}))
    with pytest.raises(ObservationError, match='shorten the command'):
        processor.inputs(observation(instruction='wug ' * 100))
