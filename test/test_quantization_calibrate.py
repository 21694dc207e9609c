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
from quantization_samples import COMMANDS, contract, observations, write_bag, write_checkpoint
from torch import nn

from quantvla_ros.cli.main import main
from quantvla_ros.cli.progress import ProgressLine
from quantvla_ros.engine.policy import load_policy
from quantvla_ros.errors import CalibrationError
from quantvla_ros.models import load_model
from quantvla_ros.models.checkpoint import read_config
from quantvla_ros.models.processor import Processor
from quantvla_ros.quantization.calibrate import STAGES, calibrate
from quantvla_ros.quantization.capture import observe_heads
from quantvla_ros.quantization.recipe import load_recipe, parse_recipe
from quantvla_ros.quantization.schemes import SCHEMES
from quantvla_ros.quantization.stored import stored_dtypes
from quantvla_ros.quantization.w8a8 import LinearW8A8

ROOT = Path(__file__).resolve().parents[1]
CONTRACT = ROOT / 'config' / 'contracts' / 'tabletop.yaml'


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp('checkpoint'))


@pytest.fixture(scope='module')
def bag(tmp_path_factory):
    return write_bag(tmp_path_factory.mktemp('bags') / 'bag')


class Shrinking(nn.Module):
    """A quantized layer that also loses a fifth of its output, as clipped activations do."""

    @classmethod
    def from_linear(cls, linear, scale_grid):
        layer = LinearW8A8.from_linear(linear, scale_grid)
        layer.weight_scale = layer.weight_scale * 0.8
        return layer


def run(checkpoint, recipe=None, **changes):
    model = load_model(checkpoint)
    processor = Processor.from_directory(checkpoint, read_config(checkpoint))
    recipe = dataclasses.replace(recipe or load_recipe('w8a8'), **changes)
    calibration = calibrate(
        model,
        processor,
        recipe,
        observations(16),
        observations(3, seed=9),
        dtypes=stored_dtypes(checkpoint),
        seed=0,
    )
    return model, processor, calibration


def statistics(model, processor, samples):
    with observe_heads([layer.attention for layer in model.head_layers()]) as found:
        for index, observation in enumerate(samples):
            inputs = processor.inputs(observation)
            noise = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(index))
            model.sample_actions(
                inputs.images, inputs.image_masks, inputs.tokens, inputs.token_mask, noise
            )
    return found


def test_corrections_bring_a_shrunken_policy_back(checkpoint, monkeypatch):
    monkeypatch.setitem(SCHEMES, 'w8a8', Shrinking)
    model, processor, calibration = run(checkpoint)
    alpha, beta = torch.tensor(calibration.alpha), torch.tensor(calibration.beta)
    assert (alpha > 1.03).any() and (beta > 1.03).any()
    assert calibration.corrected.rms < 0.98 * calibration.uncorrected.rms
    # the first layer's statistics depend on no other correction: they must match now
    samples = observations(16)
    teacher = statistics(load_model(checkpoint), processor, samples)
    student = statistics(model, processor, samples)
    unclipped = alpha[0] < 1.34
    ratio = student.spread()[0] / teacher.spread()[0]
    assert unclipped.any() and ((ratio[unclipped] - 1).abs() < 0.04).all()


def test_corrections_that_are_off_leave_the_head_alone(checkpoint, monkeypatch):
    monkeypatch.setitem(SCHEMES, 'w8a8', Shrinking)
    recipe = load_recipe('w8a8')
    off = dataclasses.replace(recipe.temperature, enabled=False)
    model, _, calibration = run(checkpoint, temperature=off, balance=off)
    assert set(calibration.beta) == {1.0}
    assert {value for row in calibration.alpha for value in row} == {1.0}
    assert calibration.corrected == calibration.uncorrected
    original = load_model(checkpoint)
    for quantized, attention in zip(
        [layer.attention for layer in model.head_layers()],
        [layer.attention for layer in original.head_layers()],
        strict=True,
    ):
        assert torch.equal(quantized.q_proj.weight, attention.q_proj.weight)


def test_a_faithful_policy_is_hardly_corrected_and_hardly_wrong(checkpoint):
    _, _, calibration = run(checkpoint)
    assert calibration.corrected.relative < 0.01
    assert calibration.uncorrected.rms > 0.0  # the quantized policy did run quantized
    assert len(calibration.layers) == 2 * 7 + 2 * 3


def test_folded_weights_are_rounded_as_they_are_stored(checkpoint, monkeypatch):
    # the reported error is that of the artifact, not of a better model in memory
    monkeypatch.setitem(SCHEMES, 'w8a8', Shrinking)
    model, _, calibration = run(checkpoint)
    assert calibration.beta[0] != 1.0
    weight = model.head_layers()[0].attention.o_proj.weight
    original = load_model(checkpoint).head_layers()[0].attention.o_proj.weight
    assert torch.equal(weight, (original.double() * calibration.beta[0]).float().bfloat16().float())


def test_the_same_seed_gives_the_same_result(checkpoint):
    assert run(checkpoint)[2] == run(checkpoint)[2]


def test_too_few_observations_are_refused(checkpoint):
    model = load_model(checkpoint)
    processor = Processor.from_directory(checkpoint, read_config(checkpoint))
    with pytest.raises(CalibrationError, match=r'at least 16 observations.*found 15'):
        calibrate(
            model, processor, load_recipe('w8a8'), observations(15), observations(1), dtypes={},
            seed=0,
        )


def test_a_policy_that_returns_nan_is_refused(checkpoint):
    model = load_model(checkpoint)
    model.action_out_proj.bias[0] = float('nan')
    processor = Processor.from_directory(checkpoint, read_config(checkpoint))
    with pytest.raises(CalibrationError, match='finite actions'):
        calibrate(
            model, processor, load_recipe('w8a8'), observations(16), observations(1), dtypes={},
            seed=0,
        )


# Recipes


def text(**changes):
    lines = (ROOT / 'config' / 'recipes' / 'w8a8.yaml').read_text()
    for old, new in changes.items():
        assert old in lines
        lines = lines.replace(old, new, 1)
    return lines


def test_the_shipped_recipe_is_the_papers_layout_with_both_corrections():
    recipe = load_recipe('w8a8')
    assert (recipe.scheme, recipe.layout.name) == ('w8a8', 'paper')
    for correction in (recipe.temperature, recipe.balance):
        assert (correction.enabled, correction.log_clip, correction.dead_band) == (True, 0.3, 0.03)


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ('scheme: w8a8', 'scheme: w4a8', r":4: scheme: expected .*w8a8, found .*'w4a8'"),
        ('layout: paper', 'layout: papre', "did you mean 'paper'"),
        ('samples: 128', 'sample: 128', "unknown key 'sample'.*did you mean 'samples'"),
        ('samples: 128', 'samples: 12.5', 'sampling.samples: expected a whole number'),
        ('minimum: 16', 'minimum: 500', 'sampling.minimum'),
        ('log_clip: 0.30', 'log_clip: 3.0', 'temperature.log_clip'),
        ('dead_band: 0.03', 'dead_band: 0.5', 'temperature.dead_band'),
        ('enabled: true', 'enabled: 1', 'temperature.enabled: expected true or false'),
        ('[1.0,', '[0.97,', 'scale_grid: expected a list of fractions with 1.0'),
        ('dynamic_per_token', 'static', 'activations.scale'),
        ('recipe: 1', 'recipe: 2', 'recipe: expected'),
        ('layout: paper', 'layout: paper\nlayout: full', 'second time'),
        ('std_ratio', 'least_squares', 'temperature.method'),
    ],
)
def test_a_fault_in_a_recipe_is_one_line_with_its_place(old, new, message):
    with pytest.raises(CalibrationError, match=message) as caught:
        parse_recipe(text(**{old: new}), name='mine', source='mine.yaml')
    assert str(caught.value).startswith('mine.yaml:') and '\n' not in str(caught.value)


def test_a_recipe_is_found_by_name_or_path(tmp_path):
    (tmp_path / 'mine.yaml').write_text(text())
    assert load_recipe(tmp_path / 'mine.yaml').name == 'mine'
    with pytest.raises(CalibrationError, match=r"expected one of .*w8a8.*did you mean 'w8a8'"):
        load_recipe('w8a')
    with pytest.raises(CalibrationError, match='found none'):
        load_recipe(tmp_path / 'other.yaml')


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
        'calibrate.balance = interrupted\n'
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

    model = load_model(checkpoint)
    processor = Processor.from_directory(checkpoint, read_config(checkpoint))
    calibrate(
        model, processor, load_recipe('w8a8'), observations(16), observations(2), dtypes={},
        seed=0, progress=progress,
    )
    assert tuple(seen) == STAGES
    for steps in seen.values():
        total = steps[0][1]
        assert steps == [(done, total) for done in range(1, total + 1)]


def test_float_and_quantized_policy_see_the_same_noise(checkpoint, monkeypatch):
    # else the noise, not the quantization, would make the ratio
    from quantvla_ros.models.pi05 import PI05

    seen = []
    sample = PI05.sample_actions

    def recorded(self, images, image_masks, tokens, token_mask, noise):
        seen.append((tokens.tolist(), noise.flatten().tolist()))
        return sample(self, images, image_masks, tokens, token_mask, noise)

    monkeypatch.setattr(PI05, 'sample_actions', recorded)
    run(checkpoint)
    float_runs, quantized_runs, corrected_runs = seen[:19], seen[19:38], seen[38:]
    assert float_runs == quantized_runs
    assert corrected_runs == float_runs[16:]
    assert len({tuple(noise) for _, noise in float_runs}) == 19


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
