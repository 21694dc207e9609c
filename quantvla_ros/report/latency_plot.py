# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Latencies as a picture that stands alone (SVG): the median, the 99th percentile, the least time.

Knows names and milliseconds; knows nothing of what was run.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from quantvla_ros.report.chart import logarithmic
from quantvla_ros.report.html import Child, Html, tag
from quantvla_ros.report.numbers import number

_WIDTH, _LEFT, _RIGHT, _ROW, _TOP, _BOTTOM = 900, 200, 110, 30, 64, 44
_LOOKS = '''
text{font:13px system-ui,"Segoe UI",Roboto,"Noto Sans","Liberation Sans",sans-serif;fill:#1b2028}
.title{font-weight:650;font-size:16px}.soft{fill:#566072;font-size:12px}
.back{fill:#fff}.grid{stroke:#e6e9ee}.span{stroke:#c2410c;stroke-width:2}
.end{stroke:#c2410c;stroke-width:2}.median{fill:#c2410c}
.least{stroke:#2563b8;stroke-width:2.5}'''


@dataclass(frozen=True)
class Latency:
    """One line.

    Attributes:
        least: bound from below, where it is known.
        failed: why there is no time; the times are None then.
    """

    name: str
    p50: float | None
    p99: float | None
    least: float | None = None
    failed: str | None = None


def latency_plot(lines: Sequence[Latency], title: str, subtitle: str) -> Html:
    """The whole picture, to be written to a file."""
    known = [v for one in lines for v in (one.p50, one.p99, one.least) if v is not None]
    scale = logarithmic(known)
    height = _TOP + _ROW * len(lines) + _BOTTOM
    bottom = height - _BOTTOM

    def x(value: float) -> float:
        return round(_LEFT + scale.place(value) / 100 * (_WIDTH - _LEFT - _RIGHT), 1)

    grid: list[Child] = []
    for value, words in scale.ticks:
        grid.append(tag('line', x1=x(value), x2=x(value), y1=_TOP - 8, y2=bottom, class_='grid'))
        grid.append(
            tag('text', words, x=x(value), y=bottom + 18, class_='soft', text_anchor='middle')
        )
    marks = [_line(one, x, _TOP + _ROW * index + 14) for index, one in enumerate(lines)]
    legend = 'ms, logarithmic. Dot: median; line: to the 99th percentile; blue: roofline'
    return tag(
        'svg',
        tag('style', Html(_LOOKS)),
        tag('rect', width=_WIDTH, height=height, class_='back'),
        tag('text', title, x=16, y=24, class_='title'),
        tag('text', subtitle, x=16, y=43, class_='soft'),
        grid,
        marks,
        tag('text', legend, x=_LEFT, y=height - 8, class_='soft'),
        xmlns='http://www.w3.org/2000/svg',
        viewBox=f'0 0 {_WIDTH} {height}',
        width=_WIDTH,
        height=height,
        role='img',
        aria_label=title,
    )


def _line(one: Latency, x: Callable[[float], float], y: float) -> Child:
    name = tag('text', one.name, x=_LEFT - 12, y=y + 4, text_anchor='end')
    if one.p50 is None:
        words = f'not run: {one.failed}'
        short = words if len(words) <= 90 else words[:89] + '\u2026'
        return [name, tag('text', short, tag('title', words), x=_LEFT, y=y + 4, class_='soft')]
    end = one.p50 if one.p99 is None else one.p99
    marks = [
        name,
        tag('line', x1=x(one.p50), x2=x(end), y1=y, y2=y, class_='span'),
        tag('line', x1=x(end), x2=x(end), y1=y - 6, y2=y + 6, class_='end'),
        tag('circle', tag('title', f'median {one.p50:.3f} ms'), cx=x(one.p50), cy=y, r=5,
            class_='median'),
        tag('text', f'{number(one.p50)} ms', x=_WIDTH - 16, y=y + 4, text_anchor='end'),
    ]
    if one.least is not None:
        place = x(one.least)
        marks.append(tag('line', tag('title', f'least {one.least:.3f} ms'), x1=place, x2=place,
                         y1=y - 9, y2=y + 9, class_='least'))
    return marks
