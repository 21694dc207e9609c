# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The quick form of `faults`: one case of each kind against the node and the arm."""
from __future__ import annotations

import json
import subprocess
import sys

import pytest
from conftest import ROOT

pytestmark = pytest.mark.skipif(
    not (ROOT / 'assets/tabletop_pi05/model.safetensors').exists(),
    reason='the trained policy is not here',
)


@pytest.fixture(scope='module')
def played(tmp_path_factory):
    """What `faults --quick` wrote, and what it printed."""
    folder = tmp_path_factory.mktemp('faults')
    result = subprocess.run(
        [
            sys.executable, '-m', 'quantvla_ros', 'faults', '--quick',
            '--json', str(folder / 'faults.json'), '--logs', str(folder / 'logs'),
        ],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )
    assert (folder / 'faults.json').exists(), result.stdout + result.stderr
    return json.loads((folder / 'faults.json').read_text()), result


def test_every_quick_case_is_as_expected(played):
    data, result = played
    failed = [case for case in data['cases'] if not case['passed']]
    assert not failed and result.returncode == 0, result.stdout + result.stderr


def test_all_of_them_were_played_and_measured(played):
    data, result = played
    numbers = {case['number'] for case in data['cases']}
    assert {1, 5, 7, 9, 19, 25, 36, 54} <= numbers
    assert data['holds_missed'] == data['jumps'] == 0
    assert data['fault_to_hold_s']['at_rest_max'] < 5.0
    assert data['about']['complete'] and data['about']['policy'] == 'tabletop_pi05'
    for case in data['cases']:
        assert case['share'] <= 1.05, case
        assert case['back'] is not None, case
    held = next(case for case in data['cases'] if case['number'] == 1)
    assert held['to_state'] < held['to_rest']
    assert f'{len(data["cases"])} passed' in result.stdout
