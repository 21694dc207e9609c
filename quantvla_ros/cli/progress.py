# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How far a command is and how long it still takes: one line on a terminal, a few lines in a log.

The time left of a stage comes from the pace of its later half, since first steps are slow (memory,
caches, tuned kernels) and a pace may change. That of the whole is shown only where the command
says what its stages cost relative to each other, and counts the pace of those alone.
"""
from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TextIO

_PAUSE = 0.2  # s between two updates of a terminal's line
_LOG_PAUSE = 10.0  # s between two lines of a log: short commands print none
_ENOUGH = 0.05  # of a cost; no word on the time of the whole before that


class ProgressLine:
    """Shows how far a command is, stage by stage."""

    def __init__(
        self,
        stages: Sequence[str],
        stream: TextIO | None = None,
        *,
        costs: Mapping[str, float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin to count time.

        Args:
            stages: names in their order.
            stream: where to write; standard error where None.
            costs: how long stages take relative to each other (steps times the work of a step).
                A stage that has none is left out of the time of the whole.
            clock: seconds.
        """
        self._stages = tuple(stages)
        self._costs = dict(costs or {})
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._clock = clock
        self._stage = ''
        self._total: int | None = None
        self._done = 0
        # A step is over when it is reported: a stage begins where the one before it was heard last.
        self._began = self._heard = self._shown = clock()
        self._points: deque[tuple[float, int]] = deque()
        self._spent = self._behind = 0.0  # s and cost of the stages behind us that have a cost

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._terminal:
            self._stream.write('\r\x1b[K')
            self._stream.flush()

    def note(self, text: str) -> None:
        """A line that stays, on a terminal or not."""
        if self._terminal:
            self._stream.write('\r\x1b[K')
        self._stream.write(text + '\n')
        self._stream.flush()

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        """`done` of `total` steps of a stage are behind us; `total` may be unknown (None)."""
        now = self._clock()
        if stage != self._stage:
            self._begin(stage)
        self._done, self._total, self._heard = done, total, now
        self._points.append((now, done))
        while len(self._points) > 2 and self._points[1][0] <= (self._began + now) / 2:
            self._points.popleft()
        pause = _PAUSE if self._terminal else _LOG_PAUSE
        ended = done == total and (self._terminal or now - self._began >= _LOG_PAUSE)
        if now - self._shown < pause and not ended:
            return
        self._shown = now
        if self._terminal:
            self._stream.write(f'\r\x1b[K{self._text(now)}')
        else:
            self._stream.write(f'{self._text(now)}\n')
        self._stream.flush()

    def _begin(self, stage: str) -> None:
        if self._stage in self._costs:
            self._spent += self._heard - self._began
            self._behind += self._costs[self._stage]
        self._stage, self._began = stage, self._heard
        self._points.clear()
        self._points.append((self._began, 0))
        if self._terminal:
            self._shown = self._heard - _PAUSE  # a new stage is shown at once

    def _text(self, now: float) -> str:
        number = f'[{self._stages.index(self._stage) + 1}/{len(self._stages)}] ' if (
            self._stage in self._stages) else ''
        text = f'{number}{self._stage}: {self._done}'
        if self._total is None:
            return text
        text += f' of {self._total}'
        left = self._stage_left()
        if left is None:
            return text
        text += f', {duration(left)} left'
        whole = self._whole_left(now, left)
        return text if whole is None else f'{text} (all: {duration(whole)})'

    def _stage_left(self) -> float | None:
        """Seconds to the end of this stage; None where nothing tells yet."""
        if self._done == self._total:
            return 0.0
        (began, before), (ended, after) = self._points[0], self._points[-1]
        if self._total is None or after <= before or ended <= began:
            return None
        return (ended - began) / (after - before) * (self._total - self._done)

    def _whole_left(self, now: float, left: float) -> float | None:
        """Seconds to the end of all stages that have a cost; None where nothing tells yet."""
        cost = self._costs.get(self._stage)
        if cost is None or not self._total or self._stage not in self._stages:
            return None
        place = self._stages.index(self._stage)
        ahead = sum(self._costs.get(stage, 0.0) for stage in self._stages[place + 1 :])
        behind = self._behind + cost * self._done / self._total
        if not ahead or behind < _ENOUGH * (behind + ahead):
            return None
        return left + (self._spent + now - self._began) / behind * ahead


def duration(seconds: float) -> str:
    """A time span in words, to two places: '45 s', '3 min 20 s', '1 h 05 min'."""
    whole = round(seconds)
    if whole < 60:
        return f'{whole} s'
    if whole < 3600:
        return f'{whole // 60} min {whole % 60:02} s'
    return f'{whole // 3600} h {whole % 3600 // 60:02} min'
