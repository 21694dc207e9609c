# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A data config is read strictly: what it may not say is named, with its line."""
from pathlib import Path

import pytest
import yaml

from quantvla_ros.errors import CheckpointError
from quantvla_ros.models.data_config import FILE, KEYS, find_data_config, load_data_config

ROOT = Path(__file__).resolve().parents[1]
GROOT = """\
data_config: 1
model: gr00t_n1_5
embodiment: gr1
cameras: [a, b]
statistics: ../elsewhere/stats.json
tokenizer: tokens/vocab.json
control_period: 0.05
state:
  - {key: arm, normalize: sin_cos, dimensions: [0, 7], names: [x, 'y']}
action:
  - {key: arm, normalize: min_max}
"""


def load(tmp_path, text):
    path = tmp_path / FILE
    path.write_text(text)
    return load_data_config(path)


def test_everything_said_is_read(tmp_path):
    data = load(tmp_path, GROOT)
    assert data.model == 'gr00t_n1_5' and data.cameras == ('a', 'b')
    assert data.state[0].dimensions == (0, 7) and data.state[0].names == ('x', 'y')
    assert data.action[0].mode == 'min_max' and data.action[0].names is None
    assert data.embodiment_id is None and data.crop is None
    assert data.find(data.tokenizer) == tmp_path / 'tokens' / 'vocab.json'


def test_a_directory_without_one_has_none(tmp_path):
    assert find_data_config(tmp_path) is None


def test_a_copy_beside_copies_of_its_files_finds_them(tmp_path):
    copy = yaml.safe_load(load(tmp_path, GROOT).local_text())
    assert copy['statistics'] == 'stats.json' and copy['tokenizer'] == 'vocab.json'
    assert {key: copy[key] for key in ('model', 'cameras', 'state')} == {
        key: yaml.safe_load(GROOT)[key] for key in ('model', 'cameras', 'state')
    }


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ('data_config: 1', 'data_config: 2', ':1: data_config: expected a whole number'),
        ('gr00t_n1_5', 'groot', ':2: model: expected one of'),
        ('model: gr00t_n1_5\n', '', "expected the key 'model'"),
        ('embodiment:', 'embodyment:', "did you mean 'embodiment'"),
        ('embodiment: gr1', 'embodiment: 3', ':3: embodiment: expected the name of an embodiment'),
        ('embodiment: gr1', 'prompt_state: raw', "found the key 'prompt_state'; remove it"),
        ('embodiment: gr1', 'embodiment_id: -1', 'embodiment_id: expected a whole number'),
        ('embodiment: gr1', 'crop: 0', r'crop: expected a number in \(0, 1\]'),
        ('embodiment: gr1', 'resize: openpi', 'resize: expected one of isaac, lerobot'),
        ('embodiment: gr1', 'instruction: list', 'instruction: expected one of plain, as_list'),
        ('[a, b]', '[a, a]', 'cameras: expected a list of different names'),
        ('[a, b]', '[]', 'cameras: expected a list of different names'),
        ('sin_cos', 'q99', r'state\[0\].normalize: expected one of min_max'),
        ('[0, 7]', '[7, 7]', r'dimensions: expected \[first, after the last\], found \[7, 7\]'),
        ('[0, 7]', '[0]', r'dimensions: expected \[first, after the last\]'),
        ('{key: arm, normalize: min_max}', 'arm', r'action\[0\]: expected a mapping'),
        (
            '  - {key: arm, normalize: min_max}',
            '  - {key: arm, normalize: min_max}\n  - {key: arm, normalize: min_max}',
            'a list of parts with different keys',
        ),
        ('control_period: 0.05', 'control_period: 50 ms', 'control_period: expected a number'),
        ('cameras: [a, b]', 'cameras: [a, b', 'expected valid YAML'),
    ],
)
def test_what_it_may_not_say_is_named(tmp_path, old, new, message):
    assert old in GROOT
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path, GROOT.replace(old, new))


def test_a_file_that_is_not_text_is_refused(tmp_path):
    (tmp_path / FILE).write_bytes(b'\xff\xfe\x00')
    with pytest.raises(CheckpointError, match='expected a data config'):
        find_data_config(tmp_path)


def test_every_key_of_a_model_is_described():
    """In the manual that each error points at."""
    manual = (ROOT / 'docs' / 'checkpoints.md').read_text()
    every = {key for keys in KEYS.values() for key in keys}
    assert not [key for key in every if f'`{key}`' not in manual]
