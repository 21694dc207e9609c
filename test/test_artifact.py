# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Artifacts: written whole or not at all, and self-contained. Hostile ones: test/attacks."""
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from artifact_samples import EIGHT, LAYER, actions, quantized, recipe, write
from quantization_samples import contract, write_checkpoint
from safetensors.torch import load_file

from quantvla_ros.errors import ArtifactError, CheckpointError
from quantvla_ros.quantization import artifact_writer
from quantvla_ros.quantization.artifact import load_artifact
from quantvla_ros.quantization.linear import QuantizedLinear
from quantvla_ros.quantization.manifest import WEIGHTS
from quantvla_ros.quantization.stored import stored_dtypes

HERE = Path(__file__).parent


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


@pytest.mark.parametrize('kind', ['full', 'w8a8', 'w4a8', 'paper-w4a8', 'paper-w4a4'])
def test_what_is_read_is_what_was_written_bit_for_bit(checkpoint, tmp_path, kind):
    model = quantized(checkpoint, kind)
    written = write(tmp_path / 'policy', checkpoint, model, kind)
    loaded, manifest = load_artifact(tmp_path / 'policy')
    assert manifest == written
    assert isinstance(loaded.get_submodule(LAYER), QuantizedLinear)
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
    assert manifest.model == 'pi05' and manifest.precision == 'w4a8'
    assert manifest.slots == ('observation.images.overhead', 'observation.images.wrist')
    assert manifest.state_names == contract().state_names
    assert manifest.action_names == contract().action.names
    assert (manifest.control_period, manifest.chunk_size, manifest.execute_steps) == (0.05, 4, 3)
    assert content['recipe']['text'] == recipe().text
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
            fixed = (torch.int8, torch.uint8, torch.int32, torch.float16, torch.float32)
            assert tensor.dtype in fixed


def test_the_same_content_has_the_same_id_and_another_has_another(original, checkpoint, tmp_path):
    again = write(tmp_path / 'again', checkpoint)
    assert again.artifact_id == load_artifact(original)[1].artifact_id
    other = write(tmp_path / 'other', write_checkpoint(tmp_path / 'checkpoint', seed=1))
    assert other.artifact_id != again.artifact_id


def test_half_precision_leaves_scales_and_integers_alone(original):
    model, _ = load_artifact(original, dtype=torch.bfloat16)
    layer, eight = model.get_submodule(LAYER), model.get_submodule(EIGHT)
    assert layer.weight_packed.dtype == layer.group_scale.dtype == torch.uint8
    assert layer.weight_scale.dtype == layer.input_scale.dtype == torch.float32
    assert layer.rotation.dtype == layer.output_rotation.dtype == torch.float16
    assert layer.permutation.dtype == torch.int32 and eight.weight_q.dtype == torch.int8
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
        f'import os, sys; sys.path.insert(0, {str(HERE)!r})\n'
        'from pathlib import Path\n'
        'from artifact_samples import write\n'
        'os.rename = lambda *a: os.kill(os.getpid(), 9)\n'
        f'write(Path({str(tmp_path)!r}) / "policy", Path({str(checkpoint)!r}))\n'
    )
    result = subprocess.run([sys.executable, '-c', program], capture_output=True)
    assert result.returncode == -9, result.stderr
    assert not (tmp_path / 'policy').exists()
    write(tmp_path / 'policy', checkpoint)  # and the next attempt is not in its way
    load_artifact(tmp_path / 'policy')


def full_disk(size: int, program: str) -> str:
    """What a program prints whose `DISK` is a real file system of `size` bytes; skips without.

    A tmpfs in a mount namespace of its own: nobody else sees it, and it ends with the program.
    """
    mounted = 'mount -t tmpfs -o size=$0 tmpfs "$1" && exec "$2" -c "$3"'
    head = f'import sys; sys.path.insert(0, {str(HERE)!r})\nfrom pathlib import Path\n'
    unshare = shutil.which('unshare')
    probe = unshare and subprocess.run(
        [unshare, '-Urm', 'sh', '-c', 'mount -t tmpfs tmpfs /mnt'], capture_output=True)
    if not probe or probe.returncode:
        pytest.skip('needs a mount namespace for a small disk')
    result = subprocess.run(
        [unshare, '-Urm', 'sh', '-c', mounted, str(size), '/mnt', sys.executable,
         head + "DISK = Path('/mnt')\n" + program],
        capture_output=True, text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


# At which file the disk is full: a copied one, the weights, the manifest.
@pytest.mark.parametrize('short', ['side files', 'weights', 'manifest'])
def test_a_full_disk_leaves_nothing(checkpoint, original, short):
    page = 4096
    sizes = {file.name: -(-file.stat().st_size // page) * page for file in original.iterdir()}
    total = sum(sizes.values())
    size = {
        'side files': 2 * page,
        'weights': total - sizes[WEIGHTS] // 2 - sizes['manifest.json'],
        'manifest': total - page,
    }[short]
    said = full_disk(
        size,
        'from artifact_samples import write\n'
        'try:\n'
        f'    write(DISK / "policy", Path({str(checkpoint)!r}))\n'
        'except Exception as error:\n'
        '    print(type(error).__name__, error)\n'
        'print([file.name for file in DISK.iterdir()])\n',
    )
    error, left = said.splitlines()
    assert error.startswith('ArtifactError') and 'nothing is left' in error
    assert left == '[]'


def test_a_limit_on_file_sizes_leaves_nothing(checkpoint, tmp_path):
    program = (
        f'import sys; sys.path.insert(0, {str(HERE)!r})\n'
        'import resource, signal\n'
        'from pathlib import Path\n'
        'from artifact_samples import write\n'
        'signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n'
        'resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n'
        f'write(Path({str(tmp_path)!r}) / "policy", Path({str(checkpoint)!r}))\n'
    )
    result = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert 'ArtifactError' in result.stderr and 'nothing is left' in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_report_that_was_there():
    said = full_disk(
        100_000,
        'from quantvla_ros.report.document import write_document\n'
        'write_document("old", DISK / "report.html")\n'
        'try:\n'
        '    write_document("new" * 100_000, DISK / "report.html")\n'
        'except OSError as error:\n'
        '    print(error.errno)\n'
        'print([(file.name, file.read_text()) for file in DISK.iterdir()])\n',
    )
    assert said.splitlines() == ['28', "[('report.html', 'old')]"]


@pytest.mark.parametrize('step', ['write_text', 'replace'])
def test_an_interrupt_leaves_the_report_that_was_there(tmp_path, monkeypatch, step):
    from quantvla_ros.report.document import write_document

    write_document('old', tmp_path / 'report.html')

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, step, interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_document('new', tmp_path / 'report.html')
    assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == [('report.html', 'old')]


def test_an_incomplete_checkpoint_is_named_and_leaves_nothing(tmp_path):
    checkpoint = write_checkpoint(tmp_path / 'checkpoint')
    model = quantized(checkpoint)
    statistics = next(checkpoint.glob('*normalizer_processor.safetensors'))
    statistics.unlink()
    with pytest.raises(CheckpointError, match=statistics.name):
        write(tmp_path / 'policy', checkpoint, model)
    assert [file.name for file in tmp_path.iterdir()] == ['checkpoint']


def test_nothing_in_an_artifact_is_a_pickle(original):
    for file in original.iterdir():
        assert file.suffix in ('.json', '.safetensors')
        if file.suffix == '.json':
            json.loads(file.read_text())
        else:
            load_file(file)
