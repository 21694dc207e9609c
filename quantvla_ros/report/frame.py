# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One moment of a run as a picture: both cameras, the command, the planned chunk drawn in.

Knows arrays and the overhead camera's geometry; knows nothing of bags or video.
"""
from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from quantvla_ros.report.run import Moment
from quantvla_ros.sim.tabletop.render import overhead_camera

WIDTH, HEIGHT = 1200, 704  # even, as H.264 with 4:2:0 wants
_SIDE = 560  # px, of a camera's picture
_MARGIN, _TOP = 26, 92
_BACK, _TEXT, _FAINT = (24, 27, 33), (236, 239, 244), (150, 158, 170)
_GOOD, _BUSY = (120, 200, 120), (240, 190, 90)
_NEAR, _FAR = np.array((255, 236, 120.0)), np.array((255, 90, 60.0))  # a plan's colours, RGB
_SHIFT = 4  # bits of sub-pixel places
_FONT = cv2.FONT_HERSHEY_DUPLEX


def draw(moment: Moment, precision: str) -> np.ndarray:
    """[HEIGHT, WIDTH, 3] uint8 RGB."""
    canvas = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    canvas[:] = _BACK
    overhead = _enlarged(moment.pictures['overhead'])
    if moment.plan is not None:
        points = moment.plan.ahead(moment.time)
        _draw_plan(overhead, _pixels(points))
    right = _MARGIN * 2 + _SIDE
    canvas[_TOP:_TOP + _SIDE, _MARGIN:_MARGIN + _SIDE] = overhead
    canvas[_TOP:_TOP + _SIDE, right:right + _SIDE] = _enlarged(moment.pictures['wrist'])
    if moment.command < 0:
        _write(canvas, 'no command yet', (_MARGIN, 56), 1.1, _FAINT)
    else:
        _write(canvas, moment.instruction, (_MARGIN, 56), 1.1, _TEXT)
        said, colour = ('done', _GOOD) if moment.done else (f'{moment.since:.1f} s', _BUSY)
        width = cv2.getTextSize(said, _FONT, 1.1, 1)[0][0]
        _write(canvas, said, (WIDTH - _MARGIN - width, 56), 1.1, colour)
    below = _TOP + _SIDE + 34
    _write(canvas, 'overhead, with the planned chunk', (_MARGIN, below), 0.6, _FAINT)
    words = f'wrist     {precision}'
    if moment.plan is not None:
        words += (
            f'     chunk {moment.plan.sequence}     inference {moment.plan.inference * 1e3:.0f} ms'
        )
    _write(canvas, words, (right, below), 0.6, _FAINT)
    return canvas


def contact_sheet(rows: Sequence[Sequence[np.ndarray]], width: int = 600) -> np.ndarray:
    """Frames in rows, each `width` px wide: [.., .., 3] uint8 RGB."""
    height = round(HEIGHT * width / WIDTH)
    small = [
        [cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA) for frame in row]
        for row in rows
    ]
    longest = max(len(row) for row in small)
    blank = np.empty((height, width, 3), np.uint8)
    blank[:] = _BACK
    return np.concatenate(
        [np.concatenate([*row, *[blank] * (longest - len(row))], axis=1) for row in small]
    )


def _enlarged(picture: np.ndarray) -> np.ndarray:
    return cv2.resize(picture, (_SIDE, _SIDE), interpolation=cv2.INTER_CUBIC)


def _pixels(points: np.ndarray) -> np.ndarray:
    """[points, 2] places in the enlarged overhead picture."""
    pixels, _ = overhead_camera(_SIDE).project(points)
    return pixels


def _draw_plan(picture: np.ndarray, pixels: np.ndarray) -> None:
    """The fingertips' way: a line from near (yellow) to far (red) with a dot for each row."""
    fixed = np.round(pixels * 2**_SHIFT).astype(int)
    for index in range(len(fixed)):
        share = index / max(len(fixed) - 1, 1)
        colour = tuple((_NEAR + (_FAR - _NEAR) * share).tolist())
        here = tuple(fixed[index].tolist())
        if index:
            before = tuple(fixed[index - 1].tolist())
            cv2.line(picture, before, here, (20, 20, 20), 5, cv2.LINE_AA, _SHIFT)
            cv2.line(picture, before, here, colour, 2, cv2.LINE_AA, _SHIFT)
        cv2.circle(picture, here, 4 << _SHIFT, colour, -1, cv2.LINE_AA, _SHIFT)


def _write(
    canvas: np.ndarray, text: str, place: tuple[int, int], size: float, colour: tuple[int, ...]
) -> None:
    cv2.putText(canvas, text, place, _FONT, size, colour, 1, cv2.LINE_AA)
