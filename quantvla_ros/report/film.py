# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A recorded run as a film, and some of its frames for a contact sheet.

Knows bags through `run`, frames and video; knows nothing of ROS at run time.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from quantvla_ros.contract.types import Contract
from quantvla_ros.errors import QuantVLAError
from quantvla_ros.report.frame import draw
from quantvla_ros.report.run import Moment, moments
from quantvla_ros.report.video import write_video

COLUMNS = 4  # frames of each command on the contact sheet
_LEAD, _TRAIL = 0.5, 0.7  # s shown before the first command and after the last one is done
_NS = 1e9


def film(
    bag: Path, contract: Contract, path: Path, precision: str, said: Callable[[int, int], None]
) -> list[list[np.ndarray]]:
    """Write the video; returns the contact sheet's frames, one row per command.

    Args:
        bag: the recorded run.
        contract: of the arm.
        path: the .mp4 to write.
        precision: to be shown.
        said: told how many of how many pictures are drawn.
    Raises:
        QuantVLAError: no command was given in that run.
    """
    times = [(moment.time, moment.command, moment.done) for moment in moments(bag, contract)]
    if not any(command >= 0 for _, command, _ in times):
        raise QuantVLAError(f'{bag}: expected a run with commands, found none')
    begin = next(time for time, command, _ in times if command >= 0) - _LEAD * _NS
    shown = [entry for entry in times if entry[0] >= begin]
    last_done = [time for time, command, done in shown if done and command == shown[-1][1]]
    end = last_done[0] + _TRAIL * _NS if last_done else shown[-1][0]
    shown = [entry for entry in shown if entry[0] <= end]
    chosen = _sheet_times(shown)
    rows: dict[int, list[np.ndarray]] = {}
    rate = (len(shown) - 1) / max((shown[-1][0] - shown[0][0]) / _NS, 1e-9)

    def frames() -> Iterator[np.ndarray]:
        count = 0
        for moment in moments(bag, contract):
            if begin <= moment.time <= end:
                frame = draw(moment, precision)
                _keep(rows, moment, frame, chosen)
                count += 1
                said(count, len(shown))
                yield frame

    write_video(path, frames(), round(rate))
    return [rows[command] for command in sorted(rows)]


def _sheet_times(shown: list[tuple[int, int, bool]]) -> set[int]:
    """Times of the sheet's frames: evenly from each command to its end."""
    chosen: set[int] = set()
    for command in {entry[1] for entry in shown if entry[1] >= 0}:
        mine = [entry for entry in shown if entry[1] == command]
        # One frame after it was done shows the word; those that follow show nothing new.
        done = next((i for i, entry in enumerate(mine) if entry[2]), len(mine) - 1)
        places = np.linspace(0, done, COLUMNS).round().astype(int)
        chosen |= {mine[place][0] for place in places}
    return chosen


def _keep(
    rows: dict[int, list[np.ndarray]], moment: Moment, frame: np.ndarray, chosen: set[int]
) -> None:
    if moment.time in chosen:
        rows.setdefault(moment.command, []).append(frame)
