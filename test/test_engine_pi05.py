# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The engine's pi0.5 means what the network means, in every format, on the reference operations."""
import functools
import statistics

import engine_samples as samples
import pytest
import torch
from engine_samples import expected, inputs, network, relative

from quantvla_ros.engine.pi05 import PI05Forward, PI05Weights
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
