# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Attacks by chance: damaged bytes, forged or not. Refused with an ArtifactError, or the same."""
import contextlib
import json
import shutil
import struct
from pathlib import Path

import pytest
import torch
from artifact_samples import forge_file, forge_tensor
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from quantvla_ros.errors import ArtifactError
from quantvla_ros.quantization.artifact import load_artifact
from quantvla_ros.quantization.linear import QuantizedLinear
from quantvla_ros.quantization.manifest import MANIFEST, WEIGHTS, content_id

FUZZ = settings(max_examples=30, deadline=None, derandomize=True, database=None,
                suppress_health_check=[HealthCheck.function_scoped_fixture])
CHANGES = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4)


class Written:
    """What the untouched artifact loads as; a class for the sake of its short repr."""

    def __init__(self, original):
        self.tensors = load_artifact(original)[0].state_dict()


@pytest.fixture(scope='module')
def written(original):
    return Written(original)


def damage(data: bytes, changes) -> bytes:
    changed = bytearray(data)
    for place, mask in changes:
        changed[int(place * len(changed))] ^= mask
    return bytes(changed)


def refused_or_the_same(directory: Path, written) -> bool:
    """Whether it was refused; fails where other numbers came out."""
    try:
        loaded = load_artifact(directory)[0].state_dict()
    except ArtifactError as error:
        assert '\n' not in str(error)
        return True
    same = loaded.keys() == written.tensors.keys() and all(
        torch.equal(loaded[name], tensor) for name, tensor in written.tensors.items())
    assert same, 'it loads, with other numbers'
    return False


def restored(original: Path, directory: Path, name: str) -> Path:
    """The victim with one file as it was."""
    if not directory.exists():
        shutil.copytree(original, directory)
    shutil.copy(original / name, directory / name)
    return directory / name


@FUZZ
@given(changes=CHANGES)
@example(changes=[(0.0, 1)])
def test_damaged_weights(original, tmp_path, written, changes):
    file = restored(original, tmp_path / 'x', WEIGHTS)
    file.write_bytes(damage(file.read_bytes(), changes))
    refused_or_the_same(tmp_path / 'x', written)


@FUZZ
@given(changes=CHANGES)
def test_a_damaged_header(original, tmp_path, written, changes):
    file = restored(original, tmp_path / 'x', WEIGHTS)
    data = file.read_bytes()
    end = 8 + struct.unpack('<Q', data[:8])[0]
    file.write_bytes(damage(data[:end], changes) + data[end:])
    refused_or_the_same(tmp_path / 'x', written)


@FUZZ
@given(changes=CHANGES)
def test_a_damaged_manifest(original, tmp_path, written, changes):
    file = restored(original, tmp_path / 'x', MANIFEST)
    file.write_bytes(damage(file.read_bytes(), changes))
    refused_or_the_same(tmp_path / 'x', written)


@FUZZ
@given(cut=st.floats(0, 1, exclude_max=True), name=st.sampled_from([WEIGHTS, MANIFEST]))
def test_a_cut_off_file(original, tmp_path, cut, name):
    for other in (WEIGHTS, MANIFEST):
        file = restored(original, tmp_path / 'x', other)
    file = tmp_path / 'x' / name
    data = file.read_bytes()
    file.write_bytes(data.rstrip()[: int(cut * len(data.rstrip()))])
    with pytest.raises(ArtifactError):
        load_artifact(tmp_path / 'x')


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner,
                                                               max_size=3),
    max_leaves=5,
)


def leaves(value, path=()):
    """Paths to everything in a JSON document."""
    yield path
    items = value.items() if isinstance(value, dict) else (
        enumerate(value) if isinstance(value, list) else ())
    for key, inner in items:
        yield from leaves(inner, (*path, key))


def replaced(content, path, value):
    if not path:
        return value
    parent = content
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    return content


@FUZZ
@given(place=st.floats(0, 1, exclude_max=True), value=JSON)
def test_a_forged_manifest_with_a_value_exchanged(original, tmp_path, written, place, value):
    # With a right id: only what the value means can give it away. What does not concern the
    # weights (a name, a hash of a bag) loads, with the same numbers.
    file = restored(original, tmp_path / 'x', MANIFEST)
    content = json.loads(file.read_text())
    paths = list(leaves(content))
    content = replaced(content, paths[int(place * len(paths))], value)
    # It may no longer be an object, or hold a NaN.
    with contextlib.suppress(TypeError, ValueError, AttributeError):
        content['artifact_id'] = content_id(content)
    file.write_text(json.dumps(content))
    refused_or_the_same(tmp_path / 'x', written)


@FUZZ
@given(place=st.floats(0, 1, exclude_max=True), value=JSON)
def test_a_forged_config_with_a_value_exchanged(original, tmp_path, written, place, value):
    for name in (MANIFEST, 'config.json'):
        file = restored(original, tmp_path / 'x', name)
    config = json.loads(file.read_text())
    paths = list(leaves(config))
    config = replaced(config, paths[int(place * len(paths))], value)
    forge_file(tmp_path / 'x', 'config.json', json.dumps(config).encode())
    refused_or_the_same(tmp_path / 'x', written)


@FUZZ
@given(which=st.floats(0, 1, exclude_max=True), changes=CHANGES)
def test_forged_tensors_load_only_if_a_layer_can_run_them(original, tmp_path, which, changes):
    for name in (WEIGHTS, MANIFEST):
        restored(original, tmp_path / 'x', name)
    names = sorted(load_file(original / WEIGHTS))
    name = names[int(which * len(names))]

    def change(tensor):
        data = damage(tensor.flatten().view(torch.uint8).numpy().tobytes(), changes)
        return torch.frombuffer(bytearray(data), dtype=torch.uint8).view(tensor.dtype).reshape(
            tensor.shape)

    forge_tensor(tmp_path / 'x', name, change)
    try:
        model = load_artifact(tmp_path / 'x')[0]
    except ArtifactError:
        return
    path, _, _ = name.rpartition('.')
    layer = model.get_submodule(path)
    if isinstance(layer, QuantizedLinear):
        # no wrapped integer, no index out of range: the integers are what the kernel expects
        assert layer.fault() is None
        assert layer(torch.zeros(1, layer.in_features)).shape == (1, layer.out_features)
    assert all(torch.isfinite(t).all() for t in model.state_dict().values()
               if t.is_floating_point())
