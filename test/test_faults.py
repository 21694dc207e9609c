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

from quantvla_ros.control.trajectory import Trajectory
from quantvla_ros.faults.measure import (
    Motion,
    Said,
    asked,
    differences,
    fastest,
    time_to_rest,
    time_to_state,
    time_to_words,
    unasked,
)
from quantvla_ros.faults.report import Report, over_times
from quantvla_ros.faults.results import Result, distinct, show, spread
from quantvla_ros.faults.soak import Memory
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


def test_diagnostics_have_said_it_once_an_entry_that_is_not_ok_has_the_words():
    shown = [
        (99.0, 'policy: state', 'ERROR', 'wrist: nothing new'),
        (100.5, 'policy: input wrist', 'OK', 'wrist: nothing new yet'),
        (101.0, 'policy: state', 'ERROR', 'wrist: nothing new'),
    ]
    assert time_to_words(shown, 100.0, ['nothing new']) == 1.0
    assert time_to_words(shown, 100.0, ['frozen']) is None


LIMITS = {'a': 2.0, 'b': 1.0}


def command(velocity: float) -> Trajectory:
    """From rest to a speed of joint a, evenly, and back to rest."""
    times = np.array([0.0, 0.5, 1.0])
    positions = np.array([[0.0, 0.0], [0.25 * velocity, 0.0], [0.5 * velocity, 0.0]])
    velocities = np.array([[0.0, 0.0], [velocity, 0.0], [0.0, 0.0]])
    return Trajectory(0, ('a', 'b'), times, positions, velocities)


def test_what_commands_ask_for_is_their_largest_share_of_a_limit():
    assert asked([command(0.5), command(-1.0)], LIMITS) == pytest.approx(0.5)
    assert asked([], LIMITS) is None


def test_a_way_gone_faster_than_any_command_is_a_jump_however_slow_the_limit():
    # 100 ms at 2 rad/s where commands ask for half of that.
    way, joint = unasked(motion([[1.0, 0.0], [2.0, 0.0], [1.0, 0.0]]), 0.5, LIMITS)
    assert way == pytest.approx(0.1) and joint == 'a'
    assert unasked(motion([[1.0, 0.5], [1.0, 0.5]]), 0.5, LIMITS)[0] == 0.0


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
        ('0.30 s HOLDING: it is 0.31 s old', '1.20 s RUNNING: x'), (), 0.3, 0.9, 0.55, 1.2, 'a',
        0.4, asked=0.5, back=0.8, seconds=4.0,
    ),
    Result(
        5, 'NaN', 'latch', 'STOPS', ('it went on',), ('0.10 s RUNNING: chunks',),
        ('policy: state: OK',), 0.1, missed=True, jumped=True,
    ),
]


def test_the_table_has_every_case_and_says_what_was_wrong():
    text = show(RESULTS)
    assert re.search(
        r' 1 a camera dies +HOLDING, RUNNING +0.30 s +0.55 s +1.20 \(40 %\) +50 %.*pass', text
    )
    assert 'expected: latch' in text and 'found: it went on' in text
    assert text.endswith('1 passed, 1 failed')


def test_the_time_to_a_hold_is_that_of_holds_which_were_as_expected():
    many = [replace(RESULTS[0], to_state=0.01 * n, to_rest=0.02 * n) for n in range(1, 102)]
    found = spread([*many, RESULTS[1], replace(RESULTS[0], expect='GOES_ON', to_rest=5.0)])
    assert found['holds'] == 101.0
    assert found['said_p50'] == pytest.approx(0.51) and found['at_rest_p99'] == pytest.approx(2.0)
    assert found['said_max'] == pytest.approx(1.01) and found['diagnostics_p50'] == 0.9
    assert 'fault to hold, 101 times: said p50 0.51 s' in show(many)
    assert spread(RESULTS[1:]) == {}


def test_the_file_has_all_that_was_measured_and_why_the_rest_was_not(tmp_path):
    path = tmp_path / 'faults.json'
    report = Report(path, {'policy': 'p'}, {26: 'a Jetson'}, hide=['/home/somebody/'])
    hidden = replace(RESULTS[1], problems=('/home/somebody/p cannot be read',))
    report.write([RESULTS[0], hidden], Memory(), complete=True)
    data = json.loads(path.read_text())
    assert [case['passed'] for case in data['cases']] == [True, False]
    assert data['cases'][0]['to_rest'] == 0.55
    assert data['not_played'] == {'26': 'a Jetson'}
    assert data['about'] == {'policy': 'p', 'complete': True}
    assert (data['faults'], data['failed'], data['holds_missed'], data['jumps']) == (2, 1, 1, 1)
    # A file that is kept must not say on whose machine it was made.
    assert data['cases'][1]['problems'] == ['p cannot be read']
    assert not list(tmp_path.glob('*.part'))


def test_the_file_is_there_before_the_last_case_and_says_that_it_is_not_whole(tmp_path):
    report = Report(tmp_path / 'faults.json', {}, {})
    report.look(RESULTS[:1], Memory())
    data = json.loads((tmp_path / 'faults.json').read_text())
    assert data['about']['complete'] is False and data['faults'] == 1


def test_a_soak_has_each_case_once_and_what_failed_in_full(tmp_path):
    many = [*(replace(RESULTS[0], to_rest=0.5 + 0.1 * n) for n in range(3)), RESULTS[1]]
    dies, nan = over_times(many)
    assert (dies['played'], dies['passed']) == (3, 3) and nan['passed'] == 0
    assert dies['to_rest'] == {'p50': 0.6, 'max': 0.7} and nan['to_rest'] is None
    report = Report(tmp_path / 'soak.json', {}, {}, soak={'minutes': 3.0, 'seed': 0})
    report.write(many, Memory(), complete=True)
    data = json.loads((tmp_path / 'soak.json').read_text())
    assert [one['name'] for one in data['what_failed']] == ['NaN']
    assert data['memory'] == {}
    assert data['soak'] == {'minutes': 3.0, 'seed': 0} and len(data['cases']) == 2


def test_reasons_that_differ_in_numbers_only_are_shown_once():
    assert distinct(['old by 0.31 s', 'old by 0.35 s', 'gone']) == ('old by 0.31 s', 'gone')


def test_memory_that_grows_is_seen_and_the_first_minutes_do_not_count():
    memory = Memory()
    for second in range(0, 1800, 10):
        start = 200.0 * min(second / 300.0, 1.0)  # MiB, while it settles
        memory.add('policy', 1, 5000.0 + second, round((300.0 + start + 0.01 * second) * 2**20))
    assert memory.slope('policy') == pytest.approx(36.0, rel=0.01)
    facts = memory.facts()['policy']
    assert facts['first_mib'] == 300.0 and facts['slope_mib_per_h'] == pytest.approx(36.0, rel=0.01)
    assert 'memory of policy: ' in memory.lines()[0]


def test_a_process_that_takes_the_place_of_another_does_not_hide_a_leak():
    memory = Memory()
    for number in (1, 2, 3):
        for second in range(0, 240, 10):
            size = (100.0 + 20.0 * number + 0.01 * second) * 2**20
            memory.add('tabletop', number, 300.0 * number + second, round(size))
    assert memory.slope('tabletop') == pytest.approx(36.0, rel=0.01)
    assert memory.facts()['tabletop']['processes'] == 3
    # Of three processes, 0.01 MiB a second: at the ends of minutes of all the time.
    assert memory.by_minute('tabletop')[:4] == [120.5, 121.1, 121.7, 122.3]


def test_few_samples_have_no_slope():
    memory = Memory()
    memory.add('policy', 1, 0.0, 2**20)
    memory.add('policy', 1, 10.0, 2**21)
    memory.add('gone', 1, 10.0, 0)
    assert memory.slope('policy') is None and 'slope_mib_per_h' not in memory.facts()['policy']
    assert 'gone' not in memory.facts() and Memory().facts() == {}


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
    from quantvla_ros.faults.setting import Setting

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


def test_the_built_in_arm_plays_all_and_its_quick_form_some(cases, contract, monkeypatch):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: object())  # control_msgs
    chosen, left_out = cases.choose(contract, setting())
    assert chosen == list(cases.CASES) and left_out == cases.ELSEWHERE
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    assert 'control_msgs' in cases.choose(contract, setting())[1][35]
    quick, left_out = cases.choose(contract, setting(), quick=True)
    assert 8 <= len(quick) <= 16
    assert {case.number for case in quick} | set(left_out) == set(range(1, cases.LAST + 1))


def test_somebody_elses_arm_is_spared_the_dangerous_ones_unless_asked_for(cases, contract):
    theirs = setting(own_arm=False)
    chosen, left_out = cases.choose(contract, theirs, dangerous=False)
    assert chosen and not any(case.dangerous for case in chosen)
    assert 'dangerous' in left_out[5]
    assert not any(cases.Need.ARM in case.needs for case in chosen)
    for number in (18, 35, 54):  # what only a variant of our contract has
        assert 'needs' in left_out[number]
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
    # Another contract needs another process.
    assert not any(case.variant for case in deck)


def test_numbers_of_cases_are_given_as_a_list_with_ranges():
    from quantvla_ros.cli.faults import _numbers

    assert _numbers('1,5,19-22') == (1, 5, 19, 20, 21, 22)
    with pytest.raises(Exception, match='expected numbers'):
        _numbers('one')


# Domains.


@pytest.fixture
def domains(tmp_path, monkeypatch):
    """Locks in a folder of the test's own, and no domain chosen by anybody."""
    monkeypatch.setattr('tempfile.gettempdir', lambda: str(tmp_path))
    for name in ('ROS_DOMAIN_ID', 'ROS_AUTOMATIC_DISCOVERY_RANGE'):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_two_runs_on_one_machine_have_domains_of_their_own_and_give_them_back(domains):
    import os

    from quantvla_ros.cli.domain import own_domain

    with own_domain() as one:
        assert os.environ['ROS_DOMAIN_ID'] == str(one)
        assert os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] == 'LOCALHOST'
        del os.environ['ROS_DOMAIN_ID']  # as another process would begin
        with own_domain() as two:
            assert two != one
    assert 'ROS_DOMAIN_ID' not in os.environ
    with own_domain() as again:
        assert again == one


def test_a_domain_that_tests_use_is_left_alone(domains):
    """The same locks as scripts/test.sh."""
    import os
    import subprocess

    from quantvla_ros.cli.domain import own_domain

    assert 'quantvla_ros_domain_$domain.lock' in (ROOT / 'scripts/test.sh').read_text()
    first = os.getpid() % 100 + 1
    lock = domains / f'quantvla_ros_domain_{first}.lock'
    with subprocess.Popen(
        ['flock', '--nonblock', str(lock), 'sh', '-c', 'echo locked; read line'],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as other:
        assert other.stdout.readline() == 'locked\n'
        with own_domain() as domain:
            assert domain != first
        other.communicate('\n')


def test_a_domain_that_the_user_has_chosen_stays_his(domains, monkeypatch):
    import os

    from quantvla_ros.cli.domain import own_domain

    monkeypatch.setenv('ROS_DOMAIN_ID', '42')
    with own_domain() as domain:
        assert domain is None and os.environ['ROS_DOMAIN_ID'] == '42'
    assert os.environ['ROS_DOMAIN_ID'] == '42' and not list(domains.iterdir())


def test_a_machine_without_a_free_domain_is_told_so(domains, monkeypatch):
    from quantvla_ros.cli import domain

    monkeypatch.setattr(domain, '_LAST', 1)
    with domain.own_domain():
        monkeypatch.delenv('ROS_DOMAIN_ID')
        with pytest.raises(Exception, match='expected a free ROS domain'), domain.own_domain():
            pass


def test_the_output_of_a_process_is_read_from_where_one_left_off(tmp_path):
    from quantvla_ros.cli.processes import Child
    from quantvla_ros.nodes.process import StopSignal

    child = Child('zen', [], tmp_path / 'log', module='this')  # which prints something and ends
    stop = StopSignal()
    child.finish(stop)
    stop.restore()
    assert 'Beautiful' in child.output
    written = child.written
    with (tmp_path / 'log').open('a') as log:
        log.write('sécond\n')
    assert child.output_after(written) == 'sécond\n'
