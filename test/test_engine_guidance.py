# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A policy whose next chunk begins like the last one: real-time chunking, end to end."""
from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from quantvla_ros.control.rtc import Guidance, soft_mask
from quantvla_ros.engine.policy import Policy, load_policy
from quantvla_ros.engine.running import Running
from quantvla_ros.errors import BackendError
from quantvla_ros.observation.types import Observation

ASSETS = Path(__file__).resolve().parents[1] / 'assets'


@pytest.fixture(scope='module')
def policy() -> Policy:
    return load_policy(ASSETS / 'tabletop_w8a8')


@pytest.fixture(scope='module')
def observation(policy) -> Observation:
    picture = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    return Observation(
        stamp=0,
        images=dict.fromkeys(policy.processor.slots, picture),
        state=policy.processor.example_state(),
        instruction='pick up the red cube',
    )


def test_frozen_rows_are_those_of_the_old_chunk_and_free_ones_are_the_policys(policy, observation):
    """In int8, where there is no gradient to guide by."""
    alone = policy.infer(observation, seed=1)
    old = alone + np.linspace(0.05, 0.1, alone.shape[1], dtype=np.float32)
    guided = policy.infer(
        observation, seed=1, guidance=Guidance(old, soft_mask(len(old), frozen=4, overlap=8))
    )
    np.testing.assert_allclose(guided[:4], old[:4], atol=1e-5)
    between = (guided[4:8] - alone[4:8]) / (old[4:8] - alone[4:8])
    assert between[0].min() > 0.4 and between[0].min() > between[-1].max()
    assert np.abs(guided[8:] - alone[8:]).max() < 0.05


def test_no_weight_changes_nothing(policy, observation):
    alone = policy.infer(observation, seed=1)
    nothing = Guidance(alone + 1.0, np.zeros(len(alone)))
    np.testing.assert_array_equal(policy.infer(observation, seed=1, guidance=nothing), alone)
    # And what was asked for once is not asked for again.
    np.testing.assert_array_equal(policy.infer(observation, seed=1), alone)


def test_a_runner_that_cannot_be_guided_is_named_before_anything_moves(policy):
    runner = SimpleNamespace(noise_shape=(16, 8), views=(2,), act=None)
    other = Policy(
        runner, policy.processor, policy.info, Running('graph', 'cuda'), policy.device
    )
    with pytest.raises(BackendError, match='engine graph; choose engine plain, or schedule async'):
        other.prepare_guided()
    policy.prepare_guided()


def test_an_engines_graphs_are_guided_as_the_plain_network_is(policy, observation):
    """On a CPU the same operations, by their definitions; nothing but two buffers changes."""
    engine = load_policy(ASSETS / 'tabletop_w8a8', engine='graph', lengths=[48])
    engine.prepare_guided()
    alone = policy.infer(observation, seed=1)
    asked = Guidance(alone + 0.05, soft_mask(len(alone), frozen=4, overlap=8))
    # Integers round where they will: as far apart as without guidance.
    apart = np.abs(engine.infer(observation, seed=1) - alone).max()
    guided = engine.infer(observation, seed=1, guidance=asked)
    expected = policy.infer(observation, seed=1, guidance=asked)
    assert np.abs(guided - expected).max() <= 2.0 * apart + 1e-3
    np.testing.assert_allclose(guided[:4], asked.actions[:4], atol=1e-5)
    nothing = Guidance(alone, np.zeros(len(alone)))
    np.testing.assert_allclose(
        engine.infer(observation, seed=1, guidance=nothing), engine.infer(observation, seed=1),
        atol=1e-4,
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs an NVIDIA GPU')
def test_a_captured_graph_takes_the_guides_of_later_chunks(policy, observation):
    engine = load_policy(ASSETS / 'tabletop_w8a8', device='cuda', engine='graph', lengths=[48])
    engine.prepare_guided()
    alone = engine.infer(observation, seed=1)
    for offset in (0.05, -0.05):
        asked = Guidance(alone + offset, soft_mask(len(alone), frozen=4, overlap=8))
        guided = engine.infer(observation, seed=1, guidance=asked)
        np.testing.assert_allclose(guided[:4], asked.actions[:4], atol=1e-4)
        again = engine.infer(observation, seed=1, guidance=asked)
        np.testing.assert_array_equal(again, guided)
    np.testing.assert_array_equal(engine.infer(observation, seed=1), alone)
