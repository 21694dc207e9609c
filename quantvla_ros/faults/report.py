# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Results as a JSON file that is there from the first case on, and whole at every moment.

Of a soak each case is summed up over all of its times; what failed is there in full. Knows numbers,
words and one file; knows nothing of ROS.
"""
from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from quantvla_ros.faults.results import Result, held, spread
from quantvla_ros.faults.soak import Memory

_EVERY = 10.0  # s between two writes


def summary(results: Sequence[Result]) -> dict[str, int]:
    """Counts over all."""
    return {
        'faults': len(results),
        'kinds': len({result.name for result in results}),
        'failed': sum(not result.passed for result in results),
        'holds_due': len(held(results)),
        'holds_missed': sum(result.missed for result in results),
        'jumps': sum(result.jumped for result in results),
        'played_twice': sum(bool(result.excused) for result in results),
    }


class Report:
    """See the module.

    Args:
        path: of the file; None for none.
        about: of the command, the policy, the contract and the machine.
        left_out: why the other cases are not played, by number.
        hide: beginnings of paths that are nobody's business.
        soak: of a soak: seed and minutes; None where the cases are played in their order.
    """

    def __init__(
        self,
        path: Path | None,
        about: Mapping[str, object],
        left_out: Mapping[int, str],
        hide: Sequence[str] = (),
        soak: Mapping[str, object] | None = None,
    ) -> None:
        self._path, self._about, self._left_out = path, about, left_out
        self._hide, self._soak = sorted(hide, key=len, reverse=True), soak
        self._next = 0.0

    def look(self, results: Sequence[Result], memory: Memory) -> None:
        """Write what there is, unless that was done a moment ago."""
        if time.monotonic() >= self._next:
            self.write(results, memory, complete=False)
            self._next = time.monotonic() + _EVERY

    def write(self, results: Sequence[Result], memory: Memory, *, complete: bool) -> None:
        """Write all of it.

        Args:
            results: what was played.
            memory: of the processes.
            complete: whether nothing follows.
        """
        if self._path is None:
            return
        data = self._data(results, memory, complete)
        text = json.dumps(data, indent=1, ensure_ascii=False)
        for start in self._hide:
            text = text.replace(start, '')
        # In one step, so that a reader, or a crash, never finds half of it.
        part = self._path.with_name(f'{self._path.name}.part')
        part.write_text(text + '\n', encoding='utf-8')
        os.replace(part, self._path)

    def _data(self, results: Sequence[Result], memory: Memory, complete: bool) -> dict[str, Any]:
        data: dict[str, Any] = {
            'about': {**self._about, 'complete': complete},
            **summary(results),
            'fault_to_hold_s': spread(results),
        }
        full = [{**_rounded(asdict(result)), 'passed': result.passed} for result in results]
        if self._soak is None:
            data['cases'] = full
        else:
            data |= {
                'soak': dict(self._soak),
                'memory': {
                    name: {**facts, 'mib_by_minute': memory.by_minute(name)}
                    for name, facts in memory.facts().items()
                },
                'cases': over_times(results),
                'what_failed': [one for one in full if not one['passed']],
            }
        data['not_played'] = {str(number): why for number, why in sorted(self._left_out.items())}
        return data


def over_times(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Each case once: how often it was played, and how long it took, in s."""
    names: dict[tuple[int, str], list[Result]] = {}
    for result in results:
        names.setdefault((result.number, result.name), []).append(result)
    return [
        {
            'number': number, 'name': name, 'played': len(many),
            'passed': sum(one.passed for one in many),
            'to_state': _middle_and_most([one.to_state for one in many]),
            'to_rest': _middle_and_most([one.to_rest for one in many]),
            'largest_share': round(max(one.share for one in many), 4),
        }
        for (number, name), many in sorted(names.items())
    ]


def _middle_and_most(values: Sequence[float | None]) -> dict[str, float] | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {'p50': round(float(np.median(known)), 4), 'max': round(max(known), 4)}


def _rounded(fields: dict[str, Any]) -> dict[str, Any]:
    """Times and shares to what they are good for."""
    return {
        name: round(value, 4) if isinstance(value, float) else value
        for name, value in fields.items()
    }
