# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Normalisation, prompts and pictures equal those the checkpoints were trained with."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from quantvla_ros.errors import CheckpointError
from quantvla_ros.models.images import resize_with_pad
from quantvla_ros.models.normalization import Mode, Normalizer
from quantvla_ros.models.tokenizer import pi05_prompt

FIXTURE = Path(__file__).resolve().parents[2] / 'shared' / 'fixtures' / 'pi05_processor'
needs_fixture = pytest.mark.skipif(not FIXTURE.exists(), reason='parity fixtures not at hand')


@pytest.fixture(scope='module')
def reference():
    return load_file(FIXTURE / 'io.safetensors')


def normalizer(reference, feature, mode):
    prefix = f'stats.{feature}.'
    statistics = {
        k.removeprefix(prefix): v.numpy() for k, v in reference.items() if k.startswith(prefix)
    }
    return Normalizer.from_statistics(feature, Mode[mode], statistics)


@needs_fixture
@pytest.mark.parametrize('mode', ['QUANTILES', 'MEAN_STD'])
def test_states_and_prompts_equal_the_reference(reference, mode):
    state = normalizer(reference, 'observation.state', mode).normalize(
        reference['state_raw'].numpy()
    )
    np.testing.assert_allclose(state, reference[f'{mode}.state_norm'][0], rtol=0, atol=1e-6)
    prompts = json.loads((FIXTURE / 'prompts.json').read_text())
    assert pi05_prompt(' pick_up the black\nbowl ', state) == prompts[mode]


@needs_fixture
@pytest.mark.parametrize('mode', ['QUANTILES', 'MEAN_STD'])
def test_actions_are_restored_as_in_the_reference(reference, mode):
    restored = normalizer(reference, 'action', mode).restore(
        reference[f'{mode}.action_norm'].numpy()
    )
    np.testing.assert_allclose(restored, reference[f'{mode}.action'], rtol=1e-6, atol=1e-6)


@needs_fixture
@pytest.mark.parametrize('index', range(4))
def test_pictures_equal_the_reference(reference, index):
    image = reference[f'img{index}.in']
    image = image.float() / 255 if image.dtype == torch.uint8 else image
    expected = reference[f'img{index}.out']
    actual = resize_with_pad(image, expected.shape[-1])
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=0)


def test_missing_statistics_are_an_error_never_identity():
    with pytest.raises(CheckpointError, match='q99'):
        Normalizer.from_statistics('action', Mode.QUANTILES, {'q01': np.zeros(3)})
    with pytest.raises(CheckpointError, match='IDENTITY'):
        Normalizer.from_statistics('action', Mode.IDENTITY, {})


def test_restore_inverts_normalize_even_for_a_dimension_that_never_moves():
    rng = np.random.default_rng(0)
    low = rng.normal(size=5).astype(np.float32)
    statistics = {'q01': low, 'q99': low + np.array([1, 2, 0, 0.5, 3], np.float32)}
    map_ = Normalizer.from_statistics('action', Mode.QUANTILES, statistics)
    x = low + rng.random((7, 5), dtype=np.float32)
    x[:, 2] = low[2]
    np.testing.assert_allclose(map_.restore(map_.normalize(x)), x, atol=1e-5)
