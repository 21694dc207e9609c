# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""An evaluation as tables for a terminal. Knows the JSON of `evaluate`, and nothing else."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from quantvla_ros.cli.evaluation import percent
from quantvla_ros.report.table import fitting_table, table


def open_loop_text(found: Mapping[str, Any]) -> str:
    """Errors against the recording; then what each policy differs in from the one it is held to."""
    parts = [
        f'open loop: {found["observations"]} observations of {found["episodes"]} episodes, '
        f'{found["actions"]} recorded actions',
        'root mean square error against the recorded actions',
        _recorded(found),
    ]
    comparisons = found['comparisons']
    if comparisons:
        parts += [
            f'\naction chunks against {found["against"]}, same noise (relative: |q - f| / |f| in '
            f'normalised actions)',
            _overview(comparisons),
            '\nrelative error by joint',
            _by(comparisons, 'joints', 'name'),
            '\nrelative error of the state after each denoising step',
            _by(comparisons, 'steps', 'step'),
        ]
    if len(comparisons) == 1:
        parts += ['\nframes that differ most', _worst(comparisons[0])]
    return '\n'.join(parts)


def _recorded(found: Mapping[str, Any]) -> str:
    columns = {p['label']: p['rms_error'] for p in found['policies']}
    columns['holding still'] = found['holding_still']['rms_error']
    names, units = found['names'], found['units']
    whole = len(set(units)) == 1  # else a mean over joints would mix units
    header = ['', *(f'{n} ({u})' for n, u in zip(names, units, strict=True))]
    rows = [
        [label, *(f'{value:.4g}' for value in column)]
        + ([f'{np.sqrt(np.square(column).mean()):.4g}'] if whole else [])
        for label, column in columns.items()
    ]
    return fitting_table([*header, f'all ({units[0]})'] if whole else header, rows)


def _overview(comparisons: list[dict[str, Any]]) -> str:
    header = ['', 'relative', '95 %', 'to variation', 'cosine', 'worst frame', 'gripper flips']
    rows = []
    for c in comparisons:
        interval = c['relative_95']
        rows.append(
            [
                c['policy'],
                percent(c['relative']),
                '-' if interval is None else f'{100 * interval[0]:.2f} to {100 * interval[1]:.2f}',
                percent(c['relative_to_variation']),
                '-' if c['cosine'] is None else f'{c["cosine"]:.6f}',
                percent(c['frame_error']['largest']),
                ', '.join(f'{g["flips"]} of {g["of"]}' for g in c['grippers']) or '-',
            ]
        )
    return table(header, rows)


def _by(comparisons: list[dict[str, Any]], key: str, name: str) -> str:
    header = ['', *(str(entry[name]) for entry in comparisons[0][key])]
    return fitting_table(
        header,
        [[c['policy'], *(percent(entry['relative']) for entry in c[key])] for c in comparisons],
    )


def _worst(comparison: Mapping[str, Any]) -> str:
    return table(
        ['episode', 'after', 'error', 'largest difference', 'command'],
        [
            [
                w['episode'],
                f'{w["seconds"]:.2f} s',
                percent(w['error']),
                f'{w["joint"]} {w["difference"]:+.4g} {w["unit"]} in row {w["row"] + 1}',
                w['instruction'],
            ]
            for w in comparison['worst_frames']
        ],
    )


def closed_loop_text(found: Mapping[str, Any]) -> str:
    """Success of each policy by kind of task, and scene by scene against the one it is held to."""
    period = found['control_period']
    kinds = list(found['policies'][0]['success'])
    header = ['', *kinds, '95 %', 'mean time', 'MiB']
    control = all('wrong_command' in policy for policy in found['policies'])
    rows = []
    for policy in found['policies']:
        whole = policy['success']['all']
        row = [
            policy['label'],
            *(f'{policy["success"][k]["done"]} of {policy["success"][k]["of"]}' for k in kinds),
            f'{100 * whole["low"]:.1f} to {100 * whole["high"]:.1f}',
            f'{whole["mean_steps"] * period:.2f} s',
            f'{policy["weight_bytes"] / 2**20:.1f}',
        ]
        if control:
            wrong = policy['wrong_command']['all']
            row.append(f'{wrong["done"]} of {wrong["of"]}')
        rows.append(row)
    parts = [
        f'tabletop: {found["scenes"]} scenes from seed {found["first_seed"]}, at most '
        f'{found["time_limit"]:g} s, chunks {found["delay"] * period:g} s late; scenes done',
        table([*header, 'told otherwise'] if control else header, rows),
    ]
    if found['comparisons']:
        parts += [
            f'\nscene by scene against {found["against"]} (McNemar exact p; difference of success '
            f'in points with 95 %; how much later it is done where both are)',
            table(
                ['', 'both', 'only it', f'only {found["against"]}', 'neither', 'p', 'difference',
                 '95 %', 'later', '95 %'],
                [
                    [
                        c['policy'],
                        *(str(c[k]) for k in ('both', 'only_first', 'only_second', 'neither')),
                        f'{c["p"]:.3g}',
                        f'{100 * c["difference"]:+.1f}',
                        f'{100 * c["difference_95"][0]:+.1f} to {100 * c["difference_95"][1]:+.1f}',
                        *_later(c, period),
                    ]
                    for c in found['comparisons']
                ],
            ),
        ]
    return '\n'.join(parts)


def _later(comparison: Mapping[str, Any], period: float) -> tuple[str, str]:
    later, interval = comparison['later'], comparison['later_95']
    if later is None:
        return '-', '-'
    shown = f'{later * period:+.3f} s'
    if interval is None:
        return shown, '-'
    return shown, f'{interval[0] * period:+.3f} to {interval[1] * period:+.3f}'
