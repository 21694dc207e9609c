# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A benchmark as tables for a terminal and as lines of a plot. Knows the JSON of `bench` alone."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantvla_ros.cli.evaluation import percent
from quantvla_ros.report.latency_plot import Latency
from quantvla_ros.report.table import table

MIB = 2**20


def headline(found: Mapping[str, Any]) -> tuple[str, str]:
    """What was run, and on what."""
    work, about = found['workload'], found['about']
    title = (
        f'{work["name"]}: {work["views"]} views, {work["prompt_tokens"]} prompt tokens, '
        f'chunk {work["chunk"]}, {work["steps"]} steps'
    )
    where = about['cpu'] if about['device'] == 'cpu' else about['device']
    versions = [f'torch {about["torch"]}']
    if about.get('triton'):
        versions.append(f'triton {about["triton"]}')
    return title, ', '.join([where, *versions, about['date']])


def bench_text(found: Mapping[str, Any]) -> str:
    """Times, where they go, and what came out."""
    done = [row for row in found['rows'] if 'right' in row]
    parts = list(headline(found))
    if done:
        parts += [
            f'\nms: on the device; wall: pictures on the host to actions on the host '
            f'({found["settings"]["runs"]} runs)',
            _times(done),
            '\nparts (median ms, of roofline in brackets), weights and memory',
            _parts(done),
            f'\nrelative errors against {found["reference"] or "-"} '
            f'(integers: {found["workload"]["integers"]}); beyond and off: the same network in '
            f'plain PyTorch',
            _errors(done),
        ]
    for row in found['rows']:
        for word, key in (('left out', 'left_out'), ('FAILED', 'failed')):
            if key in row:
                parts.append(f'{word}: {label(row)}: {row[key]}')
        if row.get('right') is False:
            parts.append(f'WRONG: {label(row)}: {_wrong(row)}')
    parts.append('\nat best, seen in this run: ' + _ceilings(found['ceilings']))
    return '\n'.join(parts)


def label(row: Mapping[str, Any]) -> str:
    """A row's name."""
    return f'{row["precision"]} {row["system"]}'


def latencies(found: Mapping[str, Any]) -> list[Latency]:
    """Lines of the plot."""
    return [
        Latency(label(row), row['device_ms']['p50'], row['device_ms']['p99'], row['least_ms'])
        if 'right' in row
        else Latency(label(row), None, None, failed=row['failed'])
        for row in found['rows']
        if 'left_out' not in row
    ]


def _times(rows: list[dict[str, Any]]) -> str:
    header = ['', 'p50', 'p90', 'p99', 'max', 'wall p50', 'wall p99', 'roofline', 'share',
              'over eager', 'over float engine']
    lines = []
    for row in rows:
        device, wall, speedup = row['device_ms'], row['wall_ms'], row['speedup']
        lines.append([
            label(row),
            *(_ms(device[name]) for name in ('p50', 'p90', 'p99', 'max')),
            *(_ms(wall[name]) for name in ('p50', 'p99')),
            _ms(row['least_ms']),
            percent(row['share_of_roofline'], 0),
            *(_times_faster(speedup[name]) for name in ('over_eager', 'over_float_engine')),
        ])
    return _without_empty(header, lines)


def _parts(rows: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row['least_parts_ms']))
    lines = []
    for row in rows:
        memory = row['memory_bytes']
        gpu = [memory.get(f'gpu_{name}') for name in ('reserved_peak', 'whole')]
        lines.append([
            label(row),
            *(_part(row, name) for name in names),
            f'{row["weight_bytes"] / MIB:.0f}',
            *('-' if size is None else f'{size / MIB:.0f}' for size in gpu),
            f'{memory["host_peak"] / MIB:.0f}',
        ])
    header = ['', *names, 'weights MiB', 'GPU peak MiB', 'GPU whole MiB', 'host peak MiB']
    return _without_empty(header, lines)


def _part(row: Mapping[str, Any], name: str) -> str:
    if name not in row['parts_ms']:
        return '-'
    took = row['parts_ms'][name]['p50']
    return f'{_ms(took)} ({percent(row["least_parts_ms"][name] / took, 0)})'


def _errors(rows: list[dict[str, Any]]) -> str:
    header = ['', 'first velocity', 'beyond plain', 'actions', 'off plain: first velocity',
              'actions', '']
    lines = [
        [
            label(row),
            _error(row['error'], 'first_velocity'),
            percent(row['error_beyond_plain'], 2),
            _error(row['error'], 'actions'),
            _error(row['from_plain'], 'first_velocity'),
            _error(row['from_plain'], 'actions'),
            'right' if row['right'] else 'WRONG',
        ]
        for row in rows
    ]
    return _without_empty(header, lines)


def _error(errors: Mapping[str, float | None] | None, name: str) -> str:
    return '-' if errors is None else percent(errors[name], 3)


def _wrong(row: Mapping[str, Any]) -> str:
    if not row['finite']:
        return 'actions are not numbers'
    return f'{percent(row["from_plain"]["actions"])} from the same network in plain PyTorch'


def _ceilings(ceilings: Mapping[str, Any]) -> str:
    rates = [f'{kind} {rate / 1e12:.4g} T/s' for kind, rate in ceilings['operations_per_s'].items()]
    return ', '.join([*rates, f'memory {ceilings["bytes_per_s"] / 1e9:.4g} GB/s'])


def _ms(value: float) -> str:
    return f'{value:.2f}'


def _times_faster(value: float | None) -> str:
    return '-' if value is None else f'{value:.2f}x'


def _without_empty(header: list[str], lines: list[list[str]]) -> str:
    """A table without the columns in which no line says anything."""
    kept = [n for n in range(len(header)) if any(line[n] != '-' for line in lines)]
    return table([header[n] for n in kept], [[line[n] for n in kept] for line in lines])
