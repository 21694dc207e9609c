# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""An evaluation's parts on recordings: chunks against another policy's, and against what was done.

Knows the JSON of `evaluate --bag`, which `compare` defines; knows nothing of policies or bags.
"""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from quantvla_ros.report.chart import Scale, bar, curve, dot, linear, plot
from quantvla_ros.report.document import Cell, Section, folded, panel, paragraph, scrolling, table
from quantvla_ros.report.html import Html, join, tag
from quantvla_ros.report.interval_plot import Interval, grouped, interval_plot
from quantvla_ros.report.numbers import MISSING, count, number, percent, plural

_STRONGEST = 0.55  # opacity of the strongest colour of a map
_SHOWN = 16  # joints in full view


def open_sections(found: Mapping[str, Any]) -> list[Section]:
    """Comparisons with another policy where there are any, and the error against the recording."""
    sections = []
    comparisons = found['comparisons']
    if comparisons:
        sections += [
            Section('open', 'Open loop', open_title(found), _overview(found)),
            Section('joints', 'Joints', _joint_title(comparisons), _joints(comparisons)),
            Section('steps', 'Denoising', _step_title(comparisons), _steps(comparisons)),
        ]
    sections.append(
        Section(
            'recorded', 'Recording',
            f'Against {count(found["actions"])} recorded actions', _recorded(found),
        )
    )
    return sections


def open_title(found: Mapping[str, Any]) -> str:
    """What the comparisons tell, in one sentence without its full stop."""
    known = [c for c in found['comparisons'] if _is(c['relative'])]
    where = f'on {plural(found["observations"], "observation")}'
    if not known:
        return f'No error against {found["against"]} could be computed {where}'
    least = min(known, key=lambda c: c['relative'])
    most = max(known, key=lambda c: c['relative'])
    if len(known) == 1:
        return (
            f'The action chunks of {least["policy"]} are {percent(least["relative"])} off '
            f'{found["against"]} {where}'
        )
    return (
        f'Action chunks are from {percent(least["relative"])} ({least["policy"]}) to '
        f'{percent(most["relative"])} ({most["policy"]}) off {found["against"]} {where}'
    )


def _is(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _overview(found: Mapping[str, Any]) -> Html:
    intervals = [
        Interval(
            *grouped(c['policy']), c['relative'] if _is(c['relative']) else math.nan,
            tuple(c['relative_95']) if c.get('relative_95') else None, percent(c['relative']),
        )
        for c in found['comparisons']
    ]
    rows = [
        [
            Cell(c['policy'], kind='words'),
            Cell(percent(c['relative']), c['relative']),
            Cell(percent(c['relative_to_variation']), c['relative_to_variation']),
            Cell(MISSING if c['cosine'] is None else f'{c["cosine"]:.5f}', c['cosine']),
            Cell(percent(c['frame_error']['median']), c['frame_error']['median']),
            Cell(percent(c['frame_error']['largest']), c['frame_error']['largest']),
            Cell(', '.join(f'{g["flips"]} of {count(g["of"])}' for g in c['grippers']) or '\u2013'),
        ]
        for c in found['comparisons']
    ]
    return join(
        paragraph(
            'Relative error: size of the difference of the action chunks over the size of '
            f'{found["against"]}\u2019s, in normalised actions and with the same noise; lines: '
            '95\u202f% interval over episodes.'
        ),
        interval_plot(intervals, 'relative error', points=False, from_zero=True),
        table(
            ('policy', 'relative', 'to variation', 'cosine', 'median frame', 'worst frame',
             'gripper flips'),
            rows, words='errors of the action chunks', sortable=True,
        ),
        paragraph(
            'To variation: over how much the actions vary instead of over their size. Gripper '
            'flips: rows of chunks in which one policy would open and the other close.', soft=True,
        ),
    )


def _joint_title(comparisons: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (joint['relative_to_variation'], joint, c['policy'])
        for c in comparisons for joint in c['joints'] if _is(joint['relative_to_variation'])
    ]
    if not rows:
        return 'No joint varies'
    value, joint, policy = max(rows, key=lambda row: row[0])
    of = f' of {policy}' if len(comparisons) > 1 else ''
    return (
        f'{joint["name"]}{of} is off most: {percent(value)} of how much it varies, '
        f'{number(joint["rms"], 2)} {joint["unit"]} rms'
    )


def _joints(comparisons: Sequence[Mapping[str, Any]]) -> Html:
    """The joints, the worst first: as bars for one policy, as a map for many."""
    draw = _joint_bars if len(comparisons) == 1 else _joint_map
    worst = [
        max(_rank(c['joints'][index]['relative_to_variation']) for c in comparisons)
        for index in range(len(comparisons[0]['joints']))
    ]
    order = sorted(range(len(worst)), key=lambda index: -worst[index])
    most = max((value for value in worst if value > 0), default=1.0)
    rest = order[_SHOWN:]
    return join(
        paragraph(
            'Error of each joint over how much the joint varies, in normalised actions; the worst '
            'first. Root mean square and largest difference are in the robot\u2019s units.'
        ),
        draw(comparisons, order[:_SHOWN], most),
        folded(f'{plural(len(rest), "more joint")}', draw(comparisons, rest, most))
        if rest else None,
    )


def _rank(value: float | None) -> float:
    return value if value is not None and math.isfinite(value) else -1.0


def _joint_bars(
    comparisons: Sequence[Mapping[str, Any]], order: Sequence[int], most: float
) -> Html:
    joints = [comparisons[0]['joints'][index] for index in order]
    rows = [
        [
            Cell(joint['name'], kind='words'),
            Cell(bar(_rank(joint['relative_to_variation']) / most, 'q'), kind='bars'),
            Cell(percent(joint['relative_to_variation']), _rank(joint['relative_to_variation'])),
            Cell(f'{number(joint["rms"], 2)} {joint["unit"]}', joint['rms']),
            Cell(f'{number(joint["largest"], 2)} {joint["unit"]}', joint['largest']),
        ]
        for joint in joints
    ]
    head = ('joint', '', 'relative', 'rms', 'largest')
    return table(head, rows, words='error by joint', sortable=True)


def _joint_map(
    comparisons: Sequence[Mapping[str, Any]], order: Sequence[int], most: float
) -> Html:
    """A map of policies and joints with its numbers, in percent, in it."""
    top = tag(
        'tr',
        tag('th', '%', scope='col'),
        [tag('th', c['policy'], scope='col', class_='tall', title=c['policy'])
         for c in comparisons],
        tag('th', 'largest difference', scope='col', class_='tall'),
    )
    rows = []
    for index in order:
        joint = comparisons[0]['joints'][index]
        largest = max(c['joints'][index]['largest'] for c in comparisons)
        rows.append(
            tag(
                'tr',
                tag('th', joint['name'], scope='row'),
                [_joint_cell(c, index, most) for c in comparisons],
                tag('td', f'{number(largest, 2)} {joint["unit"]}', class_='no'),
            )
        )
    return scrolling(
        tag('table', tag('thead', top), tag('tbody', rows), class_='heat',
            aria_label='relative error by joint and policy, in percent'),
        'error by joint',
    )


def _joint_cell(comparison: Mapping[str, Any], index: int, most: float) -> Html:
    joint = comparison['joints'][index]
    value = joint['relative_to_variation']
    words = f'{comparison["policy"]}, {joint["name"]}: rms {number(joint["rms"])} {joint["unit"]}'
    if not _is(value):
        return tag('td', '\u2013', class_='no', title=words)
    share = _STRONGEST * value / most
    return tag('td', number(100 * value, 2), class_='hi', style=f'--s:{share:.2f}', title=words)


def _step_title(comparisons: Sequence[Mapping[str, Any]]) -> str:
    last = [c['steps'][-1]['relative'] for c in comparisons if c['steps']]
    first = [c['steps'][0]['relative'] for c in comparisons if c['steps']]
    known = [(a, b) for a, b in zip(first, last, strict=True) if _is(a) and _is(b)]
    if not known:
        return 'No denoising steps'
    if len(known) == 1:
        return (
            f'From {percent(known[0][0])} after the first denoising step to '
            f'{percent(known[0][1])} after the last'
        )
    return (
        f'After the last denoising step from {percent(min(b for _, b in known))} to '
        f'{percent(max(b for _, b in known))}'
    )


def _steps(comparisons: Sequence[Mapping[str, Any]]) -> Html:
    values = [s['relative'] for c in comparisons for s in c['steps'] if _is(s['relative'])]
    y = linear(0.0, 1.15 * max(values, default=1.0) or 1.0, percent=True)
    panels = []
    for c in comparisons:
        steps = c['steps']
        every = max(1, math.ceil(len(steps) / 5))
        ticks = tuple((float(s['step']), str(s['step'])) for s in steps[::every])
        x = Scale(0.5, len(steps) + 0.5, ticks)
        places = [
            (x.place(s['step']), y.place(s['relative']) if _is(s['relative']) else math.nan)
            for s in steps
        ]
        marks = [curve(places, 'trend-after')] + [
            dot(px, py, 'after', f'step {s["step"]}: {percent(s["relative"])}')
            for (px, py), s in zip(places, steps, strict=True) if math.isfinite(py)
        ]
        said = f'{percent(steps[0]["relative"])} \u2192 {percent(steps[-1]["relative"])}'
        panels.append(
            panel(
                c['policy'], said,
                plot(
                    x, y, marks, words=f'Relative error of {c["policy"]} by denoising step: {said}',
                    x_title='denoising step', y_title='relative error',
                ),
            )
        )
    return join(
        paragraph(
            'Error of the noisy actions after each denoising step, both policies on their own '
            'way from the same noise; one scale for all.'
        ),
        tag('div', panels, class_='panels'),
    )


def _recorded(found: Mapping[str, Any]) -> Html:
    columns = {p['label']: p['rms_error'] for p in found['policies']}
    columns['holding still'] = found['holding_still']['rms_error']
    rows = [
        [Cell(name, kind='words'),
         *(Cell(number(column[index]), column[index]) for column in columns.values()),
         Cell(unit, kind='words')]
        for index, (name, unit) in enumerate(zip(found['names'], found['units'], strict=True))
    ]
    head, words = ('joint', *columns, 'unit'), 'error against the recording'
    return join(
        paragraph(
            'Root mean square error against the recorded actions, beside that of holding still: a '
            'policy that is not clearly better than holding still has not understood the robot.'
        ),
        table(head, rows[:_SHOWN], words=words, sortable=True),
        folded(
            f'{plural(len(rows) - _SHOWN, "more joint")}',
            table(head, rows[_SHOWN:], words=words, sortable=True),
        ) if len(rows) > _SHOWN else None,
    )


def worst_frames(worst: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> Html:
    """(comparison, frame), the worst first."""
    rows = [
        [
            Cell(c['policy'], kind='words'),
            Cell(tag('bdi', w['episode']), kind='words'),
            Cell(f'{w["seconds"]:.2f} s', w['seconds']),
            Cell(percent(w['error']), w['error']),
            Cell(f'{w["joint"]} {number(w["difference"], 2)} {w["unit"]}, row {w["row"] + 1}',
                 kind='words'),
            Cell(tag('bdi', w['instruction']), kind='words'),
        ]
        for c, w in worst[:20]
    ]
    head = ('policy', 'episode', 'at', 'error', 'largest difference', 'instruction')
    return table(head, rows, words='the frames that differ most', sortable=True)
