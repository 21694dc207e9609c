# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""docs/checkpoints.md names every key of a data config, every fact of `inspect`, every command."""
import re

import pytest
from quantization_samples import ROOT, write_checkpoint

from quantvla_ros.cli.main import COMMANDS
from quantvla_ros.inspection.directory import inspect_directory
from quantvla_ros.inspection.surroundings import TOKENIZERS
from quantvla_ros.models.architectures import ARCHITECTURES
from quantvla_ros.models.data_config import KEYS, MODES, RESIZES, load_data_config

PAGE = (ROOT / 'docs' / 'checkpoints.md').read_text(encoding='utf-8')
READY = ROOT / 'config' / 'data'


def quoted(text):
    return set(re.findall(r'`([^`\n]+)`', text))


def section(title):
    return PAGE.partition(f'\n## {title}\n')[2].partition('\n## ')[0]


def test_every_key_and_choice_of_a_data_config_is_explained():
    said = quoted(section('data_config.yaml'))
    keys = {key for keys in KEYS.values() for key in keys}
    choices = {choice for choices in RESIZES.values() for choice in choices}
    assert {*keys, *choices, *MODES, *KEYS} <= said


def test_a_key_is_said_to_be_of_the_models_that_take_it():
    for line in section('data_config.yaml').splitlines():
        cells = [cell.strip() for cell in line.strip('|').split('|')]
        if len(cells) != 3 or not cells[0].startswith('`'):
            continue
        for key in quoted(cells[0]) - {'data_config', 'model'}:
            takes = {kind for kind, keys in KEYS.items() if key in keys}
            wanted = set(KEYS) if cells[1] == 'all' else set(cells[1].split(', '))
            assert takes == wanted, key


def test_every_fact_of_inspect_is_explained(tmp_path):
    facts = inspect_directory(write_checkpoint(tmp_path / 'checkpoint'))
    said = quoted(section('What a directory holds: `inspect`'))
    wanted = {*facts, *facts['weights'], *facts['sizes'], *facts['state'], *facts['cameras']}
    assert wanted - {'directory', 'bytes', 'parts'} <= said


def test_every_model_its_tokenizer_and_its_section_are_there():
    for kind, one in ARCHITECTURES.items():
        assert f'\n## {one.title}\n' in PAGE
        assert kind in quoted(section('In short'))
        assert TOKENIZERS[kind][1] in section('Fetching')


def test_the_commands_of_the_page_exist():
    for command in re.findall(r'python -m quantvla_ros ([a-z-]+)', PAGE):
        assert command in COMMANDS


@pytest.mark.parametrize('path', sorted(READY.glob('*.yaml')), ids=lambda path: path.stem)
def test_the_data_configs_to_copy_can_be_read(path):
    assert load_data_config(path).model in KEYS
    assert 'data_config.yaml' in path.read_text()  # each says where it goes
