# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Commands of our own as child processes that end with their parent, in order.

Each gets a process group of its own, so that a Ctrl-C reaches the parent alone, which then ends its
children one after the other.
"""
from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from quantvla_ros.errors import QuantVLAError

_ORDERLY = 15.0  # s for a process to end after SIGINT
_LOG_LINES = 15


class Child:
    """`python -m quantvla_ros COMMAND` with ROS parameters, its output in a file.

    Args:
        command: name of the command.
        parameters: ROS parameters.
        log: takes stdout and stderr.
    """

    def __init__(self, command: str, parameters: Mapping[str, object], log: Path) -> None:
        self.command, self._log = command, log
        arguments = [sys.executable, '-m', 'quantvla_ros', command, '--ros-args']
        for name, value in parameters.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            arguments += ['-p', f'{name}:={text}']
        with log.open('wb') as output:
            self._process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def check(self) -> None:
        """Raise where the process has ended by itself, with the end of its output."""
        status = self._process.poll()
        if status is not None:
            raise QuantVLAError(f'{self.command} ended with status {status}:\n{self.tail()}')

    def tail(self) -> str:
        """The last lines of its output."""
        lines = self._log.read_text(encoding='utf-8', errors='replace').splitlines()
        return '\n'.join(f'  {line}' for line in lines[-_LOG_LINES:])

    def end(self) -> int:
        """End it in order; returns its exit status. A process that does not end is killed."""
        if self._process.poll() is None:
            self._process.send_signal(2)  # SIGINT, as a user would
            try:
                self._process.wait(_ORDERLY)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        return self._process.returncode
