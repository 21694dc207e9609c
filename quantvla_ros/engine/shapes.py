# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""For which prompts and pictures an engine is prepared.

Knows numbers; knows nothing of tokenizers, cameras or graphs. Every shape costs a capture when the
node is configured and some memory for as long as it runs; tokens between a prompt's length and the
prepared one cost a little time in every inference.
"""
from __future__ import annotations

from quantvla_ros.errors import BackendError

_LEAST = 16  # tokens, between two lengths and of the shortest: half a tile of the products
_MOST = 4096  # tokens of a prompt


def prompt_lengths(longest: int) -> tuple[int, ...]:
    """Lengths to prepare for prompts of up to `longest` tokens, ascending.

    Multiples of 16 at first, then each half as long again as the one before: no prompt of more
    than 32 tokens is run as one more than 1.6 times as long.
    """
    lengths, length = [], _LEAST
    while length <= longest - _LEAST:
        lengths.append(length)
        length += max(_LEAST, (1 << (length.bit_length() - 1)) // 2)
    return (*lengths, longest)


def read_lengths(text: str) -> tuple[int, ...] | None:
    """Lengths from a setting: '16,48,200'; None for an empty one.

    Raises:
        BackendError: something else than whole numbers in range.
    """
    if not text.strip():
        return None
    words = [word.strip() for word in text.split(',')]
    if not all(word.isascii() and word.isdigit() and 1 <= int(word) <= _MOST for word in words):
        raise BackendError(
            f'prompt lengths: expected numbers of tokens from 1 to {_MOST} with commas between '
            f'them, found {text!r}'
        )
    return tuple(sorted({int(word) for word in words}))
