# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One line of progress on a terminal, with the time that is left; nothing where there is none."""
from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO

_PAUSE = 0.2  # s between two updates


class ProgressLine:
    """Shows how far a command is, stage by stage."""

    def __init__(self, stages: tuple[str, ...], stream: TextIO | None = None) -> None:
        self._stages = stages
        self._stream = stream or sys.stderr
        self._shown = self._stream.isatty()
        self._stage = ''
        self._started = self._updated = 0.0

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._shown:
            self._stream.write('\r\x1b[K')
            self._stream.flush()

    def note(self, text: str) -> None:
        """A line that stays, on a terminal or not."""
        if self._shown:
            self._stream.write('\r\x1b[K')
        self._stream.write(text + '\n')
        self._stream.flush()

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        """`done` of `total` steps of a stage are behind us; `total` may be unknown (None)."""
        if not self._shown:
            return
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._started, self._updated = stage, now, 0.0
        if now - self._updated < _PAUSE and done != total:
            return
        self._updated = now
        number = self._stages.index(stage) + 1
        text = f'[{number}/{len(self._stages)}] {stage}: {done}'
        if total is not None:
            left = (now - self._started) / max(done, 1) * (total - done)
            text += f' of {total}, {left:.0f} s left'
        self._stream.write(f'\r\x1b[K{text}')
        self._stream.flush()
