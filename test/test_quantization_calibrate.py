# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Calibration: observations to a corrected policy, and the command from bags to an artifact."""
import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from quantization_samples import (
    COMMANDS,
    calibration_account,
    contract,
    observations,
    write_bag,
    write_checkpoint,
)

from quantvla_ros.cli.main import main
from quantvla_ros.cli.progress import ProgressLine
from quantvla_ros.engine.policy import load_policy
from quantvla_ros.errors import CalibrationError
from quantvla_ros.models import load_model
from quantvla_ros.models.architectures import load_processor
from quantvla_ros.models.checkpoint import read_config
from quantvla_ros.quantization import layerwise, samples
from quantvla_ros.quantization.artifact import load_artifact, write_artifact
from quantvla_ros.quantization.calibrate import STAGES, calibrate
from quantvla_ros.quantization.correction import scale_outputs
from quantvla_ros.quantization.quantize import quantize_linear
from quantvla_ros.quantization.recipe_file import load_recipe
from quantvla_ros.quantization.stored import stored_dtypes

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / 'config' / 'recipes'
CONTRACT = ROOT / 'config' / 'contracts' / 'tabletop.yaml'


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp('checkpoint'))


@pytest.fixture(scope='module')
def bag(tmp_path_factory):
    return write_bag(tmp_path_factory.mktemp('bags') / 'bag')


@pytest.fixture
def shrinking(monkeypatch):
    """Quantized layers lose a fifth of their output, as clipped activations do."""

    def quantize(*arguments, **settings):
        layer, quality = quantize_linear(*arguments, **settings)
        scale_outputs(layer, torch.full((layer.out_features,), 0.8))
        return layer, quality

    monkeypatch.setattr(layerwise, 'quantize_linear', quantize)


def run(checkpoint, recipe='w8a8', progress=lambda *counts: None, count=16, seed=0, **changes):
    model = load_model(checkpoint)
    processor = load_processor(checkpoint, read_config(checkpoint))
    calibration = calibrate(
        model,
        processor,
        dataclasses.replace(load_recipe(recipe), **changes),
        observations(count),
        observations(3, seed=9),
        action_size=processor.action.size,
        device=torch.device('cpu'),
        dtypes=stored_dtypes(checkpoint),
        seed=seed,
        progress=progress,
    )
    return model, processor, calibration


def off(recipe):
    recipe = load_recipe(recipe)
    return {
        'temperature': dataclasses.replace(recipe.temperature, enabled=False),
        'balance': dataclasses.replace(recipe.balance, enabled=False),
    }


@pytest.mark.parametrize('recipe', ['paper-w4a8', 'w8a8'])
def test_corrections_bring_a_shrunken_policy_back(checkpoint, shrinking, recipe):
    found = run(checkpoint, recipe)[2]
    alpha, beta = torch.tensor(found.corrections.alpha), torch.tensor(found.corrections.beta)
    assert (alpha > 1.03).any() and (beta > 1.03).any()
    if recipe == 'w8a8':  # the paper's ratios restore energy, not actions
        assert found.corrected.rms < 0.98 * found.uncorrected.rms
    before, after = found.corrections.before[0], found.corrections.after[0]
    assert sum(after.logits) < sum(before.logits)


def test_corrections_that_are_off_leave_the_head_alone(checkpoint, shrinking):
    model, _, calibration = run(checkpoint, **off('w8a8'))
    assert set(calibration.corrections.beta) == {1.0}
    assert {value for row in calibration.corrections.alpha for value in row} == {1.0}
    assert calibration.corrected == calibration.uncorrected
    original = load_model(checkpoint)
    for layer, other in zip(model.head_layers(), original.head_layers(), strict=True):
        assert torch.equal(layer.attention.q_proj.weight, other.attention.q_proj.weight)


@pytest.mark.parametrize(
    ('recipe', 'worst'), [('w8a8', 0.01), ('w4a8', 0.1), ('paper-w4a8', 0.3), ('paper-w4a4', 1.0)]
)
def test_every_shipped_recipe_gives_a_policy_that_is_near_the_float_one(checkpoint, recipe, worst):
    _, _, calibration = run(checkpoint, recipe)
    assert calibration.uncorrected.rms > 0.0  # the quantized policy did run quantized
    assert calibration.corrected.relative < worst
    assert len(calibration.layers) == 2 * 7 + 2 * 3
    assert len(calibration.step_errors) == 3


def test_our_four_bits_beat_the_papers(checkpoint):
    errors = [
        run(checkpoint, recipe, count=64)[2].corrected.relative for recipe in ('w4a8', 'paper-w4a8')
    ]
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize(
    'change',
    [
        {'layout': 'full'},
        {'layout': 'extended'},
        {'layout': 'language'},
        {'activations.scale': 'static_per_tensor'},
        {'activations.scale': 'static_per_step', 'layout': 'full'},
        {'rotation.input': 'pca_hadamard', 'rotation.permute': True},
        {'smoothing.enabled': True},
        {'balance.interface': True},
        {'weights.match_float': False},
    ],
    ids=lambda change: ','.join(f'{key}={value}' for key, value in change.items()),
)
def test_every_choice_of_a_recipe_runs_and_loads_again(checkpoint, tmp_path, change):
    recipe = yaml.safe_load((RECIPES / 'w4a8.yaml').read_text())
    for key, value in change.items():
        *path, last = key.split('.')
        place = recipe
        for name in path:
            place = place[name]
        place[last] = value
    file = tmp_path / 'mine.yaml'
    file.write_text(yaml.safe_dump(recipe))
    model, _, calibration = run(checkpoint, file)
    assert calibration.corrected.relative < 0.15
    out = tmp_path / 'artifact'
    write_artifact(
        out,
        model,
        checkpoint=checkpoint,
        recipe=load_recipe(file),
        contract=contract(),
        corrections={'alpha': [], 'beta': [], 'beta_mlp': [], 'interface': {}, 'notes': []},
        calibration=calibration_account(),
        float32_tensors=calibration.float32_tensors,
    )
    loaded, _ = load_artifact(out)
    state = model.state_dict()
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, state[name].to(tensor.dtype)), name


def test_a_shrunken_interface_is_balanced(checkpoint, shrinking):
    recipe = load_recipe('w8a8')
    balance = dataclasses.replace(recipe.balance, interface=True)
    calibration = run(checkpoint, balance=balance)[2]
    assert set(calibration.interface) == {
        f'paligemma_with_expert.paligemma.model.language_model.layers.{layer}.self_attn.v_proj'
        for layer in range(2)
    }
    assert all(1.1 < value < 1.35 for value in calibration.interface.values())


def test_folded_weights_are_rounded_as_they_are_stored(checkpoint, shrinking):
    # the reported error is that of the artifact, not of a better model in memory
    model, _, calibration = run(checkpoint)
    beta = calibration.corrections.beta[0]
    assert beta != 1.0
    weight = model.head_layers()[0].attention.o_proj.weight
    original = load_model(checkpoint).head_layers()[0].attention.o_proj.weight
    assert torch.equal(weight, (original.double() * beta).float().bfloat16().float())


def test_the_same_seed_gives_the_same_result(checkpoint):
    first, second = (run(checkpoint)[2] for _ in range(2))
    assert first.corrections == second.corrections and first.layers == second.layers
    assert torch.equal(first.chunks, second.chunks)


def test_another_seed_gives_other_noise(checkpoint):
    first, second = (run(checkpoint, seed=seed)[2] for seed in (0, 1))
    assert not torch.equal(first.float_chunks, second.float_chunks)


def test_the_records_say_what_nothing_reads(checkpoint):
    calibration = run(checkpoint, 'w4a8')[2]
    unread = [record.name for record in calibration.layers if record.quality.quantized is None]
    last = 'language_model.layers.1.'
    assert unread and all(last in name for name in unread)
    assert all('k_proj' not in name and 'v_proj' not in name for name in unread)
    for record in calibration.layers:
        if record.quality.quantized is not None:
            assert record.quality.quantized > 0 and record.input_largest >= record.input_rms


def test_a_batch_gives_what_its_observations_give_alone(checkpoint, monkeypatch):
    together = run(checkpoint)[2]
    monkeypatch.setattr(samples, '_LARGEST_BATCH', 1)
    alone = run(checkpoint)[2]
    torch.testing.assert_close(together.float_chunks, alone.float_chunks, rtol=1e-4, atol=1e-5)


def test_too_few_observations_are_refused(checkpoint):
    with pytest.raises(CalibrationError, match=r'at least 16 observations.*found 15'):
        run(checkpoint, count=15)


def test_a_policy_that_returns_nan_is_refused(checkpoint, monkeypatch):
    load = load_model

    def damaged(*arguments, **settings):
        model = load(*arguments, **settings)
        model.action_out_proj.bias[0] = float('nan')
        return model

    monkeypatch.setitem(globals(), 'load_model', damaged)
    with pytest.raises(CalibrationError, match='finite actions'):
        run(checkpoint)


# The command


def command(checkpoint, bag, out, *more):
    return [
        'calibrate',
        *('--checkpoint', str(checkpoint), '--bag', str(bag), '--contract', str(CONTRACT)),
        *('--out', str(out), '--samples', '16', *more),
    ]


def test_the_command_turns_checkpoint_and_bag_into_an_artifact(checkpoint, bag, tmp_path, capsys):
    assert main(command(checkpoint, bag, tmp_path / 'policy')) == 0
    output = capsys.readouterr()
    assert 'artifact' in output.out and '20 layers' in output.out and output.err == ''
    policy = load_policy(tmp_path / 'policy')
    manifest = json.loads((tmp_path / 'policy' / 'manifest.json').read_text())
    assert policy.info.artifact_id == manifest['artifact_id']
    found = manifest['calibration']
    assert [entry['instruction'] for entry in found['observations']] == list(COMMANDS)
    assert sum(entry['used'] for entry in found['observations']) == 32
    assert found['samples'] == found['held_out'] == 16 and list(found['bags']) == ['bag']
    chunk = policy.infer(observations(1)[0], seed=1)
    assert chunk.shape == (4, len(contract().action.names))
    assert (chunk == policy.infer(observations(1)[0], seed=1)).all()


def test_the_same_call_gives_the_same_artifact(checkpoint, bag, tmp_path):
    identifiers = set()
    for name in ('first', 'second'):
        main(command(checkpoint, bag, tmp_path / name))
        identifiers.add(load_policy(tmp_path / name).info.artifact_id)
    assert len(identifiers) == 1


def test_too_short_a_bag_is_refused_with_the_counts(checkpoint, tmp_path, capsys):
    short = write_bag(tmp_path / 'short', frames=4)
    assert main(command(checkpoint, short, tmp_path / 'policy')) == 2
    error = capsys.readouterr().err
    assert f"found 8: 4 of episode short/0 ('{COMMANDS[0]}')" in error
    assert not (tmp_path / 'policy').exists()


def test_wrong_calls_are_refused_before_the_work(checkpoint, bag, tmp_path, capsys):
    (tmp_path / 'taken').mkdir()
    for out, more, message in [
        ('taken', (), 'exists already'),
        ('new', ('--samples', '3'), 'expected at least 16'),
        ('new', ('--recipe', 'w9'), 'expected one of'),
        ('new', ('--device', 'tpu:x'), 'expected cpu, cuda'),
        ('new', ('--seed', '-1'), '--seed'),
        ('new', ('--checkpoint', str(tmp_path)), 'config.json'),
        ('new', ('--bag', str(tmp_path / 'none')), 'none'),
    ]:
        assert main(command(checkpoint, bag, tmp_path / out, *more)) == 2
        error = capsys.readouterr().err
        assert message in error and 'Traceback' not in error
    assert sorted(file.name for file in tmp_path.iterdir()) == ['taken']


def test_a_checkpoint_for_another_robot_is_refused_with_the_difference(bag, tmp_path, capsys):
    checkpoint = write_checkpoint(tmp_path / 'checkpoint')
    config = read_config(checkpoint)
    config['input_features']['observation.images.left'] = config['input_features'].pop(
        'observation.images.wrist'
    )
    (checkpoint / 'config.json').write_text(json.dumps(config))
    assert main(command(checkpoint, bag, tmp_path / 'policy')) == 2
    assert "the policy wants slot 'observation.images.left'" in capsys.readouterr().err


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing(checkpoint, bag, tmp_path, number):
    # The signal comes from inside, at a known place: in the middle of the quantized runs.
    program = (
        'import signal, sys\n'
        # A job in the background inherits an ignored SIGINT.
        'signal.signal(signal.SIGINT, signal.default_int_handler)\n'
        'from quantvla_ros.quantization import calibrate\n'
        'from quantvla_ros.cli.main import main\n'
        'def interrupted(*arguments, **settings):\n'
        # To this very thread: another one might take it, and the handler would come later.
        f'    signal.raise_signal({int(number)})\n'
        'calibrate.match_head = interrupted\n'
        f'sys.exit(main({command(checkpoint, bag, tmp_path / "out" / "policy")!r}))\n'
    )
    result = subprocess.run(
        [sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )
    assert result.returncode == 130, result.stderr
    assert 'interrupted; nothing was written' in result.stderr
    assert not list(tmp_path.iterdir())


def test_progress_counts_every_stage_to_its_end(checkpoint):
    seen = {}

    def progress(stage, done, total):
        seen.setdefault(stage, []).append((done, total))

    run(checkpoint, progress=progress)
    assert tuple(seen) == STAGES
    for steps in seen.values():
        done = [step[0] for step in steps]
        assert done == sorted(done) and steps[-1][0] == steps[-1][1]


@pytest.mark.parametrize('terminal', [True, False])
def test_progress_is_one_line_on_a_terminal_and_nothing_elsewhere(terminal):
    stream = io.StringIO()
    stream.isatty = lambda: terminal
    with ProgressLine(('first', 'second'), stream) as progress:
        progress('first', 1, None)
        progress.note('something to know')
        progress('second', 4, 4)
    text = stream.getvalue()
    if not terminal:
        assert text == 'something to know\n'
        return
    assert '[1/2] first: 1' in text and '[2/2] second: 4 of 4, 0 s left' in text
    assert text.count('\n') == 1 and text.endswith('\r\x1b[K')  # the line is gone at the end


def test_instants_without_an_observation_are_told(checkpoint, tmp_path, capsys):
    bag = write_bag(tmp_path / 'bag', absent=('/wrist/image_raw', 5))
    assert main(command(checkpoint, bag, tmp_path / 'policy')) == 0
    error = capsys.readouterr().err
    assert 'bag: 55 observations; left out 5 times wrist' in error
