# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`bench` runs what it says, counts what it says, and never shows a wrong result as a fast one."""
import argparse
import dataclasses
import json
import platform
import re
import shlex
import xml.etree.ElementTree as ElementTree
from functools import partial
from pathlib import Path

import artifact_samples
import pytest
import torch
from quantization_samples import ROOT, write_checkpoint
from torch.utils._python_dispatch import TorchDispatchMode

from quantvla_ros.bench import machine, systems
from quantvla_ros.bench.clock import Spread, device_times, warm
from quantvla_ros.bench.networks import make_network
from quantvla_ros.bench.roofline import Ceilings, Work, count_work
from quantvla_ros.bench.running import Plain, plain_parts
from quantvla_ros.bench.workload import Lengths, random_workload
from quantvla_ros.cli import bench as bench_command
from quantvla_ros.cli import tune as tune_command
from quantvla_ros.cli.main import main
from quantvla_ros.cli.random_checkpoint import TINY
from quantvla_ros.models import groot_n15
from quantvla_ros.models.network import act
from quantvla_ros.report.latency_plot import Latency, latency_plot

CPU = torch.device('cpu')
QUICK = ('--runs', '2', '--warm-up', '0', '--device', 'cpu')
SHORT = Lengths(views=1, prompt_tokens=30, chunk=4, steps=2)
SHORTER = ('--views', '1', '--prompt-tokens', '30', '--chunk', '4', '--steps', '2')


def workload(kind='pi05', lengths=SHORT):
    return random_workload(kind, TINY[kind], lengths)


def started(kind='pi05', precision='float32'):
    """A network, its inputs and noise."""
    work = workload(kind)
    network = make_network(work, precision, CPU)
    noise = torch.randn((1, *network.noise_shape), generator=torch.Generator().manual_seed(3))
    return network, work.processor.inputs(work.observation, CPU), noise


def bench(tmp_path, *arguments):
    """Exit status and what was written."""
    out = tmp_path / 'bench.json'
    status = main(['bench', *QUICK, '--out', str(out), *map(str, arguments)])
    return status, json.loads(out.read_text())


@pytest.mark.parametrize('kind', TINY)
def test_every_architecture_is_measured_in_float_and_integers(kind, tmp_path, capsys):
    status, found = bench(
        tmp_path, '--model', kind, '--size', 'tiny', '--precision', 'float32,bf16,w8a8',
        '--baseline-runs', 3, *SHORTER
    )
    assert status == 0
    lengths = {name: found['workload'][name] for name in dataclasses.asdict(SHORT)}
    assert lengths == dataclasses.asdict(SHORT)
    rows = [row for row in found['rows'] if 'left_out' not in row]
    assert {(row['precision'], row['system']) for row in rows} >= {
        ('float32', 'eager'), ('bf16', 'eager'), ('w8a8', 'eager')
    }
    for row in rows:
        assert row['right'] and row['finite']
        assert set(row['parts_ms']) == {'vision', 'prefix', 'head'} == set(row['least_parts_ms'])
        assert 0 < row['device_ms']['p50'] <= row['device_ms']['p99'] <= row['device_ms']['max']
        runs = 3 if row['system'] == 'eager' else 2
        assert len(row['device_ms_of_each_run']) == row['wall_ms']['runs'] == runs
    errors = {row['precision']: row['error']['first_velocity'] for row in rows}
    assert found['reference'] == 'float32'
    assert errors['float32'] < 1e-5 < errors['bf16'] < 0.05 and 1e-4 < errors['w8a8'] < 0.1
    text = capsys.readouterr().out
    assert 'w8a8 eager' in text and 'right' in text and 'WRONG' not in text
    engine = [row for row in found['rows'] if row['system'] == 'engine'][-1]
    # Values that lie between two integers may be rounded to one or the other.
    assert engine['from_plain']['first_velocity'] < 0.01
    assert abs(engine['error_beyond_plain']) < 0.02
    ElementTree.parse(tmp_path / 'bench.svg')


def test_baselines_run_in_the_precisions_that_are_asked_for(tmp_path, capsys):
    some = ('--size', 'tiny', '--precision', 'float32,w8a8', *SHORTER)
    _, found = bench(tmp_path, *some, '--baseline-precision', 'float32')
    ran = {(row['precision'], row['system']) for row in found['rows']}
    assert ran == {('float32', 'eager'), ('float32', 'engine'), ('w8a8', 'engine')}
    assert main(['bench', *QUICK, *some, '--baseline-precision', 'w4a8']) == 2
    assert 'expected any of float32, w8a8, found w4a8' in capsys.readouterr().err


def test_a_run_that_is_stopped_leaves_what_it_has_measured(tmp_path, monkeypatch):
    from quantvla_ros.bench import measure

    def stopped(work, precision, device):
        if precision == 'w8a8':
            raise KeyboardInterrupt
        return make_network(work, precision, device)

    monkeypatch.setattr(measure, 'make_network', stopped)
    out = tmp_path / 'bench.json'
    some = ('--size', 'tiny', '--precision', 'w8a8,float32', *SHORTER)
    try:
        status = main(['bench', *QUICK, *some, '--out', str(out)])
    except KeyboardInterrupt:
        status = 130
    assert status != 0
    found = json.loads(out.read_text())
    assert not found['complete']
    assert {row['precision'] for row in found['rows']} == {'float32'}
    assert all(row['right'] for row in found['rows'] if 'left_out' not in row)


class Shifted(Plain):
    """Fast and wrong."""

    def run(self):
        return super().run() + 0.5


class Broken(Plain):
    """No numbers."""

    def run(self):
        return super().run() * torch.nan


def failing(*given):
    raise RuntimeError('out of registers\nand a long trace')


@pytest.mark.parametrize(
    ('start', 'word', 'said'),
    [
        (partial(Shifted, wrap=lambda call: call), 'right', 'WRONG: float32 eager'),
        (partial(Broken, wrap=lambda call: call), 'right', 'actions are not numbers'),
        (failing, 'failed', 'FAILED: float32 eager: RuntimeError: out of registers'),
    ],
)
def test_what_is_wrong_or_fails_is_named_and_the_status_is_1(
    start, word, said, tmp_path, capsys, monkeypatch
):
    broken = dataclasses.replace(systems.SYSTEMS['eager'], start=start)
    monkeypatch.setattr(systems, 'SYSTEMS', {'eager': broken})
    status, found = bench(tmp_path, '--size', 'tiny', '--precision', 'float32', *SHORTER)
    assert status == 1
    assert found['rows'][0].get(word) in (False, 'RuntimeError: out of registers')
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (('--baselines', 'tensorrt'), 'expected any of eager, cudagraph, compile'),
        (('--baselines', 'cudagraph'), 'expected a GPU'),
        (('--precision', 'w3a8'), 'precision w3a8: expected float32, bf16 or a recipe'),
        (('--precision', 'w8a8,'), 'names with commas'),
        (('--prompt-tokens', '3'), 'expected at least'),
        (('--prompt-tokens', '0'), 'from 1 to 1000'),
        (('--runs', '0'), 'at least 1'),
        (('--baseline-runs', '0'), 'baseline-runs: expected at least 1'),
        (('--warm-up', '-1'), '0 to 600'),
        (('--model', 'no/such/directory'), 'config.json'),
        (('--model', 'gr00t_n1_5', '--chunk', '1000', '--steps', '1001'), 'steps'),
        (('--out', 'no/such/folder/bench.json'), 'existing folder'),
        (('--device', 'tpu'), 'device tpu'),
    ],
)
def test_a_call_that_cannot_be_is_one_line_before_anything_runs(arguments, said, capsys):
    assert main(['bench', '--size', 'tiny', *QUICK, *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and '\n' not in error


def test_a_recipe_that_needs_data_is_refused(tmp_path, capsys):
    text = (ROOT / 'config/recipes/w8a8.yaml').read_text()
    recipe = tmp_path / 'static.yaml'
    recipe.write_text(text.replace('scale: dynamic_per_token', 'scale: static_per_tensor'))
    assert main(['bench', '--size', 'tiny', *QUICK, '--precision', str(recipe)]) == 2
    assert 'which need data' in capsys.readouterr().err


def test_a_checkpoint_directory_is_measured_with_its_own_weights(tmp_path):
    checkpoint = write_checkpoint(tmp_path / 'checkpoint')
    status, found = bench(tmp_path, '--model', checkpoint, '--precision', 'float32,w8a8')
    assert status == 0
    assert found['workload']['weights'] == 'of the directory'
    assert (found['workload']['chunk'], found['workload']['steps']) == (4, 3)
    assert str(tmp_path) not in json.dumps(found)  # it is made to be passed on
    status, found = bench(
        tmp_path, '--model', checkpoint, '--precision', 'float32', '--chunk', 9, '--steps', 2
    )
    assert status == 0 and (found['workload']['chunk'], found['workload']['steps']) == (9, 2)


def test_an_artifact_is_measured_as_it_is(tmp_path, capsys):
    artifact = tmp_path / 'artifact'
    artifact_samples.write(artifact, write_checkpoint(tmp_path / 'checkpoint'), kind='w8a8')
    status, found = bench(tmp_path, '--model', artifact)
    assert status == 0
    assert {row['precision'] for row in found['rows']} == {'w8a8'}
    assert found['reference'] is None and found['workload']['integers'] == 'calibrated'
    for arguments in (('--precision', 'bf16'), ('--chunk', '3')):
        assert main(['bench', *QUICK, '--model', str(artifact), *arguments]) == 2
        assert 'float checkpoint' in capsys.readouterr().err


@pytest.mark.parametrize('kind', TINY)
@pytest.mark.parametrize('tokens', [30, 41, 48])
def test_the_prompt_has_exactly_the_tokens_that_were_asked_for(kind, tokens):
    work = workload(kind, dataclasses.replace(SHORT, prompt_tokens=tokens))
    inputs = work.processor.inputs(work.observation)
    if kind == 'gr00t_n1_5':
        count = int((inputs.input_ids != TINY[kind]['eagle']['image_token_index']).sum())
    else:
        count = inputs.tokens.shape[1]
    assert count == tokens == work.lengths.prompt_tokens


@pytest.mark.parametrize('kind', TINY)
def test_the_network_runs_the_chunk_and_the_steps_that_were_asked_for(kind):
    network, inputs, noise = started(kind)
    assert (network.noise_shape[0], network.denoising_steps) == (SHORT.chunk, SHORT.steps)
    seen = []
    with torch.no_grad():
        act(network, inputs, noise, lambda step, x, velocity: seen.append((step, x.shape[1])))
    assert seen == [(0, SHORT.chunk), (1, SHORT.chunk)]


@pytest.mark.parametrize('kind', TINY)
def test_weights_are_the_same_in_every_precision(kind):
    # Else the error of a precision would hold the error of the weights' own rounding.
    wide, narrow = (make_network(workload(kind), p, CPU) for p in ('float32', 'bf16'))
    for name, tensor in wide.state_dict().items():
        assert torch.equal(tensor, narrow.state_dict()[name].float()), name


@pytest.mark.parametrize('kind', TINY)
def test_inputs_at_fixed_addresses_are_replaced_by_the_next(kind):
    network, inputs, noise = started(kind)
    work = workload(kind)
    running = Plain(network, work, inputs, noise, wrap=lambda call: call)
    running.run()
    other = dataclasses.replace(
        work.observation,
        images={slot: 255 - image for slot, image in work.observation.images.items()},
    )
    given = work.processor.inputs(other, CPU)
    running.load(given, 2 * noise)
    with torch.no_grad():
        expected = act(network, given, 2 * noise)
    assert torch.equal(running.run(), expected)
    assert not torch.equal(expected, act(network, inputs, noise))


class ReadBacks(TorchDispatchMode):
    """What a CUDA graph cannot hold: numbers read back to the host, or made there."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        made = name.startswith('aten.lift_fresh') and args[0].dim() > 0
        if made or name.startswith(('aten._local_scalar_dense', 'aten.nonzero')):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize('kind', TINY)
def test_a_network_can_be_captured_in_a_cuda_graph(kind, monkeypatch):
    monkeypatch.setattr(groot_n15, '_is_captured', lambda x: True)
    network, inputs, noise = started(kind)
    running = Plain(network, workload(kind), inputs, noise, wrap=lambda call: call)
    running.run()  # prepares what depends on weights alone
    with ReadBacks() as seen:
        running.run()
    assert seen.found == []


def test_work_is_counted_as_the_formulas_have_it():
    network, inputs, noise = started()
    parts = plain_parts(network, inputs, noise)
    config = network.config
    stack, expert, vision = config.prefix, config.expert, config.vision
    tokens = vision.tokens + SHORT.prompt_tokens

    def attended(one, queries, keys):
        return 4 * queries * keys * one.heads * one.head_dim

    def weights(one):
        heads = (2 * one.heads + 2 * one.kv_heads) * one.head_dim
        return one.width * (heads + 3 * one.mlp)

    whole = stack.depth - 1  # the last layer runs to its keys and values
    last = stack.width * 2 * stack.kv_heads * stack.head_dim
    work = count_work(network, parts['prefix'])
    assert set(work.operations) == {'float32'}
    assert work.operations['float32'] == (
        whole * (2 * tokens * weights(stack) + attended(stack, tokens, tokens)) + 2 * tokens * last
    )
    assert work.weight_bytes == 4 * (whole * weights(stack) + last)
    head = count_work(network, parts['head'])
    in_out = 2 * expert.width * config.action_dim
    each = expert.depth * weights(expert) + in_out
    chunk, steps = SHORT.chunk, SHORT.steps
    mixed = expert.depth * attended(expert, chunk, tokens + chunk)
    assert head.operations['float32'] == steps * (2 * chunk * each + mixed)
    assert head.weight_bytes == 4 * steps * each


def test_integer_layers_count_as_integers_and_by_what_they_store():
    both = (started('pi05', precision) for precision in ('float32', 'w4a8'))
    float_work, work = (count_work(one[0], plain_parts(*one)['prefix']) for one in both)
    # What is in integers did the same work in float; attention itself stays float.
    assert sum(work.operations.values()) == pytest.approx(float_work.operations['float32'])
    assert work.operations['int8'] > 0.5 * float_work.operations['float32']
    assert work.weight_bytes < 0.2 * float_work.weight_bytes


def test_the_least_time_is_that_of_the_scarcer_of_products_and_memory():
    ceilings = Ceilings({'int8': 1e12, 'bfloat16': 5e11}, 1e9, {})
    assert ceilings.milliseconds(Work({'int8': 2e9, 'bfloat16': 1e9}, 1e6)) == pytest.approx(4.0)
    assert ceilings.milliseconds(Work({'int8': 2e9}, 1e7)) == pytest.approx(10.0)


def test_a_spread_is_of_the_times_themselves():
    spread = Spread.of([float(value) for value in range(1, 102)])
    assert (spread.p50, spread.p90, spread.p99, spread.max) == (51.0, 91.0, 100.0, 101.0)
    assert spread.runs == 101 and spread.mean == 51.0


def test_warming_runs_twice_and_timing_as_often_as_asked():
    calls, before = [], []
    warm(lambda: calls.append(0), CPU, 0.0)
    assert len(calls) == 2
    times = device_times(lambda: calls.append(1), CPU, 5, lambda: before.append(len(calls)))
    assert len(times) == 5 and len(calls) == 7 and before == [2, 3, 4, 5, 6]


def test_a_plot_shows_what_failed_and_escapes_names():
    svg = latency_plot(
        [Latency('a<b', 10.0, 11.0, 3.0), Latency('c', None, None, failed='no & graph')],
        'title', 'subtitle',
    )
    words = ' '.join(ElementTree.fromstring(svg).itertext())
    assert 'a<b' in words and 'not run: no & graph' in words and '10.0 ms' in words


@pytest.mark.parametrize(
    ('page', 'module'),
    [('bench.md', bench_command), ('jetson.md', bench_command), ('jetson.md', tune_command)],
)
def test_the_commands_of_the_documentation_are_those_of_the_program(page, module):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    text = (ROOT / 'docs' / page).read_text().replace('\\\n', ' ')
    name = module.__name__.rpartition('.')[2]
    calls = re.findall(rf'^ *python3? -m quantvla_ros {name} (.*)$', text, re.MULTILINE)
    assert calls
    for call in calls:
        parser.parse_args(shlex.split(call, comments=True))


def test_a_machine_is_described_without_its_name():
    about = machine.describe(CPU)
    assert about['device'] == 'cpu' and about['memory_gib'] > 0 and about['torch']
    assert platform.node() not in json.dumps(about)
    assert str(Path.home()) not in json.dumps(about)
    assert machine.memory(CPU)['host_peak'] > 2**20
