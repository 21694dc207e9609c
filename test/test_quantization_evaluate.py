# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""evaluate: open loop against recorded actions, closed loop paired between two policies."""
import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from quantization_samples import COMMANDS, contract, write_bag, write_checkpoint

from quantvla_ros.cli import evaluate_bags, evaluate_tabletop
from quantvla_ros.cli.evaluate_tabletop import Batch, Outcome, mcnemar, paired, wilson
from quantvla_ros.cli.main import main
from quantvla_ros.contract.load import load_contract
from quantvla_ros.sim.tabletop.expert import expert_chunk
from quantvla_ros.sim.tabletop.tasks import parse_task
from quantvla_ros.sim.tabletop.world import Tabletop

ROOT = Path(__file__).resolve().parents[1]
CONTRACT = ROOT / 'config' / 'contracts' / 'tabletop.yaml'


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp('checkpoint'))


@pytest.fixture(scope='module')
def artifact(checkpoint, bag, tmp_path_factory):
    out = tmp_path_factory.mktemp('artifact') / 'policy'
    arguments = ['calibrate', '--checkpoint', checkpoint, '--bag', bag, '--contract', CONTRACT]
    assert main([str(a) for a in (*arguments, '--out', out, '--samples', 16)]) == 0
    return out


@pytest.fixture(scope='module')
def bag(tmp_path_factory):
    return write_bag(tmp_path_factory.mktemp('bags') / 'bag')


# Open loop


def evaluate(*arguments):
    return main(['evaluate', '--contract', str(CONTRACT), *map(str, arguments)])


def test_float_and_quantized_are_compared_on_a_bag(checkpoint, artifact, bag, tmp_path, capsys):
    out = tmp_path / 'result.json'
    assert evaluate(
        '--policy', artifact, '--against', checkpoint, '--bag', bag, '--frames', 10, '--out', out
    ) == 0
    text = capsys.readouterr().out
    assert 'w8a8' in text and 'float32' in text and 'gripper' in text
    found = json.loads(out.read_text())['open_loop']
    assert found['names'] == list(contract().action.names) and found['observations'] == 10
    assert 0 < found['actions'] <= 40
    assert 0 < found['between']['relative'] < 0.05
    ours, theirs = found['rms_error']['w8a8'], found['rms_error']['float32 (against)']
    np.testing.assert_allclose(ours, theirs, rtol=0.05)
    # the arm of the bag moves a hundredth a period: holding it still is nearly right
    assert max(found['rms_error']['holding still']) < 0.1


def test_a_policy_that_repeats_the_recording_has_no_error(checkpoint, bag, monkeypatch):
    from quantvla_ros.observation.replay import replay

    robot = load_contract(CONTRACT)
    frames = replay(bag, robot)
    recorded = {f.observation.stamp: frames.recorded_chunk(f, 4) for f in frames}
    longer = 7  # rows that nothing was recorded for must not count

    def infer(observation, seed):
        chunk = recorded[observation.stamp]
        return np.concatenate([chunk, np.full((longer, chunk.shape[1]), 1e9)])[:4]

    info = SimpleNamespace(
        chunk_size=4, artifact_id='x', precision='exact', control_period=0.05,
        slots=tuple(camera.slot for camera in robot.cameras), state_names=None, state_size=5,
        action_names=None, action_size=5,
    )
    monkeypatch.setattr(
        'quantvla_ros.engine.policy.load_policy',
        lambda path, device: SimpleNamespace(info=info, infer=infer),
    )
    args = SimpleNamespace(
        policy=checkpoint, against=None, contract=CONTRACT, bag=[bag], frames=50, seed=0,
        namespace='', device='cpu',
    )
    found = evaluate_bags.evaluate(args).content['open_loop']
    assert found['rms_error']['exact'] == [0.0] * 5
    assert found['actions'] < 4 * 50  # the last frames of a command have fewer than four


def test_holding_still_goes_through_the_grippers_mapping():
    robot = contract()
    parts = list(robot.action.parts)
    parts[1] = dataclasses.replace(parts[1], model_range=(1.0, -1.0), joint_range=(0.0, 0.5))
    robot = dataclasses.replace(
        robot, action=dataclasses.replace(robot.action, parts=tuple(parts))
    )
    row = evaluate_bags.hold_row(robot, np.array([0.1, 0.2, 0.3, 0.4, 0.125], np.float32))
    np.testing.assert_allclose(row, [0.1, 0.2, 0.3, 0.4, 0.5], rtol=1e-6)


def test_a_bag_without_actions_is_refused(checkpoint, tmp_path, capsys):
    bag = write_bag(tmp_path / 'bag', frames=2, commands=COMMANDS[:1])
    other = tmp_path / 'contract.yaml'
    other.write_text(CONTRACT.read_text().replace('arm_controller/joint_trajectory', 'elsewhere'))
    assert main(['evaluate', '--policy', str(checkpoint), '--contract', str(other), '--bag',
                 str(bag)]) == 2
    assert '/elsewhere' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('more', 'message'),
    [
        (('--tabletop', '--seeds', 0), '--seeds: expected 1 or more'),
        (('--tabletop', '--delay', -1), '--delay: expected 0 or more'),
        (('--tabletop', '--delay', 3), 'expected chunks of at least 6 rows'),
        (('--tabletop', '--out', '/nowhere/there.json'), '--out'),
        (('--bag', '/nowhere'), 'nowhere'),
    ],
)
def test_wrong_calls_are_one_line(checkpoint, capsys, more, message):
    assert evaluate('--policy', checkpoint, *more) == 2
    error = capsys.readouterr().err
    assert message in error and error.count('\n') == 1


# Closed loop


@pytest.fixture
def expert(monkeypatch):
    """A policy that is the scripted expert, doing what it is told; gives the seeds of its calls."""
    worlds, called = [], []
    initialize = Tabletop.__init__

    def registered(self, *arguments, **settings):
        initialize(self, *arguments, **settings)
        worlds.append(self)

    def infer_many(observations, seeds):
        called.append(list(seeds))
        chunks = []
        for observation in observations:
            world = next(
                w for w in reversed(worlds)
                if np.allclose(w.joint_positions, observation.state, atol=1e-6)
                and w.render()['wrist'].tobytes()
                == observation.images['observation.images.wrist'].tobytes()
            )
            chunks.append(expert_chunk(world, parse_task(observation.instruction), 16))
        return np.stack(chunks)

    info = SimpleNamespace(execute_steps=8, chunk_size=16)
    policy = SimpleNamespace(info=info, infer_many=infer_many)
    monkeypatch.setattr(Tabletop, '__init__', registered)
    monkeypatch.setattr(evaluate_tabletop, '_load', lambda *a: (policy, load_contract(CONTRACT)))
    return called


def batch(**changes):
    settings = {
        'policy': Path('policy'), 'contract': CONTRACT, 'device': 'cpu', 'seeds': (3, 4, 5),
        'wrong_command': False, 'steps': 200, 'delay': 2, 'noise': 1, 'threads': None,
    }
    return Batch(**{**settings, **changes})


def test_the_expert_succeeds_and_fails_when_told_something_else(expert):
    told = evaluate_tabletop.run_batch(batch())
    assert [outcome.seed for outcome in told] == [3, 4, 5]
    assert all(outcome.success for outcome in told)
    assert len({outcome.instruction for outcome in told}) == 3
    wrong = evaluate_tabletop.run_batch(batch(wrong_command=True))
    assert not any(outcome.success for outcome in wrong)
    for a, b in zip(told, wrong, strict=True):
        assert a.kind == b.kind and a.instruction != b.instruction


def test_noise_belongs_to_a_world_and_an_inference(expert):
    # pairing: a world that another policy finishes sooner must not shift the noise of the rest
    evaluate_tabletop.run_batch(batch())
    assert {len(seeds) for seeds in expert} == {1, 2, 3}  # worlds end one after the other
    flat = [seed for seeds in expert for seed in seeds]
    assert len(set(flat)) == len(flat)
    alone = len(expert)
    evaluate_tabletop.run_batch(batch(seeds=(5,)))
    assert {seeds[0] for seeds in expert[alone:]} <= set(flat)
    assert expert[alone] == [expert[0][2]]


def test_the_number_of_processes_does_not_change_the_outcome(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate_tabletop, 'BATCH', 2)
    found = []
    for jobs in (1, 2):
        out = tmp_path / f'{jobs}.json'
        assert evaluate(
            '--policy', checkpoint, '--tabletop', '--seeds', 4, '--steps', 6, '--delay', 1,
            '--jobs', jobs, '--out', out,
        ) == 0
        found.append(json.loads(out.read_text())['tabletop'])
    assert found[0] == found[1]
    policy = found[0]['policies'][0]
    assert policy['success']['all']['of'] == policy['wrong_command']['all']['of'] == 4
    assert [episode['seed'] for episode in policy['episodes']] == [0, 1, 2, 3]


def test_two_policies_are_paired_scene_by_scene(checkpoint, artifact, tmp_path, capsys):
    out = tmp_path / 'result.json'
    assert evaluate(
        '--policy', artifact, '--against', checkpoint, '--tabletop', '--seeds', 3, '--steps', 4,
        '--delay', 1, '--no-control', '--out', out,
    ) == 0
    found = json.loads(out.read_text())['tabletop']
    assert found['paired'] == {'both': 0, 'neither': 3, 'repaired': 0, 'broken': 0, 'p': 1.0}
    assert [policy['precision'] for policy in found['policies']] == ['w8a8', 'float32']
    assert 'McNemar' in capsys.readouterr().out


def outcomes(successes):
    return [Outcome(i, 'pick', 'x', s, 10) for i, s in enumerate(successes)]


def test_repaired_and_broken_are_told_apart():
    first = outcomes([True, True, False, False, True])
    second = outcomes([True, False, True, False, False])
    assert paired(first, second) == {
        'both': 1, 'neither': 1, 'repaired': 2, 'broken': 1, 'p': 1.0,
    }


@pytest.mark.parametrize(
    ('repaired', 'broken', 'p'),
    # 2 * P(Binomial(n, 1/2) <= min), by hand
    [(0, 0, 1.0), (5, 5, 1.0), (0, 6, 2 / 64), (9, 1, 2 * 11 / 1024), (14, 13, 1.0)],
)
def test_mcnemars_exact_p(repaired, broken, p):
    assert mcnemar(repaired, broken) == pytest.approx(p)


@pytest.mark.parametrize(
    ('done', 'total', 'low', 'high'),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (190, 200, 0.9104, 0.9726)],
)
def test_wilsons_interval(done, total, low, high):
    assert wilson(done, total) == pytest.approx((low, high), abs=2e-4)


def test_success_is_told_by_kind_and_over_all():
    episodes = [Outcome(0, 'pick', '', True, 40), Outcome(1, 'pick', '', False, 200),
                Outcome(2, 'reach', '', True, 20)]
    table = evaluate_tabletop.success_table(episodes)
    assert list(table) == ['pick', 'reach', 'all']
    assert (table['pick']['done'], table['pick']['of'], table['pick']['mean_steps']) == (1, 2, 40)
    assert (table['all']['done'], table['all']['of'], table['all']['mean_steps']) == (2, 3, 30)
