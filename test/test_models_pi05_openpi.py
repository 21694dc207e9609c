# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Directories of openpi's converter run like the same weights from lerobot."""
import json
import shutil

import numpy as np
import pytest
import torch
from artifact_samples import quantized, recipe
from pi05_directories import data_config, edit, lerobot, observation, openpi, processor
from quantization_samples import ROOT, calibration_account, contract

from quantvla_ros.engine.policy import load_policy
from quantvla_ros.errors import CheckpointError
from quantvla_ros.models import load_model
from quantvla_ros.models.data_config import FILE, load_data_config
from quantvla_ros.models.openpi_files import CAMERAS
from quantvla_ros.models.tokenizer import pi05_prompt
from quantvla_ros.quantization.artifact import load_artifact
from quantvla_ros.quantization.artifact_writer import write_artifact


@pytest.fixture
def directory(tmp_path):
    return openpi(tmp_path / 'openpi', prompt_state='raw')


def refused(directory, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        processor(directory)
    assert '\n' not in str(caught.value)


def norm_stats(directory):
    (file,) = directory.rglob('norm_stats.json')
    return json.loads(file.read_text())['norm_stats']


def test_the_weights_are_those_of_lerobots_spelling(directory, tmp_path):
    ours = load_model(directory).state_dict()
    theirs = load_model(tmp_path / 'openpi_lerobot').state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_states_and_actions_by_openpis_formulas(directory):
    found, data = processor(directory), norm_stats(directory)
    q01, q99 = (np.array(data['state'][name]) for name in ('q01', 'q99'))
    state = np.linspace(q01 - 0.1, q99, 3)
    np.testing.assert_array_equal(
        found.state.normalize(state), (state - q01) / (q99 - q01 + 1e-6) * 2.0 - 1.0
    )
    raw = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0))
    q01, q99 = (np.array(data['actions'][name]) for name in ('q01', 'q99'))
    expected = (raw[0, :, :5].numpy() + 1.0) / 2.0 * (q99 - q01 + 1e-6) + q01
    np.testing.assert_allclose(found.actions(raw, state[0]), expected, rtol=1e-6, atol=1e-7)


def test_its_cameras_and_its_way_to_resize(directory):
    found = processor(directory)
    assert [slot.rpartition('.')[2] for slot in found.slots] == [
        'base_0_rgb', 'left_wrist_0_rgb', 'right_wrist_0_rgb',
    ]
    assert found.resize == 'openpi' and found.prompt_state == 'raw'
    data_config(directory, prompt_state='raw', cameras=['front', 'wrist'], resize='lerobot')
    other = processor(directory)
    assert other.slots == ('front', 'wrist') and other.resize == 'lerobot'


def test_whether_the_state_stands_in_the_prompt_must_be_said(tmp_path):
    directory = openpi(tmp_path / 'openpi')
    refused(directory, 'prompt_state.*discrete_state_input=False')
    data_config(directory, prompt_state='pad32')
    refused(directory, 'expected raw or none')


def test_without_the_state_the_end_of_the_line_is_a_token_of_its_own(tmp_path, directory):
    raw = processor(directory)
    data_config(directory, prompt_state='none')
    found = processor(directory)

    class Letters:
        """Begins with -1, and would join an end of line to what is before it."""

        size = 10

        def encode(self, text):
            return [-1, *(text.replace('e\n', '~').encode())]

    object.__setattr__(found, 'tokenizer', Letters())
    seen = observation(found, instruction=' touch_the\ncube ')
    assert found.tokens(seen) == [-1, *b'touch the cube\n']
    object.__setattr__(raw, 'tokenizer', Letters())
    text = pi05_prompt('touch the cube', raw.state.normalize(seen.state))
    assert raw.tokens(seen) == [-1, *text.encode()]


def test_relative_actions_in_openpis_runs(tmp_path, directory):
    raw = torch.zeros(1, 1, 8)
    state = np.arange(1.0, 6.0, dtype=np.float32) * 10
    plain = processor(directory).actions(raw, state)
    data_config(directory, prompt_state='raw', relative_actions=[3, -1])
    shift = processor(directory).actions(raw, state) - plain
    np.testing.assert_allclose(shift[0], [10, 20, 30, 0, 0], rtol=1e-5)
    data_config(directory, prompt_state='raw', relative_actions=[6])
    refused(directory, 'relative_actions: expected at most 5')
    # A state of three numbers: the fourth has nothing to be relative to.
    data_config(directory, prompt_state='raw', relative_actions=[4], state_names=list('abc'))
    refused(directory, 'among the first 3')
    hub = lerobot(tmp_path / 'hub')
    data_config(hub, relative_actions=[3, -1])
    refused(hub, 'for directories of openpi only')


def test_statistics_of_the_padded_vector_are_cut_to_the_robots_names(directory):
    (file,) = directory.rglob('norm_stats.json')

    def pad(content):
        for part in content['norm_stats'].values():
            for name in part:
                part[name] += [0.0] * (8 - len(part[name]))

    edit(file, pad)
    assert processor(directory).state_size == 8
    data_config(directory, prompt_state='raw', state_names=list('abcde'),
                action_names=list('abcde'))
    found = processor(directory)
    assert (found.state_size, found.action_size) == (5, 5)
    assert found.actions(torch.zeros(1, 2, 8), found.example_state()).shape == (2, 5)
    data_config(directory, prompt_state='raw', state_names=list('abcdefghi'))
    refused(directory, 'state_names: expected at most 8')


def test_missing_doubtful_and_foreign_statistics_are_refused(directory):
    (file,) = directory.rglob('norm_stats.json')
    edit(file, lambda content: content['norm_stats']['actions'].update(q01=None))
    refused(directory, 'QUANTILES needs')
    edit(file, lambda content: content['norm_stats'].pop('actions'))
    refused(directory, 'expected statistics of action')
    other = directory / 'assets' / 'droid'
    other.mkdir()
    (other / 'norm_stats.json').write_text(file.read_text())
    refused(directory, 'expected one norm_stats.json, found assets/droid')
    for each in (file, other / 'norm_stats.json'):
        each.unlink()
    refused(directory, 'expected assets/ASSET_ID/norm_stats.json, found none')


def test_statistics_larger_than_the_network_are_refused(directory):
    (file,) = directory.rglob('norm_stats.json')
    edit(file, lambda c: c['norm_stats']['state'].update(q01=[0.0] * 9, q99=[1.0] * 9))
    refused(directory, 'at most 8 numbers')


def test_a_policy_and_an_artifact_of_it_give_the_same_actions(directory, tmp_path):
    policy = load_policy(directory, precision='float32')
    seen = observation(policy.processor, size=40)
    expected = policy.infer(seen, seed=3)
    assert expected.shape == (4, 5) and np.isfinite(expected).all()

    out = tmp_path / 'artifact'
    write_artifact(
        out,
        quantized(directory, 'w8a8'),
        checkpoint=directory,
        recipe=recipe('w8a8'),
        contract=contract(),
        corrections={'alpha': [[1.0] * 4] * 2, 'beta': [1.0] * 2, 'beta_mlp': [],
                     'interface': {}, 'notes': []},
        calibration=calibration_account(),
    )
    assert (out / 'norm_stats.json').is_file()
    load_artifact(out)
    stored = load_policy(out)
    assert stored.processor.slots == policy.processor.slots
    assert stored.processor.tokens(seen) == policy.processor.tokens(seen)
    actions = stored.infer(seen, seed=3)
    assert np.abs(actions - expected).max() < 0.2 * np.abs(expected).max()


@pytest.mark.parametrize('name', ['pi05_libero', 'pi05_droid', 'pi05_lerobot_0_4'])
def test_the_shipped_data_configs_are_read(name):
    data = load_data_config(ROOT / 'config' / 'data' / f'{name}.yaml')
    assert data.model == 'pi05' and data.prompt_state is not None
    if name != 'pi05_lerobot_0_4':
        assert set(data.cameras) < set(CAMERAS)
        assert len(data.state_names) == 8


def test_a_shipped_data_config_makes_a_directory_complete(tmp_path):
    directory = openpi(tmp_path / 'openpi')
    (file,) = directory.rglob('norm_stats.json')

    def widen(content):
        for part in content['norm_stats'].values():
            for name in part:
                part[name] = [0.0 if name in ('q01', 'mean') else 1.0] * 8

    edit(file, widen)
    shutil.copy(ROOT / 'config' / 'data' / 'pi05_libero.yaml', directory / FILE)
    found = processor(directory)
    assert (found.state_size, found.action_size, found.prompt_state) == (8, 7, 'none')
    assert found.execute_steps == 5
