# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`calibrate` interrupted at any stage, or on a full disk, leaves nothing behind."""
import signal
from pathlib import Path

import pytest
from quantization_samples import write_bag, write_checkpoint

from quantvla_ros.cli.frames import READING
from quantvla_ros.cli.main import main
from quantvla_ros.cli.progress import ProgressLine
from quantvla_ros.quantization import artifact_writer
from quantvla_ros.quantization.calibrate import STAGES

CONTRACT = Path(__file__).resolve().parents[1] / 'config' / 'contracts' / 'tabletop.yaml'


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp('checkpoint'))


@pytest.fixture(scope='module')
def bag(tmp_path_factory):
    return write_bag(tmp_path_factory.mktemp('bags') / 'bag')


@pytest.fixture(autouse=True)
def handlers():
    """As a shell starts a command; a job in the background would inherit an ignored SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def command(checkpoint, bag, out):
    return ['calibrate', '--checkpoint', str(checkpoint), '--bag', str(bag), '--contract',
            str(CONTRACT), '--out', str(out), '--samples', '16']


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('stage', [READING, *STAGES])
def test_an_interrupt_in_any_stage_leaves_nothing(
    checkpoint, bag, tmp_path, monkeypatch, capsys, stage, number
):
    reached = []

    def interrupted(self, current, done, total):
        if current == stage:
            reached.append(current)
            signal.raise_signal(number)

    monkeypatch.setattr(ProgressLine, '__call__', interrupted)
    assert main(command(checkpoint, bag, tmp_path / 'policy')) == 130
    assert reached == [stage]
    assert 'interrupted; nothing was written' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('step', ['save_file', 'tensor_hash', 'read_manifest', '_sync'])
def test_an_interrupt_while_the_artifact_is_written_leaves_nothing(
    checkpoint, bag, tmp_path, monkeypatch, step
):
    original = getattr(artifact_writer, step)
    calls = []

    def interrupted(*args, **kwargs):
        result = original(*args, **kwargs)
        calls.append(step)
        if len(calls) == 1:
            signal.raise_signal(signal.SIGINT)
        return result

    monkeypatch.setattr(artifact_writer, step, interrupted)
    assert main(command(checkpoint, bag, tmp_path / 'policy')) == 130
    assert calls and list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(
    checkpoint, bag, tmp_path, monkeypatch, capsys
):
    def full(*args, **kwargs):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(artifact_writer, 'save_file', full)
    assert main(command(checkpoint, bag, tmp_path / 'policy')) == 2
    error = capsys.readouterr().err
    assert 'No space left on device' in error and 'Traceback' not in error
    assert list(tmp_path.iterdir()) == []
