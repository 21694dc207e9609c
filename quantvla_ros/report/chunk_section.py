# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The page's part on action chunks: the float and the quantized policy's, one over the other.

Knows frames and actions; knows nothing of networks.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from quantvla_ros.report.calibration_data import Action, Chunks, FrameResult
from quantvla_ros.report.chart import Scale, curve, key_lines, label, line, linear, plot
from quantvla_ros.report.document import (
    Cell,
    Section,
    folded,
    legend,
    panel,
    paragraph,
    table,
)
from quantvla_ros.report.html import Html, join, picture, tag
from quantvla_ros.report.numbers import number, percent, plural

SHOWN = 8  # joints of a frame in full view
_OPEN = 2  # frames in full view
_SIDES = ((12, 480), (32, 320), (100, 200))  # (up to so many pictures, px)
_SMALLEST = 200  # px
_NEAR_TOP = 85  # percent of the box; above it, words stand below a line
_STILL = 0.02  # of a joint's range: less motion counts as this much


@dataclass(frozen=True)
class JointError:
    """How far one dimension of the action is off over all frames that are shown.

    Attributes:
        rms, largest: in its unit.
        relative: rms over how much the joint moves in the float policy's chunks.
    """

    action: Action
    index: int
    rms: float
    largest: float
    relative: float


def joint_errors(chunks: Chunks) -> list[JointError]:
    """Every dimension of the action, the worst first; what is not finite is worst."""
    if not chunks.frames:
        return []
    teacher = np.concatenate([frame.teacher for frame in chunks.frames]).astype(np.float64)
    student = np.concatenate([frame.student for frame in chunks.frames]).astype(np.float64)
    found = []
    for index, action in enumerate(chunks.actions):
        difference = student[:, index] - teacher[:, index]
        moved = float(teacher[:, index].std())
        if action.bounds is not None:
            moved = max(moved, _STILL * (action.bounds[1] - action.bounds[0]))
        rms = float(np.sqrt(np.square(difference).mean()))
        relative = rms / moved if moved > 0 else (math.inf if rms > 0 else 0.0)
        largest = float(np.abs(difference).max())
        found.append(JointError(action, index, rms, largest, relative))
    return sorted(found, key=lambda joint: -_rank(joint.relative))


def _rank(value: float) -> float:
    return math.inf if math.isnan(value) else value


def chunk_section(
    chunks: Chunks, teacher: str = 'float policy', student: str = 'quantized policy',
    where: str = 'that calibration has not seen',
) -> Section | None:
    """Frames with their pictures and chunks.

    Args:
        teacher, student: what to call the policies.
        where: what is to be said of the observations; may be empty.
    """
    if not chunks.frames:
        return None
    frames = sorted(chunks.frames, key=lambda frame: -_rank(frame.error))
    joints = joint_errors(chunks)
    images = sum(len(frame.pictures) for frame in frames)
    side = next((px for most, px in _SIDES if images <= most), _SMALLEST)
    drawn = [_frame(frame, number_, chunks, joints, side) for number_, frame in enumerate(frames)]
    content = join(
        paragraph(
            f'What both policies would do in {plural(len(frames), "observation")}'
            f'{" " if where else ""}{where}, from the same noise; the worst first. '
            + (f'Of {len(joints)} joints the {SHOWN} that are off most are in view.'
               if len(joints) > SHOWN else '')
        ),
        legend(
            (key_lines('float'), f'{teacher} (broad, solid)'),
            (key_lines('quant'), f'{student} (thin, dashed)'),
            *([(key_lines('bound'), 'limit of the robot')]
              if any(action.bounds for action in chunks.actions) else []),
        ),
        drawn[:_OPEN],
        folded(f'{plural(len(drawn) - _OPEN, "more frame")}', drawn[_OPEN:])
        if len(drawn) > _OPEN else None,
        _joint_table(joints),
    )
    return Section('chunks', 'Actions', _title(joints, frames), content)


def _title(joints: Sequence[JointError], frames: Sequence[FrameResult]) -> str:
    broken = sum(not math.isfinite(joint.rms) for joint in joints)
    if broken:
        return f'{plural(broken, "joint")} of {len(joints)} with actions that are not numbers'
    worst = joints[0]
    unit = f' {worst.action.unit}' if worst.action.unit else ''
    return (
        f'{worst.action.name} is off most: {number(worst.rms, 2)}{unit} rms, '
        f'{percent(worst.relative)} of how far it moves; the worst frame is off by '
        f'{percent(frames[0].error)}'
    )


def _frame(
    frame: FrameResult, index: int, chunks: Chunks, joints: Sequence[JointError], side: int
) -> Html:
    ranked = [joint.action for joint in joints]
    places = {joint.action.name: joint.index for joint in joints}
    drawn = [_joint_panel(frame, action, places[action.name], chunks.period) for action in ranked]
    images = [
        tag(
            'figure',
            picture(image, f'camera {name}, {frame.instruction}', side),
            tag('figcaption', name),
        )
        for name, image in frame.pictures.items()
    ]
    return tag(
        'article',
        tag('h3', tag('bdi', f'\u201c{frame.instruction}\u201d')),
        tag(
            'p',
            f'off by {percent(frame.error)}',
            [', from ', tag('bdi', frame.episode)] if frame.episode else None,
            f', at {frame.time:.2f} s' if frame.time is not None else None,
            class_='note',
        ),
        tag('div', images, class_='pictures') if images else None,
        tag('div', drawn[:SHOWN], class_='panels'),
        folded(
            f'{plural(len(drawn) - SHOWN, "more joint")}',
            tag('div', drawn[SHOWN:], class_='panels'),
        ) if len(drawn) > SHOWN else None,
        class_='frame',
    )


def _joint_panel(frame: FrameResult, action: Action, index: int, period: float) -> Html:
    teacher = frame.teacher[:, index].astype(np.float64)
    student = frame.student[:, index].astype(np.float64)
    times = period * (1 + np.arange(len(teacher)))
    y_low, y_high = _view(teacher, student, action.bounds)
    # The curves begin half a step into the box: the first row is meant for one period later.
    x, y = seconds(float(times[-1])), linear(y_low, y_high, wanted=3)
    unit = f' {action.unit}' if action.unit else ''
    apart = np.abs(student - teacher)
    largest = float(apart.max()) if np.isfinite(apart).all() else math.nan
    words = f'apart by up to {number(largest, 2)}{unit if math.isfinite(largest) else ""}'
    marks = []
    for bound in action.bounds or ():
        if y_low < bound < y_high:
            marks.append(line(0, y.place(bound), 100, y.place(bound), 'bound'))
            below = y.place(bound) > _NEAR_TOP
            marks.append(
                label(100, y.place(bound), 'limit', 'mark-label end', dy=12 if below else -3)
            )
    for values, class_ in ((teacher, 'float'), (student, 'quant')):
        places = [
            (x.place(t), y.place(v) if math.isfinite(v) else math.nan)
            for t, v in zip(times.tolist(), values.tolist(), strict=True)
        ]
        marks.append(curve(places, class_))
    return panel(
        action.name, words,
        plot(
            x, y, marks, short=True,
            words=f'{action.name} over {number(float(times[-1]))} s: both chunks, '
                  f'{words}.',
            y_title=action.unit,
        ),
    )


def seconds(last: float) -> Scale:
    """Time from 0; the last tick says the unit."""
    scale = linear(0.0, last)
    value, words = scale.ticks[-1]
    return replace(scale, ticks=(*scale.ticks[:-1], (value, f'{words} s')))


def _view(
    teacher: np.ndarray, student: np.ndarray, bounds: tuple[float, float] | None
) -> tuple[float, float]:
    """Ends of the vertical axis: both curves, and enough that a joint at rest looks at rest."""
    known = np.concatenate([teacher, student])
    known = known[np.isfinite(known)]
    if not len(known):
        return bounds or (-1.0, 1.0)
    low, high = float(known.min()), float(known.max())
    least = 0.04 * (bounds[1] - bounds[0]) if bounds else 1e-3 * max(abs(low), abs(high), 1e-3)
    if high - low < least:
        middle = (low + high) / 2
        low, high = middle - least / 2, middle + least / 2
    margin = 0.08 * (high - low)
    return low - margin, high + margin


def _joint_table(joints: Sequence[JointError]) -> Html:
    rows = [
        [
            Cell(joint.action.name, kind='name'),
            Cell(percent(joint.relative), _rank(joint.relative)),
            Cell(number(joint.rms, 2), _rank(joint.rms)),
            Cell(number(joint.largest, 2), _rank(joint.largest)),
            Cell(joint.action.unit, kind='words'),
        ]
        for joint in joints
    ]
    return folded(
        f'All {plural(len(joints), "joint")} in numbers, over these frames',
        paragraph(
            'Relative: root mean square of the difference over the standard deviation of the float '
            'policy\u2019s chunks; a joint that hardly moves is measured by a fiftieth of its '
            'range.',
            soft=True,
        ),
        table(('joint', 'relative', 'rms', 'largest', 'unit'), rows,
              words='error of each joint', sortable=True),
    )
