# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a graph captures neither waits for the GPU nor uses the host: found without a GPU."""
import importlib.util

import pytest
import torch
from engine_kinds import CPU, KINDS

from quantvla_ros.engine.guided import _Guided
from quantvla_ros.models.guidance import Guide

if importlib.util.find_spec('triton') is None:
    pytest.skip('triton is not installed', allow_module_level=True)

from engine_fake_gpu import GPU, FakeGpu, captured


@pytest.fixture
def gpu(monkeypatch):
    return FakeGpu(monkeypatch)


@pytest.mark.parametrize('recipe', ['float', 'w8a8', 'w4a8', 'static', 'extended', 'everything'])
@pytest.mark.parametrize('engine', KINDS)
def test_a_forward_pass_waits_for_nothing_and_stays_on_its_device(gpu, engine, recipe):
    kind = KINDS[engine]
    with gpu():
        weights = gpu.moved(kind.pack(kind.samples.network(recipe), CPU, torch.bfloat16))
        made = kind.forward(weights, 2, 9)
        made.set_inputs(*kind.samples.inputs(2, 7))
        guided = _Guided(made, Guide(made.noise.shape, GPU), weights.config.steps, -1)
        made.run()  # what is made once is made before a capture
        with captured():
            made.run()
            made.velocity(0, made.noise)
            guided()
    assert gpu.launches['gemm_kernel'] > 50 and gpu.launches['attention_kernel'] > 5


@pytest.mark.parametrize(
    'fault',
    [
        lambda x: int(x.sum()),
        lambda x: x + torch.ones(4, 3),
        lambda x: x.cpu(),
        lambda x: torch.tensor([1, 2], device=GPU),  # by way of the host
        lambda x: x[x > 0],
    ],
    ids=['a number', 'two devices', 'a copy', 'a constant', 'a size'],
)
def test_what_waits_or_uses_the_host_is_found(fault):
    x = torch.zeros(4, 3, device=GPU)
    with captured(), pytest.raises((RuntimeError, AssertionError)):
        fault(x)
