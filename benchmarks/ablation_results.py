# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The rows and the table of `ablation.py`. Knows its pieces; knows nothing of how they are made."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quantvla_ros.report.compare import ratio
from quantvla_ros.report.paired import paired, wilson

Outcomes = dict[int, bool]  # success by seed


def row_of(
    manifest: Mapping[str, Any] | None,
    own: Mapping[str, Any],
    plain: Mapping[str, Any],
    outcomes: Outcomes,
    plain_outcomes: Outcomes,
    teacher: Outcomes,
) -> dict[str, Any]:
    """What is known of one cell; None for what is not.

    Args:
        own, plain: open loop, of this cell and of its recipe without corrections; empty: not run.
        outcomes, plain_outcomes, teacher: closed loop, of both and of the float policy.
    """
    return {
        'artifact_id': manifest['artifact_id'] if manifest else None,
        'bytes': manifest['bytes'] if manifest else None,
        'corrected': corrected(manifest['corrections']) if manifest else None,
        'open': _open_row(own, plain),
        'closed': success_row(outcomes, teacher),
        'closed_against_none': _pairs(outcomes, plain_outcomes),
    }


def corrected(corrections: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """How many numbers of each correction differ from 1, of how many."""
    numbers = {name: _flat(values) for name, values in corrections.items()}
    return {
        name: (sum(value != 1.0 for value in values), len(values))
        for name, values in numbers.items()
        if values
    }


def _flat(value: Any) -> list[float]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        return [number for item in value for number in _flat(item)]
    return [value] if isinstance(value, (int, float)) else []


def _open_row(own: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, Any] | None:
    if not own:
        return None
    found = {k: v for k, v in own['comparison'].items() if k not in ('policy', 'episodes')}
    row = {'observations': own['observations'], 'episodes': own['episodes'], **found}
    if plain and own['key']['bags'] == plain['key']['bags']:
        value, interval = ratio(own['comparison']['episodes'], plain['comparison']['episodes'])
        row['ratio_to_none'], row['ratio_to_none_95'] = value, interval
    return row


def success_row(own: Outcomes, teacher: Outcomes | None) -> dict[str, Any] | None:
    """Successes with their interval, and scene by scene against the float policy."""
    if not own:
        return None
    done = sum(own.values())
    row: dict[str, Any] = {
        'done': done,
        'of': len(own),
        'interval_95': wilson(done, len(own)),
        'failures': [seed for seed, success in own.items() if not success],
    }
    if teacher is not None:
        row['against_float'] = _pairs(own, teacher)
    return row


def _pairs(first: Outcomes, second: Outcomes) -> dict[str, Any] | None:
    """Over the scenes that both have run."""
    common = sorted(first.keys() & second.keys())
    if not common:
        return None
    return paired({s: first[s] for s in common}, {s: second[s] for s in common})


def markdown(found: Mapping[str, Any]) -> str:
    """The table of docs/quantization.md."""
    header = [
        'recipe', 'corrections', 'numbers set', 'relative error (95 %)', 'times that of none',
        'cosine', 'gripper flips', f'success of {found["seeds"]}', 'only it : only float', 'p',
        'difference in points (95 %)',
    ]
    lines: list[Sequence[str]] = [
        header,
        ['---'] * len(header),
        ['float', '', '', '', '', '', '', *_closed_cells(found['float'])],
        ['float, other noise', '', '', '', '', '', '', *_closed_cells(found['chance'])],
    ]
    for row in found['cells']:
        shipped = ' (as shipped)' if row['as_shipped'] else ''
        set_ = [f'{name} {n} of {of}' for name, (n, of) in (row['corrected'] or {}).items() if n]
        lines.append(
            [
                f'`{row["recipe"]}`',
                row['corrections'] + shipped,
                ', '.join(set_) or '-',
                *_open_cells(row),
                *_closed_cells(row['closed']),
            ]
        )
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def _open_cells(row: Mapping[str, Any]) -> list[str]:
    found = row['open']
    if found is None:
        return ['-'] * 4
    error = f'{100 * found["relative"]:.2f} %'
    if found['relative_95']:
        error += ' ({:.2f} to {:.2f})'.format(*(100 * bound for bound in found['relative_95']))
    times = ''
    if row['same_as'] == 'none' and row['corrections'] != 'none':
        times = 'the same policy'
    elif row['corrections'] != 'none' and found.get('ratio_to_none_95'):
        low, high = found['ratio_to_none_95']
        times = f'{found["ratio_to_none"]:.3f} ({low:.3f} to {high:.3f})'
    flips = sum(gripper['flips'] for gripper in found['grippers'])
    return [error, times, f'{found["cosine"]:.5f}', str(flips)]


def _closed_cells(row: Mapping[str, Any] | None) -> list[str]:
    if row is None:
        return ['-'] * 4
    share = f'{row["done"]} ({100 * row["done"] / row["of"]:.1f} %)'
    pairs = row.get('against_float')
    if pairs is None:
        return [share, '', '', '']
    low, high = pairs['difference_95']
    return [
        share,
        f'{pairs["only_first"]} : {pairs["only_second"]}',
        f'{pairs["p"]:.2g}',
        f'{100 * pairs["difference"]:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})',
    ]
