# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A lerobot directory's processor files are followed step by step, or refused with a reason."""
import json
import random
import shutil

import numpy as np
import pytest
import torch
from pi05_directories import (
    POST,
    PRE,
    RELATIVE,
    change_statistics,
    change_step,
    data_config,
    edit,
    lerobot,
    observation,
    openpi,
    processor,
    statistics,
    step,
)

from quantvla_ros.errors import CheckpointError, ObservationError


@pytest.fixture(scope='module', params=['0.4', '0.5', '0.6'])
def versions(request, tmp_path_factory):
    return lerobot(tmp_path_factory.mktemp('hub') / 'checkpoint', request.param)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    return lerobot(tmp_path_factory.mktemp('hub') / 'checkpoint')


@pytest.fixture
def hub(made, tmp_path):
    """A copy to change."""
    return shutil.copytree(made, tmp_path / 'checkpoint')


def refused(directory, message):
    """Reading fails with one line that says `message`."""
    with pytest.raises(CheckpointError, match=message) as caught:
        processor(directory)
    assert '\n' not in str(caught.value) and len(str(caught.value)) < 800


def test_every_version_reads_and_copies_flat(versions, tmp_path):
    found = processor(versions)
    assert found.state_size == found.action_size == 5 and found.relative is None
    flat = tmp_path / 'flat'
    flat.mkdir()
    for file in (*found.files, versions / 'config.json'):
        shutil.copy(file, flat)
    again = processor(flat)
    seen = observation(found)
    assert again.tokens(seen) == found.tokens(seen)
    raw = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(again.actions(raw, seen.state), found.actions(raw, seen.state))


@pytest.mark.parametrize('version', ['0.5', '0.6'])
def test_relative_actions_start_at_the_raw_state_but_for_excluded_joints(tmp_path, version):
    names = ['pan', 'shoulder', 'elbow', 'wrist', 'left_Gripper.pos']
    plain = processor(lerobot(tmp_path / 'plain', version))
    found = processor(
        lerobot(tmp_path / 'relative', version, enabled=True, action_names=names)
    )
    assert found.relative == (True, True, True, True, False)
    assert found.action_names == tuple(names)
    raw = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0))
    state = np.array([10.0, 20.0, 30.0, 40.0, 50.0], np.float32)
    expected = plain.actions(raw, state) + np.array([10.0, 20.0, 30.0, 40.0, 0.0], np.float32)
    np.testing.assert_allclose(found.actions(raw, state), expected, rtol=1e-6)


def test_without_names_all_actions_are_relative_as_in_lerobot(tmp_path):
    assert processor(lerobot(tmp_path / 'hub', enabled=True)).relative == (True,) * 5


def test_relative_in_one_file_and_absolute_in_the_other_is_refused(hub):
    change_step(hub, PRE, RELATIVE['0.6'], enabled=True)
    refused(hub, 'absolute_actions_processor: expected enabled: true')


def test_slots_are_the_names_before_the_renaming(hub):
    slots = processor(hub).slots
    rename = {f'observation.images.camera{n}': slot for n, slot in enumerate(slots)}
    change_step(hub, PRE, 'rename_observations_processor', rename_map=rename)
    assert processor(hub).slots == tuple(rename)
    change_step(hub, PRE, 'rename_observations_processor', rename_map={'a': 'x', 'b': 'x'})
    refused(hub, 'rename_map')


def test_empty_cameras_are_no_slots(hub):
    before = processor(hub).slots

    def empty(config):
        config['empty_cameras'] = 1
        config['input_features']['observation.images.empty_camera_0'] = {
            'type': 'VISUAL', 'shape': [3, 28, 28],
        }

    edit(hub / 'config.json', empty)
    assert processor(hub).slots == before


def test_the_users_camera_names_take_the_places_of_the_configs(hub):
    count = len(processor(hub).slots)
    data_config(hub, cameras=['front'])
    assert processor(hub).slots == ('front',)
    data_config(hub, cameras=[f'camera{n}' for n in range(count + 1)])
    refused(hub, f'cameras: expected at most {count}')


def test_an_unknown_step_is_refused_wherever_it_stands(hub):
    for file in (PRE, POST):
        kept = (hub / file).read_text()
        edit(hub / file, lambda c: c['steps'].append({'registry_name': 'smooth', 'config': {}}))
        refused(hub, "unknown step 'smooth'")
        (hub / file).write_text(kept)
    edit(hub / PRE, lambda c: c['steps'].append({'class': 'mine.Step', 'config': {}}))
    refused(hub, "unknown step 'mine.Step'")


def test_steps_in_another_order_or_missing_are_refused(hub):
    kept = (hub / PRE).read_text()

    def last(content):
        content['steps'].append(content['steps'].pop(3))

    edit(hub / PRE, last)  # the state would stand raw in the prompt
    refused(hub, 'in the order normalizer_processor')
    (hub / PRE).write_text(kept)
    edit(hub / PRE, lambda c: c['steps'].pop(4))
    refused(hub, 'expected the step pi05_prepare_state')
    edit(hub / POST, lambda c: c['steps'].reverse())
    (hub / PRE).write_text(kept)
    refused(hub, 'in the order unnormalizer_processor')


def test_a_normalizer_of_the_mode_that_the_file_names(hub):
    quantiles = processor(hub)
    for file, name in ((PRE, 'normalizer_processor'), (POST, 'unnormalizer_processor')):
        modes = {'VISUAL': 'IDENTITY', 'STATE': 'MIN_MAX', 'ACTION': 'MEAN_STD'}
        change_step(hub, file, name, norm_map=modes)
    found, data = processor(hub), statistics(hub)
    np.testing.assert_allclose(found.example_state(), np.add(
        data['observation.state']['min'], data['observation.state']['max']) / 2, rtol=1e-5)
    raw = torch.full((1, 1, 8), 2.0)
    expected = np.multiply(data['action']['std'], 2) + data['action']['mean']
    np.testing.assert_allclose(found.actions(raw, None)[0], expected, rtol=1e-5)
    assert not np.allclose(quantiles.actions(raw, None)[0], expected)


def test_modes_that_are_unknown_or_of_two_checkpoints_are_refused(hub):
    kept = (hub / POST).read_text()
    change_step(hub, POST, 'unnormalizer_processor',
                norm_map={'VISUAL': 'IDENTITY', 'STATE': 'QUANTILES', 'ACTION': 'MEAN_STD'})
    refused(hub, 'ACTION: expected QUANTILES')
    (hub / POST).write_text(kept)
    change_step(hub, PRE, 'normalizer_processor', norm_map={'STATE': 'SQUARED'})
    refused(hub, "expected one of QUANTILES.*found 'SQUARED'")
    change_step(hub, PRE, 'normalizer_processor', norm_map={'STATE': 'IDENTITY'})
    refused(hub, 'IDENTITY')
    change_step(hub, PRE, 'normalizer_processor',
                norm_map={'STATE': 'QUANTILES', 'VISUAL': 'MEAN_STD'})
    refused(hub, 'norm_map.VISUAL')


def test_statistics_of_two_checkpoints_are_refused(hub):
    def shift(arrays):
        arrays['action.q99'] = arrays['action.q99'] + 1.0

    change_statistics(hub, shift, 'policy_post*.safetensors')
    refused(hub, 'of different checkpoints')


def test_statistics_of_another_dimension_are_refused(hub):
    def longer(arrays):
        for key in arrays:
            arrays[key] = np.append(arrays[key], np.float32(1.0))

    change_statistics(hub, longer)
    refused(hub, r'observation.state: expected statistics of \[5\] numbers.*found 6')


def test_missing_statistics_say_what_to_pass(hub):
    edit(hub / PRE, lambda c: step(c, 'normalizer_processor').pop('state_file'))
    refused(hub, r'carries no statistics.*data_config.yaml \(statistics: PATH')
    edit(hub / PRE, lambda c: step(c, 'normalizer_processor').update(state_file='gone.safetensors'))
    refused(hub, 'gone.safetensors: expected a file of statistics')


def base(directory):
    """The same as a base checkpoint: padded features, no statistics; they are given back."""
    found = statistics(directory)
    for file, name in ((PRE, 'normalizer_processor'), (POST, 'unnormalizer_processor')):
        edit(directory / file, lambda c, name=name: step(c, name).pop('state_file'))
    for file in directory.glob('policy_*.safetensors'):
        file.unlink()

    def padded(config):
        config['max_state_dim'] = 32
        config['input_features']['observation.state']['shape'] = [32]
        config['output_features']['action']['shape'] = [config['max_action_dim']]

    edit(directory / 'config.json', padded)
    return found


@pytest.mark.parametrize('kind', ['stats.json', 'norm_stats.json', 'own.safetensors'])
def test_a_base_checkpoint_runs_with_the_users_statistics(hub, tmp_path, kind):
    expected, example = processor(hub), processor(hub).example_state()
    found = base(hub)
    refused(hub, 'carries no statistics')
    file = tmp_path / kind
    if kind == 'norm_stats.json':
        content = {'state': found['observation.state'], 'actions': found['action']}
        file.write_text(json.dumps({'norm_stats': content}))
    elif kind == 'stats.json':
        file.write_text(json.dumps({**found, 'timestamp': {'mean': [0.0]}}))
    else:
        from safetensors.numpy import save_file

        save_file({f'{feature}.{name}': np.asarray(value, np.float32)
                   for feature, names in found.items() for name, value in names.items()}, file)
    data_config(hub, statistics=str(file))
    ours = processor(hub)
    np.testing.assert_allclose(ours.example_state(), example, rtol=1e-6)
    assert file in ours.files and ours.action_size == expected.action_size


def test_statistics_by_data_set_are_named(hub):
    def qualify(arrays):
        for key in list(arrays):
            arrays[f'so100.{key}'] = arrays.pop(key)

    change_statistics(hub, qualify)
    refused(hub, 'single data sets')


def test_the_state_stands_in_the_prompt_raw_or_padded_by_a_switch(hub):
    raw = processor(hub)
    seen = observation(raw)
    bins = raw.tokenizer.encode('128')[-1]
    assert raw.tokens(seen).count(bins) <= 5
    data_config(hub, prompt_state='pad32')
    padded = processor(hub).tokens(seen)
    assert padded.count(bins) == raw.tokens(seen).count(bins) + 27
    assert len(padded) == len(raw.tokens(seen)) + 27
    data_config(hub, prompt_state='none')
    refused(hub, 'prompt_state: expected raw or pad32')


def test_a_state_of_another_size_and_an_endless_command_are_refused(hub):
    found = processor(hub)
    with pytest.raises(ObservationError, match='state: expected 5 numbers'):
        found.inputs(observation(found, state=np.zeros(6)))
    with pytest.raises(ObservationError, match='shorten'):
        found.inputs(observation(found, instruction='touch ' * 300))


def test_names_must_be_as_many_as_the_statistics_numbers(hub):
    data_config(hub, state_names=['a', 'b', 'c'])
    refused(hub, 'state_names: expected 5 names')
    data_config(hub, state_names=list('abcde'), action_names=list('fghij'), control_period=0.1,
                execute_steps=2)
    found = processor(hub)
    assert (found.state_names, found.action_names) == (tuple('abcde'), tuple('fghij'))
    assert (found.control_period, found.execute_steps) == (0.1, 2)


@pytest.mark.parametrize(('file', 'name', 'settings'), [
    (PRE, 'normalizer_processor', {'eps': 'small'}),
    (PRE, 'normalizer_processor', {'norm_map': 'QUANTILES'}),
    (POST, 'unnormalizer_processor', {'eps': [1]}),
    (PRE, 'tokenizer_processor', {'max_length': '200'}),
    (PRE, 'rename_observations_processor', {'rename_map': []}),
    (PRE, RELATIVE['0.6'], {'action_names': 7}),
    (PRE, 'device_processor', {'float_dtype': 'bfloat16'}),
])
def test_settings_of_another_kind_are_refused(hub, file, name, settings):
    edit(hub / PRE, lambda c: c['steps'].append({'registry_name': 'device_processor'}))
    processor(hub)
    edit(hub / file, lambda c: step(c, name).setdefault('config', {}).update(settings))
    refused(hub, 'expected')


def test_a_missing_tokenizer_is_that_which_the_file_names(hub):
    (hub / 'tokenizer.json').unlink()
    refused(hub, 'repository google/paligemma-3b-pt-224')  # the file names no repository
    change_step(hub, PRE, 'tokenizer_processor', tokenizer_name='someone/their-tokenizer')
    refused(hub, r'tokenizer\.json .*of the hub repository someone/their-tokenizer')


def test_a_prompt_without_the_state_is_refused_in_lerobots_files(hub):
    edit(hub / PRE, lambda c: step(c, 'pi05_prepare_state_tokenizer_processor_step').update(
        config={'max_state_dim': 32, 'include_state_in_prompt': False}))
    refused(hub, 'include_state_in_prompt is off')


ODD = (None, 0, -1, 3.5, 'x', '', [], {}, [1, 'a'], {'a': None}, True, float('inf'), 10**12,
       '../../elsewhere', [[1]])


def places(content, path=()):
    """Every place within a JSON value."""
    if path:
        yield path
    pairs = content.items() if isinstance(content, dict) else (
        enumerate(content) if isinstance(content, list) else ())
    for key, value in pairs:
        yield from places(value, (*path, key))


@pytest.mark.parametrize('make', [lerobot, openpi])
def test_whatever_stands_in_the_json_files_the_error_is_one_line(tmp_path, make):
    directory = make(tmp_path / 'checkpoint')
    data_config(directory, prompt_state='raw')
    files = [f for f in sorted(directory.rglob('*.json')) if f.name != 'tokenizer.json']
    generator = random.Random(0)
    refusals = 0
    for _ in range(150):
        file = generator.choice(files)
        kept = file.read_text()
        content = json.loads(kept)
        *path, last = generator.choice(list(places(content)))
        inner = content
        for key in path:
            inner = inner[key]
        if generator.random() < 0.3:
            inner.pop(last)
        else:
            inner[last] = generator.choice(ODD)
        file.write_text(json.dumps(content))
        try:
            found = processor(directory)
            found.inputs(observation(found))
        except CheckpointError as error:
            refusals += 1
            assert '\n' not in str(error) and len(str(error)) < 1000
        file.write_text(kept)
    assert 50 < refusals < 150
