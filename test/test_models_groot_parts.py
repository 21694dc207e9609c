# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""States and actions by parts: each mode's formula, the order, the padding, and what is refused."""
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from quantvla_ros.errors import CheckpointError
from quantvla_ros.models.data_config import VectorPart
from quantvla_ros.models.groot_parts import Part, Vector
from quantvla_ros.models.groot_statistics import read_statistics, tensors_statistics

NUMBERS = {
    'min': [-1.0, 0.0, 2.0], 'max': [1.0, 4.0, 2.0],
    'mean': [0.5, 1.0, 2.0], 'std': [0.5, 2.0, 0.0],
    'q01': [-0.9, 1.0, 2.0], 'q99': [0.9, 3.0, 2.0],
}
STATISTICS = {name: np.asarray(values, np.float32) for name, values in NUMBERS.items()}


def part(mode, key='arm', **changes):
    return Part(key, mode, 3, **{'statistics': STATISTICS, **changes})


@pytest.mark.parametrize(
    ('mode', 'normalised'),
    [
        # the third number has no range: 0 by min_max, itself by the others (and then clipped)
        ('min_max', [0.5, 0.5, 0.0]),
        ('quantiles', [0.5 / 0.9, 1.0, 1.0]),
        ('mean_std', [0.0, 1.0, 2.5]),
        ('binary', [0.0, 1.0, 1.0]),
        ('sin_cos', [*np.sin([0.5, 3.0, 2.5]), *np.cos([0.5, 3.0, 2.5])]),
    ],
)
def test_each_mode_is_its_formula(mode, normalised):
    x = np.array([0.5, 3.0, 2.5], np.float32)
    y = part(mode).normalize(x)
    np.testing.assert_allclose(y, normalised, rtol=1e-6, atol=1e-7)
    assert y.dtype == np.float32 and y.shape == (part(mode).width,)


@pytest.mark.parametrize('mode', ['min_max', 'quantiles', 'mean_std'])
def test_the_way_back_gives_the_data_again(mode):
    x = np.array([[0.5, 2.0, 2.0], [-0.25, 1.5, 2.0]], np.float32)
    back = part(mode).restore(part(mode).normalize(x))
    np.testing.assert_allclose(back, x, rtol=1e-6)
    # and what leaves the range goes on beyond it: only inputs are clipped
    assert part('quantiles').restore(np.full(3, 2.0))[0] == pytest.approx(1.8)


def test_binary_actions_are_cut_at_one_half():
    assert part('binary').restore(np.array([0.49, 0.51, -3.0])).tolist() == [0, 1, 0]


def test_parts_stand_in_their_order_and_the_rest_is_padded():
    vector = Vector('state', (part('sin_cos', 'a'), part('min_max', 'b')), 12)
    state = np.array([0.1, 0.2, 0.3, 1.0, 4.0, 2.0], np.float32)
    values = vector.normalize(state)
    np.testing.assert_allclose(values[:3], np.sin(state[:3]), rtol=1e-6)
    np.testing.assert_allclose(values[3:6], np.cos(state[:3]), rtol=1e-6)
    assert values[6:].tolist() == [1, 1, 0, 0, 0, 0]
    assert vector.size == 6 and values.shape == (12,)


def test_actions_are_split_back_and_the_networks_rest_is_ignored():
    vector = Vector('action', (part('min_max', 'a'), part('mean_std', 'b')), 32)
    raw = np.full((16, 32), 7.0, np.float32)
    raw[:, :6] = [0, 0, 0, 1, -1, 5]
    assert vector.restore(raw).shape == (16, 6)
    assert vector.restore(raw)[3].tolist() == [0, 2, 2, 1, -1, 2]


def test_the_middle_of_the_data_stands_for_a_state():
    vector = Vector('state', (part('sin_cos', 'a'), part('min_max', 'b')), 12)
    assert vector.middle().tolist() == [0.5, 1, 2, 0.5, 1, 2]


def test_names_are_known_for_all_numbers_or_for_none():
    named = part('min_max', names=('x', 'y', 'z'))
    assert Vector('state', (named,), 3).names == ('x', 'y', 'z')
    assert Vector('state', (named, part('min_max', 'b')), 6).names is None


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: part('mean_std', statistics={'mean': np.ones(3)}), 'mean, std, found mean'),
        (lambda: part('min_max', statistics={}), 'min, max, found none'),
        (
            lambda: part('min_max', statistics={**STATISTICS, 'max': STATISTICS['max'][:2]}),
            'max: expected 3 finite numbers',
        ),
        (
            lambda: part('min_max', statistics={**STATISTICS, 'max': np.full(3, np.nan, 'f4')}),
            'max: expected 3 finite numbers',
        ),
        (
            lambda: part('min_max', statistics={**STATISTICS, 'min': np.full(3, 3.0, 'f4')}),
            'expected min <= max',
        ),
        (lambda: part('min_max', names=('x', 'y')), r'names: expected 3, .*found 2 \(x, y\)'),
        (lambda: Vector('action', (part('min_max'), part('min_max', 'b')), 5), 'at most 5 numbers'),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(CheckpointError, match=message):
        make()


def metadata(tmp_path, tags=('gr1',)):
    held = {'statistics': {'state': {'arm': NUMBERS}, 'action': {'arm': NUMBERS}}}
    path = tmp_path / 'metadata.json'
    path.write_text(json.dumps(dict.fromkeys(tags, held)))
    return path


def flat(tmp_path):
    path = tmp_path / 'stats.json'
    numbers = {name: [*values, *values] for name, values in NUMBERS.items()}
    path.write_text(json.dumps({
        'observation.state': numbers, 'action': numbers, 'timestamp': {'min': [0.0]},
    }))
    return path


def test_statistics_by_embodiment_and_part(tmp_path):
    path = metadata(tmp_path, ('gr1', 'other'))
    found = read_statistics(path, 'gr1').of('state', VectorPart('arm', 'min_max'), alone=True)
    assert found.names == ('arm_0', 'arm_1', 'arm_2') and found.size == 3
    assert found.statistics['max'].tolist() == NUMBERS['max']


def test_the_only_embodiment_needs_no_name(tmp_path):
    assert 'arm' in read_statistics(metadata(tmp_path), None).state


@pytest.mark.parametrize('tag', ['so100', None])
def test_an_embodiment_that_is_not_there_is_asked_for(tmp_path, tag):
    with pytest.raises(CheckpointError, match=r'found gr1, other; say in data_config.yaml'):
        read_statistics(metadata(tmp_path, ('gr1', 'other')), tag)


def test_parts_are_cut_out_of_the_statistics_of_a_whole_vector(tmp_path):
    one = VectorPart('hand', 'min_max', dimensions=(2, 5))
    found = read_statistics(flat(tmp_path), 'any').of('action', one, alone=False)
    assert found.statistics['max'].tolist() == [2, 1, 4] and found.size == 3


@pytest.mark.parametrize(
    ('where', 'one', 'message'),
    [
        (metadata, VectorPart('leg', 'min_max'), "statistics of state 'leg', found those of arm"),
        (metadata, VectorPart('arm', 'min_max', dimensions=(0, 4)), 'do not fit its 3 numbers'),
        (flat, VectorPart('arm', 'min_max', dimensions=(4, 7)), 'do not fit its 6 numbers'),
        (flat, VectorPart('arm', 'min_max'), 'whole vector of 6 numbers; say which'),
    ],
)
def test_a_part_that_the_statistics_lack_is_refused(tmp_path, where, one, message):
    statistics = read_statistics(where(tmp_path), None)
    with pytest.raises(CheckpointError, match=message):
        statistics.of('state', one, alone=False)


@pytest.mark.parametrize(
    'text', ['', '[]', '{"gr1": 1}', '{"action": {"min": ["x"]}}', '{"action": {"count": [1]}}',
             '{"action": {"min": [0, 1], "max": [1]}}', '[' * 100_000],
)
def test_a_file_that_is_something_else_is_refused(tmp_path, text):
    path = tmp_path / 'stats.json'
    path.write_text(text)
    with pytest.raises(CheckpointError, match=r'stats.json: expected (statistics|an object)'):
        read_statistics(path, None)


def test_lerobots_tensors_are_whole_vectors(tmp_path):
    path = tmp_path / 'pack.safetensors'
    save_file(
        {f'{vector}.{name}': value for vector in ('observation.state', 'action')
         for name, value in STATISTICS.items()} | {'action.count': np.ones(1, np.int64)},
        path,
    )
    found = tensors_statistics(path, path).of(
        'action', VectorPart('action', 'min_max'), alone=True
    )
    assert found.names is None  # nothing says
    assert found.statistics['min'].tolist() == NUMBERS['min']
