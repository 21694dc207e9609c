# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The promise to the arm, whole: whatever numbers a policy gives, what goes out keeps every limit.

From the raw chunk through guard, join and smoothing to the points that a controller gets: finite,
leaving from where the arm is (or is told to be) without a step, inside position, velocity,
acceleration and jerk limits between the points too, and at rest at the end. Or nothing goes out.
"""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_control_supervisor import CONTRACT

from quantvla_ros.contract.types import ActionKind, ActionPart, JointLimit, Safety
from quantvla_ros.control import guard
from quantvla_ros.control.guard import Reason
from quantvla_ros.control.handover import Handover
from quantvla_ros.control.measured import Measured
from quantvla_ros.control.modes import Mode, Scheduling
from quantvla_ros.control.schedule import Schedule
from quantvla_ros.control.smoothing import state_of

MS = 1_000_000
NOW = 100_000 * MS
ROWS = 12
LIMITS = {
    'a': JointLimit(-1.5, 1.5, 2.0, acceleration=8.0, jerk=200.0),
    'b': JointLimit(-np.inf, np.inf, 3.0, acceleration=10.0, jerk=250.0, continuous=True),
}
NO_JERK = {name: replace(limit, jerk=None) for name, limit in LIMITS.items()}
KINDS = {kind: ActionPart(kind, ('a', 'b'), 'rad') for kind in
         (ActionKind.JOINT_POSITION, ActionKind.JOINT_DELTA)}


def contract_of(kind=ActionKind.JOINT_POSITION, limits=LIMITS):
    action = replace(CONTRACT.action, parts=(KINDS[kind],))
    return replace(CONTRACT, action=action, limits=limits, safety=Safety(stretch=1.5))


def numbers():
    """Mostly of an arm's size, now and then anything a float can be."""
    small = st.floats(-0.12, 0.12)
    return st.one_of(small, small, small, st.floats(allow_nan=True, allow_infinity=True, width=32))


def chunks():
    """[ROWS, 2]: steps from row to row, so that some of them are fit to be followed."""
    wild = st.lists(st.tuples(numbers(), numbers()), min_size=ROWS, max_size=ROWS)
    slow = st.lists(
        st.tuples(st.floats(-0.03, 0.03), st.floats(-0.03, 0.03)), min_size=ROWS, max_size=ROWS
    )
    smooth = st.builds(
        lambda speed, bend: [
            (speed[0] * np.cos(bend * i), speed[1] * np.cos(bend * i)) for i in range(ROWS)
        ],
        st.tuples(st.floats(-0.09, 0.09), st.floats(-0.12, 0.12)), st.floats(0.0, 0.35),
    )
    return st.one_of(wild, slow, smooth, smooth).map(np.array)


def rows_of(steps, start, kind):
    with np.errstate(all='ignore'):
        rows = np.cumsum(steps, axis=0)
        return rows if kind is ActionKind.JOINT_DELTA else start + rows


def judge_sent(points, limits, start, speed):
    """What a controller makes of the points, leaving from where it is."""
    assert guard.check_points(points, limits).ok
    np.testing.assert_allclose(points.positions[0], start, atol=1e-6)
    np.testing.assert_allclose(points.velocities[0], speed, atol=1e-6)
    np.testing.assert_allclose(points.velocities[-1], 0.0, atol=1e-9)
    # Sampled finely, by differences alone: an account that shares no code with the guard's.
    dt = 1e-3
    instants = points.stamp + np.arange(points.times[0], points.times[-1], dt) * 1e9
    path = np.array([state_of(points, int(instant)).position for instant in instants])
    assert np.isfinite(path).all()
    for column, name in enumerate(points.joints):
        limit, x = limits[name], path[:, column]
        assert limit.lower - 1e-6 <= x.min() and x.max() <= limit.upper + 1e-6
        if len(x) > 3:
            assert np.abs(np.diff(x)).max() / dt <= limit.velocity * 1.001 + 1e-6
            assert np.abs(np.diff(x, 2)).max() / dt**2 <= limit.acceleration * 1.01 + 1e-3
        if limit.jerk is not None and len(x) > 4:
            assert np.abs(np.diff(x, 3)).max() / dt**3 <= limit.jerk * 1.05 + 0.5


@pytest.mark.parametrize('limits', [LIMITS, NO_JERK], ids=['jerk', 'no jerk'])
@pytest.mark.parametrize('kind', list(KINDS), ids=lambda kind: kind.value)
@settings(max_examples=60, deadline=None)
@given(
    chunks=st.lists(chunks(), min_size=1, max_size=3),
    start=st.tuples(st.floats(-1.5, 1.5), st.floats(-9.0, 9.0)),
    turns=st.integers(-2, 2),
    wait=st.integers(0, 500),
    late=st.integers(0, 300),
)
def test_whatever_chunks_come_what_goes_out_keeps_every_limit(
    limits, kind, chunks, start, turns, wait, late
):
    contract = contract_of(kind, limits)
    schedule = Schedule(contract.control_period, 6, ROWS, Scheduling(Mode.ASYNC))
    handover = Handover(contract, schedule)
    now, place = NOW, np.array(start)
    for steps in chunks:
        stamp = now
        raw = rows_of(steps, place, kind)
        if kind is ActionKind.JOINT_POSITION:
            raw = raw + np.array([0.0, 2 * np.pi * turns])  # the same angle
        now += late * MS
        told = handover.motion
        if told is not None:
            place = state_of(told.points, now).position
        measured = Measured(now, place, np.zeros(2))
        joined, verdict = handover.join(raw, stamp, place, measured, now)
        if joined is None:
            assert verdict.reason is not None and verdict.sentence
            assert handover.motion is told  # nothing is commanded by a chunk that is dropped
        else:
            points = joined.motion.points
            begin = points.stamp + round(points.times[0] * 1e9)
            before = None if told is None else state_of(told.points, begin)
            judge_sent(
                points, limits, place if before is None else before.position,
                np.zeros(2) if before is None else before.velocity,
            )
            assert np.isfinite(raw).all()
            handover.sent(joined)
        now += wait * MS
        if handover.motion is not None:
            place = state_of(handover.motion.points, now).position


def test_a_fair_chunk_goes_out_and_one_too_fast_by_a_third_goes_out_slower():
    """Or the promise above would be kept by sending nothing at all."""
    handover = Handover(contract_of(), Schedule(0.05, 6, ROWS, Scheduling(Mode.ASYNC)))
    place = np.zeros(2)
    measured = Measured(NOW, place, np.zeros(2))
    for step, stretch in ((0.06, 1.0), (0.1333, 1.333)):
        raw = np.stack([np.arange(1, ROWS + 1) * step, np.zeros(ROWS)], axis=1)
        raw[:, 0] = np.minimum(raw[:, 0], 1.5)
        raw = raw[:ROWS]
        joined, verdict = handover.join(raw[:11], NOW, place, measured, NOW)
        assert joined is not None, verdict.sentence
        assert verdict.stretch == pytest.approx(stretch, rel=1e-3)
        speed = np.abs(joined.motion.points.velocities).max()
        assert speed == pytest.approx(min(step / 0.05, 2.0), rel=0.15)


@pytest.mark.parametrize(('spoil', 'reason'), [
    (lambda raw: raw.__setitem__((3, 1), np.nan), Reason.NOT_FINITE),
    (lambda raw: raw.__setitem__((5, 0), 1.6), Reason.POSITION_LIMIT),
    (lambda raw: raw.__iadd__([0.4, 0.0]), Reason.START_JUMP),
    (lambda raw: raw.__setitem__((slice(6, None), 1), 2.0), Reason.VELOCITY_LIMIT),
])
def test_a_gross_fault_anywhere_in_a_chunk_keeps_all_of_it_back(spoil, reason):
    handover = Handover(contract_of(), Schedule(0.05, 6, ROWS, Scheduling(Mode.ASYNC)))
    raw = np.zeros((ROWS, 2))
    spoil(raw)
    joined, verdict = handover.join(
        raw, NOW, np.zeros(2), Measured(NOW, np.zeros(2), np.zeros(2)), NOW
    )
    assert joined is None and verdict.reason is reason
