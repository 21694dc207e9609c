# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Attacks with files: missing, changed, linked, added, of a kind that blocks, named elsewhere."""
import json
import os
import shutil

import pytest
from artifact_samples import forge, forge_file, recipe, refused, write
from quantization_samples import write_checkpoint

from quantvla_ros.engine.policy import load_policy
from quantvla_ros.errors import QuantVLAError
from quantvla_ros.quantization.artifact import load_artifact
from quantvla_ros.quantization.manifest import MANIFEST, WEIGHTS


def test_a_directory_without_manifest_is_not_an_artifact(tmp_path):
    refused(tmp_path, 'no manifest')
    refused(tmp_path / 'nowhere', 'no manifest')
    (tmp_path / 'file').write_text('{}')
    refused(tmp_path / 'file', 'no manifest')


@pytest.mark.parametrize(
    'name',
    ['../secret', '/etc/passwd', 'a/b', '..', '.', '.hidden', '', 'a\x00b', 'a\nb', '-x', 'a\\b',
     'ä', '~', 'x' * 300, 'config.json/', 'con fig'],
)
def test_a_file_name_that_leads_elsewhere_is_refused(artifact, name):
    forge(artifact, lambda c: c['files'].update({name: dict(c['files']['config.json'])}))
    refused(artifact, 'plain names')


@pytest.mark.parametrize('key', ['tokenizer', 'normalization'])
@pytest.mark.parametrize('name', ['../config.json', '/etc/passwd', 'other.json', ''])
def test_a_role_for_a_file_that_is_not_listed_is_refused(artifact, key, name):
    forge(artifact, lambda c: c.update({key: [name] if key == 'normalization' else name}))
    refused(artifact, 'plain names')


@pytest.mark.parametrize('name', ['config.json', 'tokenizer.json', WEIGHTS, MANIFEST])
def test_a_link_in_place_of_a_file_is_refused(artifact, tmp_path, name):
    (artifact / name).rename(tmp_path / 'elsewhere')
    os.symlink(tmp_path / 'elsewhere', artifact / name)
    refused(artifact, name + '.*found a link')


@pytest.mark.parametrize('name', ['config.json', WEIGHTS, MANIFEST])
def test_a_link_that_leads_to_itself_is_refused(artifact, name):
    (artifact / name).unlink()
    os.symlink(artifact / name, artifact / name)
    refused(artifact, name)


@pytest.mark.parametrize('name', ['config.json', WEIGHTS, MANIFEST])
def test_a_pipe_in_place_of_a_file_does_not_block(artifact, name):
    (artifact / name).unlink()
    os.mkfifo(artifact / name)
    refused(artifact, name)


@pytest.mark.parametrize('name', ['config.json', WEIGHTS, MANIFEST])
def test_a_directory_in_place_of_a_file_is_refused(artifact, name):
    (artifact / name).unlink()
    (artifact / name).mkdir()
    refused(artifact, name)


@pytest.mark.parametrize(
    'name', ['config.json', 'tokenizer.json', 'policy_preprocessor.json', WEIGHTS]
)
def test_a_missing_file_is_named(artifact, name):
    (artifact / name).unlink()
    refused(artifact, name + '.*found none')


@pytest.mark.parametrize('name', ['tokenizer.json', 'policy_preprocessor.json', 'config.json'])
def test_a_changed_file_of_the_same_length_is_noticed(artifact, name):
    data = bytearray((artifact / name).read_bytes())
    data[len(data) // 2] ^= 1
    (artifact / name).write_bytes(data)
    refused(artifact, name + '.*SHA-256')


def test_a_file_that_would_be_read_in_anothers_stead_is_refused(artifact):
    (artifact / 'README.md').write_text('a note does no harm')
    (artifact / 'report.html').write_text('nor does the report')
    load_artifact(artifact)
    for name in ('tokenizer.model', 'other.safetensors', 'x.json'):
        (artifact / name).write_bytes(b'other')
        refused(artifact, name + '.*remove it')
        (artifact / name).unlink()


def test_weights_of_another_artifact_are_refused(artifact, tmp_path):
    write(tmp_path / 'other', write_checkpoint(tmp_path / 'checkpoint', seed=1))
    shutil.copy(tmp_path / 'other' / WEIGHTS, artifact / WEIGHTS)
    refused(artifact, WEIGHTS)


CONFIGS = [
    b'',
    b'{}',
    b'[]',
    b'null',
    b'{"type": "pi05", "_sizes": {"vis": []}}',
    b'{"type": ["pi05"]}',
    b'{"type": "other"}',
    b'\xff\xfe{}',
    b'[' * 100_000,
    b'{"a":' * 100_000,
    b'{"type": "pi05", "image_resolution": null}',
    b'{"type": "pi05", "image_resolution": [28, 28], "_sizes": {"vlm": "x"}}',
    b'{"type": "pi05", "n_action_steps": "many"}',
]


@pytest.mark.parametrize('text', CONFIGS, ids=range(len(CONFIGS)))
def test_a_config_that_is_no_network_is_refused(artifact, text):
    forge_file(artifact, 'config.json', text)
    refused(artifact, 'config.json')


@pytest.mark.parametrize(
    ('old', 'new'),
    [
        ('"vlm": [48,', '"vlm": [4611686018427387904,'),
        ('"vlm": [48,', '"vlm": [-48,'),
        ('"vlm": [48,', '"vlm": [0,'),
        ('"vlm": [48,', '"vlm": ["48",'),
        ('"vlm": [48,', '"vlm": [48.5,'),
        ('"vocab": 1024', '"vocab": 9223372036854775807'),
        ('"vocab": 1024', '"vocab": -1'),
        ('"chunk_size": 4', '"chunk_size": 9223372036854775808'),
        ('"num_inference_steps": 3', '"num_inference_steps": 0'),
        ('"num_inference_steps": 3', '"num_inference_steps": 1e300'),
        ('"num_inference_steps": 3', '"num_inference_steps": "3"'),
        ('"max_action_dim": 8', '"max_action_dim": -8'),
    ],
)
def test_a_config_with_absurd_sizes_is_refused(artifact, old, new):
    text = json.dumps(json.loads((artifact / 'config.json').read_text()))
    assert old in text
    forge_file(artifact, 'config.json', text.replace(old, new).encode())
    refused(artifact, 'config.json|manifest.json')


@pytest.mark.parametrize('key', ['vlm', 'exp', 'vis'])
def test_a_config_of_endless_depth_is_refused_at_once(artifact, key):
    config = json.loads((artifact / 'config.json').read_text())
    config['_sizes'][key][1] = 10**9  # layers; building them would take days
    forge_file(artifact, 'config.json', json.dumps(config).encode())
    refused(artifact, 'config.json')


@pytest.mark.parametrize('name', ['policy_preprocessor.json', 'tokenizer.json'])
@pytest.mark.parametrize(
    'data', [b'', b'{}', b'[]', b'null', b'\xff\xfe', b'[' * 100_000, b'{"steps": [1]}',
             b'{"steps": null, "model": 3}']
)
def test_a_forged_processor_or_tokenizer_never_becomes_a_policy(artifact, name, data):
    forge_file(artifact, name, data)
    with pytest.raises(QuantVLAError) as caught:
        load_policy(artifact)
    assert '\n' not in str(caught.value)


def test_the_sample_holds_what_the_attacks_are_on():
    # else an attack could miss its target
    found = recipe()
    assert found.precision == 'w4a8' and found.rotation.permute and found.weights.group
