# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Inputs and results of a graph on their way between the host and the device.

Knows buffers; knows nothing of what they hold. Copies from and to pageable host memory wait and go
through the driver's own buffers; here each buffer has a pinned mirror on the host, made once.
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
        self._mirror, self._arrived = _mirror(buffer)

    def read(self) -> Tensor:
        """Wait for what the current stream does; the result on the host, the caller's own."""
        if self._mirror is None:
            return self.buffer.clone()
        assert self._arrived is not None
        with torch.cuda.device(self.buffer.device):
            self._mirror.copy_(self.buffer, non_blocking=True)
            self._arrived.record()
        self._arrived.synchronize()
        return self._mirror.clone()


def _mirror(buffer: Tensor) -> tuple[Tensor | None, torch.cuda.Event | None]:
    if buffer.device.type != 'cuda':
        return None, None
    mirror = torch.zeros(buffer.shape, dtype=buffer.dtype, pin_memory=True)
    return mirror, torch.cuda.Event()
