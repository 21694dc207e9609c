# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""An inspection as text for a terminal. Knows the JSON of `inspect`, and nothing else."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quantvla_ros.report.table import table

_NOT_READ = 'not known: see what is missing'


def inspection_text(facts: Mapping[str, Any]) -> str:
    """Everything, a section each; what is missing last, where a terminal ends."""
    sections = [_head(facts)]
    if facts['artifact'] is not None:
        sections.append(_artifact(facts['artifact']))
    sections.append(_weights(facts['weights']))
    if facts['sizes'] is not None:
        sections.append(_sizes(facts['sizes']))
    sections += [_cameras(facts), _vector('state', facts['state']),
                 _vector('action', facts['action']), _beside(facts)]
    if facts['layout'] is not None:
        sections.append(_layout(facts['layout']))
    if facts['memory'] is not None:
        sections.append(_memory(facts['memory']))
    sections.append(missing_text(facts))
    return '\n\n'.join(sections) + '\n'


def missing_text(facts: Mapping[str, Any]) -> str:
    """What is missing, one thing and its remedy each."""
    if facts['runnable']:
        return 'nothing is missing: it can run'
    lines = [f'missing before it can run: {len(facts["missing"])}']
    for number, one in enumerate(facts['missing'], 1):
        lines.append(f'  {number}. {one["what"]}')
        if one['remedy']:
            lines.append(f'     -> {one["remedy"]}')
    return '\n'.join(lines)


def _head(facts: Mapping[str, Any]) -> str:
    architecture = facts['architecture']
    title = 'of an unknown architecture' if architecture is None else architecture['title']
    return f'{facts["directory"]}: {facts["kind"]}, {title}'


def _artifact(artifact: Mapping[str, Any]) -> str:
    calibration, error = artifact['calibration'], artifact['held_out_error']
    frames = calibration['frames']
    lines = [
        f'artifact {artifact["id"]}: {artifact["precision"]} by recipe {artifact["recipe"]}, for '
        f'{artifact["robot"]}, made {artifact["created"]}',
        f'  weights of {_bytes(artifact["bytes"]["quantized"])}, in float '
        f'{_bytes(artifact["bytes"]["float"])}',
        f'  calibrated on {calibration["samples"]} samples of {calibration["episodes"]} '
        f'episode{"s" if calibration["episodes"] != 1 else ""} ({frames["found"]} frames found, '
        f'{frames["constant"]} without motion), seed {calibration["seed"]}; '
        f'{calibration["held_out"]} held out',
        f'  bags: {", ".join(calibration["bags"]) or "none"}',
        f'  commands: {_some(calibration["instructions"])}',
    ]
    lines += [f'  caution: {text}' for text in calibration['cautions']]
    lines += [f'  fault in the data: {text}' for text in calibration['faults']]
    rows = [
        [name, f'{one["rms"]:.4g}', f'{one["largest"]:.4g}', f'{one["relative"]:.4g}']
        for name, one in error.items()
    ]
    if rows:
        shown = table(['held-out error', 'rms', 'largest', 'relative'], rows)
        lines += [f'  {line}' for line in shown.splitlines()]
    return '\n'.join(lines)


def _weights(weights: Mapping[str, Any]) -> str:
    files = weights['files']
    if not files:
        return 'weights: none that can be read'
    numbers = ', '.join(f'{_count(n)} {kind}' for kind, n in weights['numbers'].items())
    lines = [
        f'weights: {weights["tensors"]} tensors, {numbers}, {_bytes(weights["bytes"])} in '
        f'{len(files)} file{"s" if len(files) > 1 else ""}'
    ]
    if 'prefixes' in weights:
        prefixes = ', '.join(
            f'{prefix or "no prefix"} ({count})' for prefix, count in weights['prefixes'].items()
        )
        lines.append(
            f'  names: {prefixes or "none that fit"}; {weights["unused"]} not used; embedding '
            f'stored as {weights["embedding_stored_as"] or "neither itself nor output layer"}'
        )
    elif weights['names_of'] is not None:
        lines.append(f'  names: those of {weights["names_of"]}')
    return '\n'.join(lines)


def _sizes(sizes: Mapping[str, Any]) -> str:
    total = sizes['parameters']
    rows = [
        [part, _count(count), f'{count / total:.1%}'] for part, count in sizes['parts'].items()
    ]
    rows.append(['all', _count(total), ''])
    return (
        f'chunks of {sizes["chunk"]} actions, {sizes["action_width"]} numbers wide, in '
        f'{sizes["denoising_steps"]} denoising steps\n'
        + table(['parameters', 'numbers', 'share'], rows)
    )


def _cameras(facts: Mapping[str, Any]) -> str:
    cameras = facts['cameras']
    if cameras is None:
        return f'cameras: {_NOT_READ}'
    side = cameras['pixels']
    slots = '\n'.join(f'  {slot}' for slot in cameras['slots'])
    return f'cameras, in the order of training, seen at {side} x {side}:\n{slots}'


def _vector(kind: str, vector: Mapping[str, Any] | None) -> str:
    if vector is None:
        return f'{kind}: {_NOT_READ}'
    names = vector['names'] or [f'{kind} {n}' for n in range(vector['size'])]
    units = vector['units']
    one = units[0] if len(set(units)) == 1 else None
    lines = [f'{kind}: {vector["size"]} numbers, units {one or "as below"}']
    if not vector['names']:
        lines[0] += ', no names recorded'
    parts = vector['parts']
    columns = list(dict.fromkeys(name for part in parts for name in part['used']))
    rows, start = [], 0
    for part in parts:
        for index in range(part['size']):
            unit = '' if one else f' ({units[start + index]})'
            values = (
                f'{part["statistics"][name][index]:.4g}' if name in part['used'] else ''
                for name in columns
            )
            rows.append([
                f'  {names[start + index]}{unit}', part['key'] or '', part['normalization'], *values
            ])
        start += part['size']
    if all(not row[1] for row in rows):
        rows = [[row[0], *row[2:]] for row in rows]
        return lines[0] + '\n' + table(['  number', 'normalized by', *columns], rows)
    return lines[0] + '\n' + table(['  number', 'part', 'normalized by', *columns], rows)


def _beside(facts: Mapping[str, Any]) -> str:
    tokenizer, data = facts['tokenizer'], facts['data_config']
    lines = [
        f'tokenizer: {_NOT_READ}'
        if tokenizer is None
        else f'tokenizer: {tokenizer["file"]} ({tokenizer["kind"]}, {tokenizer["tokens"]} tokens)'
    ]
    if facts['control_period'] is not None:
        lines.append(f'control period: {facts["control_period"]:g} s')
    if facts['execute_steps'] is not None:
        lines.append(f'actions to run of a chunk: {facts["execute_steps"]}')
    if data is None:
        lines.append('data config: none')
    else:
        said = ', '.join(
            f'{key} {value}'
            for key, value in data['content'].items()
            if isinstance(value, (str, int, float)) and key not in ('data_config', 'model')
        )
        lines.append(f'data config: {data["file"]}{f" ({said})" if said else ""}')
    return '\n'.join(lines)


def _layout(layout: Mapping[str, Any]) -> str:
    integer = [
        [f'  {role}', str(part['layers']), _count(part['parameters'])]
        for role, part in layout['integer'].items()
    ]
    kept = [
        [f'  {part["reason"]}', str(part['modules']), _count(part['parameters'])]
        for part in layout['float']
    ]
    return (
        f'layout {layout["name"]}\n'
        + table(['  integer', 'layers', 'numbers'], integer)
        + '\n'
        + table(['  float, because', 'modules', 'numbers'], kept)
    )


def _memory(memory: Mapping[str, int]) -> str:
    rows = [[f'  {name}', _bytes(size)] for name, size in memory.items()]
    return table(['memory of the weights', ''], rows)


def _some(texts: Sequence[str], limit: int = 4) -> str:
    more = f' and {len(texts) - limit} more' if len(texts) > limit else ''
    return ('; '.join(texts[:limit]) or 'none') + more


def _count(number: int) -> str:
    for unit, size in (('B', 10**9), ('M', 10**6), ('k', 10**3)):
        if number >= size:
            return f'{number / size:#.3g}'.rstrip('.') + f' {unit}'
    return str(number)


def _bytes(size: int) -> str:
    for unit, power in (('GiB', 30), ('MiB', 20), ('KiB', 10)):
        if size >= 2**power:
            return f'{size / 2**power:.2f} {unit}'
    return f'{size} B'
