# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The calibration report: one file that opens anywhere, without a network.

First what was made, whether it is good and what to look at, in plain words; then the evidence.
Knows what was found and how pages are made; knows nothing of tensors, bags or ROS.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from quantvla_ros.report.calibration_data import CalibrationData, Header, HeldOut
from quantvla_ros.report.chart import Scale, curve, dot, linear, plot
from quantvla_ros.report.chunk_section import chunk_section, joint_errors
from quantvla_ros.report.data_section import coverage_section, memory_section
from quantvla_ros.report.document import (
    Cell,
    Section,
    document,
    folded,
    key,
    legend,
    panel,
    paragraph,
    table,
    tile,
    write_document,
)
from quantvla_ros.report.head_section import at_limit, harmed, head_section
from quantvla_ros.report.html import Html, join, tag
from quantvla_ros.report.layer_section import error_section, input_section, short_name
from quantvla_ros.report.numbers import count, less, median, number, percent, plural, size

# Rules of thumb for the relative error of action chunks. Runs of the arm decide, not these.
SMALL, MODERATE = 0.05, 0.15
_FAR_LAYER = 4.0  # times the median error from which a layer is named


def write_page(data: CalibrationData, path: Path) -> None:
    """Write the report: whole or not at all.

    Raises:
        OSError: no room, or no right to write there.
    """
    write_document(render(data), path)


def render(data: CalibrationData) -> str:
    """The report as HTML; the same data give the same characters."""
    header = data.header
    sections = [
        _held_out_section(data.held_out, header),
        chunk_section(data.chunks),
        error_section(data.layers),
        head_section(data.head, data.interface, data.limit),
        input_section(data.layers),
        memory_section(data.memory),
        coverage_section(data.coverage),
        _origin_section(header),
    ]
    return document(
        f'{header.recipe} for {header.robot}: calibration report',
        _head(data),
        [section for section in sections if section is not None],
        paragraph(
            f'quantvla_ros {header.versions.get("quantvla_ros", "")}, artifact '
            f'{header.artifact_id}, {_date(header.date)}. This file needs nothing but itself.'
        ),
    )


def _head(data: CalibrationData) -> Html:
    header = data.header
    return join(
        tag('p', f'Calibration report \u00b7 {header.robot} \u00b7 {_date(header.date)}',
            class_='kicker'),
        tag('h1', f'{header.model}, quantized by ', tag('code', header.recipe)),
        _made(data),
        tag(
            'div',
            tile(percent(data.held_out.corrected.relative),
                 'action error against float, on '
                 + plural(header.held_out, 'held-out observation')),
            tile(size(header.quantized_bytes),
                 f'all weights; were {size(header.float_bytes)}'),
            tile(count(len(data.layers)),
                 'linear layers in integers'
                 + (f', of {count(header.linear_layers)}' if header.linear_layers else '')),
            tile(count(header.samples),
                 'observations from '
                 + plural(len({e.episode for e in data.coverage.episodes}), 'episode')),
            class_='tiles',
        ),
        tag('div', _verdict(data), tag('div', _attention(data)), class_='first'),
    )


def _date(iso: str) -> str:
    """A date as people write it; what is none stays as it is."""
    try:
        then = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    if then.tzinfo is None:
        return iso
    return f'{then.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC'


def _made(data: CalibrationData) -> Html:
    header = data.header
    bits = sorted({layer.bits for layer in data.layers})
    words = '- and '.join(map(str, bits))
    return paragraph(
        f'{plural(len(data.layers), "linear layer")} of this policy now hold their weights as '
        f'{words}-bit integers (layout {header.layout}); everything else stays float. '
        f'{size(header.float_bytes)} became {size(header.quantized_bytes)}, '
        f'{less(header.float_bytes, header.quantized_bytes)}.'
    )


def _verdict(data: CalibrationData) -> Html:
    error = data.held_out.corrected
    relative = error.relative
    if not math.isfinite(relative):
        kind, mark, first = 'bad', '\u2715', 'Not usable: the quantized policy gives no numbers.'
    elif relative <= SMALL:
        kind, mark, first = 'good', '\u25cf', 'Close to the float policy.'
    elif relative <= MODERATE:
        kind, mark, first = 'look', '\u25b2', 'Somewhat apart from the float policy.'
    else:
        kind, mark, first = 'bad', '\u25a0', 'Far from the float policy.'
    measured = (
        f'On observations that calibration has not seen, its actions are {percent(relative)} off '
        f'(root mean square {number(error.rms, 2)}, at most {number(error.largest, 2)}, in '
        f'normalised actions).'
    )
    advice = {
        'good': 'Whether tasks still succeed only runs of the arm can show: evaluate does that.',
        'look': 'Let evaluate compare runs of the arm before you rely on it.',
        'bad': 'Try a recipe with more bits, or more and more varied recordings, before it moves '
               'an arm.',
    }[kind]
    return tag(
        'div',
        tag('p', tag('strong', f'{mark} {first}')),
        paragraph(f'{measured} {_gain(data.held_out)}'),
        paragraph(
            f'{advice} Here up to {100 * SMALL:g}\u202f% counts as close and up to '
            f'{100 * MODERATE:g}\u202f% '
            'as somewhat apart: rules of thumb.', soft=True,
        ),
        class_=f'verdict {kind}',
    )


def _gain(held_out: HeldOut) -> str:
    plain, now = held_out.uncorrected, held_out.corrected.relative
    if plain is None or not (math.isfinite(plain.relative) and math.isfinite(now)):
        return ''
    before = percent(plain.relative)
    if now < 0.98 * plain.relative:
        return f'Without the corrections of the action head it would be {before}.'
    if now > 1.02 * plain.relative:
        return f'The corrections of the action head do harm: without them it would be {before}.'
    return f'The corrections of the action head change little: without them it is {before}.'


def _attention(data: CalibrationData) -> Html:
    """What a reader should look at first."""
    points = [*_layer_points(data), *_head_points(data), *_data_points(data)]
    if not points:
        points = [join('Nothing stands out. The action chunks below show what it means.')]
    return join(tag('h3', 'What to look at'), tag('ul', [tag('li', point) for point in points]))


def _link(words: str, section: str) -> Html:
    return tag('a', words, href=f'#{section}')


def _layer_points(data: CalibrationData) -> list[Html]:
    measured = [layer for layer in data.layers if layer.error is not None]
    after = [layer.error.after for layer in measured if layer.error]
    middle = median(after)
    far = [
        layer for layer in measured
        if layer.error and middle is not None and not layer.error.after <= _FAR_LAYER * middle
    ]
    if not far:
        return []
    far.sort(key=lambda layer: -_rank(layer.error.after if layer.error else 0.0))
    names = ', '.join(
        f'{short_name(layer)} ({percent(layer.error.after if layer.error else None)})'
        for layer in far[:3]
    )
    return [
        join(
            _link(plural(len(far), 'layer'), 'layers'),
            f' {"is" if len(far) == 1 else "are"} off more than {_FAR_LAYER:g} times as '
            f'much as the median: {names}{", ..." if len(far) > 3 else ""}. '
            'More bits for such layers (weights.eight_bits in the recipe) may help.',
        )
    ]


def _rank(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _head_points(data: CalibrationData) -> list[Html]:
    points = []
    factors = [f for layer in data.head for f in (*layer.alpha, layer.beta)]
    clipped = sum(at_limit(f, data.limit) for f in factors)
    if clipped:
        points.append(
            join(
                _link(plural(clipped, 'correction'), 'head'),
                f' of {count(len(factors))} {"is" if clipped == 1 else "are"} at the limit: the '
                'backbone may lose more than a factor can mend.',
            )
        )
    worse = harmed(data.head)
    if worse is not None:
        points.append(join(_link('Corrections', 'head'), ': ', worse))
    joints = joint_errors(data.chunks)
    if joints:
        worst = joints[0]
        points.append(
            join(
                _link(worst.action.name, 'chunks'),
                f' is the joint that is off most: {number(worst.rms, 2)} {worst.action.unit} rms, '
                f'{percent(worst.relative)} of how far it moves.',
            )
        )
    return points


def _data_points(data: CalibrationData) -> list[Html]:
    points = [join(_link('Data', 'data'), f': {words}') for words in data.coverage.warnings]
    left = sum(entry.count for entry in data.coverage.left_out)
    if left:
        points.append(
            join(
                _link(f'{plural(left, "message")} or observations', 'data'), ' could not be used.'
            )
        )
    return points


def _held_out_section(held_out: HeldOut, header: Header) -> Section:
    rows = []
    if held_out.uncorrected is not None:
        rows.append(('without corrections', held_out.uncorrected))
    rows.append(('as stored', held_out.corrected))
    cells = [
        [
            Cell(name, kind='words'), Cell(percent(error.relative)), Cell(number(error.rms)),
            Cell(number(error.largest)),
        ]
        for name, error in rows
    ]
    content = tag(
        'div',
        tag(
            'div',
            paragraph(
                'The same observations and the same noise through both policies. Relative: size of '
                'the difference over the size of the float policy\u2019s chunks. Normalised '
                'actions go from about \u22121 to 1.'
            ),
            table(
                ('', 'relative', 'rms', 'largest'), cells, words='error on held-out observations'
            ),
        ),
        tag('div', _steps(held_out)),
        class_='split',
    )
    title = (
        f'On {plural(header.held_out, "held-out observation")} the actions are off by '
        f'{percent(held_out.corrected.relative)}'
    )
    return Section('quality', 'Quality', title, content)


def _steps(held_out: HeldOut) -> Html | None:
    if not held_out.steps:
        return None
    series = [('after', 'with corrections', held_out.steps)]
    if held_out.steps_uncorrected:
        series.insert(0, ('before', 'without corrections', held_out.steps_uncorrected))
    known = [v for _, _, values in series for v in values if math.isfinite(v)]
    length = max(len(values) for _, _, values in series)
    x = Scale(0.5, length + 0.5, tuple((float(i), str(i)) for i in _steps_shown(length)))
    y = linear(0.0, 1.15 * max(known, default=1.0) or 1.0, percent=True)
    marks: list[Html] = []
    for kind, name, values in series:
        places = [
            (x.place(i + 1), y.place(v) if math.isfinite(v) else math.nan)
            for i, v in enumerate(values)
        ]
        marks.append(curve(places, f'trend-{kind}'))
        marks += [
            dot(px, py, kind, f'step {i + 1}, {name}: {percent(values[i])}', 3.4)
            for i, (px, py) in enumerate(places) if math.isfinite(py)
        ]
    first, last = held_out.steps[0], held_out.steps[-1]
    said = f'{percent(first)} after the first step, {percent(last)} after the last'
    return join(
        tag(
            'div',
            panel(
                'Error after each denoising step', said,
                plot(
                    x, y, marks, words=f'Relative error by denoising step: {said}.',
                    x_title='denoising step', y_title='relative error',
                ),
            ),
            class_='panels wide',
        ),
        legend(*((key(dot(50, 50, kind)), name) for kind, name, _ in series)),
    )


def _steps_shown(length: int) -> Sequence[int]:
    return range(1, length + 1, max(1, math.ceil(length / 10)))


def _origin_section(header: Header) -> Section:
    facts = [
        ('artifact', header.artifact_id), ('robot', header.robot), ('model', header.model),
        ('recipe', header.recipe), ('precision', header.precision), ('layout', header.layout),
        ('seed', str(header.seed)), ('date', _date(header.date)),
        *((f'version of {name}', version) for name, version in header.versions.items()),
    ]
    kept = [
        folded(f'{reason[:1].upper()}{reason[1:]}: {plural(len(names), "layer")}',
               tag('ul', [tag('li', tag('code', name)) for name in names]))
        for reason, names in header.kept.items()
    ]
    content = join(
        tag('dl', [[tag('dt', name), tag('dd', value)] for name, value in facts], class_='facts'),
        folded(f'Recipe {header.recipe}', tag('pre', header.recipe_text, tabindex=0)),
        [tag('h3', 'What stays float, and why'), kept] if kept else None,
    )
    title = f'Artifact {header.artifact_id}, made by recipe {header.recipe}'
    return Section('origin', 'Origin', title, content)
