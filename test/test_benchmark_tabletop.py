# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The published ablation's own code: its bags, its pieces, and its table."""
import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from quantization_samples import write_bag, write_checkpoint

from quantvla_ros.cli.main import main
from quantvla_ros.contract.load import load_contract
from quantvla_ros.observation.replay import replay
from quantvla_ros.sim.tabletop import Tabletop, TaskKind, parse_task

ROOT = Path(__file__).resolve().parents[1]
CONTRACT = ROOT / 'config' / 'contracts' / 'tabletop.yaml'


@pytest.fixture(scope='module', autouse=True)
def benchmarks():
    sys.path.insert(0, str(ROOT / 'benchmarks'))
    yield
    sys.path.remove(str(ROOT / 'benchmarks'))


# Bags


@pytest.fixture(scope='module')
def bag(tmp_path_factory, benchmarks):
    out = tmp_path_factory.mktemp('bags') / 'bag'
    importlib.import_module('tabletop_bags').write_bag(out, 3, 100000)
    return out


def test_a_bag_holds_the_experts_episodes_as_the_contract_names_them(bag):
    robot = load_contract(CONTRACT)
    with replay(bag, robot, need_actions=True) as frames:
        found = list(frames)
        assert frames.refused == {} and frames.health.whole and not frames.dropped()
        episodes = sorted({frame.episode for frame in found})
        kinds = [
            parse_task(next(f for f in found if f.episode == e).observation.instruction).kind
            for e in episodes
        ]
        assert kinds == list(TaskKind)
        # the first picture shows the scene of the seed, with the wrist's of the same instant
        world = Tabletop(100000)
        first = found[0].observation
        for camera in robot.cameras:
            np.testing.assert_array_equal(first.images[camera.slot], world.render()[camera.name])
        np.testing.assert_allclose(first.state, world.joint_positions, atol=1e-6)
        # what is recorded as commanded is where the arm then goes
        later = [f for f in found if f.episode == episodes[0]][:17]
        chunk = frames.recorded_chunk(later[0], 16)
        reached = np.stack([f.observation.state for f in later[1:]])
        assert np.abs(chunk[:4] - reached[:4]).max() < 0.02 and np.ptp(reached, axis=0).max() > 0.1


def test_the_same_seeds_give_the_same_messages_and_others_do_not(bag, tmp_path):
    tabletop_bags = importlib.import_module('tabletop_bags')
    states = []
    for name, seed in (('same', 100000), ('other', 200000)):
        tabletop_bags.write_bag(tmp_path / name, 3, seed)
    for path in (bag, tmp_path / 'same', tmp_path / 'other'):
        with replay(path, load_contract(CONTRACT)) as frames:
            states.append(np.stack([f.observation.state for f in list(frames)[:20]]))
    np.testing.assert_array_equal(states[0], states[1])
    assert np.abs(states[0] - states[2]).max() > 0.1


def test_a_bag_is_never_replaced(bag, capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['tabletop_bags', '--out', str(bag)])
    assert importlib.import_module('tabletop_bags').main() == 2
    assert 'expected a new folder' in capsys.readouterr().err


# Ablation


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    return (
        write_checkpoint(folder / 'policy'),
        write_bag(folder / 'seen', frames=20),
        write_bag(folder / 'unseen', frames=10, seed=1),
    )


@pytest.fixture
def ablation(data, tmp_path, monkeypatch):
    """Runs a stage in this process; counts the package's commands and the batches."""
    module = importlib.import_module('ablation')
    from quantvla_ros.cli import evaluate_tabletop

    calls = []

    def command(work, what, *arguments):
        calls.append(what)
        assert main([str(argument) for argument in arguments]) == 0

    run_batch = evaluate_tabletop.run_batch

    def batch(given):
        calls.append(given.policy.name)
        return run_batch(given)

    monkeypatch.setattr(module.Work, 'run', command)
    # signal handlers are set in the main thread only
    monkeypatch.setattr(module, '_all', lambda one, items, jobs, what: [one(i) for i in items])
    monkeypatch.setattr(evaluate_tabletop, 'run_batch', batch)
    out = tmp_path / 'result.json'

    def run(stage='all', seeds=2):
        calls.clear()
        monkeypatch.setattr(sys, 'argv', [
            'ablation.py', '--checkpoint', str(data[0]), '--bag', str(data[1]), '--held-out-bag',
            str(data[2]), '--recipes', 'w8a8', '--samples', '16', '--frames', '6', '--seeds',
            str(seeds), '--steps', '3', '--delay', '1', '--stage', stage, '--work',
            str(tmp_path / 'work'), '--out', str(out), '--report', str(tmp_path / 'page.html'),
        ])
        assert module.main() == 0
        return list(calls), json.loads(out.read_text())

    return run


def test_every_piece_is_made_once(ablation, tmp_path, capsys):
    calls, found = ablation('calibrate')
    kinds = ('none', 'ATM', 'OHB', 'both')
    assert sorted(calls) == sorted(f'calibrate.w8a8-{kind.lower()}' for kind in kinds)
    assert [cell['corrections'] for cell in found['cells']] == list(kinds)
    assert found['cells'][0]['open'] is None and found['float'] is None

    calls, found = ablation()
    assert calls[0] == 'open.w8a8' and len(calls) > 2
    for cell in found['cells']:
        assert 0 < cell['open']['relative'] < 0.1 and cell['closed']['of'] == 2
        assert cell['closed']['against_float']['neither'] == 2
    assert found['cells'][0]['open']['ratio_to_none'] == 1.0
    assert found['chance']['against_float'] is not None and set(found['about']) == {
        'calibrate', 'open', 'closed'
    }
    page = (tmp_path / 'page.html').read_text()
    assert all(f'w8a8-{kind.lower()}' in page for kind in kinds)
    table = capsys.readouterr().out
    assert table.count('`w8a8`') >= 4 and 'float, other noise' in table

    assert ablation() == ([], found)  # nothing is left to do

    # a line that the end of a process cut off is run again, and no other
    lines = tmp_path / 'work' / 'closed' / 'float.jsonl'
    lines.write_text(lines.read_text()[:-20])
    calls, again = ablation()
    assert calls == ['policy'] and again['cells'] == found['cells']


def test_another_recipe_makes_its_artifacts_anew(ablation, monkeypatch):
    module = importlib.import_module('ablation')
    for name in ('ablation', 'ablation_work', 'ablation_results'):
        part = importlib.import_module(name)
        monkeypatch.setattr(part, 'CORRECTIONS', {'none': (False, False)})
    ablation('calibrate')
    recipe = module.Work.recipe

    def changed(work, name):
        content = recipe(work, name)
        content['temperature']['log_clip'] = 0.25
        return content

    monkeypatch.setattr(module.Work, 'recipe', changed)
    calls, _ = ablation('calibrate')
    assert calls == ['calibrate.w8a8-none']


def test_the_closed_loop_needs_no_rosbags(data, tmp_path):
    # a machine lent for its cores has no bags and no library for them
    code = (
        "import sys; sys.modules['rosbags'] = None; sys.path.insert(0, 'benchmarks'); "
        "sys.argv[0] = 'ablation.py'; import ablation; sys.exit(ablation.main())"
    )
    done = subprocess.run(
        [sys.executable, '-c', code, '--checkpoint', str(data[0]), '--stage', 'closed', '--recipes',
         'w8a8', '--seeds', '1', '--steps', '2', '--delay', '1', '--work', str(tmp_path / 'work')],
        cwd=ROOT, capture_output=True, text=True,
    )
    assert done.returncode == 0, done.stderr
    assert '| float |' in done.stdout


def test_corrections_are_counted_whatever_they_are():
    corrected = importlib.import_module('ablation_results').corrected
    assert corrected({'alpha': [[1.0, 0.9], [1.1, 1.0]], 'beta': [1.0], 'interface': None}) == {
        'alpha': (2, 4), 'beta': (0, 1),
    }
