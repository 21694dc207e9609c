# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Inputs and results of a graph on their way between the host and the device.

Knows buffers; knows nothing of what they hold. Copies from and to pageable host memory wait and go
through the driver's own buffers; here each buffer has a pinned mirror on the host, made once, and a
copy between the two can be part of a graph: then the host only writes and reads its own memory.
Where the buffer is on the host itself there is nothing between. Not thread-safe.
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Staged:
    """An input buffer and its mirror on the host.

    Attributes:
        buffer: [rows, ...], what the graph reads.
    """

    def __init__(self, buffer: Tensor) -> None:
        self.buffer = buffer
        self._mirror, self._sent = _mirror(buffer)

    def write(self, rows: Tensor | Sequence[Tensor]) -> None:
        """Fill the first rows of the buffer; further ones stay as they are.

        Returns as soon as the rows may change again; what runs on the current stream sees them.
        """
        count = len(rows)
        parts = [rows] if isinstance(rows, Tensor) else list(rows)
        if self._mirror is None or any(part.device == self.buffer.device for part in parts):
            self._fill(self.buffer, rows)
            return
        assert self._sent is not None
        self._sent.synchronize()  # the mirror may still be on its way
        self._fill(self._mirror, rows)
        with torch.cuda.device(self.buffer.device):
            self.buffer[:count].copy_(self._mirror[:count], non_blocking=True)
            self._sent.record()

    def hold(self, rows: Tensor | Sequence[Tensor]) -> None:
        """Fill the first rows of the mirror, for `send` to copy.

        A `send` before this one must be done: whoever waited for what came of it knows that.
        """
        self._fill(self.buffer if self._mirror is None else self._mirror, rows)

    def send(self) -> None:
        """Copy what the mirror holds to the buffer, on the current stream; a graph can hold it."""
        if self._mirror is not None:
            self.buffer.copy_(self._mirror, non_blocking=True)

    @staticmethod
    def _fill(target: Tensor, rows: Tensor | Sequence[Tensor]) -> None:
        if isinstance(rows, Tensor):
            target[: len(rows)].copy_(rows)
            return
        for place, row in zip(target, rows, strict=False):
            place.copy_(row)


class Fetched:
    """A result and its mirror on the host."""

    def __init__(self, buffer: Tensor) -> None:
        self.buffer = buffer
        self._mirror, _ = _mirror(buffer)

    def send(self) -> None:
        """Copy the result to the mirror, on the current stream; a graph can hold it."""
        if self._mirror is not None:
            self._mirror.copy_(self.buffer, non_blocking=True)

    def wait(self) -> None:
        """Wait for what the current stream does."""
        if self._mirror is not None:
            torch.cuda.current_stream(self.buffer.device).synchronize()

    def read(self) -> Tensor:
        """Wait; what was sent then, the caller's own."""
        self.wait()
        return (self.buffer if self._mirror is None else self._mirror).clone()


def _mirror(buffer: Tensor) -> tuple[Tensor | None, torch.cuda.Event | None]:
    if buffer.device.type != 'cuda':
        return None, None
    mirror = torch.zeros(buffer.shape, dtype=buffer.dtype, pin_memory=True)
    return mirror, torch.cuda.Event()
