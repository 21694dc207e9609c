# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The page of an evaluation: chunks against chunks on recordings, and runs in the simulator.

Knows the JSON of `evaluate` and how pages are made; knows nothing of policies, bags or ROS. One
policy or many (an ablation): what is held against one policy is a row or a small plot each, all on
one scale.
"""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantvla_ros.report.calibration_data import Chunks
from quantvla_ros.report.chart import Scale, bar, curve, dot, linear, plot
from quantvla_ros.report.chunk_section import chunk_section
from quantvla_ros.report.document import (
    Cell,
    Section,
    document,
    folded,
    panel,
    paragraph,
    scrolling,
    table,
    tile,
    write_document,
)
from quantvla_ros.report.html import Html, join, tag
from quantvla_ros.report.interval_plot import Interval, interval_plot
from quantvla_ros.report.numbers import MISSING, count, number, percent, plural

_STRONGEST = 0.55  # opacity of the strongest colour of a map
_SHOWN = 16  # joints in full view
_NAMES = {'none': 'no correction', 'atm': '\u03b1 only', 'ohb': '\u03b2 only', 'both': 'both'}


@dataclass(frozen=True)
class EvaluationData:
    """What the page shows.

    Attributes:
        content: the JSON: 'about', and 'open_loop', 'tabletop' or both.
        chunks: the worst frames with their pictures; None: numbers only. The teacher is the policy
            that the others are held against.
        policy: whose frames those are.
    """

    content: Mapping[str, Any]
    chunks: Chunks | None = None
    policy: str = ''


def write_evaluation(data: EvaluationData, path: Path) -> None:
    """Write the page: whole or not at all.

    Raises:
        OSError: no room, or no right to write there.
    """
    write_document(render_evaluation(data), path)


def render_evaluation(data: EvaluationData) -> str:
    """The page as HTML; the same data give the same characters."""
    opened, closed = data.content.get('open_loop'), data.content.get('tabletop')
    sections = [
        *(_closed_sections(closed) if closed else []),
        *(_open_sections(opened) if opened else []),
        *(_frame_sections(data)),
        _about_section(data.content.get('about', {})),
    ]
    labels = [p['label'] for p in (opened or closed or {'policies': []})['policies']]
    return document(
        f'Evaluation of {", ".join(labels[:3])}',
        _head(labels, opened, closed, data.content.get('about', {})),
        sections,
        paragraph('This file needs nothing but itself.'),
    )


def _head(
    labels: Sequence[str], opened: Mapping[str, Any] | None, closed: Mapping[str, Any] | None,
    about: Mapping[str, Any],
) -> Html:
    against = (opened or closed or {}).get('against')
    judged = [label for label in labels if label != against]
    title = judged[0] if len(judged) == 1 else plural(len(judged), 'policy', 'policies')
    tiles = []
    if opened:
        tiles.append(tile(count(opened['observations']),
                          f'observations of {plural(opened["episodes"], "episode")}, open loop'))
        if len(opened['comparisons']) == 1:
            tiles.append(tile(percent(opened['comparisons'][0]['relative']),
                              f'action error against {against}'))
    if closed:
        tiles.append(tile(count(closed['scenes']), 'scenes in the simulator for each policy'))
        if len(closed['comparisons']) == 1:
            tiles.append(tile(_points(closed['comparisons'][0]['difference']),
                              f'points of success against {against}'))
    return join(
        tag('p', f'Evaluation \u00b7 {about.get("date", "")}', class_='kicker'),
        tag('h1', title, f' against {against}' if against else ''),
        tag('div', tiles, class_='tiles'),
        tag('ul', [tag('li', words) for words in _findings(opened, closed)]),
    )


def _findings(
    opened: Mapping[str, Any] | None, closed: Mapping[str, Any] | None
) -> list[str]:
    said = []
    if closed and closed['comparisons']:
        said.append(_closed_title(closed) + '.')
    if opened and opened['comparisons']:
        said.append(_open_title(opened) + '.')
    for policy in opened['policies'] if opened else []:
        if policy.get('calibrated_on'):
            said.append(
                f'{policy["label"]} was calibrated on bags of this evaluation: its error on '
                'others may be larger.'
            )
    said.append(
        'A small open-loop error is necessary for a good policy and not sufficient; success on '
        'paired scenes decides.'
    )
    return said


def _points(share: float) -> str:
    return f'{100 * share:+.1f}'.replace('-', '\u2212')


# -- closed loop ----------------------------------------------------------------------------------


def _closed_sections(found: Mapping[str, Any]) -> list[Section]:
    sections = []
    if found['comparisons']:
        sections.append(
            Section('paired', 'Paired scenes', _closed_title(found), _paired(found))
        )
    best = max(p['success']['all']['done'] for p in found['policies'])
    worst = min(p['success']['all']['done'] for p in found['policies'])
    of = found['scenes']
    title = f'{best} of {count(of)} scenes done' if best == worst else (
        f'From {worst} to {best} of {count(of)} scenes done'
    )
    sections.append(Section('success', 'Success', title, _success(found)))
    return sections


def _closed_title(found: Mapping[str, Any]) -> str:
    against, comparisons = found['against'], found['comparisons']
    worse = [c for c in comparisons if c['p'] < 0.05 and c['difference'] < 0]
    better = [c for c in comparisons if c['p'] < 0.05 and c['difference'] > 0]
    scenes = f'on {count(found["scenes"])} paired scenes'
    if len(comparisons) == 1:
        c = comparisons[0]
        verdict = 'succeeds less often than' if worse else (
            'succeeds more often than' if better else 'shows no difference to'
        )
        return (
            f'{c["policy"]} {verdict} {against} {scenes}: {_points(c["difference"])} points '
            f'(p = {number(c["p"], 2)})'
        )
    words = f'{len(worse)} of {plural(len(comparisons), "policy", "policies")} succeed less often '
    words += f'than {against} {scenes} (p < 0.05)'
    return words + (f', {len(better)} more often' if better else '')


def _paired(found: Mapping[str, Any]) -> Html:
    against = found['against']
    intervals = [
        Interval(
            *_grouped(c['policy']), c['difference'], tuple(c['difference_95']),
            f'{_points(c["difference"])}, p\u00a0=\u00a0{number(c["p"], 2)}',
        )
        for c in found['comparisons']
    ]
    rows = [
        [
            Cell(c['policy'], kind='words'),
            *(Cell(count(c[k]), c[k]) for k in ('both', 'only_first', 'only_second', 'neither')),
            Cell(_points(c['difference']), c['difference']),
            Cell(f'{_points(c["difference_95"][0])} to {_points(c["difference_95"][1])}'),
            Cell(number(c['p'], 2), c['p']),
        ]
        for c in found['comparisons']
    ]
    return join(
        paragraph(
            f'Each scene is run by both policies with the same noise. Dots: difference of the '
            f'share of success to {against}, in points; lines: its 95\u202f% interval (Tango). '
            'Left of the dotted line: less success. A line that crosses it may be chance.'
        ),
        interval_plot(intervals, 'difference of success in points', points=True, reference=0.0),
        table(
            ('policy', 'both', 'only it', f'only {against}', 'neither', 'points', '95 %', 'p'),
            rows, words='paired outcomes', sortable=True,
        ),
        paragraph('p: McNemar\u2019s exact test on the scenes that only one of them did.',
                  soft=True),
    )


def _success(found: Mapping[str, Any]) -> Html:
    intervals = []
    for policy in found['policies']:
        whole = policy['success']['all']
        intervals.append(
            Interval(
                *_grouped(policy['label']), whole['done'] / max(whole['of'], 1),
                (whole['low'], whole['high']), f'{whole["done"]} of {whole["of"]}',
            )
        )
    kinds = [kind for kind in found['policies'][0]['success'] if kind != 'all']
    told = all('wrong_command' in policy for policy in found['policies'])
    rows = []
    for policy in found['policies']:
        success = policy['success']
        rows.append(
            [
                Cell(policy['label'], kind='words'),
                *(Cell(f'{success[k]["done"]} of {success[k]["of"]}',
                       success[k]['done'] / max(success[k]['of'], 1)) for k in kinds),
                Cell(f'{success["all"]["mean_steps"] * found["control_period"]:.2f} s',
                     success['all']['mean_steps']),
                *([Cell(f'{policy["wrong_command"]["all"]["done"]} of '
                        f'{policy["wrong_command"]["all"]["of"]}')] if told else []),
            ]
        )
    head = ['policy', *kinds, 'mean time', *(['told otherwise'] if told else [])]
    return join(
        paragraph('Dots: share of scenes done; lines: 95\u202f% interval (Wilson).'),
        interval_plot(intervals, 'scenes done', points=False),
        table(head, rows, words='success by kind of task', sortable=True),
    )


def _grouped(label: str) -> tuple[str, str]:
    """An ablation's label as (recipe, corrections); any other as ('', label)."""
    for separator in ('/', '-', '+', '_'):
        recipe, found, end = label.rpartition(separator)
        if found and end.lower() in _NAMES:
            return recipe, _NAMES[end.lower()]
    return '', label


# -- open loop ------------------------------------------------------------------------------------


def _open_sections(found: Mapping[str, Any]) -> list[Section]:
    sections = []
    comparisons = found['comparisons']
    if comparisons:
        sections += [
            Section('open', 'Open loop', _open_title(found), _overview(found)),
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


def _open_title(found: Mapping[str, Any]) -> str:
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
            *_grouped(c['policy']), c['relative'] if _is(c['relative']) else math.nan,
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


def _frame_sections(data: EvaluationData) -> list[Section]:
    opened = data.content.get('open_loop')
    sections = []
    if data.chunks is not None:
        section = chunk_section(data.chunks, (opened or {}).get('against') or '', data.policy, '')
        if section is not None:
            sections.append(section)
    elif opened and opened['comparisons']:
        worst = [(c, w) for c in opened['comparisons'] for w in c['worst_frames']]
        worst.sort(key=lambda pair: -pair[1]['error'])
        if worst:
            title = f'The worst frame is {percent(worst[0][1]["error"])} off'
            sections.append(Section('frames', 'Worst frames', title, _worst(worst)))
    return sections


def _worst(worst: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> Html:
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


def _about_section(about: Mapping[str, Any]) -> Section:
    facts = [(key, value) for key, value in about.items() if key != 'arguments']
    facts += list(about.get('arguments', {}).items())
    rows = [
        [tag('dt', key), tag('dd', ', '.join(map(str, value)) if isinstance(value, list)
                             else str(value))]
        for key, value in facts
    ]
    return Section('about', 'Origin', 'How this was measured', tag('dl', rows, class_='facts'))
