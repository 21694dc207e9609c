# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One attention on a GPU with any tile: is it right, and how long does it take?

Knows tensors, the attention and its definition; knows nothing of files or models. As in a network,
keys and values that the product before has just written are in the L2, and those that came from
another part of it are not: each run reads others.
"""
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from quantvla_ros.kernels import fused_reference
from quantvla_ros.kernels.attention_tiles import Attention, AttentionTile
from quantvla_ros.kernels.trial_timing import CALLS, TimedTrial, cold_copies, fault_of, unlike

_MOST_COPIES = 256


class AttentionTrial(TimedTrial):
    """A `tile_search.Trial`: random queries, keys and values of one attention's sizes."""

    def __init__(
        self, shape: Attention, device: torch.device, *, copies: int | None = None
    ) -> None:
        """`copies`: of keys and values; None: more than the L2 holds, if they are not fresh."""
        super().__init__(device)
        self.shape = shape
        self._dtype: torch.dtype = getattr(torch, shape.kind)
        self._generator = torch.Generator(device).manual_seed(0)
        if copies is None:
            numbers = 2 * shape.segments * shape.keys * shape.kv_heads * shape.size
            size = numbers * self._dtype.itemsize
            copies = 1 if shape.fresh else cold_copies(device, size, _MOST_COPIES)
        if shape.queries == shape.keys and shape.heads == shape.kv_heads:
            # Read where the product of all three has left them.
            rows = self._rows(shape.keys, 3 * shape.heads).unflatten(1, (3, shape.heads))
            self._queries, keys, values = rows.unbind(1)
            self._read = [(keys, values)]
        else:
            self._queries = self._rows(shape.queries, shape.heads)
            self._read = [
                (self._rows(shape.keys, shape.kv_heads), self._rows(shape.keys, shape.kv_heads))
                for _ in range(copies)
            ]
        self.calls = max(CALLS, copies)
        self._options: dict[str, Any] = {'scale': shape.size**-0.5}
        if shape.segments > 1:
            self._options['segment'] = shape.queries
        else:  # as everywhere but in pictures
            count = torch.full((1,), shape.keys, dtype=torch.int32, device=device)
            self._options |= {'count': count, 'causal': shape.causal}
        out = (shape.segments * shape.queries, shape.heads * shape.size)
        self._out = torch.empty(out, dtype=self._dtype, device=device)
        self._expected: Tensor | None = None

    def run_once(self, tile: AttentionTile) -> Tensor:
        """The result of one run; compiles what it needs."""
        return self._run(0, tile)

    def refusal(self, tile: AttentionTile) -> str | None:
        """Why this tile cannot run here or is wrong; None: neither."""
        import triton

        self._out.fill_(float('nan'))
        try:
            found = self.run_once(tile)
        except triton.errors.TritonError as error:
            return fault_of(error)
        if self._expected is None:
            self._expected = fused_reference.attention(
                self._queries, *self._read[0], **self._options
            )
        return unlike(found, self._expected)

    def launch(self, call: int, tile: AttentionTile) -> None:
        """One run, with other keys and values than the one before if they are not fresh."""
        self._run(call % len(self._read), tile)

    def _run(self, copy: int, tile: AttentionTile) -> Tensor:
        # At the first use: without triton there is neither a GPU to try nor this module.
        from quantvla_ros.kernels.triton_attention import attention

        return attention(
            self._queries, *self._read[copy], tile=tile, out=self._out, **self._options
        )

    def _rows(self, rows: int, heads: int) -> Tensor:
        shape = (self.shape.segments * rows, heads, self.shape.size)
        numbers = torch.randn(shape, generator=self._generator, device=self.device)
        return numbers.to(self._dtype)
