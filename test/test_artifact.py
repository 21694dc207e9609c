# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Artifacts: written whole or not at all, self-contained, and trusted in nothing when read."""
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from quantization_samples import contract, observations, write_checkpoint
from safetensors.torch import load_file, save_file

from quantvla_ros.errors import ArtifactError, CheckpointError
from quantvla_ros.models import load_model
from quantvla_ros.models.checkpoint import read_config
from quantvla_ros.models.processor import Processor
from quantvla_ros.quantization import artifact_writer
from quantvla_ros.quantization.artifact import load_artifact, write_artifact
from quantvla_ros.quantization.manifest import MANIFEST, WEIGHTS, content_id
from quantvla_ros.quantization.recipe import load_recipe
from quantvla_ros.quantization.schemes import swap
from quantvla_ros.quantization.stored import stored_dtypes, tensor_hash
from quantvla_ros.quantization.w8a8 import LinearW8A8

LAYER = 'paligemma_with_expert.gemma_expert.model.layers.1.mlp.up_proj'


def quantized(checkpoint: Path):
    model = load_model(checkpoint)
    recipe = load_recipe('w8a8')
    names = recipe.layout.select(model)
    swap(model, names, lambda linear: LinearW8A8.from_linear(linear, recipe.scale_grid))
    return model


def write(out: Path, checkpoint: Path, model=None):
    error = {'rms': 0.1, 'largest': 0.2, 'relative': 0.01}
    return write_artifact(
        out,
        model or quantized(checkpoint),
        checkpoint=checkpoint,
        recipe=load_recipe('w8a8'),
        contract=contract(),
        corrections={'alpha': [[1.0, 1.1, 1.0, 1.0]] * 2, 'beta': [1.0, 0.9]},
        calibration={
            'seed': 3,
            'samples': 20,
            'held_out': 4,
            'observations': [{'episode': 'a', 'instruction': 'b', 'found': 30, 'used': 24}],
            'bags': {'bag.mcap': 'a' * 64},
            'error': {'uncorrected': error, 'corrected': error},
        },
    )


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp('checkpoint'))


@pytest.fixture(scope='module')
def original(checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp('artifact') / 'policy'
    write(out, checkpoint)
    return out


@pytest.fixture
def artifact(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / 'policy'))


def forge(artifact: Path, edit) -> None:
    """Change the manifest as somebody would who knows how its id is made."""
    content = json.loads((artifact / MANIFEST).read_text())
    edit(content)
    content['artifact_id'] = content_id(content)
    (artifact / MANIFEST).write_text(json.dumps(content))


def forge_tensor(artifact: Path, name: str, change) -> None:
    """Change a tensor and its hash alike."""
    tensors = load_file(artifact / WEIGHTS)
    tensors[name] = change(tensors[name].clone())
    save_file(tensors, artifact / WEIGHTS)
    digest = tensor_hash(tensors[name])
    forge(artifact, lambda content: content['tensors'][name].update(sha256=digest))


def actions(model, checkpoint):
    processor = Processor.from_directory(checkpoint, read_config(checkpoint))
    inputs = processor.inputs(observations(1, seed=5)[0])
    noise = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0))
    return model.sample_actions(
        inputs.images, inputs.image_masks, inputs.tokens, inputs.token_mask, noise
    )


def test_what_is_read_is_what_was_written_bit_for_bit(checkpoint, tmp_path):
    model = quantized(checkpoint)
    written = write(tmp_path / 'policy', checkpoint, model)
    loaded, manifest = load_artifact(tmp_path / 'policy')
    assert manifest == written
    assert isinstance(loaded.get_submodule(LAYER), LinearW8A8)
    assert torch.equal(actions(loaded, checkpoint), actions(model, checkpoint))
    assert not loaded.training


def test_it_runs_without_the_float_checkpoint(tmp_path):
    checkpoint = write_checkpoint(tmp_path / 'checkpoint')
    write(tmp_path / 'policy', checkpoint)
    expected = actions(load_artifact(tmp_path / 'policy')[0], checkpoint)
    shutil.rmtree(checkpoint)
    loaded, _ = load_artifact(tmp_path / 'policy')
    assert torch.equal(actions(loaded, tmp_path / 'policy'), expected)


def test_the_manifest_binds_what_the_policy_depends_on(original):
    manifest = load_artifact(original)[1]
    content = manifest.content
    assert manifest.model == 'pi05' and manifest.precision == 'w8a8'
    assert manifest.slots == ('observation.images.overhead', 'observation.images.wrist')
    assert manifest.state_names == contract().state_names
    assert manifest.action_names == contract().action.names
    assert (manifest.control_period, manifest.chunk_size, manifest.execute_steps) == (0.05, 4, 3)
    assert content['recipe']['text'] == load_recipe('w8a8').text
    assert content['tokenizer'] == 'tokenizer.json' in content['files']
    assert set(content['normalization']) <= set(content['files']) and content['normalization']
    assert set(content['calibration']['checkpoint']) == {'config.json', 'model.safetensors'}
    assert content['corrections']['alpha'][0][1] == 1.1


def test_the_sizes_are_those_of_the_files(original, checkpoint):
    manifest = load_artifact(original)[1]
    stored = sum(t.numel() * t.element_size() for t in load_file(original / WEIGHTS).values())
    assert manifest.quantized_bytes == stored
    stored = sum(
        t.numel() * t.element_size() for t in load_file(checkpoint / 'model.safetensors').values()
    )
    assert manifest.float_bytes == stored


def test_float_layers_keep_the_checkpoints_dtype(original, checkpoint):
    dtypes = stored_dtypes(checkpoint)
    for name, tensor in load_file(original / WEIGHTS).items():
        if name in dtypes:
            assert tensor.dtype == dtypes[name] == torch.bfloat16
        else:
            assert tensor.dtype in (torch.int8, torch.float32)


def test_the_same_content_has_the_same_id_and_another_has_another(original, checkpoint, tmp_path):
    again = write(tmp_path / 'again', checkpoint)
    assert again.artifact_id == load_artifact(original)[1].artifact_id
    other = write(tmp_path / 'other', write_checkpoint(tmp_path / 'checkpoint', seed=1))
    assert other.artifact_id != again.artifact_id


def test_half_precision_leaves_scales_and_integers_alone(original):
    model, _ = load_artifact(original, dtype=torch.bfloat16)
    layer = model.get_submodule(LAYER)
    assert layer.weight_scale.dtype == torch.float32 and layer.weight_q.dtype == torch.int8
    assert model.projector.weight.dtype == torch.bfloat16
    assert model.action_in_proj.weight.dtype == torch.float32


def test_files_are_as_readable_as_their_neighbours(original):
    modes = {file.stat().st_mode & 0o777 for file in original.iterdir()}
    assert len(modes) == 1


# Writing: whole or not at all.


def test_an_existing_directory_is_never_written_over(artifact, checkpoint):
    before = sorted(file.name for file in artifact.iterdir())
    with pytest.raises(ArtifactError, match='exists already'):
        write(artifact, checkpoint)
    assert sorted(file.name for file in artifact.iterdir()) == before


@pytest.mark.parametrize('error', [KeyboardInterrupt, OSError(28, 'No space left on device')])
@pytest.mark.parametrize('step', ['save_file', '_sync', 'read_manifest'])
def test_an_interrupted_write_leaves_nothing(checkpoint, tmp_path, monkeypatch, error, step):
    def interrupted(*args, **kwargs):
        raise error

    monkeypatch.setattr(artifact_writer, step, interrupted)
    expected = ArtifactError if isinstance(error, OSError) else error
    with pytest.raises(expected):
        write(tmp_path / 'policy', checkpoint)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_write_never_looks_like_an_artifact(checkpoint, tmp_path):
    # SIGKILL just before the rename: everything is on disk, under another name.
    program = (
        f'import os, sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n'
        'from pathlib import Path\n'
        'from test_artifact import write\n'
        'os.rename = lambda *a: os.kill(os.getpid(), 9)\n'
        f'write(Path({str(tmp_path)!r}) / "policy", Path({str(checkpoint)!r}))\n'
    )
    result = subprocess.run([sys.executable, '-c', program], capture_output=True)
    assert result.returncode == -9, result.stderr
    assert not (tmp_path / 'policy').exists()
    write(tmp_path / 'policy', checkpoint)  # and the next attempt is not in its way
    load_artifact(tmp_path / 'policy')


def test_a_full_disk_leaves_nothing(checkpoint, tmp_path):
    program = (
        f'import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n'
        'import resource, signal\n'
        'from pathlib import Path\n'
        'from test_artifact import write\n'
        'signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n'
        'resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n'
        f'write(Path({str(tmp_path)!r}) / "policy", Path({str(checkpoint)!r}))\n'
    )
    result = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert 'ArtifactError' in result.stderr and 'nothing is left' in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_incomplete_checkpoint_is_named_and_leaves_nothing(tmp_path):
    checkpoint = write_checkpoint(tmp_path / 'checkpoint')
    model = quantized(checkpoint)
    statistics = next(checkpoint.glob('*normalizer_processor.safetensors'))
    statistics.unlink()
    with pytest.raises(CheckpointError, match=statistics.name):
        write(tmp_path / 'policy', checkpoint, model)
    assert [file.name for file in tmp_path.iterdir()] == ['checkpoint']


# Reading: a folder of attacks.


def refused(artifact: Path, message: str) -> None:
    with pytest.raises(ArtifactError, match=message) as caught:
        load_artifact(artifact)
    assert '\n' not in str(caught.value)


def test_a_directory_without_manifest_is_not_an_artifact(tmp_path):
    refused(tmp_path, 'no manifest')
    refused(tmp_path / 'nowhere', 'no manifest')


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', 'expected JSON'),
        ('{"format": ', 'expected JSON'),
        ('[' * 100_000, 'expected JSON'),
        ('\xff\xfe', 'expected JSON|something else'),
        ('[1, 2]', 'something else'),
        ('{"format": "quantvla_ros artifact", "version": 99}', 'version 1, found 99'),
        ('{"format": "quantvla_ros artifact", "version": NaN}', 'not JSON'),
        ('{"format": "quantvla_ros artifact", "version": 1}', 'lacking'),
    ],
)
def test_a_manifest_that_is_none_is_refused(artifact, text, message):
    (artifact / MANIFEST).write_text(text, encoding='latin-1')
    refused(artifact, message)


def test_a_manifest_of_absurd_size_is_not_read(artifact, monkeypatch):
    monkeypatch.setattr('quantvla_ros.quantization.manifest.LARGEST_MANIFEST', 1000)
    refused(artifact, 'at most 1000 bytes')


def test_an_edited_manifest_is_noticed(artifact):
    text = (artifact / MANIFEST).read_text()
    text = text.replace('"control_period": 0.05', '"control_period": 0.5')
    (artifact / MANIFEST).write_text(text)
    refused(artifact, 'the manifest was changed')


WRONG = [
    (lambda c: c.update(extra=1), 'nothing lacking, extra unknown'),
    (lambda c: c['contract'].pop('slots'), r'contract: slots lacking'),
    (lambda c: c['contract'].update(control_period='fast'), 'control_period: expected a finite'),
    (lambda c: c['contract'].update(slots='overhead'), 'contract.slots: expected a list'),
    (lambda c: c['tensors'].update(x=3), 'tensors.x: expected an object'),
    (lambda c: c['bytes'].update(float=-1), 'bytes.float: expected a whole number'),
    (lambda c: c['bytes'].update(float=True), 'bytes.float: expected a whole number'),
    (lambda c: c['corrections'].update(beta=[[1.0]]), r'corrections.beta\[0\]: expected a finite'),
    (lambda c: c['files']['config.json'].update(sha256='0'), 'SHA-256'),
    (lambda c: c.update(precision='w2a2'), "precision: expected one of w8a8, found 'w2a2'"),
    (lambda c: c['model'].update(type='other'), 'expected pi05'),
    (lambda c: c['model'].update(chunk_size=5), 'chunks of 4'),
    (lambda c: c['layout'].update(name='none'), 'an unknown layout'),
    (lambda c: c['layout'].update(name='language'), 'layout'),
    (lambda c: c['layout']['layers'].pop(), 'layers'),
    (lambda c: c['layout']['layers'].reverse(), 'other names'),
    (lambda c: c['tensors'].pop(LAYER + '.weight_q'), '1 missing'),
    (lambda c: c['tensors'].update(more=c['tensors'][LAYER + '.weight_q']), '1 unknown'),
    (lambda c: c['tensors'][LAYER + '.weight_q'].update(dtype='F32'), 'torch.int8'),
    (lambda c: c['tensors'][LAYER + '.weight_q'].update(shape=[64, 33]), r'expected \[64, 32\]'),
    (lambda c: c['tensors'][LAYER + '.weight_scale'].update(dtype='BF16'), 'torch.float32'),
    (lambda c: c['tensors']['action_in_proj.weight'].update(dtype='I8'), 'floating point'),
    (lambda c: c['tensors']['action_in_proj.weight'].update(dtype='Q'), 'floating point'),
]


@pytest.mark.parametrize(('edit', 'message'), WRONG, ids=range(len(WRONG)))
def test_a_well_forged_manifest_that_does_not_fit_is_refused(artifact, edit, message):
    forge(artifact, edit)
    refused(artifact, message)


@pytest.mark.parametrize(
    'name', ['../secret', '/etc/passwd', 'a/b', '..', '.hidden', '', 'a\x00b', 'a\nb', '-x']
)
def test_a_file_name_that_leads_elsewhere_is_refused(artifact, name):
    def edit(content):
        content['files'][name] = dict(content['files']['config.json'])

    forge(artifact, edit)
    refused(artifact, 'plain names')


def test_a_tokenizer_outside_the_listed_files_is_refused(artifact):
    forge(artifact, lambda content: content.update(tokenizer='other.json'))
    refused(artifact, 'plain names')


@pytest.mark.parametrize('name', ['config.json', 'tokenizer.json', WEIGHTS])
def test_a_link_in_place_of_a_file_is_refused(artifact, tmp_path, name):
    (artifact / name).rename(tmp_path / 'elsewhere')
    os.symlink(tmp_path / 'elsewhere', artifact / name)
    refused(artifact, 'found a link')


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
    load_artifact(artifact)
    (artifact / 'tokenizer.model').write_bytes(b'other')
    refused(artifact, 'tokenizer.model.*remove it')


def test_cut_off_weights_are_refused_at_any_length(artifact):
    data = (artifact / WEIGHTS).read_bytes()
    for length in (0, 4, 8, 100, len(data) // 2, len(data) - 1):
        (artifact / WEIGHTS).write_bytes(data[:length])
        refused(artifact, 'cut off|cannot be read|expected safetensors')
    (artifact / WEIGHTS).write_bytes(data + b'\0')
    refused(artifact, 'not the file that was written')


def rewrite_header(artifact: Path, edit) -> None:
    """Another header over the same data; padded, so that the sizes still agree."""
    data = (artifact / WEIGHTS).read_bytes()
    length = struct.unpack('<Q', data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    text = edit(header)
    text = (json.dumps(header) if text is None else text).encode()
    (artifact / WEIGHTS).write_bytes(struct.pack('<Q', len(text)) + text + data[8 + length :])


def swap_names(header):
    a, b = LAYER + '.weight_q', LAYER.replace('up', 'gate') + '.weight_q'
    header[a], header[b] = header[b], header[a]


def outside(header):
    begin, end = header[LAYER + '.weight_q']['data_offsets']
    header[LAYER + '.weight_q']['data_offsets'] = [begin + 2**40, end + 2**40]


def overlapping(header):
    header[LAYER + '.weight_q']['data_offsets'] = [0, 2048]


def backwards(header):
    header[LAYER + '.weight_q']['data_offsets'].reverse()


def reshaped(header):
    header[LAYER + '.weight_q']['shape'].reverse()


def unsigned(header):
    header[LAYER + '.weight_q']['dtype'] = 'U8'


def renamed(header):
    header['other'] = header.pop(LAYER + '.weight_q')


def overflowing(header):
    header[LAYER + '.weight_q']['shape'] = [2**62, 2**62, 4]


@pytest.mark.parametrize(
    'edit',
    [
        swap_names,
        outside,
        overlapping,
        backwards,
        reshaped,
        unsigned,
        renamed,
        overflowing,
        lambda header: '{' * 50_000,
        lambda header: '{}',
        lambda header: 'null',
        lambda header: '{"a": 1}',
    ],
)
def test_a_hostile_header_is_refused(artifact, edit):
    rewrite_header(artifact, edit)
    refused(artifact, WEIGHTS)


def test_a_header_length_beyond_the_file_is_refused(artifact):
    data = (artifact / WEIGHTS).read_bytes()
    for length in (2**63, 2**64 - 1, len(data), 0):
        (artifact / WEIGHTS).write_bytes(struct.pack('<Q', length) + data[8:])
        refused(artifact, 'header')


def test_a_flipped_bit_in_any_tensor_is_noticed(artifact):
    data = bytearray((artifact / WEIGHTS).read_bytes())
    data[-100] ^= 0x10
    (artifact / WEIGHTS).write_bytes(data)
    refused(artifact, 'SHA-256')


@pytest.mark.parametrize(
    ('name', 'value', 'message'),
    [
        (LAYER + '.weight_scale', float('nan'), 'finite'),
        (LAYER + '.weight_scale', float('inf'), 'finite'),
        (LAYER + '.weight_scale', 0.0, 'positive'),
        (LAYER + '.weight_scale', -1e-3, 'positive'),
        ('action_out_proj.weight', float('nan'), 'finite'),
    ],
)
def test_numbers_that_cannot_be_calculated_with_are_refused(artifact, name, value, message):
    def change(tensor):
        tensor.view(-1)[1] = value
        return tensor

    forge_tensor(artifact, name, change)
    refused(artifact, f'{name}.*{message}')


def test_a_config_that_is_no_network_is_refused(artifact):
    for text in ('{"type": "pi05", "_sizes": {"vis": []}}', '{}', '[]', '{"type": ["pi05"]}'):
        (artifact / 'config.json').write_text(text)
        data = (artifact / 'config.json').read_bytes()
        digest, size = hashlib.sha256(data).hexdigest(), len(data)
        forge(
            artifact,
            lambda content, d=digest, s=size: content['files']['config.json'].update(
                sha256=d, bytes=s
            ),
        )
        refused(artifact, 'config.json')


def test_nothing_in_an_artifact_is_a_pickle(original):
    for file in original.iterdir():
        assert file.suffix in ('.json', '.safetensors')
        if file.suffix == '.json':
            json.loads(file.read_text())
        else:
            load_file(file)
