# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Tables for a terminal."""
from quantvla_ros.report.table import fitting_table, table


def test_a_table_that_is_too_wide_is_turned_on_its_side():
    header = ['', *(f'joint_{i}' for i in range(26))]
    rows = [['w8a8', *('0.1 %' for _ in range(26))], ['w4a8', *('0.2 %' for _ in range(26))]]
    lines = fitting_table(header, rows).splitlines()
    assert len(lines) == 28 and max(map(len, lines)) < 30
    assert lines[0].split() == ['w8a8', 'w4a8']
    assert lines[2].split() == ['joint_0', '0.1', '%', '0.2', '%']


def test_a_table_that_fits_stays_as_it_is():
    header, rows = ['', 'a', 'b'], [['x', '1', '2'], ['y', '3', '4'], ['z', '5', '6']]
    assert fitting_table(header, rows) == table(header, rows)
