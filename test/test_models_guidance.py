# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Real-time chunking inside the flow's integration."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from quantvla_ros.models.guidance import Guide
from quantvla_ros.models.network import integrate
from quantvla_ros.models.normalization import Mode, Normalizer
from quantvla_ros.models.relative_actions import add_state, without_state

CHUNK, WIDTH, STEPS = 8, 4, 5


class Straight:
    """A flow to `target`, or as far as x lets it; from noise at t = 1 (pi0.5) or at 0 (GR00T)."""

    def __init__(self, direction: int, target: Tensor, bend: float = 0.0) -> None:
        self.steps, self.direction, self.target, self.bend = STEPS, direction, target, bend

    def velocity(self, step: int, x: Tensor) -> Tensor:
        left = (self.steps - step) / self.steps
        ends = self.target + self.bend * torch.sin(x)
        return self.direction * (ends - x) / left

    def advance(self, x: Tensor, velocity: Tensor) -> Tensor:
        return x + self.direction * velocity / self.steps


@pytest.fixture
def noise() -> Tensor:
    return torch.randn(1, CHUNK, WIDTH, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def guide() -> Guide:
    guide = Guide((CHUNK, WIDTH))
    weights = torch.zeros(CHUNK, WIDTH)
    weights[:3] = 1.0
    weights[3:6] = torch.tensor([0.6, 0.3, 0.1])[:, None]
    guide.set(torch.full((CHUNK, WIDTH), 2.0), weights)
    return guide


@pytest.mark.parametrize('direction', [1, -1])
def test_frozen_rows_end_at_the_previous_chunk_and_free_rows_as_without(direction, noise, guide):
    flow = Straight(direction, torch.zeros(1), bend=0.3)
    alone, drawn = integrate(flow, noise), integrate(flow, noise, guide=guide)
    torch.testing.assert_close(drawn[:, :3], torch.full((1, 3, WIDTH), 2.0))
    torch.testing.assert_close(drawn[:, 6:], alone[:, 6:])
    assert (alone[:, 3:6] < drawn[:, 3:6]).all() and (drawn[:, 3:6] < 2.0).all()
    assert (drawn[0, 3] > drawn[0, 4]).all() and (drawn[0, 4] > drawn[0, 5]).all()


def test_weights_of_zero_change_no_bit(noise):
    """So one captured graph serves guided and unguided chunks alike."""
    flow = Straight(-1, torch.zeros(1), bend=0.3)
    assert torch.equal(integrate(flow, noise, guide=Guide((CHUNK, WIDTH))), integrate(flow, noise))


def test_a_guide_is_emptied_of_what_was_set_before(noise, guide):
    flow = Straight(-1, torch.zeros(1), bend=0.3)
    guide.set(torch.ones(CHUNK, 2), torch.zeros(CHUNK, 2))
    assert torch.equal(integrate(flow, noise, guide=guide), integrate(flow, noise))


def test_the_padding_of_an_action_is_left_alone(noise):
    flow, guide = Straight(-1, torch.zeros(1), bend=0.3), Guide((CHUNK, WIDTH))
    guide.set(torch.full((CHUNK, 2), 2.0), torch.ones(CHUNK, 2))
    drawn = integrate(flow, noise, guide=guide)
    torch.testing.assert_close(drawn[..., 2:], integrate(flow, noise)[..., 2:])
    torch.testing.assert_close(drawn[..., :2], torch.full((1, CHUNK, 2), 2.0))


def test_the_operations_do_not_depend_on_what_the_buffers_hold(noise, guide):
    """What a CUDA graph needs: recorded once with one guide, run with the numbers of another."""
    flow = Straight(-1, torch.zeros(1), bend=0.3)

    def guided(x: Tensor, previous: Tensor, weights: Tensor) -> Tensor:
        recorded = Guide((CHUNK, WIDTH))
        recorded.previous, recorded.weights = previous, weights
        return integrate(flow, x, guide=recorded)

    empty = (torch.zeros(CHUNK, WIDTH), torch.zeros(CHUNK, WIDTH))
    recorded = make_fx(guided)(torch.zeros_like(noise), *empty)
    expected = integrate(flow, noise, guide=guide)
    torch.testing.assert_close(recorded(noise, guide.previous, guide.weights), expected)
    buffers = guide.previous.data_ptr(), guide.weights.data_ptr()
    guide.set(torch.ones(CHUNK, WIDTH), torch.ones(CHUNK, WIDTH))
    assert (guide.previous.data_ptr(), guide.weights.data_ptr()) == buffers


def test_relative_actions_of_an_old_chunk_start_from_the_new_state():
    """An offset from the old state would draw the new chunk to another place."""
    action = Normalizer.from_statistics(
        'action', Mode.MEAN_STD, {'mean': np.array([1.0, 2.0]), 'std': np.array([0.5, 2.0])}
    )
    relative = (True, False)
    raw = np.array([[0.5, -1.0], [1.0, 0.25]], np.float32)
    old, new = np.array([3.0, 9.0]), np.array([3.5, 9.0])
    absolute = add_state(action.restore(raw), old, relative)
    again = action.normalize(without_state(absolute, new, relative))
    np.testing.assert_allclose(add_state(action.restore(again), new, relative), absolute, rtol=1e-6)
    np.testing.assert_allclose(again[:, 1], raw[:, 1], rtol=1e-6)
    np.testing.assert_allclose(again[:, 0], raw[:, 0] - 0.5 / 0.5, rtol=1e-5)
