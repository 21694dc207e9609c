# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Estimates with their intervals, one line each, on one scale. Knows nothing of what they are."""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from quantvla_ros.report.chart import Scale, cross, dot, label, line, linear
from quantvla_ros.report.html import Html, tag

# The corrections of an ablation, by the end of a policy's label.
_NAMES = {'none': 'no correction', 'atm': '\u03b1 only', 'ohb': '\u03b2 only', 'both': 'both'}


@dataclass(frozen=True)
class Interval:
    """One estimate.

    Attributes:
        group: lines of one group stand together under its name; '' has none.
        name: of the line.
        value: a share; may be NaN.
        ends: of its interval; None: not known.
        words: the numbers, to be read.
    """

    group: str
    name: str
    value: float
    ends: tuple[float, float] | None
    words: str


def interval_plot(
    intervals: Sequence[Interval], title: str, *, points: bool, reference: float | None = None,
    from_zero: bool = False,
) -> Html:
    """A dot with a line for each.

    Args:
        title: of the axis.
        points: the axis is in points with a sign, else in percent.
        reference: where a dotted line stands.
        from_zero: the axis begins at 0.
    """
    scale = _scale(intervals, points, reference, from_zero)
    rows: list[Html] = []
    group = ''
    for interval in intervals:
        if interval.group != group:
            group = interval.group
            rows.append(tag('tr', tag('th', group, colspan=3, scope='rowgroup', class_='group')))
        rows.append(
            tag(
                'tr',
                tag('th', interval.name, scope='row'),
                tag('td', _line(interval, scale, reference), class_='dots'),
                tag('td', interval.words),
            )
        )
    axis = tag(
        'svg',
        [label(scale.place(v), 100, words, 'tick-x', dy=12) for v, words in scale.ticks],
        aria_hidden='true',
    )
    rows.append(
        tag('tr', tag('th', ''), tag('td', axis, tag('div', title, class_='x-title'),
                                     class_='dots ticks'), tag('td', ''), aria_hidden='true')
    )
    return tag('table', tag('tbody', rows), class_='intervals', aria_label=title)


def _scale(
    intervals: Sequence[Interval], points: bool, reference: float | None, from_zero: bool
) -> Scale:
    known = [v for i in intervals for v in (i.value, *(i.ends or ())) if math.isfinite(v)]
    if reference is not None:
        known.append(reference)
    if from_zero:
        known.append(0.0)
    low, high = min(known, default=0.0), max(known, default=1.0)
    margin = 0.06 * (high - low) or 0.01
    scale = linear(low if from_zero else low - margin, high + margin, percent=not points)
    if points:
        ticks = tuple((v, _signed(v)) for v, _ in scale.ticks)
        scale = Scale(scale.low, scale.high, ticks)
    return scale


def _signed(value: float) -> str:
    words = f'{100 * value:+.4g}'.replace('-', '\u2212')
    return '0' if abs(value) < 1e-9 else words


def _line(interval: Interval, scale: Scale, reference: float | None) -> Html:
    marks: list[Html] = [line(scale.place(v), 0, scale.place(v), 100, 'grid')
                         for v, _ in scale.ticks]
    if reference is not None:
        place = scale.place(reference)
        marks.append(line(place, 0, place, 100, 'one'))
    if interval.ends is not None and all(math.isfinite(v) for v in interval.ends):
        low, high = (scale.place(v) for v in interval.ends)
        marks.append(line(low, 50, high, 50, 'stem'))
        marks += [line(end, 32, end, 68, 'stem') for end in (low, high)]
    if math.isfinite(interval.value):
        marks.append(dot(scale.place(interval.value), 50, 'after', interval.words, 4.5))
    else:
        marks.append(cross(50, 30, interval.words))
    return tag('svg', marks, aria_hidden='true')


def grouped(label: str) -> tuple[str, str]:
    """An ablation's label as (recipe, corrections); any other as ('', label)."""
    for separator in ('/', '-', '+', '_'):
        recipe, found, end = label.rpartition(separator)
        if found and end.lower() in _NAMES:
            return recipe, _NAMES[end.lower()]
    return '', label
