# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""evaluate: open loop against recorded actions, closed loop paired between policies."""
import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from quantization_samples import COMMANDS, contract, observations, write_bag, write_checkpoint

from quantvla_ros.cli import evaluate_bags, evaluate_tabletop
from quantvla_ros.cli.evaluate_tabletop import Batch, Outcome
from quantvla_ros.cli.evaluation import labels
from quantvla_ros.cli.main import main
from quantvla_ros.contract.load import load_contract
from quantvla_ros.engine.policy import load_policy
from quantvla_ros.engine.running import Running
from quantvla_ros.engine.trace import Trace, trace
from quantvla_ros.observation.replay import replay
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


@pytest.fixture(scope='module')
def held_out(tmp_path_factory):
    return write_bag(tmp_path_factory.mktemp('bags') / 'held_out', seed=1)


# Open loop


def evaluate(*arguments):
    return main(['evaluate', '--contract', str(CONTRACT), *map(str, arguments)])


def test_float_and_quantized_are_compared_on_a_bag(
    checkpoint, artifact, held_out, tmp_path, capsys
):
    out = tmp_path / 'result.json'
    assert evaluate(
        '--policy', artifact, '--against', checkpoint, '--bag', held_out, '--frames', 10,
        '--json', out,
    ) == 0
    text = capsys.readouterr().out
    found = json.loads(out.read_text())['open_loop']
    ours, theirs = found['policies']
    assert (ours['precision'], theirs['precision']) == ('w8a8', 'float32')
    assert ours['label'] in text and theirs['label'] == found['against']
    assert found['names'] == list(contract().action.names) and found['observations'] == 10
    assert 0 < found['actions'] <= 40
    np.testing.assert_allclose(ours['rms_error'], theirs['rms_error'], rtol=0.05)
    # the arm of the bag moves a hundredth a period: holding it still is nearly right
    assert max(found['holding_still']['rms_error']) < 0.1
    (comparison,) = found['comparisons']
    assert 0 < comparison['relative'] < 0.05 and comparison['cosine'] > 0.99
    assert [joint['name'] for joint in comparison['joints']] == found['names']
    assert [step['step'] for step in comparison['steps']] == [1, 2, 3]
    assert comparison['steps'][-1]['relative'] == pytest.approx(comparison['relative'])
    (gripper,) = comparison['grippers']
    assert (gripper['name'], gripper['threshold'], gripper['of']) == ('gripper', 0.5, 40)
    worst = comparison['worst_frames'][0]
    assert worst['error'] == comparison['frame_error']['largest'] >= comparison['relative']
    assert worst['instruction'] in COMMANDS and worst['episode'] in text


def test_many_policies_are_held_against_one_run_of_it(checkpoint, artifact, held_out, tmp_path):
    # one call for an ablation; processes must not change a number
    copy = shutil.copytree(artifact, tmp_path / 'copy')
    found = []
    for jobs in (1, 2):
        out = tmp_path / f'{jobs}.json'
        assert evaluate(
            '--policy', artifact, copy, checkpoint, '--against', checkpoint, '--bag', held_out,
            '--frames', 20, '--jobs', jobs, '--json', out,
        ) == 0
        found.append(json.loads(out.read_text())['open_loop'])
    first, second = found[0]['comparisons']
    assert found[0] == found[1]
    assert first['relative'] == second['relative'] and first['policy'] != second['policy']
    assert len(found[0]['policies']) == 3


def test_bags_of_the_calibration_are_refused(checkpoint, artifact, bag, tmp_path, capsys):
    # under another name too: what was seen is known by its content
    copy = shutil.copytree(bag, tmp_path / 'another_day')
    call = ('--policy', checkpoint, artifact, '--bag', copy, '--frames', 2)
    assert evaluate(*call) == 2
    error = capsys.readouterr().err
    assert str(artifact) in error and '--allow-seen' in error and error.count('\n') == 1
    out = tmp_path / 'result.json'
    assert evaluate(*call, '--allow-seen', '--json', out) == 0
    assert 'WARNING' in capsys.readouterr().err
    policies = json.loads(out.read_text())['open_loop']['policies']
    assert [policy['calibrated_on'] for policy in policies] == [[], [str(copy)]]


class Known:
    """A policy that gives what `chunk` makes of an observation, in place of a network."""

    def __init__(self, monkeypatch, robot, chunk):
        self.info = SimpleNamespace(
            chunk_size=4, artifact_id='x', precision='exact', control_period=0.05,
            slots=tuple(camera.slot for camera in robot.cameras), state_names=None, state_size=5,
            action_names=None, action_size=5, weight_bytes=0, float_bytes=0,
        )
        self.running, self.runner = Running('plain', 'cpu'), SimpleNamespace(check=lambda: None)
        self.chunk = chunk
        monkeypatch.setattr('quantvla_ros.engine.policy.load_policy', lambda path, **_: self)
        monkeypatch.setattr('quantvla_ros.engine.trace.trace', self.trace)

    def trace(self, policy, observation, *, seed):
        chunk = self.chunk(observation)
        return Trace(chunk, np.stack([np.zeros_like(chunk), chunk]))


def test_a_policy_that_repeats_the_recording_has_no_error(checkpoint, bag, tmp_path, monkeypatch):
    robot = load_contract(CONTRACT)
    frames = replay(bag, robot)
    recorded = {f.observation.stamp: frames.recorded_chunk(f, 4) for f in frames}
    longer = 7  # rows that nothing was recorded for must not count

    def chunk(observation):
        known = recorded[observation.stamp]
        return np.concatenate([known, np.full((longer, known.shape[1]), 1e9)])[:4]

    Known(monkeypatch, robot, chunk)
    out = tmp_path / 'result.json'
    assert evaluate('--policy', checkpoint, '--bag', bag, '--frames', 50, '--json', out) == 0
    found = json.loads(out.read_text())['open_loop']
    assert found['policies'][0]['rms_error'] == [0.0] * 5 and found['comparisons'] == []
    assert found['actions'] < 4 * 50  # the last frames of a command have fewer than four


def test_a_policy_that_gives_nan_is_named(checkpoint, bag, monkeypatch, capsys):
    Known(monkeypatch, load_contract(CONTRACT), lambda o: np.full((4, 5), np.nan, np.float32))
    assert evaluate('--policy', checkpoint, '--bag', bag, '--frames', 2) == 2
    assert f'{checkpoint}: expected numbers' in capsys.readouterr().err


def test_a_trace_ends_where_inference_does(checkpoint):
    policy = load_policy(checkpoint)
    observation = observations(1)[0]
    made = trace(policy, observation, seed=3)
    assert made.states.shape == (4, 4, 5)
    np.testing.assert_array_equal(made.actions, policy.infer(observation, seed=3))
    np.testing.assert_array_equal(made.states[0], policy.noise(3)[0, :, :5])
    restored = policy.processor.action.restore(made.states[-1])
    np.testing.assert_array_equal(restored, made.actions)


def test_policies_are_named_by_the_end_of_their_paths(tmp_path):
    paths = [tmp_path / name for name in ('a/policy', 'b/policy', 'c')]
    assert labels(paths) == ['a/policy', 'b/policy', 'c']


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
        (('--tabletop', '--json', '/nowhere/there.json'), '--json'),
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


def test_another_seed_is_other_noise(expert, checkpoint):
    # torch's generator takes 32 bits: what lies above them is the same noise again
    policy = load_policy(checkpoint)
    for noise in (0, 1):
        evaluate_tabletop.run_batch(batch(seeds=(3,), noise=noise, steps=1))
    (first,), (second,) = expert
    assert not np.array_equal(policy.noise(first), policy.noise(second))


def test_the_number_of_processes_does_not_change_the_outcome(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate_tabletop, 'BATCH', 2)
    found = []
    for jobs in (1, 2):
        out = tmp_path / f'{jobs}.json'
        assert evaluate(
            '--policy', checkpoint, '--tabletop', '--seeds', 4, '--steps', 6, '--delay', 1,
            '--jobs', jobs, '--json', out,
        ) == 0
        found.append(json.loads(out.read_text())['tabletop'])
    assert found[0] == found[1]
    policy = found[0]['policies'][0]
    assert policy['success']['all']['of'] == policy['wrong_command']['all']['of'] == 4
    assert policy['failures'] == [0, 1, 2, 3]


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
@pytest.mark.parametrize('where', [('--tabletop', '--seeds', 1, '--steps', 2), ('--bag',)])
def test_a_fallback_is_refused_or_said(checkpoint, bag, tmp_path, capsys, where):
    call = ['--policy', checkpoint, *where, *([bag, '--frames', 2] if '--bag' in where else [])]
    assert evaluate(*call, '--device', 'cuda') == 2
    assert 'expected an NVIDIA GPU' in capsys.readouterr().err
    out = tmp_path / 'result.json'
    assert evaluate(*call, '--device', 'cuda', '--allow-fallback', '--json', out) == 0
    said = 'plain on cpu instead of graph on cuda'
    assert capsys.readouterr().err.count(f'WARNING: {checkpoint}: {said}') == 1
    found = json.loads(out.read_text())
    (policy,) = found['tabletop' if '--tabletop' in where else 'open_loop']['policies']
    assert policy['engine'] == 'plain' and policy['fallback'].startswith(said)


def test_policies_are_paired_scene_by_scene(monkeypatch, tmp_path, capsys):
    done = {'a': {0, 1}, 'b': {0, 1, 2, 3}, 'float': {0, 2, 3}}
    info = SimpleNamespace(
        execute_steps=8, chunk_size=16, artifact_id='x', precision='x', weight_bytes=2**20
    )
    monkeypatch.setattr(
        evaluate_tabletop, '_load',
        lambda *a: (
            SimpleNamespace(info=info, running=Running('plain', 'cpu', 'all by hand')),
            load_contract(CONTRACT),
        ),
    )
    monkeypatch.setattr(
        evaluate_tabletop, 'run_batch',
        lambda batch: [
            Outcome(seed, 'pick', '', seed in done[batch.policy.name], 10) for seed in batch.seeds
        ],
    )
    out = tmp_path / 'result.json'
    assert evaluate(
        '--policy', tmp_path / 'a', tmp_path / 'b', '--against', tmp_path / 'float', '--tabletop',
        '--seeds', 5, '--no-control', '--json', out,
    ) == 0
    found = json.loads(out.read_text())['tabletop']
    assert found['against'] == 'float'
    assert [policy['failures'] for policy in found['policies']] == [[2, 3, 4], [4], [1, 4]]
    a, b = found['comparisons']
    assert (a['both'], a['only_first'], a['only_second'], a['neither']) == (1, 1, 2, 1)
    assert (a['seeds_only_first'], a['seeds_only_second']) == ([1], [2, 3])
    assert (a['later'], a['later_95']) == (0.0, None)
    assert (b['both'], b['only_first'], b['only_second'], b['neither']) == (3, 1, 0, 1)
    said = capsys.readouterr()
    assert 'McNemar' in said.out and said.err.count('all by hand') == 3


def test_success_is_told_by_kind_and_over_all():
    episodes = [Outcome(0, 'pick', '', True, 40), Outcome(1, 'pick', '', False, 200),
                Outcome(2, 'reach', '', True, 20)]
    table = evaluate_tabletop.success_table(episodes)
    assert list(table) == ['pick', 'reach', 'all']
    assert (table['pick']['done'], table['pick']['of'], table['pick']['mean_steps']) == (1, 2, 40)
    assert (table['all']['done'], table['all']['of'], table['all']['mean_steps']) == (2, 3, 30)
