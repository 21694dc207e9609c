# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""From any motion onto any path: the limits hold by construction, not because somebody checks."""
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantvla_ros.contract.types import JointLimit
from quantvla_ros.control.limits import bounds
from quantvla_ros.control.splice import Clock, Motion, Path, braked, spacing, splice, state_at
from quantvla_ros.control.trajectory import Trajectory

MS = 1_000_000
REACH, SPEED, ACCELERATION = 1.0, 2.0, 10.0
NAMES = ('a', 'b', 'c')
BOUNDS = bounds({name: JointLimit(-REACH, REACH, SPEED, 'rad', ACCELERATION) for name in NAMES},
                NAMES)


def check(points: Trajectory) -> None:
    """Parabolas inside the limits, to rest."""
    spans = np.diff(points.times)[:, np.newaxis]
    np.testing.assert_allclose(
        np.diff(points.positions, axis=0),
        (points.velocities[1:] + points.velocities[:-1]) / 2.0 * spans, atol=1e-12,
    )
    assert np.abs(points.velocities).max() <= SPEED + 1e-9
    assert np.abs(np.diff(points.velocities, axis=0) / spans).max() <= ACCELERATION + 1e-6
    assert np.abs(points.positions).max() <= REACH + 1e-9
    assert (points.velocities[-1] == 0.0).all()


def leaps(random: np.random.Generator, rows: int) -> np.ndarray:
    """Rows that no joint can follow, from limit to limit."""
    return random.uniform(-REACH, REACH, (rows + 1, len(NAMES)))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), period=st.sampled_from([0.02, 0.05, 0.2]))
def test_a_command_keeps_every_limit_even_where_the_path_keeps_none(seed, period):
    random = np.random.default_rng(seed)
    position, velocity, now = random.uniform(-REACH, REACH, 3), np.zeros(3), 0
    for _ in range(6):
        path = Path(leaps(random, 12), period)
        motion = splice(
            path, random.uniform(0.0, 0.9) * path.length, position, velocity, BOUNDS,
            stamp=now, instant=now + 10 * MS,
        )
        check(motion.points)
        # The next one begins at any point of it.
        count = len(motion.points.times)
        point = int(random.integers(0, count))
        now += 10 * MS + round(point * spacing(period) * 1e9)
        position, velocity = motion.points.positions[point], motion.points.velocities[point]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), within=st.floats(0.05, 1.0))
def test_a_stop_keeps_them_too(seed, within):
    random = np.random.default_rng(seed)
    path = Path(leaps(random, 12), 0.05)
    motion = splice(path, 0.0, path.rows[0], np.zeros(3), BOUNDS, stamp=0, instant=0)
    point = int(random.integers(0, len(motion.points.times)))
    position, velocity = motion.points.positions[point], motion.points.velocities[point]
    stop = braked(position, velocity, BOUNDS, stamp=0, instant=0, within=within)
    check(stop)
    # Straight to rest: no joint turns back.
    assert (stop.velocities * velocity >= 0.0).all()


def test_a_path_that_fits_is_followed_exactly_and_its_last_row_is_where_it_stops():
    rows = np.repeat(np.linspace(0.0, 0.48, 17)[:, np.newaxis], 3, axis=1)
    motion = splice(
        Path(rows, 0.05), 0.0, rows[0], np.full(3, 0.6), BOUNDS, stamp=0, instant=0
    )
    for row in (1, 5, 14):
        np.testing.assert_allclose(state_at(motion.points, row * 50 * MS)[0], rows[row], atol=1e-9)
    np.testing.assert_allclose(motion.points.positions[-1], rows[-1], atol=2e-3)
    check(motion.points)


def test_an_offset_dies_out_within_a_few_rows_and_without_a_swing_to_the_other_side():
    rows = np.zeros((17, 3))
    start = np.array([0.015, 0.0, -0.2])
    points = splice(
        Path(rows, 0.05), 0.0, start, np.zeros(3), BOUNDS, stamp=0, instant=0
    ).points
    assert abs(state_at(points, 250 * MS)[0][0]) < 0.1 * 0.015
    assert (points.positions[:, 0] > -1e-3).all() and (points.positions[:, 2] < 5e-3).all()
    np.testing.assert_allclose(points.positions[:, 1], 0.0)


def test_the_paths_clock_slows_over_the_last_row_and_then_stands():
    clock = Clock(slows=1000 * MS, way=50 * MS)
    assert clock.at(900 * MS) == 900 * MS
    assert clock.at(1050 * MS) == 1000 * MS + 37_500_000
    assert clock.at(1100 * MS) == clock.at(5000 * MS) == 1050 * MS
    assert Clock(1000 * MS, 50 * MS, starts=800 * MS).at(800 * MS) == 0


@pytest.mark.parametrize(('period', 'points'), [(0.02, 2), (0.05, 4), (0.06, 5), (1.0, 8)])
def test_points_stand_as_close_as_time_asks(period, points):
    assert spacing(period) == pytest.approx(period / points)


def test_a_motion_knows_its_points_and_its_clock():
    motion = splice(
        Path(np.zeros((5, 3)), 0.05), 0.0, np.zeros(3), np.zeros(3), BOUNDS, stamp=0,
        instant=20 * MS,
    )
    assert isinstance(motion, Motion)
    assert motion.clock.slows + motion.clock.way == 220 * MS
