# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Statistics of two policies on the same scenes, against published and hand-made values."""
import itertools
import math

import pytest

from quantvla_ros.report.paired import (
    difference_interval,
    mcnemar,
    mean_difference,
    paired,
    wilson,
)


def test_the_four_outcomes_of_a_pair_are_told_apart():
    first = dict(enumerate([True, True, False, False, True]))
    second = dict(enumerate([True, False, True, False, False]))
    found = paired(first, second)
    assert (found['both'], found['neither']) == (1, 1)
    assert (found['only_first'], found['only_second']) == (2, 1)
    assert found['seeds_only_first'] == [1, 4] and found['seeds_only_second'] == [2]
    assert found['p'] == 1.0 and found['difference'] == pytest.approx(0.2)


def test_other_scenes_are_no_pairs():
    with pytest.raises(ValueError, match='same scenes'):
        paired({0: True}, {1: True})


@pytest.mark.parametrize(
    ('only_first', 'only_second', 'p'),
    # 2 * P(Binomial(n, 1/2) <= min), by hand
    [(0, 0, 1.0), (5, 5, 1.0), (0, 6, 2 / 64), (9, 1, 2 * 11 / 1024), (14, 13, 1.0)],
)
def test_mcnemars_exact_p(only_first, only_second, p):
    assert mcnemar(only_first, only_second) == pytest.approx(p)


@pytest.mark.parametrize(
    ('done', 'total', 'low', 'high'),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (190, 200, 0.9104, 0.9726)],
)
def test_wilsons_interval(done, total, low, high):
    assert wilson(done, total) == pytest.approx((low, high), abs=2e-4)


def test_tangos_interval_of_a_published_table():
    # Fagerland, Lydersen and Laake 2014: airway hyper-responsiveness, 1 and 7 discordant of 21
    assert difference_interval(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)


def test_without_discordant_pairs_the_interval_is_that_of_their_number():
    # the score at d is then n d^2 / (|d| (1 - |d|)) = z^2
    z = 1.959963984540054
    bound = z * z / (500 + z * z)
    assert difference_interval(0, 0, 500) == pytest.approx((-bound, bound), rel=1e-6)


def test_the_interval_turns_with_the_pair_and_holds_the_estimate():
    for first, second in itertools.product(range(0, 30, 7), repeat=2):
        low, high = difference_interval(first, second, 40 if first + second <= 40 else 100)
        other = difference_interval(second, first, 40 if first + second <= 40 else 100)
        estimate = (first - second) / (40 if first + second <= 40 else 100)
        assert -1.0 <= low <= estimate <= high <= 1.0
        assert other == pytest.approx((-high, -low), abs=1e-9)


def test_the_interval_covers_as_often_as_it_says():
    # exact coverage over all tables of 60 pairs at a few true shares of discordant pairs
    total = 60
    for p_first, p_second in ((0.02, 0.02), (0.1, 0.05), (0.01, 0.08)):
        covered = 0.0
        for first, second in itertools.product(range(total + 1), repeat=2):
            rest = total - first - second
            if rest < 0 or first > 25 or second > 25:
                continue
            chance = math.exp(
                math.lgamma(total + 1) - math.lgamma(first + 1) - math.lgamma(second + 1)
                - math.lgamma(rest + 1) + first * math.log(p_first) + second * math.log(p_second)
                + rest * math.log(1 - p_first - p_second)
            )
            if chance < 1e-7:
                continue
            low, high = difference_interval(first, second, total)
            covered += chance * (low <= p_first - p_second <= high)
        assert covered > 0.93


def test_later_counts_the_scenes_that_both_did():
    first = dict.fromkeys(range(10), 30.0) | {20: 500.0}
    second = {seed: 28.0 + seed % 2 for seed in range(10)} | {21: 500.0}
    later, (low, high) = mean_difference(first, second)
    assert later == pytest.approx(1.5) and 1.0 <= low < 1.5 < high <= 2.0
    assert mean_difference({0: 3.0}, {0: 1.0}) == (2.0, None)
    assert mean_difference({0: 3.0}, {1: 1.0}) is None
