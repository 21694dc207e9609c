# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A shadow never takes what is not spare, and what it finds is what there is."""
from __future__ import annotations

import threading

import numpy as np
import pytest

from quantvla_ros.control.modes import Mode, Scheduling
from quantvla_ros.control.rtc import Guidance
from quantvla_ros.control.schedule import Schedule
from quantvla_ros.engine.shadow import Compared, Shadow, difference
from quantvla_ros.observation.types import Observation

OBSERVATION = Observation(1, {}, np.array([0.5, 0.0], np.float32), 'stand')
CHUNK = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
PATIENCE = 10.0
SECOND = 10**9


def as_it_is(chunk: np.ndarray, state: np.ndarray) -> np.ndarray:
    return chunk


class Policy:
    """Ends an inference when it is let."""

    def __init__(self, chunk: np.ndarray = CHUNK, fails: bool = False) -> None:
        self.chunk, self.fails = chunk, fails
        self.go = threading.Event()
        self.begun = threading.Event()
        self.given: list[tuple] = []

    def warm_up(self, runs: int = 2) -> None:
        pass

    def infer(self, observation, *, seed=None, guidance=None) -> np.ndarray:
        self.begun.set()
        assert self.go.wait(PATIENCE)
        self.given.append((observation, seed, guidance))
        if self.fails:
            raise RuntimeError('out of memory')
        return self.chunk


class Told:
    """Collects comparisons and waits for them."""

    def __init__(self) -> None:
        self.all: list[Compared] = []
        self._news = threading.Condition()

    def __call__(self, compared: Compared) -> None:
        with self._news:
            self.all.append(compared)
            self._news.notify()

    def until(self, count: int) -> None:
        with self._news:
            assert self._news.wait_for(lambda: len(self.all) >= count, PATIENCE)


@pytest.fixture
def made():
    shadows: list[tuple[Shadow, Policy]] = []

    def made(policy: Policy) -> tuple[Shadow, Told]:
        told = Told()
        shadow = Shadow(policy, as_it_is, told)
        shadow.warm_up()
        shadows.append((shadow, policy))
        return shadow, told

    yield made
    for shadow, policy in shadows:
        policy.go.set()
        assert shadow.stop(PATIENCE)


def offer(shadow: Shadow, spare: float = 60.0, **given) -> bool:
    return shadow.offer(OBSERVATION, 7, given.get('guidance'), CHUNK, spare, 'tag')


def until_idle(shadow: Shadow) -> None:
    pause = threading.Event()
    for _ in range(round(PATIENCE / 0.005)):
        if shadow._work is None:
            return
        pause.wait(0.005)
    pytest.fail('the shadow is still at work')


def test_it_infers_from_the_same_observation_seed_and_guidance(made):
    policy = Policy(CHUNK + np.array([[0.0, 0.0], [0.0, 0.5]], np.float32))
    shadow, told = made(policy)
    guidance = Guidance(CHUNK, np.ones(2))
    policy.go.set()
    assert offer(shadow, guidance=guidance)
    told.until(1)
    assert policy.given == [(OBSERVATION, 7, guidance)]
    found = told.all[0]
    assert found.tag == 'tag' and found.seconds >= 0.0
    assert (found.difference.row, found.difference.column) == (1, 1)
    assert found.difference.largest == pytest.approx(0.5)


def test_while_it_is_busy_an_offer_returns_at_once_and_is_counted(made):
    policy = Policy()
    shadow, told = made(policy)
    assert offer(shadow)
    assert policy.begun.wait(PATIENCE)
    assert not offer(shadow) and not offer(shadow)
    assert shadow.busy == 2 and shadow.count == 0
    policy.go.set()
    told.until(1)


def test_it_is_not_begun_where_it_would_not_be_done_in_time(made):
    policy = Policy()
    shadow, _ = made(policy)
    shadow._seconds.extend([0.2] * 20)
    assert not offer(shadow, spare=0.19)
    assert not policy.begun.is_set() and shadow.no_time == 1
    shadow._seconds[0] = 30.0  # one slow inference does not keep it from trying again
    assert offer(shadow, spare=0.3)


def test_what_the_warm_up_took_is_not_held_against_it_for_ever(made):
    policy = Policy()
    policy.go.set()
    shadow, told = made(policy)
    shadow._bound = 1.0
    tries = 0
    while not offer(shadow, spare=0.5):
        tries += 1
        assert tries < 50
    told.until(1)
    assert tries > 0


def test_one_that_fails_again_and_again_is_left_alone(made):
    policy = Policy(fails=True)
    policy.go.set()
    shadow, told = made(policy)
    for _ in range(3):
        assert offer(shadow)
        until_idle(shadow)
    assert shadow.ended and 'out of memory' in shadow.problem
    assert not offer(shadow) and not told.all


def test_one_that_fails_once_goes_on(made):
    policy = Policy(fails=True)
    policy.go.set()
    shadow, told = made(policy)
    assert offer(shadow)
    until_idle(shadow)
    assert 'out of memory' in shadow.problem
    policy.fails = False
    assert offer(shadow)
    told.until(1)
    until_idle(shadow)
    assert shadow.problem == '' and not shadow.ended


def test_chunks_of_another_shape_are_a_failure_with_both_shapes(made):
    policy = Policy(np.zeros((3, 2), np.float32))
    policy.go.set()
    shadow, told = made(policy)
    assert offer(shadow)
    until_idle(shadow)
    assert '(2, 2)' in shadow.problem and '(3, 2)' in shadow.problem and not told.all


def test_the_relative_error_is_that_of_normalised_actions():
    def scaled(chunk: np.ndarray, state: np.ndarray) -> np.ndarray:
        return chunk * np.array([1.0, 0.1])

    other = CHUNK + np.array([[0.3, 0.0], [0.0, 4.0]], np.float32)
    found = difference(CHUNK, other, OBSERVATION.state, scaled)
    expected = np.hypot(0.3, 0.4) / np.linalg.norm(CHUNK * np.array([1.0, 0.1]))
    assert found.relative == pytest.approx(expected, rel=1e-6)
    assert found.largest == pytest.approx(4.0)
    assert difference(CHUNK, CHUNK, OBSERVATION.state, scaled).relative == 0.0


def test_a_value_that_is_no_number_is_the_largest_difference():
    other = CHUNK.copy()
    other[1, 0] = np.nan
    found = difference(CHUNK, other, OBSERVATION.state, as_it_is)
    assert np.isnan(found.relative) and np.isnan(found.largest)
    assert (found.row, found.column) == (1, 0)


@pytest.mark.parametrize(
    ('mode', 'spare'), [(Mode.ASYNC, 0.375), (Mode.SYNC, 0.7), (Mode.ENSEMBLE, 0.015)]
)
def test_spare_time_ends_where_the_next_inference_is_due(mode, spare):
    schedule = Schedule(0.05, 8, 16, Scheduling(mode=mode))
    assert schedule.spare(SECOND) == 0.0  # nothing runs: due with the next picture
    schedule.looked(SECOND - 10_000_000)
    schedule.started(SECOND, SECOND + 700_000_000)
    assert schedule.spare(SECOND) == pytest.approx(spare)
    late = SECOND + round(spare * SECOND)
    assert schedule.spare(late + 1) == 0.0
    assert schedule.due(late + 60_000_000, late + 60_000_000)
