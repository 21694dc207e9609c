# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""GR00T N1.5 from bags to an artifact and its error, through the commands: random small weights."""
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from groot_samples import runnable_config
from quantization_samples import COMMANDS, contract, observations, write_bag

from quantvla_ros.cli.main import main
from quantvla_ros.contract.load import load_contract
from quantvla_ros.engine.policy import load_policy
from quantvla_ros.models import export, groot_export
from quantvla_ros.observation.replay import replay

ROOT = Path(__file__).resolve().parents[1]
CONTRACTS = ROOT / 'config' / 'contracts'
BAGS = ROOT.parent / 'shared' / 'bags'
needs_bags = pytest.mark.skipif(not BAGS.exists(), reason='recorded bags not at hand')


def write_checkpoint(directory, robot):
    """A tiny GR00T for a contract."""
    generator = np.random.default_rng(0)
    state, action = (
        export.statistics(generator.uniform(-1, 1, (50, len(names))))
        for names in (robot.state_names, robot.action.names)
    )
    features = export.Features(
        tuple(camera.slot for camera in robot.cameras),
        state,
        action,
        robot.action.names,
        state_names=robot.state_names,
        control_period=robot.control_period,
    )
    config = runnable_config()
    words = ' '.join(COMMANDS).split()
    weights = export.random_weights(config, 0)
    groot_export.write_checkpoint(directory, config, weights, features, words)
    return directory


def run(command, robot, **options):
    arguments = [command, '--contract', str(CONTRACTS / f'{robot}.yaml')]
    for name, value in options.items():
        arguments += [f'--{name.replace("_", "-")}', *map(str, np.atleast_1d(value))]
    assert main(arguments) == 0


@pytest.fixture(scope='module')
def places(tmp_path_factory):
    """A checkpoint, two bags and an artifact of the built-in arm."""
    place = tmp_path_factory.mktemp('chain')
    write_checkpoint(place / 'checkpoint', contract())
    write_bag(place / 'bag')
    write_bag(place / 'held_out', seed=1)
    run(
        'calibrate', 'tabletop', checkpoint=place / 'checkpoint', bag=place / 'bag',
        out=place / 'artifact', samples=16, recipe='w8a8',
    )
    return place


def test_an_artifact_holds_all_that_the_policy_needs(places, tmp_path):
    moved = shutil.copytree(places / 'artifact', tmp_path / 'elsewhere')
    quantized, whole = load_policy(moved), load_policy(places / 'checkpoint')
    assert quantized.info.model == 'gr00t_n1_5' and quantized.info.precision == 'w8a8'
    assert quantized.info.state_names == whole.info.state_names == contract().state_names
    for seen in observations(2):
        ours, theirs = quantized.infer(seen, seed=3), whole.infer(seen, seed=3)
        error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
        assert 0 < error < 0.05


def test_its_error_is_measured_on_a_bag(places):
    out = places / 'evaluation.json'
    run(
        'evaluate', 'tabletop', policy=[places / 'checkpoint', places / 'artifact'],
        against=places / 'checkpoint', bag=places / 'held_out', frames=6, json=out,
    )
    text = out.read_text()
    assert json.loads(text) and 'artifact' in text


@needs_bags
def test_gr1s_recorded_bags_calibrate_and_evaluate_with_its_data_config(tmp_path):
    """Through the contract and the data config that the project ships."""
    robot = load_contract(CONTRACTS / 'gr1_arms.yaml')
    checkpoint = write_checkpoint(tmp_path / 'checkpoint', robot)
    text = (ROOT / 'config' / 'data' / 'gr1_arms.yaml').read_text()
    (checkpoint / 'data_config.yaml').write_text(f'{text}\nstatistics: gr1_stats.json\n')
    shutil.copy(BAGS / 'gr1_stats.json', checkpoint)
    policy = load_policy(checkpoint)
    frame = next(iter(replay(BAGS / 'gr1_pick_place_1', robot)))
    state = policy.processor.inputs(frame.observation).state[0, 0]
    # 26 joints as sine and cosine: each pair lies on the circle
    pieces = [part.size for part in policy.processor.state.parts]
    assert pieces == [7, 7, 6, 6] and not state[52:].any()
    start = 0
    for size in pieces:
        sine, cosine = state[start : start + size], state[start + size : start + 2 * size]
        np.testing.assert_allclose(sine**2 + cosine**2, 1.0, rtol=1e-5)
        start += 2 * size
    np.testing.assert_allclose(state[14:21], np.sin(frame.observation.state[7:14]), rtol=1e-5)

    artifact = tmp_path / 'artifact'
    run(
        'calibrate', 'gr1_arms', checkpoint=checkpoint, bag=BAGS / 'gr1_pick_place_0',
        out=artifact, samples=16, recipe='w8a8',
    )
    assert (artifact / 'gr1_stats.json').is_file()
    run(
        'evaluate', 'gr1_arms', policy=artifact, against=checkpoint,
        bag=BAGS / 'gr1_pick_place_1', frames=6, json=tmp_path / 'evaluation.json',
    )
    quantized = load_policy(artifact)
    ours, theirs = (p.infer(frame.observation, seed=0) for p in (quantized, policy))
    assert np.linalg.norm(ours - theirs) < 0.05 * np.linalg.norm(theirs)
