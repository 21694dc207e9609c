# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What surrounds SmolVLA, read from a directory as lerobot saves one."""
import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file, save_file
from smolvla_samples import ACTION_FILE, STATE, STATE_FILE, write_checkpoint
from tokenizers import Tokenizer

from quantvla_ros.errors import CheckpointError, ObservationError
from quantvla_ros.models.architectures import load_processor
from quantvla_ros.models.checkpoint import read_config
from quantvla_ros.models.smolvla_processor import fit
from quantvla_ros.observation.types import Observation

TOP, WRIST = 'observation.images.top', 'observation.images.wrist'


def processor(directory):
    return load_processor(directory, read_config(directory))


def observation(instruction='push the red cube', slots=(TOP, WRIST), state=6, size=(48, 64)):
    generator = np.random.default_rng(0)
    pictures = {s: generator.integers(0, 256, (*size, 3), dtype=np.uint8) for s in slots}
    return Observation(0, pictures, np.linspace(-2, 2, state, dtype=np.float32), instruction)


@pytest.fixture(scope='module')
def original(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp('smolvla') / 'checkpoint')


@pytest.fixture
def directory(original, tmp_path):
    return shutil.copytree(original, tmp_path / 'checkpoint')


def test_the_prompt_is_the_command_and_one_end_of_line(original):
    found = processor(original)
    expected = Tokenizer.from_file(str(original / 'tokenizer.json')).encode('push it\n').ids
    for command in ('push it', 'push it\n'):
        inputs = found.inputs(observation(command))
        assert inputs.tokens.tolist() == [expected]
        assert inputs.token_mask.all()


def test_pictures_are_fitted_with_the_bars_left_and_above():
    wide = torch.rand(1, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    for image, bars in ((wide, (0, 8)), (wide.transpose(2, 3), (8, 0))):
        fitted = fit(image, 32)
        left, top = bars
        assert fitted.shape == (1, 3, 32, 32)
        assert (fitted[..., :top, :] == -1).all() and (fitted[..., :, :left] == -1).all()
        inner = F.interpolate(image, (32 - top, 32 - left), mode='bilinear', align_corners=False)
        assert torch.equal(fitted[..., top:, left:], inner * 2 - 1)
    square = torch.rand(1, 3, 32, 32)
    assert torch.equal(fit(square, 32), square * 2 - 1)


def test_the_state_is_normalised_then_padded_and_actions_are_restored(original):
    found = processor(original)
    seen = observation()
    mean, std = (np.linspace(a, b, 6, dtype=np.float32) for a, b in ((-1, 1), (0.5, 2)))
    state = found.inputs(seen).state
    assert state.shape == (1, STATE) and (state[:, 6:] == 0).all()
    np.testing.assert_allclose(state[0, :6].numpy(), (seen.state - mean) / std, rtol=1e-5)
    raw = torch.randn(1, 6, STATE, generator=torch.Generator().manual_seed(0))
    mean, std = (np.linspace(a, b, 6, dtype=np.float32) for a, b in ((1, 2), (0.1, 0.3)))
    actions = found.actions(raw, seen.state)
    assert actions.dtype == np.float32
    np.testing.assert_allclose(actions, raw[0, :, :6].numpy() * std + mean, rtol=1e-5)
    np.testing.assert_allclose(
        found.state(found.example_state()).numpy(), np.zeros((1, STATE)), atol=1e-6
    )


def test_sizes_names_and_files_are_the_checkpoints(original):
    found = processor(original)
    assert (found.slots, found.image) == ((TOP, WRIST), 32)
    assert (found.state_size, found.action_size) == (6, 6)
    assert (found.execute_steps, found.control_period) == (4, None)
    assert found.tokenizer_file == original / 'tokenizer.json'
    assert {file.name for file in found.files} == {
        'policy_preprocessor.json', 'policy_postprocessor.json', 'tokenizer.json', STATE_FILE,
        ACTION_FILE,
    }


def test_copies_of_its_files_make_it_again(original, tmp_path):
    found = processor(original)
    for file in (original / 'config.json', *found.files):
        shutil.copy(file, tmp_path / file.name)
    first, second = (p.inputs(observation()) for p in (found, processor(tmp_path)))
    assert torch.equal(first.tokens, second.tokens) and torch.equal(first.state, second.state)


def test_a_camera_without_a_picture_is_left_out_and_none_at_all_is_refused(original):
    found = processor(original)
    assert len(found.inputs(observation()).images) == 2
    one = found.inputs(observation(slots=(WRIST,)))
    assert len(one.images) == len(one.image_masks) == 1
    with pytest.raises(ObservationError, match=r'pictures for observation\.images\.top'):
        found.inputs(observation(slots=()))


def test_empty_cameras_are_no_slots_and_renamed_ones_have_the_datas_names(tmp_path):
    slots = ('observation.images.camera1', 'observation.images.empty_camera_0')
    rename = {'observation.images.up': 'observation.images.camera1'}
    found = processor(write_checkpoint(tmp_path, slots, rename=rename, empty_cameras=1))
    assert found.slots == ('observation.images.up',)


@pytest.mark.parametrize(
    ('changed', 'message'),
    [
        ({'state': 5}, 'state: expected 6 numbers'),
        ({'instruction': 'push ' * 60}, 'shorten the command'),
        ({'instruction': 'push the <image> cube'}, "holds '<image>'"),
    ],
)
def test_what_cannot_be_an_input_is_refused(original, changed, message):
    with pytest.raises(ObservationError, match=message):
        processor(original).inputs(observation(**changed))


def test_a_missing_tokenizer_is_one_line_that_says_where_to_get_it(directory):
    (directory / 'tokenizer.json').unlink()
    with pytest.raises(CheckpointError, match=r'tokenizer\.json of the hub repository') as error:
        processor(directory)
    assert 'HuggingFaceTB/SmolVLM2-500M-Video-Instruct' in str(error.value)
    assert '\n' not in str(error.value)


def test_a_tokenizer_of_another_model_is_refused(directory):
    config = read_config(directory)
    config['_sizes'] = {**config['_sizes'], 'vocab': 200}
    with pytest.raises(CheckpointError, match='at most 200 ids'):
        load_processor(directory, config)


def test_a_step_that_is_missing_or_unknown_is_refused(directory):
    path = directory / 'policy_preprocessor.json'
    content = json.loads(path.read_text())
    steps = content['steps']
    for changed, message in (
        ([s for s in steps if 'new_line' not in s['registry_name']], 'smolvla_new_line_processor'),
        ([*steps, {'registry_name': 'my_step', 'config': {}}], "unknown step 'my_step'"),
        ([*steps[:2], steps[3], steps[2], *steps[4:]], 'expected the steps in the order'),
    ):
        path.write_text(json.dumps({**content, 'steps': changed}))
        with pytest.raises(CheckpointError, match=message):
            processor(directory)


def test_statistics_of_single_data_sets_are_refused_until_ones_own_are_given(directory, tmp_path):
    # as lerobot/smolvla_base has them
    arrays = load_file(directory / STATE_FILE)
    qualified = {f'so100-red.{key}': value for key, value in arrays.items()}
    for name in (STATE_FILE, ACTION_FILE):
        save_file(qualified, directory / name)
    with pytest.raises(CheckpointError, match=r'data_config\.yaml \(statistics: PATH\)') as error:
        processor(directory)
    assert 'so100-red.observation.state' in str(error.value)
    given = {
        feature: {name: arrays[f'{feature}.{name}'].tolist() for name in ('mean', 'std')}
        for feature in ('observation.state', 'action')
    }
    (directory / 'stats.json').write_text(json.dumps(given))
    (directory / 'data_config.yaml').write_text(
        'data_config: 1\nmodel: smolvla\nstatistics: stats.json\ncontrol_period: 0.04\n'
        f'cameras: [{WRIST}]\naction_names: [a, b, c, d, e, f]\n'
    )
    found = processor(directory)
    assert (found.slots, found.control_period) == ((WRIST,), 0.04)
    assert found.action_names == tuple('abcdef')
    assert directory / 'stats.json' in found.files
    np.testing.assert_allclose(found.example_state(), np.linspace(-1, 1, 6), rtol=1e-6)
