# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The engine's pi0.5 means what the network means, in every format, on the reference operations."""
import copy
import functools
import statistics

import engine_samples as samples
import pytest
import torch
from engine_samples import expected, inputs, network, relative

from quantvla_ros.engine.graph import Graphs, Shape
from quantvla_ros.engine.pi05 import PI05Forward, PI05Weights
from quantvla_ros.errors import BackendError
from quantvla_ros.kernels.fused_types import FloatWeight, Int4Weight, Int8Weight, Stacked

CPU = torch.device('cpu')


@functools.cache
def weights(kind: str) -> PI05Weights:
    return PI05Weights(network(kind), CPU, torch.float32)


def run(forward: PI05Forward, given) -> torch.Tensor:
    forward.set_inputs(*given)
    return forward.run().clone()


@pytest.mark.parametrize('kind', ['float', *samples.QUANTIZED])
@pytest.mark.parametrize(('views', 'tokens', 'longest'), [(1, 5, 5), (2, 7, 12), (3, 1, 3)])
def test_the_engine_gives_the_networks_actions(kind, views, tokens, longest):
    forward = PI05Forward(weights(kind), views, longest)
    errors = []
    for seed in range(5):
        given = inputs(views, tokens, seed)
        actions, velocity = expected(network(kind), *given)
        errors.append(relative(run(forward, given), actions))
        errors.append(relative(forward.velocity(0, given[2]), velocity))
    # Where a value lies between two integers, the network's float32 and the definition's float64
    # may round it to one or the other: seldom, and by one step of one activation.
    assert statistics.median(errors) < 1e-6
    assert max(errors) < (1e-6 if kind == 'float' else 5e-3)


@pytest.mark.parametrize('kind', ['float', 'w8a8'])
def test_in_bfloat16_the_engine_is_as_close_to_float32_as_the_network(kind):
    narrow = copy.deepcopy(network(kind)).to(torch.bfloat16)
    for name, module in narrow.named_modules():
        if name.startswith(('action_', 'time_mlp_')) or name.endswith('.dense'):
            module.float()  # as `load_model` leaves them
    forward = PI05Forward(PI05Weights(narrow, CPU, torch.bfloat16), 2, 8)
    ours, theirs = [], []
    for seed in range(8):
        given = inputs(2, 6, seed)
        exact = expected(network(kind), *given)[0]
        ours.append(relative(run(forward, given), exact))
        theirs.append(relative(expected(narrow, *given)[0], exact))
    assert 0 < statistics.mean(ours) < 1.1 * statistics.mean(theirs)


def test_a_longer_buffer_changes_nothing():
    # Rows beyond the prompt are computed and never read.
    given = inputs(2, 6)
    exact = run(PI05Forward(weights('w8a8'), 2, 6), given)
    assert torch.equal(run(PI05Forward(weights('w8a8'), 2, 16), given), exact)


def test_what_an_earlier_inference_left_is_never_read():
    forward = PI05Forward(weights('w8a8'), 2, 16)
    given = inputs(2, 6)
    first = run(forward, given)
    for name, tensor in vars(forward).items():
        kept = ('counts', '_euler', '_positions', '_cos', '_sin', '_chunk', '_largest')
        if isinstance(tensor, torch.Tensor) and name not in kept:
            tensor.fill_(torch.nan)
    assert torch.equal(run(forward, given), first)


def test_an_instruction_of_another_length_needs_no_new_forward():
    forward = PI05Forward(weights('float'), 2, 16)
    for tokens in (6, 16, 1, 9):
        given = inputs(2, tokens, seed=tokens)
        assert relative(run(forward, given), expected(network('float'), *given)[0]) < 1e-6


def test_the_prompt_can_change_alone():
    forward = PI05Forward(weights('float'), 2, 16)
    images, _, noise = given = inputs(2, 6)
    run(forward, given)
    other = inputs(2, 11, seed=1)[1]
    forward.set_prompt(other)
    wanted = expected(network('float'), images, other, noise)[0]
    assert relative(forward.run(), wanted) < 1e-6


def test_a_picture_that_is_not_a_number_gives_no_plausible_motion():
    images, ids, noise = inputs(2, 6)
    images[1][0, 3, 3] = torch.nan
    assert torch.isnan(run(PI05Forward(weights('w8a8'), 2, 8), (images, ids, noise))).all()


def test_the_network_is_left_as_it_is():
    model = copy.deepcopy(network('w4a8'))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run(PI05Forward(PI05Weights(model, CPU, torch.float32), 2, 8), inputs(2, 6))
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_layers_that_read_the_same_integers_are_one_product():
    expert, prefix = weights('w8a8').expert[0].layers[0], weights('w8a8').prefix[0]
    assert isinstance(prefix.inputs, Int8Weight) and isinstance(prefix.gate_up, Int8Weight)
    assert isinstance(expert.qkv, FloatWeight) and isinstance(expert.gate_up, Int8Weight)


def test_a_value_projection_at_8_bits_joins_queries_and_keys_at_4():
    prefix = weights('w4a8').prefix[0]
    assert isinstance(prefix.inputs, Int8Weight)
    assert isinstance(prefix.gate_up, Int4Weight)


def test_layers_with_rotations_of_their_own_stay_apart():
    prefix = weights('paper-w4a8').prefix[0]
    assert isinstance(prefix.inputs, Stacked) and isinstance(prefix.gate_up, Stacked)


def test_static_scales_of_a_step_are_used_in_that_step_and_numbers_are_shared():
    first, second = (step.layers[0].qkv for step in weights('static').expert[:2])
    assert first.weight is second.weight
    assert first.rows.rotation is second.rows.rotation
    assert first.rows.scale != second.rows.scale


@pytest.mark.parametrize(('views', 'tokens'), [(1, 6), (3, 6), (2, 17), (2, 0)])
def test_inputs_that_do_not_fit_are_refused(views, tokens):
    forward = PI05Forward(weights('float'), 2, 16)
    with pytest.raises(BackendError, match='expected'):
        forward.set_inputs(*inputs(views, tokens))


def test_the_smallest_prepared_shape_that_fits_is_chosen():
    shapes = [Shape(2, 16), Shape(1, 8), Shape(2, 8)]
    graphs = Graphs(lambda s: PI05Forward(weights('float'), s.views, s.prompt), shapes, CPU)
    assert graphs.shapes == (Shape(1, 8), Shape(2, 8), Shape(2, 16))
    for views, tokens, longest in [(1, 8, 8), (2, 3, 8), (2, 9, 16)]:
        forward, captured = graphs.fitting(views, tokens)
        assert (forward.views, forward.prompt) == (views, longest)
        given = inputs(views, tokens)
        forward.set_inputs(*given)
        captured()
        result = forward.result()
        assert relative(result, expected(network('float'), *given)[0]) < 1e-6
        forward.actions.fill_(torch.nan)
        assert torch.isfinite(result).all()  # the caller's own


def test_a_shape_that_was_not_prepared_is_refused_with_those_that_were():
    graphs = Graphs(
        lambda s: PI05Forward(weights('float'), s.views, s.prompt), [Shape(2, 8)], CPU
    )
    for views, tokens in [(1, 8), (2, 9)]:
        with pytest.raises(BackendError, match='2 with up to 8 tokens'):
            graphs.fitting(views, tokens)
