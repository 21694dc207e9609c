# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Commands of our own as child processes that end with their parent, in order.

Each gets a process group of its own, so that a Ctrl-C reaches the parent alone, which then ends its
children one after the other.
"""
from __future__ import annotations

import resource
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from quantvla_ros.errors import QuantVLAError
from quantvla_ros.nodes.process import Interrupted, StopSignal

_ORDERLY = 15.0  # s for a process to end after SIGINT
_POLL = 0.1  # s
_LOG_LINES = 15


def ros_parameters(parameters: Mapping[str, object]) -> list[str]:
    """`--ros-args -p name:=value ...`."""
    arguments = ['--ros-args']
    for name, value in parameters.items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        arguments += ['-p', f'{name}:={text}']
    return arguments


def resident(process: int) -> int:
    """Resident memory of a process in bytes; 0 where the system does not say, or it has ended."""
    try:
        text = Path(f'/proc/{process}/statm').read_text(encoding='ascii')
    except OSError:
        return 0
    return int(text.split()[1]) * resource.getpagesize()


class Child:
    """`python -m quantvla_ros COMMAND ARGUMENTS` as a process.

    Args:
        command: name of the command.
        arguments: of the command.
        log: takes stdout and stderr; None leaves stderr where it is, for progress.
        module: run in place of the command; `command` is what it is called then.
    """

    def __init__(
        self, command: str, arguments: Sequence[str], log: Path | None, module: str = ''
    ) -> None:
        self.command, self._log = command, log
        what = [module] if module else ['quantvla_ros', command]
        call = [sys.executable, '-m', *what, *arguments]
        if log is None:
            self._process = subprocess.Popen(
                call, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
            )
            return
        with log.open('wb') as output:
            self._process = subprocess.Popen(
                call, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def finish(self, stop: StopSignal) -> None:
        """Wait until it has done its work.

        Raises:
            QuantVLAError: it failed.
            Interrupted: the user asked to stop; it has been ended.
        """
        while self._process.poll() is None:
            if stop.wait(_POLL):
                self.end()
                raise Interrupted
        if self._process.returncode:
            raise QuantVLAError(f'{self.command} ended with status {self._process.returncode}')

    def check(self) -> None:
        """Raise where the process has ended by itself, with the end of its output."""
        status = self._process.poll()
        if status is not None:
            raise QuantVLAError(f'{self.command} ended with status {status}:\n{self.tail()}')

    @property
    def output(self) -> str:
        """All of its output so far."""
        return self._log.read_text(encoding='utf-8', errors='replace') if self._log else ''

    @property
    def written(self) -> int:
        """Bytes of its output so far."""
        return self._log.stat().st_size if self._log else 0

    def output_after(self, written: int) -> str:
        """Its output after so many bytes: of a process that talks for hours, what is new."""
        if self._log is None:
            return ''
        with self._log.open('rb') as log:
            log.seek(written)
            return log.read().decode(errors='replace')

    def tail(self) -> str:
        """The last lines of its output."""
        return '\n'.join(f'  {line}' for line in self.output.splitlines()[-_LOG_LINES:])

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def status(self) -> int | None:
        """Exit status; None while it runs."""
        return self._process.poll()

    def memory(self) -> int:
        """Resident memory in bytes; 0 where the system does not say, or it has ended."""
        return resident(self._process.pid)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def end(self) -> int:
        """End it in order; returns its exit status. A process that does not end is killed."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(_ORDERLY)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        return self._process.returncode
