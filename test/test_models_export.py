# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A written checkpoint loads again, gives the same actions, and says clearly what is wrong."""
import json

import numpy as np
import pytest
import torch
import yaml
from quantization_samples import ROOT
from safetensors.torch import load_file, save_file

from quantvla_ros.cli.main import main
from quantvla_ros.cli.random_checkpoint import TINY
from quantvla_ros.contract.load import load_contract
from quantvla_ros.engine.policy import load_policy
from quantvla_ros.errors import CheckpointError, ObservationError
from quantvla_ros.inspection.directory import inspect_directory
from quantvla_ros.models import export, groot_export, load_model, pi05_export, smolvla_export
from quantvla_ros.models.architectures import architecture_of, empty_network, load_processor
from quantvla_ros.models.checkpoint import read_config
from quantvla_ros.models.tokenizer import load_tokenizer
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


# `random-checkpoint`: the same for every architecture, through the command itself.

KINDS = ('pi05', 'gr00t_n1_5', 'smolvla')
EXPORTERS = {'pi05': pi05_export, 'gr00t_n1_5': groot_export, 'smolvla': smolvla_export}


def random_checkpoint(out, kind, *more, contract='tabletop'):
    path = ROOT / 'config' / 'contracts' / f'{contract}.yaml'
    return main([
        'random-checkpoint', '--model', kind, '--contract', str(path), '--out', str(out), *more
    ])


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.mark.parametrize('contract', ['tabletop', 'gr1_arms'])
def test_a_random_checkpoint_runs_on_its_robot(kind, contract, tmp_path, capsys):
    out = tmp_path / 'out'
    assert random_checkpoint(out, kind, contract=contract) == 0
    robot = load_contract(ROOT / 'config' / 'contracts' / f'{contract}.yaml')
    policy = load_policy(out)
    picture = np.zeros((48, 64, 3), np.uint8)
    actions = policy.infer(
        Observation(
            stamp=0,
            images={camera.slot: picture for camera in robot.cameras},
            state=policy.processor.example_state(),
            instruction='pick up the cube',
        ),
        seed=0,
    )
    assert actions.shape == (16, len(robot.action.names)) and actions.std() > 0
    assert np.isfinite(actions).all()
    facts = inspect_directory(out, contract=robot)
    assert facts['missing'] == []
    assert facts['architecture']['type'] == kind
    low, high = (
        np.array([getattr(robot.limits[name], end) for name in robot.action.names])
        for end in ('lower', 'upper')
    )
    middle = policy.processor.example_state()[: len(low)]
    if robot.state_names == robot.action.names:
        np.testing.assert_allclose(middle, (low + high) / 2, atol=1e-3)


def test_weights_are_of_their_seed(kind, tmp_path, capsys):
    stored = []
    for index, seed in enumerate(('3', '3', '4')):
        assert random_checkpoint(tmp_path / str(index), kind, '--seed', seed) == 0
        stored.append((tmp_path / str(index) / 'model.safetensors').read_bytes())
    assert stored[0] == stored[1] != stored[2]


def test_the_full_size_is_the_public_one(kind):
    numbers = export.statistics(np.zeros((2, 5)))
    features = export.Features(('observation.images.a',), numbers, numbers, tuple('abcde'))
    described = () if kind == 'gr00t_n1_5' else (features,)
    config = EXPORTERS[kind].hub_config(*described)
    exported, public = empty_network(config), empty_network({'type': kind})
    assert exported.config == public.config
    shapes = ({k: tuple(v.shape) for k, v in n.state_dict().items()} for n in (exported, public))
    assert next(shapes) == next(shapes)


def test_a_directory_with_files_in_it_is_left_alone(tmp_path, capsys):
    (tmp_path / 'mine').write_text('mine')
    assert random_checkpoint(tmp_path, 'pi05') == 2
    assert random_checkpoint(tmp_path / 'mine', 'pi05') == 2
    said = capsys.readouterr().err
    assert said.count('\n') == 2 and 'new or empty directory' in said


def test_gr00t_parts_are_runs_of_names_that_differ_in_their_number(tmp_path, capsys):
    assert random_checkpoint(tmp_path / 'out', 'gr00t_n1_5', contract='gr1_arms') == 0
    data = yaml.safe_load((tmp_path / 'out' / 'data_config.yaml').read_text())
    names = {part['key']: part['names'] for part in data['state']}
    sizes = {'left_arm': 7, 'left_hand': 6, 'right_arm': 7, 'right_hand': 6}
    assert {key: len(own) for key, own in names.items()} == sizes
    metadata = json.loads((tmp_path / 'out' / 'experiment_cfg' / 'metadata.json').read_text())
    statistics = metadata['new_embodiment']['statistics']['state']['left_hand']
    robot = load_contract(ROOT / 'config' / 'contracts' / 'gr1_arms.yaml')
    lowest = [robot.limits[name].lower for name in names['left_hand']]
    assert statistics['min'] == pytest.approx(lowest)


def test_gr00t_parts_that_come_back_keep_their_own_statistics(tmp_path):
    numbers = np.arange(8.0).reshape(2, 4)
    names = ('arm_0', 'hand_0', 'arm_1', 'arm_2')
    features = export.Features(
        ('observation.images.a',), export.statistics(numbers), export.statistics(numbers), names,
        state_names=names,
    )
    sizes = TINY['gr00t_n1_5']
    config = groot_export.hub_config(**sizes)
    weights = export.random_weights(config, 0)
    groot_export.write_checkpoint(tmp_path, config, weights, features, ['go'])
    processor = load_processor(tmp_path, config)
    assert processor.state_names == names
    np.testing.assert_array_equal(processor.example_state(), numbers.mean(0))


def test_special_tokens_keep_their_ids_and_every_text_can_be_spelled(tmp_path):
    special = {'<image>': 600, '<end>': 7}
    tokenizer = export.byte_tokenizer(['pick up the cup'], special, 640)
    tokenizer.save(str(tmp_path / 'tokenizer.json'))
    loaded = load_tokenizer(tmp_path / 'tokenizer.json')
    assert loaded.encode('<image><end>') == [600, 7]
    assert len(loaded.encode('pick')) < 4  # learned
    ids = loaded.encode('Grüße, 世界\n')
    assert max(ids) < 640 and tokenizer.decode(ids) == 'Grüße, 世界\n'
    assert not {600, 7} & set(ids)
