# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The page's part on the action head: a map of alpha, beta by layer, and what both changed.

The map is a table with its numbers in it, so that nothing hangs on colours. Knows head results;
knows nothing of how the factors were estimated.
"""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from quantvla_ros.report.calibration_data import Change, HeadResult
from quantvla_ros.report.chart import (
    Scale,
    cross,
    curve,
    dot,
    line,
    linear,
    logarithmic,
    plot,
)
from quantvla_ros.report.document import (
    Cell,
    Section,
    folded,
    key,
    legend,
    panel,
    paragraph,
    scrolling,
    table,
)
from quantvla_ros.report.html import Html, join, tag
from quantvla_ros.report.layer_section import depth
from quantvla_ros.report.numbers import factor, finite, median, percent, plural

_STRONGEST = 0.55  # opacity of the strongest colour; letters on it stay readable
_MANY = 12  # heads from which the map's cells are narrower
_AT_LIMIT = 1e-3  # distance in log at which a factor counts as clipped


def head_section(
    head: Sequence[HeadResult], interface: Mapping[str, float], limit: float | None
) -> Section | None:
    """Corrections of the action head."""
    if not head:
        return None
    untouched = not _changed(
        [f for layer in head for f in (*layer.alpha, layer.beta, layer.beta_mlp or 1.0)]
    )
    if untouched:
        content = join(
            paragraph(
                'Every \u03b1 (temperature of an attention head) and \u03b2 (size of an output) is '
                '1: what they would mend is within the recipe\u2019s dead band, or they are '
                'switched off.'
            ),
            _interface(interface),
            _changes(head, untouched),
            _numbers(head),
        )
    else:
        narrow = max(len(layer.alpha) for layer in head) <= _MANY
        content = join(
            tag('div', tag('div', _alpha_map(head, limit)), tag('div', _betas(head)),
                class_='split' if narrow else None),
            _interface(interface),
            _changes(head, untouched),
            _numbers(head),
        )
    return Section('head', 'Corrections', _title(head, limit), content)


def _title(head: Sequence[HeadResult], limit: float | None) -> str:
    alphas = [a for layer in head for a in layer.alpha]
    betas = [layer.beta for layer in head]
    changed_alphas, changed_betas = _changed(alphas), _changed(betas)
    if not changed_alphas and not changed_betas:
        return 'No attention head and no output needed a correction'
    words = []
    if changed_alphas:
        words.append(
            f'{len(changed_alphas)} of {plural(len(alphas), "attention head")} corrected '
            f'({_span(changed_alphas)})'
        )
    else:
        words.append('no attention head corrected')
    if changed_betas:
        words.append(f'{len(changed_betas)} of {len(betas)} outputs ({_span(changed_betas)})')
    else:
        words.append('no output corrected')
    clipped = sum(at_limit(a, limit) for a in (*alphas, *betas))
    end = f'; {clipped} at the limit' if clipped else ''
    text = ', '.join(words) + end
    return text[:1].upper() + text[1:]


def _changed(values: Sequence[float]) -> list[float]:
    return [v for v in values if v != 1.0]


def _span(values: Sequence[float]) -> str:
    known = finite(values)
    if not len(known):
        return 'not a number'
    low, high = 100 * (known.min() - 1), 100 * (known.max() - 1)
    ends = f'{_signed(low)} to {_signed(high)}' if len(known) > 1 else _signed(low)
    return f'{ends}\u202f%'


def _signed(value: float) -> str:
    words = f'{value:+.0f}' if abs(value) >= 10 else f'{value:+.1f}'
    return words.replace('-', '\u2212')


def at_limit(value: float, limit: float | None) -> bool:
    """Whether a factor was cut."""
    return (
        limit is not None and math.isfinite(value) and value > 0
        and abs(math.log(value)) >= limit - _AT_LIMIT
    )


def _alpha_map(head: Sequence[HeadResult], limit: float | None) -> Html:
    alphas = [a for layer in head for a in layer.alpha]
    logs = [abs(math.log(a)) for a in alphas if math.isfinite(a) and a > 0]
    strongest = max([limit or 0.0, *logs]) or 1.0
    heads = max(len(layer.alpha) for layer in head)
    kinds = any(layer.kind for layer in head)
    top = tag(
        'tr',
        tag('th', 'layer', scope='col'),
        [tag('th', str(i), scope='col', title=f'head {i}') for i in range(heads)],
    )
    rows = [
        tag(
            'tr',
            tag('th', f'{index} {layer.kind}'.strip(), scope='row'),
            [_alpha_cell(a, index, i, strongest, limit) for i, a in enumerate(layer.alpha)],
        )
        for index, layer in enumerate(head)
    ]
    grid = tag(
        'table', tag('thead', top), tag('tbody', rows),
        class_='heat many' if heads > _MANY else 'heat',
        aria_label=f'alpha of {len(head)} layers (rows) and {heads} heads (columns)',
    )
    entries = [
        (tag('i', class_='key lo'), 'below 1: attention was too sharp, is softened'),
        (tag('i', class_='key hi'), 'above 1: was too flat, is sharpened'),
    ]
    if limit is not None and any(at_limit(a, limit) for a in alphas):
        low, high = math.exp(-limit), math.exp(limit)
        entries.append(
            (tag('i', class_='key end'), f'framed: at the limit ({low:.2f} or {high:.2f})')
        )
    return join(
        tag('h3', '\u03b1: temperature of each attention head'),
        paragraph(
            'Quantization changes how widely a head\u2019s attention logits spread. \u03b1 '
            'multiplies them so that they spread as in the float policy; 1 means left as it is. '
            'Rows are layers of the action head' + (' (self or cross attention)' if kinds else '')
            + ', columns its heads.'
        ),
        tag('div', [tag('span', mark, words) for mark, words in entries], class_='legend'),
        scrolling(grid, 'map of alpha'),
    )


def _alpha_cell(value: float, layer: int, head: int, strongest: float, limit: float | None) -> Html:
    words = f'layer {layer}, head {head}: {factor(value)}'
    if not math.isfinite(value) or value <= 0:
        return tag('td', '\u2715', class_='end', title=f'{words}: not a factor')
    if value == 1.0:
        return tag('td', '1', class_='no', title=words)
    side = 'lo' if value < 1 else 'hi'
    if at_limit(value, limit):
        side, words = f'{side} end', f'{words}, at the limit'
    share = _STRONGEST * min(1.0, abs(math.log(value)) / strongest)
    return tag('td', f'{value:.2f}', class_=side, style=f'--s:{share:.2f}', title=words)


def _betas(head: Sequence[HeadResult]) -> Html:
    columns = [('\u03b2 of the attention outputs', [layer.beta for layer in head])]
    mlp = [layer.beta_mlp for layer in head]
    if any(b is not None for b in mlp):
        columns.append(('\u03b2 of the MLP outputs', [1.0 if b is None else b for b in mlp]))
    known = finite([v for _, values in columns for v in values])
    largest = max([abs(v - 1) for v in known.tolist()] + [0.05]) * 1.15
    scale = linear(1 - largest, 1 + largest)
    return join(
        tag('h3', '\u03b2: size of each layer\u2019s output'),
        paragraph(
            '\u03b2 multiplies what a layer adds to the residual stream, so that it is as large as '
            'in the float policy. The dotted line is 1: left as it is.'
        ),
        tag(
            'div', [_beta_panel(name, values, scale) for name, values in columns],
            class_='panels wide',
        ),
    )


def _beta_panel(name: str, values: Sequence[float], scale: Scale) -> Html:
    x = depth(len(values))
    one = scale.place(1.0)
    marks: list[Html] = [line(0, one, 100, one, 'one')]
    for index, value in enumerate(values):
        place, words = x.place(index), f'layer {index}: {factor(value)}'
        if not math.isfinite(value):
            marks.append(cross(place, 97, words))
            continue
        marks.append(line(place, one, place, scale.place(value), 'stem'))
        marks.append(dot(place, scale.place(value), 'after', words, 3.6))
    known = finite(values)
    span = f'{factor(known.min())} to {factor(known.max())}' if len(known) else 'not a number'
    corrected = f'{len(_changed(values))} of {len(values)} corrected, {span}'
    return panel(
        name, corrected,
        plot(
            x, scale, marks, words=f'{name} over {plural(len(values), "layer")}: {corrected}.',
            x_title='layer of the action head', y_title='factor',
        ),
    )


def _interface(interface: Mapping[str, float]) -> Html | None:
    if not interface:
        return None
    rows = [[Cell(name, kind='name'), Cell(factor(v), v)] for name, v in interface.items()]
    return folded(
        f'Factors where the head reads the backbone ({plural(len(rows), "place")}, '
        f'{_span(list(interface.values()))})',
        table(('place', 'factor'), rows, words='factors of the interface', sortable=True),
    )


_CHANGES = (
    ('attention logits', 'logits'), ('attention outputs', 'output'), ('MLP outputs', 'mlp'),
)


def _changes(head: Sequence[HeadResult], untouched: bool) -> Html | None:
    columns: list[tuple[str, list[Change | None]]] = [
        (name, [getattr(layer, field) for layer in head]) for name, field in _CHANGES
    ]
    columns = [(name, values) for name, values in columns if any(v is not None for v in values)]
    if not columns:
        return None
    errors = [e for _, values in columns for c in values if c for e in (c.before, c.after)]
    scale = logarithmic(errors, percent=True)
    panels = tag(
        'div', [_change_panel(name, values, scale) for name, values in columns],
        class_='panels wide',
    )
    if untouched:
        return join(tag('h3', 'How far the layers of the head are off'), panels)
    return join(
        tag('h3', 'What the corrections change'),
        paragraph(
            'Relative error of each layer of the head against the float policy, on calibration '
            'data. A filled dot below its hollow one is a layer that the corrections made better.'
        ),
        legend(
            (key(line(0, 50, 100, 50, 'trend-before'), dot(50, 50, 'before')),
             'without corrections'),
            (key(line(0, 50, 100, 50, 'trend-after'), dot(50, 50, 'after')), 'with corrections'),
        ),
        panels,
    )


def _change_panel(name: str, values: Sequence[Change | None], scale: Scale) -> Html:
    x = depth(len(values))
    marks = [
        curve(
            [
                (x.place(i), scale.place(e) if math.isfinite(e) else math.nan)
                for i, c in enumerate(values)
                for e in [getattr(c, side) if c else math.nan]
            ],
            f'trend-{side}',
        )
        for side in ('before', 'after')
    ]
    for index, change in enumerate(values):
        if change is None:
            continue
        words = f'layer {index}: {percent(change.before)} without, {percent(change.after)} with'
        for value, class_, radius in (
            (change.before, 'before', 2.8), (change.after, 'after', 3.6)
        ):
            if math.isfinite(value):
                marks.append(dot(x.place(index), scale.place(value), class_, words, radius))
            else:
                marks.append(cross(x.place(index), 97, words))
    before = median([c.before for c in values if c])
    after = median([c.after for c in values if c])
    said = f'median {percent(before)} \u2192 {percent(after)}'
    return panel(
        f'Error of the {name}', said,
        plot(
            x, scale, marks,
            words=f'Relative error of the {name} over {plural(len(values), "layer")}: {said}.',
            x_title='layer of the action head', y_title='relative error',
        ),
    )


def _numbers(head: Sequence[HeadResult]) -> Html:
    def pair(change: Change | None) -> list[Cell]:
        return [
            Cell(percent(value), value)
            for value in ((change.before, change.after) if change else (None, None))
        ]

    rows = [
        [
            Cell(f'{index} {layer.kind}'.strip(), index),
            Cell(factor(layer.beta), layer.beta),
            Cell(factor(layer.beta_mlp), layer.beta_mlp),
            *pair(layer.logits),
            *pair(layer.output),
            *pair(layer.mlp),
        ]
        for index, layer in enumerate(head)
    ]
    titles = ('layer', '\u03b2 attention', '\u03b2 MLP', 'logits without', 'with',
              'attention without', 'with', 'MLP without', 'with')
    return folded(
        f'All {plural(len(head), "layer")} of the head in numbers',
        table(titles, rows, words='beta and errors by layer', sortable=True),
    )


def harmed(head: Sequence[HeadResult]) -> str | None:
    """A sentence on the layers that the corrections made worse; None: none."""
    worse = [
        index for index, layer in enumerate(head)
        if layer.output is not None and layer.output.after > 1.02 * layer.output.before
    ]
    if not worse:
        return None
    return (
        f'The corrections made the attention output of {plural(len(worse), "layer")} of '
        f'{len(head)} in the head worse ({", ".join(map(str, worse[:6]))}'
        f'{", ..." if len(worse) > 6 else ""}).'
    )
