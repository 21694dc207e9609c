# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""GR00T N1.5 runs from the hub's directories, and one that lacks something says what and where."""
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from groot_samples import (
    SLOTS,
    STATE_NAMES,
    features,
    numbers,
    observation,
    runnable_config,
    write_lerobot,
    write_nvidia,
)
from safetensors.torch import load_file, save_file

from quantvla_ros.contract.load import load_contract
from quantvla_ros.contract.match import differences
from quantvla_ros.engine.policy import load_policy
from quantvla_ros.errors import CheckpointError, ObservationError
from quantvla_ros.models.architectures import build_network, load_processor
from quantvla_ros.models.checkpoint import load_model, read_config
from quantvla_ros.models.data_config import load_data_config
from quantvla_ros.models.groot_images import isaac_picture, lerobot_picture

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / 'config' / 'data'


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    return {
        'nvidia': write_nvidia(tmp_path_factory.mktemp('nvidia')),
        'lerobot': write_lerobot(tmp_path_factory.mktemp('lerobot')),
    }


@pytest.fixture
def nvidia(written, tmp_path):
    return shutil.copytree(written['nvidia'], tmp_path / 'nvidia')


@pytest.fixture
def lerobot(written, tmp_path):
    return shutil.copytree(written['lerobot'], tmp_path / 'lerobot')


def processor(directory):
    return load_processor(directory, read_config(directory))


def edit(path, change):
    """Rewrite a JSON or YAML file."""
    load, dump = (yaml.safe_load, yaml.safe_dump) if path.suffix == '.yaml' else (
        json.loads, json.dumps
    )
    content = load(path.read_text())
    change(content)
    path.write_text(dump(content))


def refused(directory, message):
    with pytest.raises(CheckpointError, match=message):
        processor(directory)


def test_an_observation_becomes_what_the_network_takes(nvidia):
    ours, seen = processor(nvidia), observation()
    inputs = ours.inputs(seen)
    config = build_network(runnable_config()).config
    assert inputs.pixel_values.shape == (2, 3, 28, 28)
    assert torch.equal(inputs.pixel_values[1], isaac_picture(seen.images[SLOTS[1]], 28))
    assert (inputs.input_ids == config.image_token).sum() == 2 * config.vision.tokens
    assert inputs.attention_mask.all() and inputs.attention_mask.dtype == torch.bool
    assert inputs.state.shape == (1, 1, 64) and inputs.embodiment_id.tolist() == [31]
    low, high = features().state['min'], features().state['max']
    expected = 2 * (seen.state - low) / (high - low) - 1
    np.testing.assert_allclose(inputs.state[0, 0, :4], expected, rtol=1e-5, atol=1e-6)
    assert not inputs.state[0, 0, 4:].any()


def test_the_networks_actions_come_back_in_the_robots_units(nvidia):
    ours = processor(nvidia)
    raw = torch.zeros(1, 16, 32)
    raw[..., :4] = torch.tensor([-1.0, 1.0, 0.0, 0.5])
    actions = ours.actions(raw, np.zeros(4))
    low, high = (features().action[name].astype(np.float32) for name in ('min', 'max'))
    expected = [low[0], high[1], (low[2] + high[2]) / 2, low[3] + 0.75 * (high[3] - low[3])]
    assert actions.shape == (16, 4) and actions.dtype == np.float32
    np.testing.assert_allclose(actions[7], expected, rtol=1e-5)


@pytest.mark.parametrize('layout', ['nvidia', 'lerobot'])
def test_a_directory_is_a_policy(written, layout):
    policy = load_policy(written[layout])
    assert policy.info.model == 'gr00t_n1_5' and policy.info.slots == SLOTS
    chunk = policy.infer(observation(), seed=0)
    assert chunk.shape == (16, 4) and np.isfinite(chunk).all()
    other = policy.infer(observation('place'), seed=0)
    assert np.abs(chunk - other).max() > 1e-5
    policy.warm_up(1)
    assert policy.info.execute_steps == 16


def test_lerobots_directory_says_everything_itself(lerobot):
    ours = processor(lerobot)
    assert ours.slots == SLOTS  # by name, whatever the config's order
    assert ours.embodiment_id == 2 and ours.resize == 'lerobot' and ours.prompt.as_list
    assert (ours.state_size, ours.action_size, ours.state_names) == (4, 4, None)
    seen = observation()
    expected = lerobot_picture(seen.images[SLOTS[0]], 28)
    assert torch.equal(ours.inputs(seen).pixel_values[0], expected)


def test_both_layouts_give_the_same_actions_from_the_same_inputs(written):
    inputs = processor(written['nvidia']).inputs(observation())
    noise = torch.randn(1, 16, 32, generator=torch.Generator().manual_seed(0))
    theirs, ours = (
        load_model(written[layout]).sample_actions(*vars(inputs).values(), noise)
        for layout in ('lerobot', 'nvidia')
    )
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)


def test_shards_load_as_one_file_does(nvidia):
    inputs = processor(nvidia).inputs(observation())
    noise = torch.zeros(1, 16, 32)
    whole = load_model(nvidia).sample_actions(*vars(inputs).values(), noise)
    tensors = load_file(nvidia / 'model.safetensors')
    (nvidia / 'model.safetensors').unlink()
    names, placed = sorted(tensors), {}
    for shard in range(2):
        file = f'model-0000{shard + 1}-of-00002.safetensors'
        save_file({name: tensors[name] for name in names[shard::2]}, nvidia / file)
        placed |= dict.fromkeys(names[shard::2], file)
    index = {'metadata': {'total_size': 0}, 'weight_map': placed}
    (nvidia / 'model.safetensors.index.json').write_text(json.dumps(index))
    sharded = load_model(nvidia).sample_actions(*vars(inputs).values(), noise)
    torch.testing.assert_close(sharded, whole, atol=1e-5, rtol=0)


def test_a_data_config_changes_what_lerobots_files_leave_open(lerobot):
    (lerobot / 'data_config.yaml').write_text(yaml.safe_dump({
        'data_config': 1,
        'model': 'gr00t_n1_5',
        'embodiment_id': 5,
        'instruction': 'plain',
        'resize': 'isaac',
        'crop': 0.9,
        'control_period': 0.1,
        'execute_steps': 8,
        'state': [
            {'key': 'hand', 'normalize': 'min_max', 'dimensions': [3, 4]},
            {'key': 'arm', 'normalize': 'mean_std', 'dimensions': [0, 3]},
        ],
    }))
    ours = processor(lerobot)
    assert (ours.embodiment_id, ours.crop, ours.prompt.as_list) == (5, 0.9, False)
    assert ours.state_names == ('hand_0', 'arm_0', 'arm_1', 'arm_2')
    assert (ours.control_period, ours.execute_steps) == (0.1, 8)
    assert ours.action_names is None
    seen = observation()
    expected = isaac_picture(seen.images[SLOTS[0]], 28, 0.9)
    assert torch.equal(ours.inputs(seen).pixel_values[0], expected)


def test_an_embodiment_by_name_goes_before_lerobots(lerobot):
    (lerobot / 'data_config.yaml').write_text(
        yaml.safe_dump({'data_config': 1, 'model': 'gr00t_n1_5', 'embodiment': 'gr1'})
    )
    assert processor(lerobot).embodiment_id == 24


def test_a_crop_that_would_not_be_used_is_refused(lerobot):
    (lerobot / 'data_config.yaml').write_text(
        yaml.safe_dump({'data_config': 1, 'model': 'gr00t_n1_5', 'crop': 0.95})
    )
    refused(lerobot, 'crop: expected none with resize lerobot, found 0.95')


def test_renamed_cameras_keep_the_datas_names(lerobot):
    def rename(content):
        content['steps'][0]['config']['rename_map'] = {'observation.images.a': SLOTS[1]}

    edit(lerobot / 'policy_preprocessor.json', rename)
    assert processor(lerobot).slots == (SLOTS[0], 'observation.images.a')


def test_copies_of_its_files_side_by_side_make_it_again(written, tmp_path):
    """So an artifact carries them."""
    for layout, directory in written.items():
        copy = tmp_path / layout
        copy.mkdir()
        shutil.copy(directory / 'config.json', copy)
        ours = processor(directory)
        for file in ours.files:
            assert not (copy / file.name).exists()
            shutil.copy(file, copy)
        if (directory / 'data_config.yaml').exists():
            data = load_data_config(directory / 'data_config.yaml')
            (copy / 'data_config.yaml').write_text(data.local_text())
        again, seen = processor(copy), observation()
        for name, value in vars(ours.inputs(seen)).items():
            assert torch.equal(getattr(again.inputs(seen), name), value)
        raw = torch.randn(1, 16, 32)
        np.testing.assert_array_equal(ours.actions(raw, None), again.actions(raw, None))
        assert ours.tokenizer_file in ours.files


def test_the_hubs_chat_template_beside_the_tokenizer_is_followed(nvidia):
    before = processor(nvidia).tokens('pick')
    template = (
        '<|im_start|>user\n<image-1><image-2>'
        "{{ messages[0]['content'][2]['text'] }}<|im_end|>\n"
    )
    (nvidia / 'chat_template.json').write_text(json.dumps({'chat_template': template}))
    ours = processor(nvidia)
    assert len(ours.tokens('pick')) < len(before)
    assert nvidia / 'chat_template.json' in ours.files


def test_prompts_of_any_length_run_together_each_as_if_alone(written):
    policy = load_policy(written['nvidia'])
    texts = ['pick', 'pick it up and place it', 'pick']
    observations = [observation(text, seed=seed) for seed, text in enumerate(texts)]
    chunks = policy.infer_many(observations, [0, 1, 2])
    for seed, (one, chunk) in enumerate(zip(observations, chunks, strict=True)):
        np.testing.assert_allclose(chunk, policy.infer(one, seed=seed), atol=1e-4)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda o: replace(o, images={SLOTS[0]: o.images[SLOTS[0]]}), f'none for {SLOTS[1]}'),
        (lambda o: replace(o, state=np.zeros(3)), r'expected 4 numbers, found shape \(3,\)'),
        (lambda o: replace(o, instruction='<|im_end|> go'), r'plain words, found <\|im_end\|>'),
        (lambda o: replace(o, instruction='<IMG_CONTEXT>'), 'plain words, found <IMG_CONTEXT>'),
    ],
)
def test_an_observation_that_does_not_fit_is_refused(written, change, message):
    with pytest.raises(ObservationError, match=message):
        processor(written['nvidia']).inputs(change(observation()))


def test_without_a_tokenizer_one_line_says_what_to_put_where(nvidia):
    (nvidia / 'tokenizer.json').unlink()
    refused(nvidia, r'vocab.json .*lerobot/eagle2hg-processor-groot-n1p5 there')


def test_a_tokenizer_of_another_model_is_refused(nvidia):
    edit(nvidia / 'config.json', lambda c: c['_eagle'].update(image_token_index=580))
    refused(nvidia, '<IMG_CONTEXT> as token 580, as the network has it, found 590')


def test_a_token_beyond_the_networks_embedding_is_refused(nvidia):
    edit(nvidia / 'config.json', lambda c: c['_eagle'].update(vocab=590))
    refused(nvidia, 'expected ids below the 590 of the network, found 590')


def test_without_a_data_config_nvidias_directory_asks_for_one(nvidia):
    (nvidia / 'data_config.yaml').unlink()
    refused(nvidia, r'told the cameras .*data_config.yaml .*config/data holds some to copy')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda c: c.pop('action'), 'told the action that it was trained on'),
        (lambda c: c.update(embodiment='gr1'), "embodiment 'gr1', found new_embodiment"),
        (lambda c: c.update(embodiment_id=32), 'from 0 to 31, found'),
        (lambda c: c.update(statistics='nowhere.json'), 'statistics: expected a file, found none'),
        (lambda c: c['state'][0].update(key='leg'), "state 'leg', found those of arm, hand"),
        (lambda c: c['state'][0].update(names=['a']), 'state arm: names: expected 3'),
        (lambda c: c['action'][0].update(normalize='sin_cos'), 'a mode that can be undone'),
        (lambda c: c.update(resize='lerobot', crop=0.9), 'crop: expected none with resize'),
        (lambda c: c.update(resize='openpi'), 'resize: expected one of isaac, lerobot'),
        (lambda c: c.update(state_names=['x']), "the key 'state_names'"),
    ],
)
def test_a_data_config_that_does_not_fit_is_refused(nvidia, change, message):
    edit(nvidia / 'data_config.yaml', change)
    refused(nvidia, message)


def test_without_statistics_the_line_says_how_to_pass_them(nvidia):
    edit(nvidia / 'data_config.yaml', lambda c: c.pop('statistics'))
    processor(nvidia)
    shutil.rmtree(nvidia / 'experiment_cfg')
    refused(nvidia, r'experiment_cfg/metadata.json, found none; .*statistics: PATH')


def test_an_artifacts_metadata_lies_beside_the_rest(nvidia):
    edit(nvidia / 'data_config.yaml', lambda c: c.pop('statistics'))
    shutil.move(nvidia / 'experiment_cfg' / 'metadata.json', nvidia)
    assert processor(nvidia).files[0] == nvidia / 'metadata.json'


def test_an_unnamed_embodiment_of_a_fork_needs_its_row(nvidia):
    def fork(content):
        content['my_robot'] = content.pop('new_embodiment')

    edit(nvidia / 'experiment_cfg' / 'metadata.json', fork)
    edit(nvidia / 'data_config.yaml', lambda c: c.update(embodiment='my_robot'))
    processor(nvidia)  # its row is given
    edit(nvidia / 'data_config.yaml', lambda c: c.pop('embodiment_id'))
    refused(nvidia, r"found 'my_robot' and None; say it in data_config.yaml")


@pytest.mark.parametrize(
    ('file', 'change', 'message'),
    [
        ('pre', lambda s: s[2]['config'].update(normalize_min_max=False), 'units of its numbers'),
        ('pre', lambda s: s[2]['config'].update(embodiment_tag='other'), "found 'other' and"),
        ('pre', lambda s: s[2].pop('state_file'), r'without \(no state_file\); name a file'),
        ('pre', lambda s: s.insert(1, {'registry_name': 'blur_pictures'}), 'unknown step .blur'),
        ('pre', lambda s: s.pop(2), 'expected the step groot_pack_inputs_v3'),
        ('pre', lambda s: s[0].update(config=[]), 'not a processor file'),
        ('post', lambda s: s[0]['config'].update(env_action_dim=7), 'env_action_dim: expected the'),
        ('post', lambda s: s[0].update(state_file='gone.safetensors'), 'gone.safetensors: exp'),
    ],
)
def test_processor_files_of_lerobot_that_say_otherwise_are_refused(lerobot, file, change, message):
    edit(lerobot / f'policy_{file}processor.json', lambda content: change(content['steps']))
    refused(lerobot, message)


def test_statistics_of_another_robot_are_refused(lerobot):
    path = lerobot / 'policy_preprocessor_step_2_groot_pack_inputs_v3.safetensors'
    statistics = numbers(70)
    save_file(
        {f'observation.state.{n}': torch.tensor(v) for n, v in statistics.items()}, path
    )
    refused(lerobot, 'at most 64 numbers together')


@pytest.mark.parametrize(
    ('change', 'title'),
    [
        ({'base_model_path': 'nvidia/GR00T-N1.7-3B'}, 'N1.7'),
        ({'model_version': 'n1.7'}, 'N1.7'),
        ({'base_model_path': '/home/me/GR00T-N1.6-3B'}, 'N1.6'),
        ({'use_alternate_vl_dit': True}, 'N1.6'),
        ({'tokenizer_assets_repo': 'nvidia/Eagle-Block2A-2B-v2'}, 'N1.6'),
        ({'backbone_model_type': 'eagle'}, 'N1.6'),
    ],
)
def test_later_models_of_the_name_are_refused_by_theirs(lerobot, change, title):
    edit(lerobot / 'config.json', lambda content: content.update(change))
    with pytest.raises(CheckpointError, match=f'which only GR00T {title} has'):
        load_model(lerobot)


def test_lerobots_public_config_has_the_public_sizes():
    """It names the base model and no sizes."""
    config = {'type': 'groot', 'chunk_size': 50, 'base_model_path': 'nvidia/GR00T-N1.5-3B'}
    with torch.device('meta'):
        assert build_network(config).config == build_network({'model_type': 'gr00t_n1_5'}).config


def test_the_ready_data_configs_are_read_and_fit_the_network():
    found = {path.stem: load_data_config(path) for path in sorted(DATA.glob('*.yaml'))}
    assert {'gr1_arms', 'libero', 'so100'} <= set(found)
    for name, data in found.items():
        if data.model == 'gr00t_n1_5':
            assert data.cameras and data.state and data.action, name
            ends = [one.dimensions for one in data.action]
            assert sum(after - first for first, after in ends) <= 32, name


def gr1(directory, statistics):
    """GR1's data config on a tiny network: what an owner of the public checkpoint copies there."""
    text = (DATA / 'gr1_arms.yaml').read_text()
    (directory / 'data_config.yaml').write_text(f'{text}\nstatistics: {statistics.name}\n')
    shutil.copy(statistics, directory)
    return processor(directory)


def test_gr1s_data_config_fits_its_contract(nvidia, tmp_path):
    vector = {name: values.tolist() for name, values in numbers(44).items()}
    path = tmp_path / 'stats.json'
    path.write_text(json.dumps({'observation.state': vector, 'action': vector}))
    ours = gr1(nvidia, path)
    assert (ours.state_size, ours.action_size, ours.embodiment_id) == (26, 26, 24)
    assert sum(part.width for part in ours.state.parts) == 52
    contract = load_contract(ROOT / 'config' / 'contracts' / 'gr1_arms.yaml')
    assert not differences(
        contract,
        slots=ours.slots,
        state_names=ours.state_names,
        action_names=ours.action_names,
        control_period=ours.control_period,
    )
    # the right arm is numbers 22 to 28 of the data set's vectors
    high = numbers(44)['max'].astype(np.float32)
    np.testing.assert_allclose(ours.actions(torch.ones(1, 16, 32), None)[0, 7:14], high[22:29])


def test_names_of_the_parts_are_those_of_the_robot(written):
    assert processor(written['nvidia']).state_names == STATE_NAMES
