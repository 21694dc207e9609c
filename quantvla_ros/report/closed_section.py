# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""An evaluation's parts on runs in the simulator: paired scenes, and success by itself.

Knows the JSON of `evaluate --tabletop`; knows nothing of policies or simulators.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantvla_ros.report.document import Cell, Section, paragraph, table
from quantvla_ros.report.html import Html, join
from quantvla_ros.report.interval_plot import Interval, grouped, interval_plot
from quantvla_ros.report.numbers import count, number, plural


def closed_sections(found: Mapping[str, Any]) -> list[Section]:
    """Paired comparisons where there are any, and the success of each policy."""
    sections = []
    if found['comparisons']:
        sections.append(
            Section('paired', 'Paired scenes', closed_title(found), _paired(found))
        )
    best = max(p['success']['all']['done'] for p in found['policies'])
    worst = min(p['success']['all']['done'] for p in found['policies'])
    of = found['scenes']
    title = f'{best} of {count(of)} scenes done' if best == worst else (
        f'From {worst} to {best} of {count(of)} scenes done'
    )
    sections.append(Section('success', 'Success', title, _success(found)))
    return sections


def closed_title(found: Mapping[str, Any]) -> str:
    """What the paired scenes tell, in one sentence without its full stop."""
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
            f'{c["policy"]} {verdict} {against} {scenes}: {signed_points(c["difference"])} points '
            f'(p = {number(c["p"], 2)})'
        )
    words = f'{len(worse)} of {plural(len(comparisons), "policy", "policies")} succeed less often '
    words += f'than {against} {scenes} (p < 0.05)'
    return words + (f', {len(better)} more often' if better else '')


def _paired(found: Mapping[str, Any]) -> Html:
    against = found['against']
    intervals = [
        Interval(
            *grouped(c['policy']), c['difference'], tuple(c['difference_95']),
            f'{signed_points(c["difference"])}, p\u00a0=\u00a0{number(c["p"], 2)}',
        )
        for c in found['comparisons']
    ]
    rows = [
        [
            Cell(c['policy'], kind='words'),
            *(Cell(count(c[k]), c[k]) for k in ('both', 'only_first', 'only_second', 'neither')),
            Cell(signed_points(c['difference']), c['difference']),
            Cell(' to '.join(signed_points(end) for end in c['difference_95'])),
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
                *grouped(policy['label']), whole['done'] / max(whole['of'], 1),
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


def signed_points(share: float) -> str:
    """A difference of shares in points of a hundred."""
    return f'{100 * share:+.1f}'.replace('-', '\u2212')
