# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""pi0.5's prompts, vectors and pictures equal those of lerobot's own processor files."""
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from quantvla_ros.errors import ObservationError
from quantvla_ros.models import pi05_export
from quantvla_ros.models.architectures import load_processor
from quantvla_ros.models.images import resize_with_pad
from quantvla_ros.observation.types import Observation

FIXTURE = Path(__file__).resolve().parents[2] / 'shared' / 'fixtures' / 'pi05_processor'
needs_fixture = pytest.mark.skipif(not FIXTURE.exists(), reason='parity fixtures not at hand')
COMMAND = ' pick_up the black\nbowl '
SLOTS = ('observation.images.image', 'observation.images.image2')


@pytest.fixture(scope='module')
def reference():
    return load_file(FIXTURE / 'io.safetensors')


class Listening:
    """A tokenizer that keeps the texts it was given."""

    def __init__(self):
        self.texts = []

    def encode(self, text):
        self.texts.append(text)
        return [2, 7]


@pytest.fixture
def processor(request, tmp_path):
    """The reference's processor files, read; the tokenizer listens."""
    mode = getattr(request, 'param', 'QUANTILES')
    for file in FIXTURE.glob('policy_*'):
        shutil.copy(file, tmp_path)
    for name in ('policy_preprocessor.json', 'policy_postprocessor.json'):
        content = json.loads((tmp_path / name).read_text())
        for step in content['steps']:
            if 'norm_map' in step['config']:
                step['config']['norm_map'].update(STATE=mode, ACTION=mode)
        (tmp_path / name).write_text(json.dumps(content))
    pi05_export.build_tokenizer(['bowl']).save(str(tmp_path / 'tokenizer.json'))
    config = {
        'type': 'pi05',
        'input_features': {
            **{slot: {'type': 'VISUAL', 'shape': [3, 256, 256]} for slot in SLOTS},
            'observation.state': {'type': 'STATE', 'shape': [8]},
        },
        'output_features': {'action': {'type': 'ACTION', 'shape': [7]}},
    }
    found = load_processor(tmp_path, config)
    object.__setattr__(found, 'tokenizer', Listening())
    return found


def observation(reference, slots=SLOTS, seed=0, size=(48, 64)):
    pictures = np.random.default_rng(seed).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    return Observation(
        stamp=1,
        images={slot: pictures[SLOTS.index(slot)] for slot in slots},
        state=reference['state_raw'].numpy(),
        instruction=COMMAND,
    )


both = pytest.mark.parametrize('processor', ['QUANTILES', 'MEAN_STD'], indirect=True)


@needs_fixture
@both
def test_states_and_prompts_equal_the_reference(reference, processor):
    mode = processor.state.mode.value
    state = processor.state.normalize(reference['state_raw'].numpy())
    np.testing.assert_allclose(state, reference[f'{mode}.state_norm'][0], rtol=0, atol=1e-6)
    processor.inputs(observation(reference))
    prompts = json.loads((FIXTURE / 'prompts.json').read_text())
    assert processor.tokenizer.texts == [prompts[mode]]


@needs_fixture
@both
def test_actions_are_restored_as_in_the_reference(reference, processor):
    mode = processor.state.mode.value
    # The network's vector is padded; what is beyond the robot's numbers must not matter.
    raw = torch.nn.functional.pad(reference[f'{mode}.action_norm'], (0, 25), value=9.0)
    actions = processor.actions(raw, reference['state_raw'].numpy())
    np.testing.assert_allclose(actions, reference[f'{mode}.action'][0], rtol=1e-6, atol=1e-6)


@needs_fixture
@pytest.mark.parametrize('index', range(4))
def test_pictures_equal_the_reference(reference, index):
    image = reference[f'img{index}.in']
    image = image.float() / 255 if image.dtype == torch.uint8 else image
    expected = reference[f'img{index}.out']
    actual = resize_with_pad(image, expected.shape[-1])
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=0)


@needs_fixture
@pytest.mark.parametrize('index', [2, 3])
def test_pictures_of_an_observation_equal_the_reference(reference, processor, index):
    picture = reference[f'img{index}.in'][0].permute(1, 2, 0).contiguous().numpy()
    seen = observation(reference)
    seen = Observation(1, {SLOTS[0]: picture}, seen.state, seen.instruction)
    torch.testing.assert_close(
        processor.inputs(seen).images[0], reference[f'img{index}.out'], atol=1e-6, rtol=0
    )


@needs_fixture
def test_a_missing_camera_is_left_out_where_the_reference_masks_it(reference, processor):
    # Its picture is all -1 and masked there; that this changes nothing else, the network's own
    # parity shows (test_an_absent_camera_may_be_left_out_altogether).
    for index in range(4):
        assert reference[f'img{index}.masks'].flatten().tolist() == [True, False]
        assert (reference[f'img{index}.missing_out'] == -1).all()
    whole = processor.inputs(observation(reference))
    for slot in SLOTS:
        one = processor.inputs(observation(reference, (slot,)))
        assert [mask.tolist() for mask in one.image_masks] == [[True]]
        assert torch.equal(one.images[0], whole.images[SLOTS.index(slot)])
    with pytest.raises(ObservationError, match='expected pictures for'):
        processor.inputs(observation(reference, ()))
