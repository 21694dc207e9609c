# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One line of progress on stderr: rewritten in a terminal, one line per step elsewhere."""
from __future__ import annotations

import sys


class Progress:
    """A line that says where we are.

    Args:
        title: begins every line.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._terminal = sys.stderr.isatty()
        self._last = ''

    def show(self, text: str) -> None:
        """Say something new; what is said already is not said again."""
        if text == self._last:
            return
        self._last = text
        if self._terminal:
            sys.stderr.write(f'\r\x1b[K{self._title}: {text}')
        else:
            sys.stderr.write(f'{self._title}: {text}\n')
        sys.stderr.flush()

    def done(self, text: str) -> None:
        """Say the last thing and end the line."""
        self.show(text)
        if self._terminal:
            sys.stderr.write('\n')
            sys.stderr.flush()
