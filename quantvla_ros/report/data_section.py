# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The page's parts on memory and on the data that was used.

Knows counts and bytes; knows nothing of networks or bags.
"""
from __future__ import annotations

from collections.abc import Sequence

from quantvla_ros.report.calibration_data import Coverage, Group, MemoryRow
from quantvla_ros.report.chart import bar
from quantvla_ros.report.document import (
    Cell,
    Section,
    breakable,
    folded,
    legend,
    paragraph,
    table,
)
from quantvla_ros.report.html import Html, join, tag
from quantvla_ros.report.numbers import count, less, plural, size

_ROWS = 12  # of a coverage table in full view


def memory_section(rows: Sequence[MemoryRow]) -> Section | None:
    """Bytes of each part, before and after."""
    if not rows:
        return None
    before = sum(row.float_bytes for row in rows)
    after = sum(row.quantized_bytes for row in rows)
    most = max([1, *(max(row.float_bytes, row.quantized_bytes) for row in rows)])
    cells = [_memory_cells(row, most) for row in rows]
    cells.append([Cell('all'), Cell('', kind='bars'), Cell(_sizes(before, after))])
    content = join(
        legend(
            (tag('i', class_='bar f swatch'), 'float (striped)'),
            (tag('i', class_='bar q swatch'), 'quantized (solid)'),
        ),
        table(
            ('part', '', 'float \u2192 quantized'), cells,
            words='bytes of each part before and after', total=True,
        ),
        _as_in_papers(rows),
    )
    title = f'{size(before)} become {size(after)}: {less(before, after)}'
    return Section('memory', 'Memory', title, content)


def _as_in_papers(rows: Sequence[MemoryRow]) -> Html | None:
    chosen = [row for row in rows if row.in_paper]
    if not chosen or len(chosen) == len(rows):
        return None
    before = sum(row.float_bytes for row in chosen)
    after = sum(row.quantized_bytes for row in chosen)
    return paragraph(
        f'As papers count, the linear layers of backbone and action head alone: {size(before)} '
        f'\u2192 {size(after)}, {less(before, after)}.'
    )


def _memory_cells(row: MemoryRow, most: int) -> list[Cell]:
    note = tag('small', row.note) if row.note else None
    return [
        Cell(join(row.part, note), kind='words'),
        Cell(join(bar(row.float_bytes / most, 'f'), bar(row.quantized_bytes / most, 'q')),
             kind='bars'),
        Cell(_sizes(row.float_bytes, row.quantized_bytes)),
    ]


def _sizes(before: int, after: int) -> Html:
    change = 'as it was' if before == after else less(before, after) if before else 'new'
    return join(f'{size(before)} \u2192 {size(after)}', tag('small', change))


def coverage_section(coverage: Coverage) -> Section:
    """What the calibration data holds, and what of it was used."""
    episodes = _sums((e.episode, e.found, e.used) for e in coverage.episodes)
    instructions = _sums((e.instruction, e.found, e.used) for e in coverage.episodes)
    used = sum(e.used for e in coverage.episodes)
    found = sum(e.found for e in coverage.episodes)
    content = join(
        _warnings(coverage.warnings),
        tag(
            'div',
            tag('div', _groups('Instructions', instructions),
                _groups('Phases of motion', coverage.phases)),
            tag('div', _groups('Episodes', episodes)),
            class_='columns',
        ),
        _left_out(coverage),
        _bags(coverage),
    )
    title = (
        f'{plural(used, "observation")} used of {count(found)}, from '
        f'{plural(len(episodes), "episode")} and {plural(len(instructions), "instruction")}'
    )
    return Section('data', 'Data', title, content)


def _sums(entries) -> list[Group]:
    found: dict[str, tuple[int, int]] = {}
    for name, seen, used in entries:
        before = found.get(name, (0, 0))
        found[name] = (before[0] + seen, before[1] + used)
    return [Group(name, seen, used) for name, (seen, used) in found.items()]


def _warnings(warnings: Sequence[str]) -> Html | None:
    if not warnings:
        return None
    return tag(
        'div',
        tag('strong', f'\u25b2 {plural(len(warnings), "warning")}'),
        tag('ul', [tag('li', words) for words in warnings]),
        class_='verdict look',
    )


def _groups(title: str, groups: Sequence[Group]) -> Html | None:
    if not groups:
        return None
    most = max([1, *(group.used for group in groups)])
    rows = [
        [
            Cell(tag('bdi', group.name), kind='words'),
            Cell(bar(group.used / most, 'q') if group.used else '', kind='bars'),
            Cell(count(group.used), group.used),
            Cell(count(group.found), group.found),
        ]
        for group in groups
    ]
    head = ('', '', 'used', 'found')
    first = table(head, rows[:_ROWS], words=f'{title.lower()}: used and found')
    rest = (
        folded(
            f'{count(len(rows) - _ROWS)} more', table(head, rows[_ROWS:], words=f'more {title}')
        )
        if len(rows) > _ROWS else None
    )
    used = [group.used for group in groups]
    spread = (
        f'{min(used)} to {max(used)} of each' if len(used) > 1 and min(used) != max(used)
        else f'{max(used)} of each' if len(used) > 1 else f'{used[0]}'
    )
    return join(tag('h3', f'{title}: {count(len(groups))}, used {spread}'), first, rest)


def _left_out(coverage: Coverage) -> Html:
    if not coverage.left_out:
        return join(tag('h3', 'Left out: nothing'))
    rows = [
        [
            Cell(breakable(entry.topic), kind='words'), Cell(entry.reason, kind='words'),
            Cell(count(entry.count), entry.count),
        ]
        for entry in sorted(coverage.left_out, key=lambda entry: -entry.count)
    ]
    total = sum(entry.count for entry in coverage.left_out)
    head = ('topic', 'reason', 'count')
    first = table(head, rows[:_ROWS], words='what could not be used, and why')
    rest = (
        folded(f'{count(len(rows) - _ROWS)} more', table(head, rows[_ROWS:], words='more reasons'))
        if len(rows) > _ROWS else None
    )
    return join(tag('h3', f'Left out: {count(total)} in all'), first, rest)


def _bags(coverage: Coverage) -> Html | None:
    if not coverage.bags:
        return None
    rows = [
        [Cell(name, kind='name'), Cell(tag('code', digest), kind='name')]
        for name, digest in coverage.bags.items()
    ]
    return folded(
        plural(len(rows), 'bag'),
        paragraph('An evaluation on these bags would tell little: use others.', soft=True),
        table(('bag', 'SHA-256'), rows, words='bags and their hashes'),
    )
