# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Chunks on one time axis: temporal ensembling, and what real-time chunking asks of a policy."""
from __future__ import annotations

import math

import numpy as np
import pytest

from quantvla_ros.control.ensemble import Ensemble, Numbers
from quantvla_ros.control.modes import Mode, Scheduling
from quantvla_ros.control.rtc import guidance, soft_mask
from quantvla_ros.errors import ContractError

MS = 1_000_000
PERIOD = 0.05


def ramp(begin_ms: int, rows: int = 8, offset: float = 0.0) -> Numbers:
    """Rows that say what time it is, in periods, so that chunks agree wherever they overlap."""
    times = begin_ms / 50.0 + np.arange(rows) + 1.0 + offset
    return Numbers(begin_ms * MS, PERIOD, times[:, np.newaxis])


def test_an_older_chunk_is_read_at_the_instants_of_the_newer_ones_rows():
    old = ramp(1000)
    rows, has = old.at_rows_of(1075 * MS, PERIOD, 8)  # a period and a half later
    assert has.tolist() == [True] * 6 + [False] * 2
    np.testing.assert_allclose(rows[:6, 0], 1075 / 50.0 + np.arange(6) + 1.0)


def test_a_slowed_chunk_is_read_by_its_own_period():
    rows, has = Numbers(0, 0.1, np.arange(4.0)[:, np.newaxis]).at_rows_of(0, PERIOD, 8)
    assert has.tolist() == [False] + [True] * 7
    np.testing.assert_allclose(rows[1:, 0], np.arange(7) / 2.0)


def test_chunks_that_agree_are_left_alone_by_the_average():
    ensemble = Ensemble(0.5, 4)
    for begin in (1000, 1050, 1130):
        chunk = ramp(begin)
        np.testing.assert_allclose(ensemble.mixed(chunk), chunk.rows)


def test_the_weights_fall_from_the_oldest_to_the_newest():
    """ACT: w_i = exp(-m i), and w_0 is the oldest action's."""
    ensemble, m = Ensemble(0.5, 4), 0.5
    ensemble.mixed(ramp(1000, offset=1.0))
    ensemble.mixed(ramp(1050, offset=10.0))
    mixed = ensemble.mixed(ramp(1100, offset=100.0)) - ramp(1100).rows
    w = np.exp(-m * np.arange(3))
    np.testing.assert_allclose(mixed[0, 0], (w @ [1.0, 10.0, 100.0]) / w.sum())
    # Row 6 lies beyond the oldest chunk: the second one is the oldest there.
    np.testing.assert_allclose(mixed[6, 0], (w[:2] @ [10.0, 100.0]) / w[:2].sum())
    np.testing.assert_allclose(mixed[7, 0], 100.0)


def test_no_more_chunks_are_mixed_than_allowed():
    ensemble = Ensemble(0.0, 2)
    ensemble.mixed(ramp(1000, offset=1000.0))
    ensemble.mixed(ramp(1050, offset=1.0))
    mixed = ensemble.mixed(ramp(1100, offset=3.0)) - ramp(1100).rows
    assert len(ensemble) == 2
    np.testing.assert_allclose(mixed[0, 0], 2.0)


def test_the_soft_mask_is_the_published_one():
    weights = soft_mask(16, 3, 10)
    assert (weights[:3] == 1.0).all() and (weights[10:] == 0.0).all()
    c = (10 - 5) / (10 - 3 + 1)
    assert weights[5] == pytest.approx(c * (math.exp(c) - 1.0) / (math.e - 1.0))
    assert (np.diff(weights[2:11]) < 0.0).all()


def test_what_runs_during_an_inference_is_frozen_and_the_rest_of_the_overlap_is_soft():
    asked = guidance(ramp(1000, 16), 1400 * MS, PERIOD, 16, 0.12, np.zeros(1))
    assert asked is not None
    np.testing.assert_allclose(asked.actions[:8, 0], 1400 / 50.0 + np.arange(8) + 1.0)
    assert (asked.weights[:3] == 1.0).all()  # 0.12 s are three rows, begun or over
    assert (asked.weights[3:8] > 0.0).all() and (asked.weights[3:8] < 1.0).all()
    assert (asked.weights[8:] == 0.0).all()


def test_a_delay_longer_than_the_overlap_freezes_no_more_than_there_is():
    asked = guidance(ramp(1000, 16), 1400 * MS, PERIOD, 16, 9.0, np.zeros(1))
    assert asked is not None and asked.weights.tolist() == [1.0] * 8 + [0.0] * 8


def test_a_chunk_that_is_over_asks_for_nothing():
    assert guidance(ramp(1000, 16), 1800 * MS, PERIOD, 16, 0.1, np.zeros(1)) is None


def test_offsets_are_taken_from_the_new_measurement():
    asked = guidance(ramp(1000, 16), 1400 * MS, PERIOD, 16, 0.1, np.array([5.0]))
    assert asked is not None
    np.testing.assert_allclose(asked.actions[0, 0], 1400 / 50.0 + 1.0 - 5.0)


def test_a_schedule_is_chosen_by_name_and_its_numbers_have_a_range():
    assert Mode.named('rtc') is Mode.RTC
    with pytest.raises(ContractError, match="one of sync, async, ensemble, rtc, found 'x'"):
        Mode.named('x')
    with pytest.raises(ContractError, match='ensemble_chunks: expected 1 to 64, found 0'):
        Scheduling(ensemble_chunks=0)
