# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What goes between host and device inside of a graph: buffers with mirrors, as on a GPU."""
import contextlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from engine_kinds import CPU, KINDS, run
from engine_policy_samples import saying
from engine_samples import checkpoint
from quantization_samples import COMMANDS

from quantvla_ros.control.rtc import Guidance, soft_mask
from quantvla_ros.engine import staging
from quantvla_ros.engine.engine import Engine
from quantvla_ros.engine.pictures import PictureReader
from quantvla_ros.engine.policy import load_policy


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.fixture
def waits(monkeypatch):
    """Buffers of the CPU have mirrors too; how often the host waited for the stream."""
    found = []
    event = SimpleNamespace(record=lambda: None, synchronize=lambda: None)
    monkeypatch.setattr(staging, '_mirror', lambda buffer: (torch.zeros_like(buffer), event))
    stream = SimpleNamespace(synchronize=lambda: found.append('stream'))
    monkeypatch.setattr(torch.cuda, 'current_stream', lambda device: stream)
    monkeypatch.setattr(torch.cuda, 'device', lambda device: contextlib.nullcontext())
    return found


def test_rows_reach_their_buffers_and_actions_the_host_when_it_runs(kind, waits):
    given = kind.samples.inputs(2, 6)
    forward = kind.made('float', 2, 8)
    forward.set_inputs(*given)
    for name in forward.ROWS:
        assert not getattr(forward, name).any()
    wanted = forward.run().clone()
    for name, rows in zip(forward.ROWS, given[2:], strict=True):
        assert torch.equal(getattr(forward, name), rows)
    exact = kind.samples.expected(kind.samples.network('float'), *given)[0]
    assert float((wanted - exact).norm() / exact.norm()) < kind.exact
    forward.actions.fill_(torch.nan)
    assert torch.equal(forward.result(), wanted) and waits == ['stream']


def test_noise_can_change_alone(kind, waits):
    images, tokens, *rest = kind.samples.inputs(2, 6)
    forward = kind.made('float', 2, 8)
    run(forward, (images, tokens, *rest))
    other = kind.samples.inputs(2, 6, seed=1)[-1]
    forward.set_noise(other)
    found = forward.run().clone()
    assert torch.equal(found, run(forward, (images, tokens, *rest[:-1], other)))


def test_inputs_wait_for_those_whose_result_nobody_read(kind, waits):
    given, forward = kind.samples.inputs(2, 6), kind.made('float', 2, 8)
    for _ in range(3):
        run(forward, given)
        forward.result()
    assert waits == ['stream'] * 3  # each of them the result's
    run(forward, given)
    forward.set_inputs(*given)
    assert waits == ['stream'] * 4


def test_a_policy_infers_the_same_through_mirrors(waits):
    plain = load_policy(checkpoint())
    graph = load_policy(checkpoint(), engine='graph', lengths=(48,))
    observation = saying('red')
    graph.warm_up()
    chunk = plain.infer(observation, seed=4)
    np.testing.assert_allclose(graph.infer(observation, seed=4), chunk, atol=1e-5)
    guidance = Guidance(chunk + 0.1, soft_mask(len(chunk), frozen=1, overlap=2))
    graph.prepare_guided()
    np.testing.assert_allclose(
        graph.infer(observation, seed=5, guidance=guidance),
        plain.infer(observation, seed=5, guidance=guidance),
        atol=1e-5,
    )
    (states, raw), (wanted, _) = (one.runner.states(observation, 6) for one in (graph, plain))
    for found, state in zip(states, wanted, strict=True):
        torch.testing.assert_close(found, state, atol=1e-5, rtol=0)
    assert torch.equal(raw, graph.runner.act(observation, 6))


def test_fitted_pictures_lie_where_every_prompts_forward_reads_them(monkeypatch):
    policy = load_policy(checkpoint(), engine='graph', lengths=(16, 48))
    reader = PictureReader(policy.processor, CPU)
    engine = Engine(policy.runner._packed, policy.runner.shapes, reader, reader.place)
    forwards = [forward for _, forward in engine._graphs.forwards()]
    for forward in forwards:
        assert forward.images.data_ptr() == reader.place(2).data_ptr()
        monkeypatch.setattr(forward._staged['images'], 'write', None)  # nothing is left to copy
    for words in ('red', ' '.join(COMMANDS)):
        observation = saying(words)
        found = engine.act(observation, 3)
        torch.testing.assert_close(found, policy.runner.act(observation, 3), atol=1e-5, rtol=0)
    assert len({forward.prompt for forward in forwards}) == 2


def test_pictures_in_a_place_of_others_are_copied(kind):
    given = kind.samples.inputs(2, 6)
    place = torch.zeros(2, *given[0][0].shape)
    forward = kind.forward(kind.weights('float'), 2, 8, images=place)
    wanted = run(kind.made('float', 2, 8), given)
    assert torch.equal(run(forward, given), wanted)
    place.copy_(place.flip(0).clone())
    turned = (list(place.flip(0)), *given[1:])  # memory of its own, and in the other order
    assert torch.equal(run(forward, turned), wanted)
    swapped = [place[1], place[0]]  # parts of it, but not where they belong
    assert not forward._lie_here(swapped) and forward._lie_here(list(place))
