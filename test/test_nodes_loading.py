# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A GPU that has no room for a policy: said as what a user can mend."""
from pathlib import Path

import pytest
import torch

from quantvla_ros.errors import BackendError, QuantVLAError
from quantvla_ros.nodes.loading import Settings, load

CONTRACT = Path(__file__).resolve().parents[1] / 'config/contracts/tabletop.yaml'
# As torch words it.
FULL = (
    'CUDA out of memory. Tried to allocate 4.00 GiB. GPU 0 has a total capacity of 23.99 GiB of '
    'which 1.25 GiB is free. Process 17 has 20.00 GiB memory in use.'
)


def settings(**other: object) -> Settings:
    given = {
        'policy': 'somewhere', 'contract': str(CONTRACT), 'device': 'cuda:0', 'precision': '',
        'threads': 0, 'engine': 'auto', 'prompt_lengths': '', 'allow_fallback': False,
        'robot_description': '', 'joint_limits': '', 'schedule': 'async',
    }
    return Settings.of(given | other)


def loading(error: Exception):
    def load_policy(path, **options):
        raise error

    return load_policy


@pytest.mark.parametrize('text', [FULL, FULL + '\nMore advice.'])
def test_out_of_memory_says_how_much_was_needed_and_free_and_what_to_do(text):
    error = torch.OutOfMemoryError(text)
    assert isinstance(error, torch.cuda.OutOfMemoryError)  # its other name
    with pytest.raises(BackendError) as raised:
        load(settings(), loading(error))
    said = str(raised.value)
    assert said.startswith('cuda:0 is out of memory: 4.00 GiB more were needed, ')
    assert '1.25 GiB of 23.99 GiB were free' in said
    assert 'end other processes' in said and 'smaller precision' in said
    assert '\n' not in said


def test_what_is_not_known_is_left_out():
    with pytest.raises(BackendError, match=r'^cuda:0 is out of memory; end other processes'):
        load(settings(), loading(torch.OutOfMemoryError('')))


def test_cudas_own_word_for_it_is_known_too():
    # Of an allocation outside torch's allocator, such as a graph's.
    error = RuntimeError('CUDA error: out of memory\nCUDA kernel errors might be ...')
    with pytest.raises(BackendError, match=r'^cuda:0 is out of memory; end other processes'):
        load(settings(), loading(error))


@pytest.mark.parametrize('error', [
    RuntimeError('CUDA error: an illegal memory access was encountered'), ValueError('other'),
    QuantVLAError('not there'),
])
def test_other_errors_stay_as_they_are(error):
    with pytest.raises(type(error)) as raised:
        load(settings(), loading(error))
    assert raised.value is error
