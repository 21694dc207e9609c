# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Plots as inline SVG that keep the size of their letters and dots at any width of the window.

Places are percentages of the plot's box; paths, which know no percentages, are drawn in a stretched
inner box with strokes that do not stretch. Knows scales and marks; knows nothing of what is drawn.
"""
from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from quantvla_ros.report.html import Child, Html, tag
from quantvla_ros.report.numbers import number

INNER = 1000  # units of the stretched box


@dataclass(frozen=True)
class Scale:
    """From values to 0..100, with the ticks to be drawn.

    Attributes:
        low, high: ends of the axis.
        ticks: (value, words).
        log: by the logarithm; a value that has none, or lies outside, is put at the nearer end.
    """

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def place(self, value: float) -> float:
        """Percent of the way from low to high."""
        low, high = self.low, self.high
        value = min(max(value, low), high)
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return 100 * (value - low) / (high - low)


def linear(low: float, high: float, wanted: int = 4, percent: bool = False) -> Scale:
    """Ends as they are, round ticks between them."""
    if not high > low:
        low, high = low - 0.5, high + 0.5
    while True:
        step = _round_step((high - low) / wanted)
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last > first:
            break
        wanted *= 2
    values = [i * step for i in range(first, last + 1)]
    return Scale(low, high, tuple((v, tick_words(v, step, percent)) for v in values))


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(n * power for n in (1, 2, 5, 10) if n * power >= step * 0.999)


def tick_words(value: float, step: float, percent: bool = False) -> str:
    """A tick's number with as many places as the step needs."""
    if percent:
        value, step = 100 * value, 100 * step
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    if places > 4:
        size = max(abs(value), step)
        return number(value, math.floor(math.log10(size)) - math.floor(math.log10(step)) + 1)
    words = f'{value:.{places}f}'
    words = words.lstrip('-') if float(words) == 0 else words.replace('-', '\u2212')
    return f'{words}%' if percent else words


def logarithmic(values: Iterable[float], percent: bool = False) -> Scale:
    """Wide enough for all finite positive values, at least a factor of five."""
    known = np.array([v for v in values if math.isfinite(v) and v > 0], np.float64)
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.01, 1.0)
    low, high = low / 1.25, high * 1.25
    while high / low < 5:
        low, high = low / 1.3, high * 1.3
    low = max(low, high * 1e-9)  # one value that is almost zero must not press the rest together
    decades = math.log10(high / low)
    every = max(1, math.ceil(decades / 4))
    powers = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    ticks = [10.0**p for p in powers if p % every == 0]
    if len(ticks) < 2:
        spread = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [n * 10.0**p for p in spread for n in (1, 2, 5) if low <= n * 10.0**p <= high]
    return Scale(low, high, tuple((t, _log_words(t, percent)) for t in ticks), log=True)


def _log_words(value: float, percent: bool) -> str:
    value = 100 * value if percent else value
    words = f'{value:g}' if 1e-3 <= value < 1e4 else f'1e{round(math.log10(value))}'
    return f'{words}%' if percent else words


def dot(x: float, y: float, class_: str, words: str | None = None, radius: float = 3) -> Html:
    """A round mark at percent (x, y), y upwards."""
    return tag('circle', _title(words), cx=_p(x), cy=_p(100 - y), r=radius, class_=class_)


def square(x: float, y: float, class_: str, words: str | None = None) -> Html:
    """A square mark."""
    return tag(
        'rect', _title(words), x=_p(x), y=_p(100 - y), width=6, height=6, class_=f'{class_} centred'
    )


def cross(x: float, y: float, words: str | None = None) -> Html:
    """The mark of a value that is not a number."""
    return tag('text', '\u2715', _title(words), x=_p(x), y=_p(100 - y), class_='bad-mark')


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Html:
    """A straight line between two places in percent."""
    return tag('line', x1=_p(x1), y1=_p(100 - y1), x2=_p(x2), y2=_p(100 - y2), class_=class_)


def label(x: float, y: float, words: str, class_: str, dx: float = 0, dy: float = 0) -> Html:
    """Words at percent (x, y), moved by px."""
    return tag('text', words, x=_p(x), y=_p(100 - y), dx=dx or None, dy=dy or None, class_=class_)


def curve(points: Sequence[tuple[float, float]], class_: str) -> Html:
    """A line through places in percent; it is broken where a place is not finite."""
    words, pen = [], 'M'
    for x, y in points:
        if not (math.isfinite(x) and math.isfinite(y)):
            pen = 'M'
            continue
        words.append(f'{pen}{x * INNER / 100:.0f} {(100 - y) * INNER / 100:.0f}')
        pen = 'L'
    return tag(
        'svg',
        tag('path', d=''.join(words), class_=class_),
        viewBox=f'0 0 {INNER} {INNER}',
        preserveAspectRatio='none',
        width='100%',
        height='100%',
    )


def plot(
    x: Scale, y: Scale, marks: Child, *, words: str, x_title: str = '', y_title: str = '',
    short: bool = False,
) -> Html:
    """Axes with marks in them.

    Args:
        words: the text alternative.
        short: less high.
    """
    grid = [
        [line(0, y.place(v), 100, y.place(v), 'grid'),
         label(0, y.place(v), text, 'tick-y', dx=-6, dy=3.5)]
        for v, text in y.ticks
    ]
    below = [
        [line(x.place(v), 0, x.place(v), 0, 'grid'),
         label(x.place(v), 0, text, 'tick-x', dy=14)]
        for v, text in x.ticks
    ]
    axis = line(0, 0, 100, 0, 'axis')
    drawn = tag('svg', grid, below, axis, marks, role='img', aria_label=words)
    return tag(
        'div',
        # The place is kept where there is no title: plots side by side stand on one line.
        tag('div', y_title or '\u00a0', class_='y-title', aria_hidden='true'),
        drawn,
        tag('div', x_title, class_='x-title', aria_hidden='true') if x_title else None,
        class_='plot short' if short else 'plot',
    )


def key_lines(class_: str) -> Html:
    """A piece of a curve, for a legend."""
    return tag('svg', line(0, 50, 100, 50, class_), aria_hidden='true')


def bar(share: float, class_: str) -> Html:
    """A horizontal bar of a share of its cell."""
    width = 100 * min(max(share, 0.0), 1.0) if math.isfinite(share) else 0.0
    return tag('span', class_=f'bar {class_}', style=f'width:{width:.1f}%')


def _title(words: str | None) -> Child:
    return tag('title', words) if words else None


def _p(value: float) -> str:
    return f'{value:.1f}%'
