# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A policy on a GPU: runs on the engine, and after its first pictures nothing is made any more."""
import threading

import numpy as np
import pytest
import torch
from engine_policy_samples import saying
from engine_samples import checkpoint
from quantization_samples import COMMANDS

from quantvla_ros.engine import sources
from quantvla_ros.engine.policy import load_policy

if not torch.cuda.is_available():
    pytest.skip('there is no NVIDIA GPU', allow_module_level=True)

WORDS = (*COMMANDS, ' '.join(COMMANDS), 'red')
MEMORY = ('allocation.all.allocated', 'segment.all.allocated', 'num_alloc_retries')


@pytest.fixture(scope='module')
def policy():
    made = load_policy(checkpoint(), device='cuda', views=(1, 2))
    made.warm_up()
    return made


def test_a_gpu_runs_the_engine_and_says_how(policy):
    running = policy.running
    assert (running.engine, running.fallback) == ('graph', None) and running.tiles
    assert list(running.seconds) == ['load', 'pack', 'capture']


def test_the_network_itself_is_never_on_the_gpu(monkeypatch):
    devices, load = [], sources.load_model

    def noting(path, device, *args, **options):
        devices.append(torch.device(device).type)
        return load(path, device, *args, **options)

    monkeypatch.setattr(sources, 'load_model', noting)
    load_policy(checkpoint(), device='cuda', lengths=(48,))
    assert devices == ['cpu']


@pytest.mark.parametrize('cameras', [1, 2])
def test_in_float32_it_gives_the_cpus_chunk(cameras):
    ours = load_policy(
        checkpoint(), device='cuda', precision='float32', views=(cameras,), lengths=(48,)
    )
    theirs = load_policy(checkpoint())
    observation = saying(' '.join(COMMANDS), cameras=cameras)
    wanted = theirs.infer(observation, seed=4)
    np.testing.assert_allclose(ours.infer(observation, seed=4), wanted, atol=1e-3)


def test_the_same_seed_gives_the_same_bits(policy):
    first = policy.infer(saying(COMMANDS[0]), seed=1)
    policy.infer(saying(' '.join(COMMANDS), cameras=1), seed=2)
    np.testing.assert_array_equal(policy.infer(saying(COMMANDS[0]), seed=1), first)


def test_once_it_has_seen_its_cameras_nothing_is_compiled_or_allocated(policy, monkeypatch):
    knobs = pytest.importorskip('triton.knobs')
    for cameras in (1, 2):
        policy.infer(saying('red', cameras=cameras), seed=0)
    torch.cuda.synchronize()
    compiled = []
    before = {name: torch.cuda.memory_stats()[name] for name in MEMORY}
    monkeypatch.setattr(
        knobs.runtime, 'jit_post_compile_hook', lambda **call: compiled.append(call['repr'])
    )
    for words in WORDS:
        for cameras in (2, 1):
            assert np.isfinite(policy.infer(saying(words, cameras=cameras), seed=0)).all()
    assert {name: torch.cuda.memory_stats()[name] for name in MEMORY} == before
    assert compiled == []


def test_any_one_thread_may_infer(policy):
    # The node configures in one thread and infers in another.
    wanted, found = policy.infer(saying(COMMANDS[1]), seed=7), []
    thread = threading.Thread(
        target=lambda: found.append(policy.infer(saying(COMMANDS[1]), seed=7))
    )
    thread.start()
    thread.join()
    np.testing.assert_array_equal(found[0], wanted)
