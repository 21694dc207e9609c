# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What came of faults: one record per case, as a table and as JSON.

Knows numbers and words; knows nothing of ROS or of how a case is played.
"""
from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

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
        to_rest: s from the fault until no joint moved any more; None where one still did.
        speed: largest velocity of a joint after the fault, rad/s or m/s.
        joint, speed_at: which, and how many s after the fault.
        share: of its limit, the largest of any joint.
        back: s from mending the fault until the policy ran again; None where it did not.
        seconds: the case took in all.
    """

    number: int
    name: str
    expected: str
    expect: str
    problems: tuple[str, ...]
    states: tuple[str, ...] = ()
    diagnostics: tuple[str, ...] = ()
    to_state: float | None = None
    to_rest: float | None = None
    speed: float = 0.0
    joint: str = ''
    share: float = 0.0
    back: float | None = None
    seconds: float = 0.0
    speed_at: float = 0.0

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
            f'{result.speed:.2f} ({100.0 * result.share:.0f} %)',
            _seconds(result.back),
            'pass' if result.passed else 'FAIL',
        )
        for result in results
    ]
    header = ('case', 'states', 'said', 'at rest', 'fastest', 'back', 'result')
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
    failed = sum(not result.passed for result in results)
    lines += [
        '',
        'said: from the fault to the state that names it; at rest: to the last motion of a joint;',
        'fastest: largest velocity after the fault, rad/s, and the share of a limit; back: to the '
        'next chunk once mended',
        *_spread(results),
        f'{len(results) - failed} passed, {failed} failed',
    ]
    return '\n'.join(lines)


def spread(results: Sequence[Result]) -> dict[str, float]:
    """From the fault to the hold, over all that ended in one: how many, median, p99, largest, s."""
    held = [result for result in results if result.expect in _HOLDS and result.passed]
    said = [result.to_state for result in held if result.to_state is not None]
    rest = [result.to_rest for result in held if result.to_rest is not None]
    if not said or not rest:
        return {}
    found = {'holds': float(len(held))}
    for name, values in (('said', said), ('at_rest', rest)):
        for percent in (50, 99, 100):
            found[f'{name}_p{percent}'] = float(np.percentile(values, percent))
    return found


def _spread(results: Sequence[Result]) -> list[str]:
    found = spread(results)
    if not found:
        return []
    return [
        f'fault to hold, {found["holds"]:.0f} times: said p50 {found["said_p50"]:.2f} s, p99 '
        f'{found["said_p99"]:.2f} s; at rest p50 {found["at_rest_p50"]:.2f} s, p99 '
        f'{found["at_rest_p99"]:.2f} s'
    ]


def write(results: Sequence[Result], left_out: dict[int, str], about: Mapping[str, object],
          path: Path) -> None:
    """All of it as JSON.

    Args:
        results: what was played.
        left_out: why the others were not, by number.
        about: of the policy, the contract and the machine.
        path: of the file.
    """
    data = {
        **about,
        'fault_to_hold': spread(results),
        'cases': [{**asdict(result), 'passed': result.passed} for result in results],
        'not_played': {str(number): reason for number, reason in sorted(left_out.items())},
    }
    path.write_text(json.dumps(data, indent=2) + '\n', encoding='utf-8')


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


def _seconds(value: float | None) -> str:
    return '-' if value is None else f'{value:.2f} s'
