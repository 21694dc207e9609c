# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`benchmarks/ready.py` starts what it says, accounts for the time, and sees what is made later."""
import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device('cpu')


@pytest.fixture(scope='module')
def ready():
    sys.path.insert(0, str(ROOT / 'benchmarks'))
    yield importlib.import_module('ready')
    sys.path.remove(str(ROOT / 'benchmarks'))


def call(*words):
    command = [sys.executable, str(ROOT / 'benchmarks/ready.py'), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize(
    ('model', 'tokens', 'precisions'), [('pi05', 40, 'float32,w8a8'), ('gr00t_n1_5', 60, 'w4a8')]
)
def test_policies_start_from_their_directories_and_the_time_is_accounted_for(
    tmp_path, model, tokens, precisions
):
    out, folder = tmp_path / 'ready.json', tmp_path / 'policies'
    chunk = () if model == 'gr00t_n1_5' else ('--chunk', 4)
    done = call(
        '--model', model, '--size', 'tiny', '--device', 'cpu', '--views', 2, '--prompt-tokens',
        tokens, *chunk, '--precision', precisions, '--lengths', 'one', '--runs', 1, '--folder',
        folder, '--out', out,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert report['workload']['prompt_tokens'] == tokens
    assert [row['precision'] for row in report['rows']] == precisions.split(',')
    for row in report['rows']:
        assert sum(row['stages'].values()) == pytest.approx(row['seconds'])
        assert all(seconds > -1e-6 for seconds in row['stages'].values())
        assert {'load', 'pack', 'capture', 'warm-up'} <= row['stages'].keys()
        assert str(tokens) in row['prepared'] and '2 pictures' in row['prepared']
        assert row['artifact'].startswith('float:') == (row['precision'] == 'float32')
        assert row['host_bytes']['peak'] >= row['host_bytes']['own'] > 0
        assert row['inference_ms']['runs'] == row['inferences']['count'] == 20
        # What needs a GPU is named, not made up.
        assert set(row['left_out']) == {'gpu_bytes', 'compiled', 'allocated', 'pinned'}
        assert row['makes_nothing'] is None and not row['inferences']['made']
        assert 'gpu_bytes' not in row and row['tuned'] == []
    assert {path.name for path in folder.iterdir()} == {
        'checkpoint', 'of.json', *(one for one in precisions.split(',') if one != 'float32')
    }
    # What is kept is not taken for something else.
    other = call(
        '--model', model, '--size', 'tiny', '--device', 'cpu', '--views', 1, '--precision',
        'float32', '--folder', folder, '--out', out,
    )  # fmt: skip
    assert other.returncode != 0 and 'name another one' in other.stderr


def test_what_inferences_make_is_seen(ready, monkeypatch):
    counts = {'allocation.all.allocated': 5, 'segment.all.allocated': 2}
    pinned = {'num_host_alloc': 1}
    knobs = SimpleNamespace(compilation=SimpleNamespace(listener=None))
    monkeypatch.setitem(sys.modules, 'triton', SimpleNamespace(knobs=knobs))
    monkeypatch.setattr(torch.cuda, 'memory_stats', lambda device: dict(counts))
    monkeypatch.setattr(torch.cuda, 'host_memory_stats', lambda: dict(pinned))
    made = ready.Made(torch.device('cuda', 0))
    knobs.compilation.listener(src=None, cache_hit=False)  # before: not counted below
    nothing = made.during(lambda: None)
    assert set(nothing) == {
        'compiled', 'from_cache', 'allocations', 'segments', 'pinned_blocks'
    } and not any(nothing.values())

    def infer() -> None:
        knobs.compilation.listener(src=None, metadata={}, cache_hit=True)
        counts['allocation.all.allocated'] += 3
        pinned['num_host_alloc'] += 1

    assert made.during(infer) == {
        'compiled': 0, 'from_cache': 1, 'allocations': 3, 'segments': 0, 'pinned_blocks': 1,
    }  # fmt: skip
    assert made.kernels() == {'compiled': 1, 'from_cache': 1}


@pytest.mark.parametrize(
    ('made', 'tuned', 'fine'), [(0, [], True), (1, [], False), (0, ['tile_search'], False)]
)
def test_a_row_says_whether_anything_was_made_and_counts_the_last_start(
    ready, monkeypatch, made, tuned, fine
):
    seconds, used = iter([9.0, 4.0]), iter([100, 100])

    def child(args, role, directory, **changes):
        assert (role, directory.name, changes['lengths']) == ('start', 'w8a8', '48')
        return {
            'seconds': next(seconds), 'stages': {'load': 1.0}, 'tuned': tuned,
            'kernels': {'compiled': 0, 'from_cache': 7},
            'host_bytes': {'peak': 2**30, 'own': 2**29},
            'gpu_bytes': {
                'smi_whole': 5 * 2**30 + 100, 'allocated': 2**30, 'reserved_peak': 2**30,
            },
            'first_observation': {'allocations': 2, 'segments': 0},
            'inferences': {'count': 20, 'made': {'allocations': made, 'compiled': 0}},
            'inference_ms': {'p50': 12.0},
        }  # fmt: skip

    monkeypatch.setattr(ready, 'child', child)
    monkeypatch.setattr(ready, 'whole_gpu', lambda name: {'smi_whole': next(used)})
    known = {'gpu': 'GPU-1', 'one': [48]}
    row = ready.measure(SimpleNamespace(runs=2), Path('.'), known, 'w8a8', 'one')
    assert row['makes_nothing'] is fine
    assert (row['seconds'], row['seconds_of_each_run']) == (4.0, [9.0, 4.0])
    assert row['gpu_bytes']['process'] == 5 * 2**30
    said = ready.text(row)
    assert '9.0 then 4.0 s' in said and '5.00 GiB of the process' in said
    assert ('20 inferences make nothing' in said) == (made == 0)
    assert ('TUNED' in said) == bool(tuned)


@pytest.mark.parametrize(
    'words', [('--lengths', 'few'), ('--runs', 0), ('--model', 'gr00t_n1_5', '--chunk', 8)]
)
def test_a_wrong_call_is_refused(tmp_path, words):
    done = call('--device', 'cpu', '--out', tmp_path / 'out.json', *words)
    assert done.returncode == 2 and 'expected' in done.stderr
