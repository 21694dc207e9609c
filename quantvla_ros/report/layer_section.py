# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The page's part on single layers: their errors, and the ranges of their inputs.

One small plot for each kind of layer over the depth of the network, all on one scale: a kind that
is worse than the others stands higher. Knows layer results; knows nothing of the other parts.
"""
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from quantvla_ros.report.calibration_data import LayerResult
from quantvla_ros.report.chart import (
    Scale,
    cross,
    curve,
    dot,
    line,
    logarithmic,
    plot,
    square,
)
from quantvla_ros.report.document import (
    Cell,
    Section,
    breakable,
    folded,
    key,
    legend,
    panel,
    paragraph,
    table,
)
from quantvla_ros.report.html import Html, join, tag
from quantvla_ros.report.numbers import finite, median, number, percent, plural

_OUTLIERS = 8  # layers in the list of the largest outliers
_COLUMNS = 4  # plots side by side in a wide window

Kind = tuple[str, str]  # role, part
Kinds = dict[Kind, list[LayerResult]]


def kinds(layers: Sequence[LayerResult]) -> Kinds:
    """Layers by what they are for, in order of first use; a kind's layers by depth."""
    found: Kinds = {}
    for layer in layers:
        found.setdefault((layer.role, layer.part), []).append(layer)
    return found


def error_section(layers: Sequence[LayerResult]) -> Section | None:
    """Errors of the layers' outputs, simply rounded and as stored."""
    measured = [layer for layer in layers if layer.error is not None]
    if not measured:
        return None
    before = [layer.error.before for layer in measured if layer.error]
    after = [layer.error.after for layer in measured if layer.error]
    scale = logarithmic([*before, *after], percent=True)
    content = join(
        paragraph(
            'How far rounding a layer\u2019s weights takes its output from the float '
            'layer\u2019s, as a share of the output\u2019s size, on calibration inputs; the '
            'rounding of activations is not in it. Each plot is one kind of layer, from the '
            'first block to the last; all share one logarithmic scale, so a kind that stands '
            'higher is worse.'
            + _worse(measured)
        ),
        legend(
            (key(line(0, 50, 100, 50, 'trend-before'), dot(50, 50, 'before')), 'simply rounded'),
            (key(line(0, 50, 100, 50, 'trend-after'), dot(50, 50, 'after')), 'as stored'),
            *([(key(square(50, 50, 'after')), 'square: other number of bits than most')]
              if len({layer.bits for layer in layers}) > 1 else []),
        ),
        _by_role(kinds(layers), lambda name, group: _error_panel(name, group, scale, layers)),
        _layer_table(layers),
    )
    return Section('layers', 'Layers', _error_title(measured, before, after), content)


def _error_title(
    layers: Sequence[LayerResult], before: Sequence[float], after: Sequence[float]
) -> str:
    broken = sum(not math.isfinite(e) for e in after)
    if broken:
        return f'{plural(broken, "layer")} of {len(after)} give no finite output'
    middle, rounded = median(after), median(before)
    worst = max(layers, key=lambda layer: layer.error.after if layer.error else 0)
    assert worst.error is not None
    words = f'The typical layer is off by {percent(middle)}'
    if rounded is not None and middle is not None and middle < 0.97 * rounded:
        words += f', by simple rounding it would be {percent(rounded)}'
    elif rounded is not None and middle is not None and middle > 1.03 * rounded:
        words += f': more than by simple rounding ({percent(rounded)})'
    return f'{words}; the worst is off by {percent(worst.error.after)} ({short_name(worst)})'


def _worse(layers: Sequence[LayerResult]) -> str:
    worse = sum(
        layer.error.after > 1.05 * layer.error.before for layer in layers if layer.error
    )
    if not worse:
        return ''
    return (
        f' In {plural(worse, "layer")} of {len(layers)} simple rounding would be nearer; that can '
        'be on purpose where the recipe aims at the float policy\u2019s outputs '
        '(weights.match_float).'
    )


def short_name(layer: LayerResult) -> str:
    """A layer in words, as 'down of block 3, MLP of the language backbone'."""
    return f'{_place(layer)}, {layer.role}'


def _place(layer: LayerResult) -> str:
    block = next((part for part in layer.name.split('.') if part.isdigit()), None)
    return layer.name if block is None else f'{layer.part} of block {block}'


def _by_role(groups: Kinds, draw) -> Html:
    roles: dict[str, list[Html]] = {}
    for (role, part), group in groups.items():
        roles.setdefault(role, []).append(draw(part, group))
    return tag(
        'div',
        [
            tag('div', tag('h4', f'{role[:1].upper()}{role[1:]}'), panels,
                style=f'--n:{min(len(panels), _COLUMNS)}')
            for role, panels in roles.items()
        ],
        class_='roles',
    )


def _error_panel(
    part: str, group: Sequence[LayerResult], scale: Scale, all_layers: Sequence[LayerResult]
) -> Html:
    x = depth(len(group))
    usual = Counter(layer.bits for layer in all_layers).most_common(1)[0][0]
    before = [layer.error.before if layer.error else math.nan for layer in group]
    after = [layer.error.after if layer.error else math.nan for layer in group]
    marks: list[Html] = [
        curve([(x.place(i), _height(scale, e)) for i, e in enumerate(before)], 'trend-before'),
        curve([(x.place(i), _height(scale, e)) for i, e in enumerate(after)], 'trend-after'),
    ]
    for index, layer in enumerate(group):
        if layer.error is None:  # nothing reads it
            continue
        words = (
            f'{layer.name}, {layer.bits} bits: {percent(layer.error.before)} simply rounded, '
            f'{percent(layer.error.after)} as stored'
        )
        place = x.place(index)
        for value, class_, radius in (
            (layer.error.before, 'before', 2.6), (layer.error.after, 'after', 3.4)
        ):
            if not math.isfinite(value):
                marks.append(cross(place, 97, words))
            elif class_ == 'after' and layer.bits != usual:
                marks.append(square(place, scale.place(value), class_, words))
            else:
                marks.append(dot(place, scale.place(value), class_, words, radius))
    bits = sorted({layer.bits for layer in group})
    values = f'median {percent(median(before))} \u2192 {percent(median(after))}'
    bits_words = '/'.join(map(str, bits))
    return panel(
        f'{part}, {bits_words} bits',
        values,
        plot(
            x, scale, marks,
            words=f'Relative output error of the {part} layers over {plural(len(group), "block")}, '
                  f'{values}, worst {percent(_largest(after))}.',
            x_title='block', y_title='relative output error',
        ),
    )


def _height(scale: Scale, value: float) -> float:
    return scale.place(value) if math.isfinite(value) else math.nan


def _largest(values: Sequence[float | None]) -> float | None:
    known = finite(values)
    return float(known.max()) if len(known) else None


def depth(blocks: int) -> Scale:
    """The blocks of a network, from the first to the last."""
    if blocks == 1:
        return Scale(-1, 1, ((0.0, '0'),))
    step = max(1, math.ceil((blocks - 1) / 4))
    values = list(range(0, blocks, step))
    return Scale(-0.5, blocks - 0.5, tuple((float(v), str(v)) for v in values))


def _layer_table(layers: Sequence[LayerResult]) -> Html:
    rows = [
        [
            Cell(join(_place(layer), tag('small', layer.role)), kind='words'),
            Cell(str(layer.bits), layer.bits),
            Cell(f'{layer.shape[0]} \u00d7 {layer.shape[1]}', layer.shape[0] * layer.shape[1]),
            Cell(percent(layer.error.before if layer.error else None),
                 _key(layer.error.before if layer.error else None)),
            Cell(percent(layer.error.after if layer.error else None),
                 _key(layer.error.after if layer.error else None)),
            Cell(number(layer.input_max), _key(layer.input_max)),
            Cell(number(layer.input_rms), _key(layer.input_rms)),
            Cell(number(layer.outlier_ratio), _key(layer.outlier_ratio)),
            Cell(breakable(layer.name), kind='name'),
        ]
        for layer in layers
    ]
    head = ('layer', 'bits', 'out \u00d7 in', 'rounded', 'as stored', 'input max', 'input rms',
            'outlier ratio', 'module')
    return folded(
        f'All {plural(len(layers), "layer")} in numbers (press a heading to sort)',
        table(head, rows, words='every quantized layer in numbers', sortable=True),
    )


def _key(value: float | None) -> float:
    return -math.inf if value is None else math.inf if math.isnan(value) else value


def input_section(layers: Sequence[LayerResult]) -> Section | None:
    """The ranges of the layers' inputs, and how far single channels stand out."""
    measured = [layer for layer in layers if layer.input_max is not None]
    if not measured:
        return None
    sizes = [v for layer in measured for v in (layer.input_max, layer.input_rms) if v is not None]
    scale = logarithmic(sizes)
    merged = _same_inputs(kinds(layers))
    content = join(
        paragraph(
            'Integers for activations are spread up to the largest number of a token. Where the '
            'largest is many times the typical one, the typical ones get few of the steps: the '
            'taller a stem, the harder the layer is to quantize. Layers that read the same '
            'tensor share a plot.'
        ),
        legend(
            (key(line(50, 0, 50, 100, 'stem'), dot(50, 100, 'after')), 'largest absolute input'),
            (key(dot(50, 50, 'rms')), 'typical input (root mean square)'),
        ),
        _by_role(merged, lambda name, group: _input_panel(name, group, scale)),
        _outliers(measured),
    )
    return Section('inputs', 'Activations', _input_title(measured), content)


def _input_title(layers: Sequence[LayerResult]) -> str:
    known = [
        x for x in layers if x.outlier_ratio is not None and math.isfinite(x.outlier_ratio)
    ]
    if not known:
        top = _largest([layer.input_max for layer in layers])
        return f'Inputs reach {number(top)}'
    worst = max(known, key=lambda layer: layer.outlier_ratio or 0)
    typical = median([layer.outlier_ratio for layer in known])
    return (
        f'Outlier channels: typically {number(typical, 2)} times the median channel, at most '
        f'{number(worst.outlier_ratio, 2)} times ({short_name(worst)})'
    )


def _same_inputs(groups: Kinds) -> Kinds:
    """Kinds of one role whose inputs are alike become one, named by all its parts."""
    merged: dict[tuple, list[str]] = {}
    layers: dict[tuple, list[LayerResult]] = {}
    for (role, part), group in groups.items():
        alike = (role, tuple((x.input_max, x.input_rms, x.outlier_ratio) for x in group))
        merged.setdefault(alike, []).append(part)
        layers.setdefault(alike, group)
    return {(alike[0], ', '.join(parts)): layers[alike] for alike, parts in merged.items()}


def _input_panel(part: str, group: Sequence[LayerResult], scale: Scale) -> Html:
    x = depth(len(group))
    marks = []
    for index, layer in enumerate(group):
        place = x.place(index)
        words = (
            f'{layer.name}: largest {number(layer.input_max)}, rms {number(layer.input_rms)}, '
            f'outlier ratio {number(layer.outlier_ratio)}'
        )
        ends = [v for v in (layer.input_max, layer.input_rms) if v is not None]
        if not ends:  # nothing reads it
            continue
        if not all(math.isfinite(v) for v in ends):
            marks.append(cross(place, 97, words))
            continue
        if len(ends) == 2:
            marks.append(line(place, scale.place(ends[1]), place, scale.place(ends[0]), 'stem'))
            marks.append(dot(place, scale.place(ends[1]), 'rms', words, 2.4))
        marks.append(dot(place, scale.place(ends[0]), 'after', words, 3))
    ratio = _largest([layer.outlier_ratio for layer in group])
    worst = f'outlier ratio up to {number(ratio, 2)}'
    largest = number(_largest([layer.input_max for layer in group]))
    return panel(
        part,
        worst,
        plot(
            x, scale, marks,
            words=f'Inputs of the {part} layers over {plural(len(group), "block")}: largest '
                  f'{largest}, {worst}.',
            x_title='block', y_title='absolute input',
        ),
    )


def _outliers(layers: Sequence[LayerResult]) -> Html | None:
    ranked = sorted(
        (layer for layer in layers if layer.outlier_ratio is not None),
        key=lambda layer: -_key(layer.outlier_ratio),
    )[:_OUTLIERS]
    if not ranked:
        return None
    rows = [
        [
            Cell(join(_place(layer), tag('small', layer.role)), kind='words'),
            Cell(number(layer.outlier_ratio)),
            Cell(number(layer.input_max)),
            Cell(number(layer.input_rms)),
            Cell(percent(layer.error.after if layer.error else None)),
        ]
        for layer in ranked
    ]
    head = ('layer', 'ratio', 'max', 'rms', 'error')
    return join(
        tag('h3', f'The {plural(len(ranked), "layer")} with the largest outliers'),
        paragraph(
            'Ratio: the largest channel\u2019s maximum over the median channel\u2019s. Maximum and '
            'root mean square of the input; error of the output as stored.',
            soft=True,
        ),
        table(head, rows, words='layers with the largest outliers'),
    )
