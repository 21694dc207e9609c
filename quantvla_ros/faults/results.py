# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What came of faults: one record per case, as a table and in numbers over all of them.

Knows numbers and words; knows nothing of ROS or of how a case is played.
"""
from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quantvla_ros.report.table import table

_HOLDS = frozenset({'HOLDS', 'STOPS'})
_WIDTH = 44  # characters of a case's name


@dataclass(frozen=True)
class Result:
    """One case, played.

    Attributes:
        number, name, expected: of the case.
        expect: how it was judged, by name (`case.Expect`).
        problems: what was not as expected; empty for a case that passed.
        states: each state after the fault with its reason, in order, '3.2 s HOLDING: ...'.
        diagnostics: what /diagnostics said after the fault and had not said before.
        to_state: s from the fault until the node said so; None where it never did.
        to_diagnostics: s from the fault until /diagnostics did; None where they never did.
        to_rest: s from the fault until no joint moved any more; None where one still did.
        speed: largest velocity of a joint after the fault, rad/s or m/s.
        joint: which.
        share: of its limit, the largest of any joint.
        speed_at: s after the fault at which that joint was that fast.
        asked: the largest share of a limit that commands asked for; None without commands.
        unasked: rad or m that a joint went faster than any command asked for.
        late: s; how late the arm heard a command, or how long it was off the processor, at most.
        missed: whether a hold that was due did not come.
        jumped: whether a joint moved faster than it may, or than anybody asked for.
        back: s from mending the fault until the policy ran again; None where it did not.
        seconds: the case took in all.
        excused: what was not as expected the first time, where the machine stood still meanwhile
            and the case was played again; all else is of the second time.
        stood_still: s, at most, the first time.
    """

    number: int
    name: str
    expected: str
    expect: str
    problems: tuple[str, ...]
    states: tuple[str, ...] = ()
    diagnostics: tuple[str, ...] = ()
    to_state: float | None = None
    to_diagnostics: float | None = None
    to_rest: float | None = None
    speed: float = 0.0
    joint: str = ''
    share: float = 0.0
    speed_at: float = 0.0
    asked: float | None = None
    unasked: float = 0.0
    late: float = 0.0
    missed: bool = False
    jumped: bool = False
    back: float | None = None
    seconds: float = 0.0
    excused: tuple[str, ...] = ()
    stood_still: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether all was as expected."""
        return not self.problems


def show(results: Sequence[Result]) -> str:
    """A table, then what was wrong."""
    rows = [
        (
            f'{result.number:2d} {_cut(result.name)}',
            _chain(result.states),
            _seconds(result.to_state),
            _seconds(result.to_rest),
            f'{result.speed:.2f} ({_percent(result.share)})',
            _percent(result.asked),
            _seconds(result.back),
            'pass' if result.passed else 'FAIL',
        )
        for result in results
    ]
    header = ('case', 'states', 'said', 'at rest', 'fastest', 'asked', 'back', 'result')
    lines = [table(header, rows)]
    for result in results:
        if result.passed:
            continue
        lines += [
            '', f'{result.number} {result.name}', f'  expected: {result.expected}',
            *(f'  found: {problem}' for problem in result.problems),
            *(f'  state: {state}' for state in result.states),
            *(f'  /diagnostics: {line}' for line in result.diagnostics),
        ]
    if any(result.excused for result in results):
        lines.append('')
    lines += [
        f'{result.number} {result.name}: played twice, as the machine stood still for '
        f'{result.stood_still:.2f} s; the first time: {problem}'
        for result in results for problem in result.excused
    ]
    failed = sum(not result.passed for result in results)
    lines += [
        '',
        'said: from the fault to the state that names it; at rest: to the last motion of a joint;',
        'fastest: largest velocity after the fault, rad/s, and the share of a limit; asked: the '
        'largest share that commands ask for; back: to the next chunk once mended',
        *spread_lines(results),
        f'{len(results) - failed} passed, {failed} failed',
    ]
    return '\n'.join(lines)


def held(results: Sequence[Result]) -> list[Result]:
    """Those that were to end in a hold."""
    return [result for result in results if result.expect in _HOLDS]


def spread(results: Sequence[Result]) -> dict[str, float]:
    """From the fault to the hold, over all holds that were as expected.

    Returns:
        How many; median, p99 and largest time until the status said so, until /diagnostics did, and
        until the arm was at rest, s.
    """
    passed = [result for result in held(results) if result.passed]
    found = {'holds': float(len(passed))}
    for name, values in (
        ('said', [result.to_state for result in passed]),
        ('diagnostics', [result.to_diagnostics for result in passed]),
        ('at_rest', [result.to_rest for result in passed]),
    ):
        known = [value for value in values if value is not None]
        for percent, suffix in ((50, 'p50'), (99, 'p99'), (100, 'max')):
            if known:
                found[f'{name}_{suffix}'] = round(float(np.percentile(known, percent)), 4)
    return found if passed else {}


def spread_lines(results: Sequence[Result]) -> list[str]:
    """The spread for people; nothing without holds."""
    found = spread(results)
    if not found:
        return []
    parts = [
        f'{words} p50 {found[f"{name}_p50"]:.2f} s, p99 {found[f"{name}_p99"]:.2f} s, '
        f'max {found[f"{name}_max"]:.2f} s'
        for name, words in (
            ('said', 'said'), ('diagnostics', 'in /diagnostics'), ('at_rest', 'at rest')
        ) if f'{name}_p50' in found
    ]
    return [f'fault to hold, {found["holds"]:.0f} times: {"; ".join(parts)}']


def distinct(lines: Sequence[str]) -> tuple[str, ...]:
    """The lines without those that differ from an earlier one in numbers only."""
    seen: dict[str, str] = {}
    for line in lines:
        seen.setdefault(re.sub(r'[\d.]+', '#', line), line)
    return tuple(seen.values())


def _chain(states: Sequence[str]) -> str:
    """'HOLDING, RUNNING' from the states with their reasons."""
    names: list[str] = []
    for state in states:
        name = state.partition(' s ')[2].partition(':')[0]
        if not names or names[-1] != name:
            names.append(name)
    return ', '.join(names[:4]) + (', ...' if len(names) > 4 else '')


def _cut(text: str) -> str:
    return text if len(text) <= _WIDTH else text[: _WIDTH - 3] + '...'


def _percent(share: float | None) -> str:
    return '-' if share is None else f'{100.0 * share:.0f} %'


def _seconds(value: float | None) -> str:
    return '-' if value is None else f'{value:.2f} s'
