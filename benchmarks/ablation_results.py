# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The rows and the table of `ablation.py`. Knows its pieces; knows nothing of how they are made."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ablation_work import CHANCE, CORRECTIONS, FLOAT, Cell, Work

from quantvla_ros.cli.evaluate_tabletop import Outcome, compare, success_table
from quantvla_ros.contract.load import load_contract
from quantvla_ros.report.compare import ratio

Outcomes = Mapping[int, Outcome]


def results(work: Work) -> dict[str, Any]:
    """Everything that is there, by cell; None for what is not."""
    teacher = work.outcomes(FLOAT)
    return {
        'seeds': work.args.seeds,
        'float': _success_row(teacher, None),
        'chance': _success_row(work.outcomes(CHANCE), teacher),
        'cells': [_row(work, cell, teacher) for cell in work.cells],
    }


def _row(work: Work, cell: Cell, teacher: Outcomes) -> dict[str, Any]:
    manifest, twin = work.manifest(cell), work.twin(cell)
    plain = Cell(cell.recipe, 'none')
    recipe = work.recipe(cell.recipe)
    shipped = (recipe['temperature']['enabled'], recipe['balance']['enabled'])
    own = work.outcomes(twin.name)
    return {
        'recipe': cell.recipe,
        'corrections': cell.corrections,
        'as_shipped': shipped == CORRECTIONS[cell.corrections],
        'same_as': twin.corrections,
        'artifact_id': manifest['artifact_id'] if manifest else None,
        'bytes': manifest['bytes'] if manifest else None,
        'corrected': corrected(manifest['corrections']) if manifest else None,
        'open': _open_row(work.open(cell), work.open(plain)),
        'closed': _success_row(own, teacher),
        'closed_against_none': _pairs(own, work.outcomes(work.twin(plain).name)),
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
    sample = own['sample']
    row = {'observations': sample['observations'], 'episodes': sample['episodes'], **found}
    if plain and own['key']['bags'] == plain['key']['bags']:
        value, interval = ratio(own['comparison']['episodes'], plain['comparison']['episodes'])
        row['ratio_to_none'], row['ratio_to_none_95'] = value, interval
    return row


def _success_row(own: Outcomes, teacher: Outcomes | None) -> dict[str, Any] | None:
    """Successes with their interval, and scene by scene against the float policy."""
    if not own:
        return None
    table = success_table(list(own.values()))
    row: dict[str, Any] = {
        'done': table['all']['done'],
        'of': table['all']['of'],
        'interval_95': (table['all']['low'], table['all']['high']),
        'kinds': {kind: (part['done'], part['of']) for kind, part in table.items()},
        'mean_steps': table['all']['mean_steps'],
        'failures': [seed for seed, outcome in own.items() if not outcome.success],
    }
    if teacher is not None:
        row['against_float'] = _pairs(own, teacher)
    return row


def _pairs(first: Outcomes, second: Outcomes) -> dict[str, Any] | None:
    """Over the scenes that both have run."""
    common = sorted(first.keys() & second.keys())
    if not common:
        return None
    return compare(*([run[seed] for seed in common] for run in (first, second)))


def page(work: Work, about: Mapping[str, Any]) -> dict[str, Any]:
    """Everything as the JSON of `evaluate`, for its page."""
    content: dict[str, Any] = {'about': {**about.get('closed', about.get('open', {}))}}
    pieces = {cell.name: work.open(cell) for cell in work.cells if work.open(cell)}
    if pieces:
        last = list(pieces.values())[-1]
        content['open_loop'] = {
            **last['sample'],
            'policies': [{**p['policy'], 'label': name} for name, p in pieces.items()]
            + [{**last['against'], 'label': FLOAT}],
            'against': FLOAT,
            'comparisons': [{**p['comparison'], 'policy': name} for name, p in pieces.items()],
        }
    runs = {
        name: work.outcomes(twin)
        for name, twin in (
            *((cell.name, work.twin(cell).name) for cell in work.cells),
            (CHANCE, CHANCE),
            (FLOAT, FLOAT),
        )
    }
    runs = {name: run for name, run in runs.items() if run}
    if FLOAT in runs:
        period = load_contract(work.args.contract).control_period
        content['tabletop'] = {
            'scenes': work.args.seeds,
            'first_seed': 0,
            'control_period': period,
            'time_limit': work.args.steps * period,
            'delay': work.args.delay,
            'policies': [
                {'label': name, 'success': success_table(list(run.values()))}
                for name, run in runs.items()
            ],
            'against': FLOAT,
            'comparisons': [
                {'policy': name, **pairs}
                for name, run in runs.items()
                if name != FLOAT and (pairs := _pairs(run, runs[FLOAT])) is not None
            ],
        }
    return content


def markdown(found: Mapping[str, Any]) -> str:
    """The table of docs/quantization.md."""
    header = [
        'recipe', 'corrections', 'numbers set', 'relative error (95 %)', 'times that of none',
        'cosine', 'gripper flips', f'success of {found["seeds"]}', 'only it : only float', 'p',
        'difference in points (95 %)', 'periods later (95 %)',
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
        return ['-'] * 5
    share = f'{row["done"]} ({100 * row["done"] / row["of"]:.1f} %)'
    pairs = row.get('against_float')
    if pairs is None:
        return [share, '', '', '', '']
    low, high = pairs['difference_95']
    later = '-'
    if pairs['later_95']:
        later = '{:+.2f} ({:+.2f} to {:+.2f})'.format(pairs['later'], *pairs['later_95'])
    return [
        share,
        f'{pairs["only_first"]} : {pairs["only_second"]}',
        f'{pairs["p"]:.2g}',
        f'{100 * pairs["difference"]:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})',
        later,
    ]
