# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The engine's GR00T means what the network means, in every format, on the reference operations."""
import functools
from collections import Counter
from pathlib import Path

import groot_samples
import numpy as np
import pytest
import torch
from engine_groot_samples import ROBOT, expected, inputs, network
from engine_samples import QUANTIZED, relative
from safetensors.torch import load_file

from quantvla_ros.engine.groot import GrootForward, GrootWeights
from quantvla_ros.engine.policy import load_policy
from quantvla_ros.engine.products import Workload, products
from quantvla_ros.errors import BackendError
from quantvla_ros.kernels import fused
from quantvla_ros.kernels.fused_types import FloatWeight, Int4Weight, Int8Weight, Quantized, Stacked
from quantvla_ros.models import load_model
from quantvla_ros.models.groot_n15 import GrootConfig

CPU = torch.device('cpu')
FIXTURE = Path(__file__).resolve().parents[2] / 'shared' / 'fixtures' / 'groot_tiny'


@functools.cache
def weights(kind: str) -> GrootWeights:
    return GrootWeights(network(kind), CPU, torch.float32, ROBOT)


def run(forward: GrootForward, given) -> torch.Tensor:
    forward.set_inputs(*given)
    return forward.run().clone()


@pytest.mark.parametrize('kind', ['float', *QUANTIZED])
@pytest.mark.parametrize(('views', 'words', 'longest'), [(1, 5, 5), (2, 7, 12), (3, 3, 4)])
def test_the_engine_gives_the_networks_actions(kind, views, words, longest):
    forward = GrootForward(weights(kind), views, longest)
    of_actions, of_velocities = [], []
    for seed in range(4):
        given = inputs(views, words, seed)
        actions, velocity = expected(network(kind), *given)
        of_actions.append(relative(run(forward, given), actions))
        of_velocities.append(relative(forward.velocity(0, given[3]), velocity))
    # Where a value lies between two integers, the network's float32 and the definition's float64
    # may round it to one or the other: by one step of one activation, in some observations.
    for errors in (of_actions, of_velocities):
        assert sorted(errors)[1] < 2e-6
        assert max(errors) < (2e-6 if kind == 'float' else 5e-2)


def test_formats_differ_by_far_more_than_the_engine_from_the_network():
    kinds = ('float', 'w8a8', 'w4a8')
    found = {kind: run(GrootForward(weights(kind), 2, 7), inputs(2, 7)) for kind in kinds}
    assert relative(found['w8a8'], found['float']) > 1e-4
    assert relative(found['w4a8'], found['float']) > 1e-3


@pytest.mark.parametrize('changed', ['image', 'word', 'state', 'noise'])
def test_every_input_counts(changed):
    images, ids, state, noise = inputs(2, 7)
    forward = GrootForward(weights('float'), 2, 7)
    before = run(forward, (images, ids, state, noise))
    other = inputs(2, 7, seed=1)
    images = [images[0], other[0][1]] if changed == 'image' else images
    ids = other[1] if changed == 'word' else ids
    state = other[2] if changed == 'state' else state
    noise = other[3] if changed == 'noise' else noise
    found = run(forward, (images, ids, state, noise))
    assert relative(found, before) > 1e-5
    assert relative(found, expected(network('float'), images, ids, state, noise)[0]) < 2e-6


@pytest.mark.skipif(not FIXTURE.exists(), reason='parity fixtures not at hand')
def test_the_engine_gives_the_reference_implementations_actions():
    model, io = load_model(FIXTURE), load_file(FIXTURE / 'io.safetensors')
    robot = int(io['in.embodiment_id'][0])
    pictures, ids = io['in.pixel_values'], io['in.input_ids'][0]
    words = int((ids != model.config.image_token).sum())
    forward = GrootForward(GrootWeights(model, CPU, torch.float32, robot), len(pictures), words)
    noise = io['in.noise'][0]
    found = run(forward, (list(pictures), ids, io['in.state'][0], noise))
    torch.testing.assert_close(found, io['out.actions'][0], atol=2e-5, rtol=0)
    for step, (x, v) in enumerate(zip(io['out.x_t'], io['out.v_t'], strict=True)):
        torch.testing.assert_close(forward.velocity(step, x[0]), v[0], atol=2e-5, rtol=0)


def test_each_embodiment_has_its_own_layers():
    given, found = inputs(2, 6), []
    for robot in (2, 31):
        made = GrootWeights(network('float'), CPU, torch.float32, robot)
        found.append(run(GrootForward(made, 2, 6), given))
        assert relative(found[-1], expected(network('float'), *given, robot=robot)[0]) < 2e-6
    assert relative(*found) > 0.1


@pytest.mark.parametrize('robot', [-1, 32])
def test_an_embodiment_that_the_network_does_not_know_is_refused(robot):
    with pytest.raises(BackendError, match=f'expected 0 to 31, found {robot}'):
        GrootWeights(network('float'), CPU, torch.float32, robot)


def test_keys_and_values_of_all_blocks_are_one_product_where_they_read_the_same():
    for kind, numbers in (('float', FloatWeight), ('w8a8', FloatWeight), ('static', Int8Weight)):
        (weight,) = weights(kind).context
        assert isinstance(weight, numbers) and weight.outputs == 4 * 24
    assert len(weights('everything').context) == 4  # axes of their own


def test_layers_that_read_the_same_integers_are_one_product():
    made = weights('w4a8')
    layer, block = made.language[0], made.steps[0].blocks[1]
    assert isinstance(layer.qkv, Int8Weight)  # the values' 8 bits decide
    assert isinstance(layer.gate_up, Int4Weight) and isinstance(block.first, Int4Weight)
    assert isinstance(block.inputs, FloatWeight) and block.inputs.outputs == 3 * 24
    assert isinstance(weights('paper-w4a8').language[0].qkv, Stacked)


def test_numbers_are_shared_between_the_steps():
    first, second = (step.blocks[1] for step in weights('static').steps[:2])
    assert first.inputs.weight is second.inputs.weight
    assert first.inputs.rows.scale != second.inputs.rows.scale


def test_a_prompt_with_another_number_of_picture_tokens_is_refused():
    forward = GrootForward(weights('float'), 2, 16)
    with pytest.raises(BackendError, match=r'expected 8 tokens of pictures .* found 4'):
        forward.set_prompt(inputs(1, 6)[1])


@pytest.mark.parametrize('views', [1, 3])
def test_the_products_are_those_that_the_engine_runs(monkeypatch, views):
    model, seen = network('float'), Counter()
    pair = model.config.language.head_dim // 2
    kinds = {
        'linear': {},
        'linear_norm': {'joined': True},
        'gated_linear': {'pairs': True},
        'attention_inputs': {'pairs': True, 'heads': True, 'head': pair},
    }

    def noting(function, kind):
        def call(x, weight, *arguments, **options):
            rows = (x.values if isinstance(x, Quantized) else x).shape[0]
            seen[(rows, weight.outputs, weight.columns, *kind.items())] += 1
            return function(x, weight, *arguments, **options)

        return call

    for name, kind in kinds.items():
        monkeypatch.setattr(fused, name, noting(getattr(fused, name), kind))
    run(GrootForward(weights('float'), views, 7), inputs(views, 7))
    listed = Counter()
    for one in products(model.config, Workload(views, 7)):
        size, kind = one.product, {}
        if size.pairs:
            kind = kinds['attention_inputs' if size.heads else 'gated_linear']
            assert size.head == kind.get('head', 0)
        elif size.joined:
            kind = kinds['linear_norm']
        listed[(size.rows, size.outputs, size.columns, *kind.items())] += one.times
    assert not listed - seen
    # Left out are the patches, the state and, in each step, actions to tokens and back.
    assert sum((seen - listed).values()) == 1 + 2 + 4 * model.config.steps


def test_the_products_of_the_public_network_are_those_of_its_published_sizes():
    found = {one.name: one for one in products(GrootConfig(), Workload(views=2, tokens=40))}
    assert found['backbone gate+up'].product.outputs == 12288
    assert found['keys and values of the features'].product.outputs == 24576
    assert found['head fc1'].times == 64
    rows = {one.product.rows for one in found.values()}
    assert rows == {512, 552, 49}


def test_a_policy_gives_the_same_chunk_with_and_without_the_engine(tmp_path):
    checkpoint = groot_samples.write_nvidia(tmp_path / 'checkpoint')
    plain, ours = load_policy(checkpoint), load_policy(checkpoint, engine='graph')
    ours.runner.check()
    for seed, words in enumerate(('pick', 'pick place pick', 'place')):
        observation = groot_samples.observation(words, seed=seed)
        wanted = plain.infer(observation, seed=seed)
        np.testing.assert_allclose(ours.infer(observation, seed=seed), wanted, atol=1e-5)
    (states, _), (wanted_states, _) = (p.runner.states(observation, 3) for p in (ours, plain))
    assert all(relative(x, y) < 2e-6 for x, y in zip(states, wanted_states, strict=True))


def test_a_forward_pass_without_inputs_yet_runs_on_numbers():
    # The engine checks its graphs before the first observation; attention to no key at all is NaN.
    forward = GrootForward(weights('w8a8'), 2, 16)
    assert forward.count == 2 * 4 + 16
    assert torch.isfinite(forward.run()).all()
