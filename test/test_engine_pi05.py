# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The engine's pi0.5 means what the network means, in every format, on the reference operations."""
import functools
import tempfile
from pathlib import Path

import artifact_samples
import pytest
import quantization_samples
import torch

from quantvla_ros.engine.graph import Graphs, Shape
from quantvla_ros.engine.pi05 import PI05Forward, PI05Weights
from quantvla_ros.errors import BackendError
from quantvla_ros.models import load_model
from quantvla_ros.models.network import act
from quantvla_ros.models.pi05 import ModelInputs

CPU = torch.device('cpu')
KINDS = ('float', 'w8a8', 'w4a8', 'paper-w4a8', 'paper-w4a4', 'full')
# Where a value lies between two integers, float32 and float64 may round it to one or the other: a
# step of one activation, of which there are 127 or 7 to its row's largest.
BOUND = {'float': 1e-5, 'paper-w4a4': 0.1}
ROUNDED = 0.02


@functools.cache
def checkpoint() -> Path:
    directory = Path(tempfile.mkdtemp())
    return quantization_samples.write_checkpoint(directory, torch.float32)


@functools.cache
def network(kind: str):
    if kind == 'float':
        return load_model(checkpoint())
    return artifact_samples.quantized(checkpoint(), kind)


@functools.cache
def weights(kind: str) -> PI05Weights:
    return PI05Weights(network(kind), CPU, torch.float32)


def inputs(views: int, tokens: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(views, 3, 28, 28, generator=generator) * 2 - 1
    ids = torch.randint(0, 1000, (tokens,), generator=generator)
    noise = torch.randn(4, 8, generator=generator)
    return list(images), ids, noise


def expected(kind: str, images, ids, noise, *, padding: int = 0):
    """The network's own actions and first velocity, with padded tokens where asked for."""
    model = network(kind)
    tokens = torch.cat((ids, torch.zeros(padding, dtype=torch.int64)))
    given = ModelInputs(
        [image[None] for image in images],
        [torch.ones(1, dtype=torch.bool) for _ in images],
        tokens[None],
        (torch.arange(len(tokens)) < len(ids))[None],
    )
    velocities = []
    with torch.no_grad():
        actions = act(model, given, noise[None], lambda *args: velocities.append(args[2]))
    return actions[0], velocities[0][0]


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def run(forward: PI05Forward, images, ids, noise) -> torch.Tensor:
    forward.set_inputs(images, ids, noise)
    return forward.run().clone()


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize(('views', 'tokens', 'longest'), [(1, 5, 5), (2, 7, 12), (3, 1, 3)])
def test_the_engine_gives_the_networks_actions(kind, views, tokens, longest):
    given = inputs(views, tokens)
    actions, velocity = expected(kind, *given)
    forward = PI05Forward(weights(kind), views, longest)
    bound = BOUND.get(kind, ROUNDED)
    assert relative(run(forward, *given), actions) < bound
    assert relative(forward.velocity(0, given[2]), velocity) < bound
