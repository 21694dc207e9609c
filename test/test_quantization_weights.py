# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A weight's integers: their grid, how they are found, and the bases in which they lie."""
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantvla_ros.errors import CalibrationError
from quantvla_ros.quantization import gptq
from quantvla_ros.quantization.rotation import (
    block_of,
    hadamard,
    inverse_transpose,
    principal_axes,
    rotate_columns,
    zigzag,
)
from quantvla_ros.quantization.weights import Grid, search_grid

GRID = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6)


def search(weight, bits=4, group=0, grid=GRID, importance=None):
    return search_grid(weight, bits=bits, group=group, scale_grid=grid, importance=importance)


def correlated(columns, rows=400, seed=0):
    """Inputs of which a few directions hold most of the energy, as a network's do."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=generator)
    mixing *= torch.linspace(0.05, 1, columns)[:, None] ** 3
    return torch.randn(rows, columns, generator=generator) @ mixing


# The grid


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 70),
    bits=st.sampled_from([4, 8]),
    group=st.sampled_from([0, 16, 32]),
    exponent=st.integers(-36, 30),
    seed=st.integers(0, 2**31),
)
def test_without_a_search_nothing_is_clipped(rows, columns, bits, group, exponent, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator) * 10.0**exponent
    grid = search(weight, bits, group if bits == 4 else 0, grid=(1.0,))
    q = grid.round(weight)
    assert q.min() >= (-8 if bits == 4 else -127) and q.max() <= (7 if bits == 4 else 127)
    assert (grid.scale > 0).all() and grid.scale.isfinite().all()
    if not grid.group:
        error = (grid.value(q) - weight).abs()
        assert (error <= 0.501 * grid.steps(columns)).all()


@pytest.mark.parametrize(('bits', 'group'), [(4, 0), (4, 32), (8, 0)])
def test_the_search_never_makes_a_row_worse(bits, group):
    weight = torch.randn(32, 200)

    def error(grid):
        found = search(weight, bits, group, grid)
        return (found.value(found.round(weight)) - weight).square().sum(1)

    plain, searched = error((1.0,)), error(GRID)
    if group:  # a whole multiplier may cost a row a little of what its groups gain
        assert searched.sum() < plain.sum()
    else:
        assert (searched <= plain * (1 + 1e-6)).all()
        assert bits == 8 or (searched < 0.95 * plain).any()


def test_a_group_with_small_weights_gets_a_small_step():
    weight = torch.randn(8, 96)
    weight[:, 32:64] *= 0.15
    whole, grouped = search(weight), search(weight, group=32)
    part = slice(32, 64)
    errors = [
        (grid.value(grid.round(weight)) - weight)[:, part].norm() for grid in (whole, grouped)
    ]
    assert errors[1] < 0.3 * errors[0]
    assert grouped.multiplier.dtype == torch.uint8
    assert int(grouped.multiplier.min()) >= 1 and int(grouped.multiplier.max()) <= 15


def test_a_last_group_may_be_short():
    weight = torch.randn(3, 50)
    grid = search(weight, group=32)
    assert grid.multiplier.shape == (3, 2)
    assert grid.steps(50).shape == (3, 50)


def test_columns_that_matter_more_are_kept_better():
    weight = torch.randn(64, 128)
    weight[:, :8] *= 4.0  # far out, and hardly read
    importance = torch.ones(128)
    importance[:8] = 1e-6
    plain, weighted = search(weight), search(weight, importance=importance)
    rest = slice(8, None)
    errors = [(g.value(g.round(weight)) - weight)[:, rest].norm() for g in (plain, weighted)]
    assert errors[1] < 0.9 * errors[0]


def test_a_zero_row_stays_zero_with_a_scale_that_can_be_divided_by():
    for bits, group in ((8, 0), (4, 0), (4, 16)):
        weight = torch.randn(3, 32)
        weight[1] = 0.0
        grid = search(weight, bits, group)
        assert (grid.round(weight)[1] == 0).all() and grid.scale[1] == 1.0


def test_rows_beyond_one_block_are_searched_alike():
    weight = torch.randn(2500, 32)
    grid = search(weight, group=16)
    for row in (0, 1023, 1024, 2499):
        alone = search(weight[row : row + 1], group=16)
        assert torch.equal(alone.scale, grid.scale[row : row + 1])
        assert torch.equal(alone.multiplier, grid.multiplier[row : row + 1])


@pytest.mark.parametrize('poison', [float('nan'), float('inf')])
def test_a_damaged_weight_is_refused(poison):
    weight = torch.randn(4, 8)
    weight[2, 3] = poison
    with pytest.raises(CalibrationError, match='1 of 4 rows'):
        search(weight)


# GPTQ


@pytest.mark.parametrize('group', [0, 32])
def test_gptq_gives_better_outputs_than_rounding(group):
    x, weight = correlated(160), torch.randn(48, 160)
    moments = x.t() @ x / len(x)
    grid = search(weight, group=group, importance=moments.diagonal())
    nearest = grid.value(grid.round(weight))
    q = gptq.round_with_feedback(weight, grid, moments, 0.01)
    assert torch.equal(q, q.round()) and q.min() >= -8 and q.max() <= 7

    def error(value):
        return float((x @ (value - weight).t()).norm() / (x @ weight.t()).norm())

    assert error(grid.value(q)) < 0.6 * error(nearest)
    # and the figure of the report is that of the outputs
    assert gptq.output_error(weight, nearest, moments) == pytest.approx(error(nearest), rel=1e-3)
    refitted = gptq.refit_scale(weight, grid, q, moments)
    assert error(refitted.value(q)) <= error(grid.value(q)) * (1 + 1e-4)


def test_gptq_on_inputs_that_do_not_correlate_is_rounding():
    weight = torch.randn(16, 40)
    grid = search(weight)
    q = gptq.round_with_feedback(weight, grid, torch.eye(40), 0.0)
    assert torch.equal(q, grid.round(weight))


def test_gptq_stands_columns_that_nothing_excites():
    x, weight = correlated(64), torch.randn(8, 64)
    x[:, ::3] = 0.0
    moments = x.t() @ x / len(x)
    grid = search(weight)
    assert torch.isfinite(gptq.round_with_feedback(weight, grid, moments, 0.01)).all()


def test_the_target_makes_up_for_an_error_upstream():
    x, weight = correlated(96, rows=2000), torch.randn(24, 96)
    disturbed = x @ (torch.eye(96) + 0.1 * torch.randn(96, 96) / 96**0.5)
    moments, cross = disturbed.t() @ disturbed / 2000, x.t() @ disturbed / 2000
    target = gptq.match_target(weight, cross, moments, 1e-4)
    wanted = x @ weight.t()
    before = (disturbed @ weight.t() - wanted).norm()
    assert (disturbed @ target.t() - wanted).norm() < 0.3 * before
    # undisturbed, the weight stays
    same = gptq.match_target(weight, x.t() @ x, x.t() @ x, 0.01)
    torch.testing.assert_close(same, weight, rtol=1e-3, atol=1e-3)


# Bases


@pytest.mark.parametrize('size', [1, 2, 16, 64, 128])
def test_a_hadamard_rotation_is_orthogonal_and_spreads_one_channel_over_its_block(size):
    matrix = hadamard(size)
    torch.testing.assert_close(matrix @ matrix.t(), torch.eye(size))
    assert (matrix.abs() - size**-0.5).abs().max() < 1e-6
    assert torch.equal(matrix, hadamard(size))


def test_blocks_are_the_largest_power_of_two_that_fits():
    assert [block_of(size, 64) for size in (256, 192, 4304, 48, 1)] == [64, 64, 16, 16, 1]


def test_a_rotated_weight_on_rotated_inputs_gives_what_it_gave():
    x, weight = torch.randn(7, 192), torch.randn(5, 192)
    for rotation in (hadamard(64), principal_axes(weight, 64), principal_axes(weight, 64).half()):
        rotation = rotation.float()
        y = rotate_columns(x, rotation) @ rotate_columns(weight, inverse_transpose(rotation)).t()
        torch.testing.assert_close(y, x @ weight.t(), rtol=1e-4, atol=1e-4)


def test_principal_axes_gather_the_energy_of_each_block():
    weight = torch.randn(300, 128) @ torch.randn(128, 128)
    turned = rotate_columns(weight, principal_axes(weight, 64)).square().sum(0)
    for block in turned.split(64):
        assert (block.diff() <= 1e-3 * block[0]).all()


def test_zigzag_deals_strong_and_weak_channels_in_turn():
    weight = torch.diag(torch.tensor([1.0, 6.0, 3.0, 5.0, 2.0, 4.0]))
    # by energy: 6 5 4 3 2 1, hence from both ends: 6 1 5 2 4 3
    assert zigzag(weight).tolist() == [1, 0, 3, 4, 5, 2]


def test_a_grid_without_groups_has_one_step_per_channel():
    grid = Grid(4, 0, torch.tensor([0.5, 2.0]))
    assert grid.steps(3).tolist() == [[0.5], [2.0]]
    assert grid.round(torch.tensor([[1.2, -9.0, 3.4], [9.0, 1.0, 30.0]])).tolist() == [
        [2.0, -8.0, 7.0],
        [4.0, 0.0, 7.0],
    ]
