# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Attacks on float checkpoints: damage anywhere is refused in one line, or changes numbers only.

A checkpoint carries no hashes, so other numbers in a whole file are another checkpoint. What must
never happen: another error, a crash, a read beyond a tensor, or a line that takes over a terminal.
"""
import json
import random
import shutil
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from quantvla_ros.errors import CheckpointError
from quantvla_ros.models import load_model
from quantvla_ros.models.weight_files import INDEX, SINGLE


@pytest.fixture
def weights(checkpoint, tmp_path):
    """A copy of the checkpoint in two shards."""
    directory = tmp_path / 'checkpoint'
    directory.mkdir()
    shutil.copy(checkpoint / 'config.json', directory)
    tensors = load_file(checkpoint / SINGLE)
    index = {}
    for number in (0, 1):
        names = sorted(tensors)[number::2]
        save_file({name: tensors[name] for name in names}, directory / f'{number}.safetensors')
        index.update(dict.fromkeys(names, f'{number}.safetensors'))
    (directory / INDEX).write_text(json.dumps({'weight_map': index}))
    return directory


def shapes(model):
    return {name: (t.shape, t.dtype) for name, t in model.state_dict().items()}


def attempt(directory, expected):
    """Loads as a whole network, or is refused in one printable line."""
    try:
        model = load_model(directory)
    except CheckpointError as error:
        text = str(error)
        assert text.isprintable() and len(text) < 2000, text
        return False
    assert shapes(model) == expected
    return True


@pytest.mark.parametrize('name', ['config.json', INDEX, '1.safetensors'])
def test_bytes_changed_at_random_never_lead_elsewhere(weights, name):
    expected = shapes(load_model(weights))
    data = (weights / name).read_bytes()
    # Of weights only the header: in the numbers there is nothing to refuse.
    end = 8 + struct.unpack('<Q', data[:8])[0] if name.endswith('.safetensors') else len(data)
    generator = random.Random(0)
    loaded = 0
    for _ in range(60):
        changed = bytearray(data)
        for _ in range(generator.choice((1, 1, 2, 8))):
            changed[generator.randrange(end)] = generator.randrange(256)
        (weights / name).write_bytes(bytes(changed))
        loaded += attempt(weights, expected)
    assert loaded < 60


def test_cuts_at_random_are_refused(weights):
    expected = shapes(load_model(weights))
    generator = random.Random(0)
    for name in ('config.json', INDEX, '0.safetensors'):
        data = (weights / name).read_bytes()
        for _ in range(20):
            (weights / name).write_bytes(data[: generator.randrange(len(data))])
            assert not attempt(weights, expected)
        (weights / name).write_bytes(data)
    assert attempt(weights, expected)


@pytest.mark.parametrize('name', ['a\nb', '\x1b[2J\x1b]0;owned\x07', 'a' * 100_000, '\u202e', ''])
def test_a_name_cannot_take_over_the_line_it_is_shown_in(weights, name):
    expected = shapes(load_model(weights))
    tensors = load_file(weights / '0.safetensors')
    save_file({**tensors, name: torch.zeros(1)}, weights / '0.safetensors')
    assert not attempt(weights, expected)
    index = json.loads((weights / INDEX).read_text())
    index['weight_map'][name] = '0.safetensors'
    (weights / INDEX).write_text(json.dumps(index))
    assert not attempt(weights, expected)
    index['weight_map'][name] = name
    (weights / INDEX).write_text(json.dumps(index))
    assert not attempt(weights, expected)


def test_a_file_that_changes_while_it_is_read_is_refused(weights, monkeypatch):
    from quantvla_ros.models import weight_files

    read = weight_files.read_headers

    def read_then_cut(directory):
        found = read(directory)
        for file in {one.file for one in found}:
            file.write_bytes(file.read_bytes()[:5000])
        return found

    monkeypatch.setattr('quantvla_ros.models.checkpoint.read_headers', read_then_cut)
    with pytest.raises(CheckpointError, match='changed meanwhile'):
        load_model(weights)
