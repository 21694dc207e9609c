# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The fault suite without processes: its table is complete, its figures are right.

The cases themselves are played by test/ros/test_faults_quick.py.
"""
from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from quantvla_ros.faults.measure import (
    Motion,
    Said,
    differences,
    fastest,
    time_to_rest,
    time_to_state,
)
from quantvla_ros.faults.results import Result, distinct, show, spread, write
from quantvla_ros.faults.spoils import SPOILS, SpoiledPolicy, parse

ROOT = Path(__file__).resolve().parents[1]


def motion(velocities, period: float = 0.1) -> Motion:
    """Of the joints a and b, sampled at 10 Hz from 100 s on."""
    velocities = np.array(velocities, float)
    times = 100.0 + period * np.arange(len(velocities))
    return Motion(times, np.cumsum(velocities, axis=0) * period, velocities, ('a', 'b'))


def test_rest_begins_after_the_last_motion_of_any_joint():
    moved = motion([[1.0, 0.0], [0.5, 0.0], [0.0, 0.2], [0.0, 0.0], [0.0, 0.0]])
    assert time_to_rest(moved, 100.0) == pytest.approx(0.3)
    assert time_to_rest(moved, 100.1) == pytest.approx(0.2)


def test_an_arm_that_twitches_after_a_hold_is_not_at_rest_before_the_twitch():
    moved = motion([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.3, 0.0], [0.0, 0.0]])
    assert time_to_rest(moved, 100.0) == pytest.approx(0.4)


def test_an_arm_that_never_moved_is_at_rest_from_the_start():
    assert time_to_rest(motion([[0.0, 0.0]] * 3), 100.0) == 0.0


def test_an_arm_that_still_moves_or_says_nothing_is_not_at_rest():
    assert time_to_rest(motion([[0.0, 0.0], [0.0, -0.4]]), 100.0) is None
    assert time_to_rest(motion([[0.0, 0.0]]), 200.0) is None


def test_the_fastest_joint_and_the_one_nearest_to_its_limit_may_differ():
    peak = fastest(motion([[1.0, 0.0], [-2.0, 0.5], [0.0, -0.9]]), [10.0, 1.0])
    assert (peak.speed, peak.joint) == (2.0, 'a') and peak.time == pytest.approx(100.1)
    assert peak.share == pytest.approx(0.9)
    assert fastest(motion(np.zeros((0, 2))), [1.0, 1.0]).speed == 0.0


def test_a_part_of_a_motion_has_its_ends():
    part = motion([[0.0, 0.0]] * 6).between(100.15, 100.35)
    assert part.times.tolist() == pytest.approx([100.2, 100.3])


def test_the_time_to_a_state_counts_from_the_fault_and_asks_for_its_reason():
    said = [
        Said(99.0, 'HOLDING', 'wrist: nothing new'),
        Said(101.0, 'HOLDING', 'the chunk was dropped'),
        Said(101.5, 'HOLDING', 'wrist: nothing new'),
    ]
    assert time_to_state(said, 100.0, ['HOLDING']) == 1.0
    assert time_to_state(said, 100.0, ['HOLDING'], ['nothing new', 'nobody']) == 1.5
    assert time_to_state(said, 100.0, ['FAULT']) is None


def test_velocities_come_from_positions_where_a_driver_leaves_them_out():
    times = np.array([0.0, 0.1, 0.1, 0.3])
    positions = np.array([[0.0], [0.2], [0.2], [-0.2]])
    assert differences(times, positions).ravel().tolist() == pytest.approx([0.0, 2.0, 2.0, -2.0])


@dataclass
class _Observation:
    state: np.ndarray


class _Policy:
    info, running = 'info', 'running'

    def infer(self, observation, *, seed=None):
        return np.tile(observation.state, (8, 1)).astype(np.float32)


def spoiled(what: str, count: int = 1) -> np.ndarray:
    policy = SpoiledPolicy(_Policy(), lambda: what)
    observation = _Observation(np.array([0.5, 0.0, 1.0], np.float32))
    for _ in range(count):
        rows = policy.infer(observation, seed=1)
    return rows


def test_a_policy_that_is_not_spoiled_is_the_policy():
    assert (spoiled('') == spoiled('slow:0')).all()
    assert np.isfinite(spoiled('')).all()
    assert SpoiledPolicy(_Policy(), lambda: '').running == 'running'


def test_spoils_do_what_they_are_called():
    assert np.isnan(spoiled('nan')).sum() == 1
    assert np.isinf(spoiled('infinite')).sum() == 1
    # Towards the middle of the range: of a jump only its length is to be wrong.
    assert spoiled('jump:0.8')[0, 0] == pytest.approx(-0.3)
    assert spoiled('beyond:9')[:, 0][[0, -1]].tolist() == [0.5, 9.0]
    assert np.abs(np.diff(spoiled('fast:0.6')[:, 0])).max() == pytest.approx(0.6)
    one, two = spoiled('seam:0.02', 1), spoiled('seam:0.02', 2)
    assert np.abs(one - two)[:, 0] == pytest.approx(np.full(8, 0.04))
    with pytest.raises(RuntimeError, match='asked for'):
        spoiled('raise')


def test_an_unknown_spoil_is_refused_with_those_that_there_are():
    with pytest.raises(Exception, match='expected one of nan'):
        parse('nonsense:1')
    assert parse('slow:1.5') == ('slow', 1.5)
    assert all(parse(word) == (word, 0.0) for word in SPOILS)


RESULTS = [
    Result(
        1, 'a camera dies', 'hold', 'HOLDS', (),
        ('0.30 s HOLDING: it is 0.31 s old', '1.20 s RUNNING: x'), (), 0.3, 0.55, 1.2, 'a', 0.4,
        0.8, 4.0,
    ),
    Result(
        5, 'NaN', 'latch', 'STOPS', ('it went on',), ('0.10 s RUNNING: chunks',),
        ('policy: state: OK',), 0.1, 9.0,
    ),
]


def test_the_table_has_every_case_and_says_what_was_wrong():
    text = show(RESULTS)
    assert re.search(
        r' 1 a camera dies +HOLDING, RUNNING +0.30 s +0.55 s +1.20 \(40 %\).*pass', text
    )
    assert 'expected: latch' in text and 'found: it went on' in text
    assert text.endswith('1 passed, 1 failed')


def test_the_time_to_a_hold_is_that_of_holds_which_were_as_expected():
    many = [replace(RESULTS[0], to_state=0.01 * n, to_rest=0.02 * n) for n in range(1, 102)]
    found = spread([*many, RESULTS[1], replace(RESULTS[0], expect='GOES_ON', to_rest=5.0)])
    assert found['holds'] == 101.0
    assert found['said_p50'] == pytest.approx(0.51) and found['at_rest_p99'] == pytest.approx(2.0)
    assert 'fault to hold, 101 times: said p50 0.51 s' in show(many)
    assert spread(RESULTS[1:]) == {}


def test_the_file_has_all_that_was_measured_and_why_the_rest_was_not(tmp_path):
    write(RESULTS, {18: 'raw pictures'}, {'policy': 'p'}, tmp_path / 'faults.json')
    data = json.loads((tmp_path / 'faults.json').read_text())
    assert [case['passed'] for case in data['cases']] == [True, False]
    assert data['cases'][0]['to_rest'] == 0.55
    assert data['not_played'] == {'18': 'raw pictures'} and data['policy'] == 'p'


def test_reasons_that_differ_in_numbers_only_are_shown_once():
    assert distinct(['old by 0.31 s', 'old by 0.35 s', 'gone']) == ('old by 0.31 s', 'gone')


def test_memory_that_grows_is_seen_and_the_first_minutes_do_not_count():
    from quantvla_ros.faults.soak import Memory

    memory = Memory()
    for second in range(0, 1800, 10):
        start = 200.0 * min(second / 300.0, 1.0)  # MiB, while it settles
        memory.add(5000.0 + second, round((300.0 + start + 36.0 * second / 3600.0) * 2**20))
    assert memory.slope == pytest.approx(36.0, rel=0.01)
    assert memory.facts()['first (MiB)'] == 300.0
    short = Memory([0.0, 10.0], [1, 2])
    assert short.slope is None and 'slope (MiB/h)' not in short.facts()
    assert Memory().facts() == {}


# What follows imports the cases, which need messages.


@pytest.fixture
def cases():
    pytest.importorskip('rclpy', reason='needs ROS 2: . scripts/env.sh')
    pytest.importorskip('quantvla_ros.msg', reason='needs the built messages: scripts/setup.sh')
    from quantvla_ros.faults import cases

    return cases


@pytest.fixture
def contract():
    from quantvla_ros.contract.load import load_contract

    return load_contract(ROOT / 'config/contracts/tabletop.yaml')


def setting(**changes):
    from quantvla_ros.faults.stage import Setting

    return Setting(**{
        'policy': Path('p'), 'contract': Path('c'), 'instructions': ('a', 'b'), **changes
    })


def test_every_number_is_a_case_or_has_a_reason_and_none_is_both(cases):
    played = {case.number for case in cases.CASES}
    assert played | set(cases.ELSEWHERE) == set(range(1, cases.LAST + 1))
    assert not played & set(cases.ELSEWHERE)


def test_the_tests_that_look_after_the_others_are_there(cases):
    for reason in cases.ELSEWHERE.values():
        for path in re.findall(r'test/[\w/.]*\w', reason):
            assert (ROOT / path).exists(), path


def test_a_case_says_what_it_expects_and_can_be_told_from_the_others(cases):
    names = [case.name for case in cases.CASES]
    assert len(set(names)) == len(names)
    for case in cases.CASES:
        assert case.expected and case.within > 0.0
        # A hold that names nothing could be a hold for any other reason.
        if case.expect.name in ('HOLDS', 'STOPS', 'LEAVES', 'WAITS', 'REFUSES', 'SAYS'):
            assert case.says, case.name


def test_the_built_in_arm_plays_all_and_its_quick_form_some(cases, contract):
    chosen, left_out = cases.choose(contract, setting())
    assert chosen == list(cases.CASES) and left_out == cases.ELSEWHERE
    quick, left_out = cases.choose(contract, setting(), quick=True)
    assert 8 <= len(quick) <= 16
    assert {case.number for case in quick} | set(left_out) == set(range(1, cases.LAST + 1))


def test_somebody_elses_arm_is_spared_the_dangerous_ones_unless_asked_for(cases, contract):
    theirs = setting(own_arm=False)
    chosen, left_out = cases.choose(contract, theirs, dangerous=False)
    assert chosen and not any(case.dangerous for case in chosen)
    assert 'dangerous' in left_out[5]
    assert not any(cases.Need.ARM in case.needs for case in chosen)
    chosen, _ = cases.choose(contract, theirs, only=(5,), dangerous=True)
    assert {case.number for case in chosen} == {5}


def test_what_spoils_a_policy_or_commands_beside_it_is_dangerous(cases):
    for number in (5, 6, 7, 8, 19, 20, 40):
        assert all(case.dangerous for case in cases.CASES if case.number == number), number


def test_the_page_lists_every_case(cases):
    page = (ROOT / 'docs/faults.md').read_text(encoding='utf-8')
    for case in cases.CASES:
        assert f'| {case.number} | {case.name} |' in page, case.name
    for number in cases.ELSEWHERE:
        assert re.search(rf'^\| {number} \|', page, re.MULTILINE), number


def test_a_soak_plays_all_that_leave_the_process_alone_equally_often(cases):
    from itertools import islice

    from quantvla_ros.faults.soak import fit, order

    deck = [case for case in cases.CASES if fit(case)]
    assert 30 < len(deck) < len(cases.CASES)
    first, second = (list(islice(order(cases.CASES, 1), 2 * len(deck))) for _ in range(2))
    assert [case.name for case in first] == [case.name for case in second]
    assert sorted(case.name for case in first) == sorted(2 * [case.name for case in deck])
    assert list(islice(order(deck, 2), len(first))) != first
    assert not any(case.number == 41 for case in deck)


def test_numbers_of_cases_are_given_as_a_list_with_ranges():
    from quantvla_ros.cli.faults import _numbers

    assert _numbers('1,5,19-22') == (1, 5, 19, 20, 21, 22)
    with pytest.raises(Exception, match='expected numbers'):
        _numbers('one')
