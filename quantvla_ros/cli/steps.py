# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a command with several processes does at the moment: one line on stderr per step.

In a terminal the line is rewritten. See `progress` for work whose steps can be counted.
"""
from __future__ import annotations

import sys


class Steps:
    """Says each step once.

    Args:
        title: begins every line.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._terminal = sys.stderr.isatty()
        self._last = ''
        self._open = False

    def show(self, text: str) -> None:
        """Say a step that is passing; in a terminal the next one takes its place."""
        if text == self._last:
            return
        self._last = text
        start = '\r\x1b[K' if self._terminal else ''
        sys.stderr.write(f'{start}{self._title}: {text}' + ('' if self._terminal else '\n'))
        sys.stderr.flush()
        self._open = self._terminal

    def done(self, text: str) -> None:
        """Say something that stays."""
        self.show(text)
        self.close()

    def close(self) -> None:
        """End an open line, so that what follows begins a new one."""
        if self._open:
            sys.stderr.write('\n')
            sys.stderr.flush()
            self._open = False
