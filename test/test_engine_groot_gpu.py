# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The engine's GR00T on a GPU: the network's actions, at the public widths too, and from graphs."""
import copy
import statistics

import engine_groot_samples as samples
import pytest
import torch
from engine_groot_samples import ROBOT, expected, inputs, network, wide_network
from engine_samples import relative

from quantvla_ros.engine.graph import Graphs, Shape
from quantvla_ros.engine.groot import GrootForward, GrootWeights

if not torch.cuda.is_available():
    pytest.skip('there is no NVIDIA GPU', allow_module_level=True)

GPU = torch.device('cuda', 0)


def run(forward, given, *, captured=None) -> torch.Tensor:
    forward.actions.fill_(torch.nan)
    forward.set_inputs(*given)
    with torch.no_grad():
        (captured or forward.run)()
    return forward.actions.clone()


def graphs(*shapes: Shape) -> Graphs:
    # The kernels that the first test has compiled.
    weights = GrootWeights(network('w4a8'), GPU, torch.float32, ROBOT)
    return Graphs(lambda s: GrootForward(weights, s.views, s.prompt), shapes, GPU)


@pytest.mark.parametrize('kind', ['float', 'w4a8'])
def test_the_network_on_the_host_and_the_engine_on_the_gpu_agree(kind):
    forward = GrootForward(GrootWeights(network(kind), GPU, torch.float32, ROBOT), 2, 9)
    errors = []
    for seed in range(6):
        given = inputs(2, 7, seed)
        errors.append(relative(run(forward, given).cpu(), expected(network(kind), *given)[0]))
    # Some values lie between two integers, and are rounded to one or the other.
    assert sorted(errors)[1] < 1e-4 and max(errors) < 5e-2


# Heads of 72, 128, 64 and 48 numbers, 552 tokens, 49 rows: the tiles that the public network runs.
@pytest.mark.parametrize('kind', ['float', 'w8a8'])
def test_at_the_public_widths_the_engine_is_as_close_to_float32_as_the_network(kind):
    exact = wide_network(kind).to(GPU)
    narrow = samples.narrowed(copy.deepcopy(exact))
    forward = GrootForward(GrootWeights(narrow, GPU, torch.bfloat16, ROBOT), 2, 48)
    ours, theirs = [], []
    for seed in range(4):
        given = inputs(2, 40, seed, exact.config)
        moved = ([image.to(GPU) for image in given[0]], *(tensor.to(GPU) for tensor in given[1:]))
        wanted = expected(exact, *moved)
        run(forward, given)
        ours.append(relative(forward.velocity(0, moved[3]), wanted[1]))
        theirs.append(relative(expected(narrow, *moved)[1], wanted[1]))
    assert statistics.mean(ours) < 1.15 * statistics.mean(theirs)


def test_a_graph_gives_the_bits_of_its_function_whatever_ran_between():
    made = graphs(Shape(1, 8), Shape(2, 16))
    for views, words in [(2, 3), (1, 8), (2, 16), (2, 3)]:
        forward, captured = made.fitting(views, words)
        given = inputs(views, words)
        assert torch.equal(run(forward, given, captured=captured), run(forward, given))


def test_a_replay_allocates_nothing_and_reads_nothing_that_was_left():
    forward, captured = graphs(Shape(2, 16)).fitting(2, 6)
    given = inputs(2, 6)
    first = run(forward, given, captured=captured)
    samples.spoil(forward)
    forward.set_inputs(*given)
    before = torch.cuda.memory_stats(GPU)['allocation.all.allocated']
    for _ in range(3):
        captured()
    assert torch.cuda.memory_stats(GPU)['allocation.all.allocated'] == before
    assert torch.equal(forward.actions, first)
