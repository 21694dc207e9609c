# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""States and actions are normalised by the references' formulas, or refused."""
import json

import numpy as np
import pytest

from quantvla_ros.errors import CheckpointError
from quantvla_ros.models.normalization import Mode, Normalizer
from quantvla_ros.models.statistics import read_statistics, statistics_of

STATISTICS = {
    'q01': [0.0, -1.0], 'q99': [2.0, 1.0], 'q10': [0.5, -0.5], 'q90': [1.5, 0.5],
    'mean': [1.0, 0.0], 'std': [0.5, 2.0], 'min': [-1.0, -2.0], 'max': [3.0, 2.0],
}
MODES = [mode for mode in Mode if mode is not Mode.IDENTITY]


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('make', [
    lambda mode: Normalizer.from_statistics('state', mode, STATISTICS),
    lambda mode: Normalizer.openpi('state', STATISTICS, mode),
])
def test_restoring_is_the_inverse(make, mode):
    map_ = make(mode)
    x = np.random.default_rng(0).normal(size=(7, 2)).astype(np.float32)
    np.testing.assert_allclose(map_.restore(map_.normalize(x)), x, atol=1e-5)
    assert map_.restore(x).dtype == np.float32


def test_modes_with_a_range_map_its_ends_to_one():
    for mode, low, high in (
        (Mode.QUANTILES, 'q01', 'q99'), (Mode.QUANTILE10, 'q10', 'q90'),
        (Mode.MIN_MAX, 'min', 'max'),
    ):
        map_ = Normalizer.from_statistics('state', mode, STATISTICS)
        np.testing.assert_allclose(map_.normalize(np.array(STATISTICS[low])), -1.0)
        np.testing.assert_allclose(map_.normalize(np.array(STATISTICS[high])), 1.0)


def test_a_dimension_that_never_moves_is_restored_where_it_stands():
    still = {'q01': [0.3], 'q99': [0.3], 'mean': [0.3], 'std': [0.0]}
    for mode in (Mode.QUANTILES, Mode.MEAN_STD):
        for map_ in (Normalizer.from_statistics('a', mode, still),
                     Normalizer.openpi('a', still, mode)):
            assert np.isfinite(map_.normalize(np.array([0.3]))).all()
            np.testing.assert_allclose(map_.restore(np.array([5.0])), 0.3, atol=1e-5)


def test_lerobots_epsilon_stands_beside_the_deviation_on_one_side_only():
    map_ = Normalizer.from_statistics('a', Mode.MEAN_STD, {'mean': [0.0], 'std': [1.0]}, eps=0.5)
    assert map_.normalize(np.array([3.0])) == 2.0
    assert map_.restore(np.array([2.0])) == 2.0


def test_openpis_epsilon_stands_beside_every_divisor():
    map_ = Normalizer.openpi('a', {'q01': [0.0], 'q99': [1.0]})
    assert map_.normalize(np.array([1.0]))[0] == 1.0 / (1.0 + 1e-6) * 2.0 - 1.0


@pytest.mark.parametrize(('change', 'message'), [
    ({'q99': None}, r"QUANTILES needs the statistics \['q01', 'q99'\]"),
    ({'q99': [2.0]}, 'q01 has 2 numbers, q99 1'),
    ({'q99': [2.0, np.nan]}, 'q99: expected finite numbers'),
    ({'q99': ['much', 1.0]}, 'q99: expected numbers'),
    ({'q01': [], 'q99': []}, 'q01: expected finite numbers'),
    ({'q99': [2.0, -1.5]}, 'expected q99 >= q01, found otherwise in dimension 1'),
])
def test_statistics_that_cannot_be_used_are_refused(change, message):
    found = {k: v for k, v in {**STATISTICS, **change}.items() if v is not None}
    for make in (lambda: Normalizer.from_statistics('action', Mode.QUANTILES, found),
                 lambda: Normalizer.openpi('action', found)):
        with pytest.raises(CheckpointError, match=message):
            make()


def test_identity_is_refused_with_the_way_to_say_it():
    with pytest.raises(CheckpointError, match=r'IDENTITY.*mean 0 and std 1'):
        Normalizer.from_statistics('action', Mode.IDENTITY, {})


@pytest.mark.parametrize('text', ['', '[]', '{"a": 1}', '{"norm_stats": 3}', '[' * 10**5])
def test_files_that_hold_no_statistics_are_refused(tmp_path, text):
    (tmp_path / 'stats.json').write_text(text)
    with pytest.raises(CheckpointError, match=r'stats\.json'):
        read_statistics(tmp_path / 'stats.json')
    (tmp_path / 'stats.safetensors').write_text(text)
    with pytest.raises(CheckpointError, match=r'stats\.safetensors.*fetch it again'):
        read_statistics(tmp_path / 'stats.safetensors')


def test_a_file_without_the_feature_says_what_it_has(tmp_path):
    path = tmp_path / 'stats.json'
    path.write_text(json.dumps({'observation.image': {'mean': [0.0]}}))
    with pytest.raises(CheckpointError, match=r'found those of observation\.image'):
        statistics_of(path, read_statistics(path), 'action')
