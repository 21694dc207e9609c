# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The page of an evaluation: chunks against chunks on recordings, and runs in the simulator.

Knows the JSON of `evaluate` and how pages are made; knows nothing of policies, bags or ROS. One
policy or many (an ablation): what is held against one policy is a row or a small plot each, all on
one scale.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantvla_ros.report.calibration_data import Chunks
from quantvla_ros.report.chunk_section import chunk_section
from quantvla_ros.report.closed_section import closed_sections, closed_title, signed_points
from quantvla_ros.report.document import Section, document, paragraph, tile, write_document
from quantvla_ros.report.html import Html, join, tag
from quantvla_ros.report.numbers import count, percent, plural
from quantvla_ros.report.open_section import open_sections, open_title, worst_frames


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
        *(closed_sections(closed) if closed else []),
        *(open_sections(opened) if opened else []),
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
            tiles.append(tile(signed_points(closed['comparisons'][0]['difference']),
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
        said.append(closed_title(closed) + '.')
    if opened and opened['comparisons']:
        said.append(open_title(opened) + '.')
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
            sections.append(Section('frames', 'Worst frames', title, worst_frames(worst)))
    return sections


def _about_section(about: Mapping[str, Any]) -> Section:
    facts = [(key, value) for key, value in about.items() if key != 'arguments']
    facts += list(about.get('arguments', {}).items())
    rows = [
        [tag('dt', key), tag('dd', ', '.join(map(str, value)) if isinstance(value, list)
                             else str(value))]
        for key, value in facts
    ]
    return Section('about', 'Origin', 'How this was measured', tag('dl', rows, class_='facts'))
