# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A plain table for a terminal. Knows strings; knows nothing of what they mean."""
from __future__ import annotations

from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned: the first to the left, the others to the right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]

    def row(cells: Sequence[str]) -> str:
        first = cells[0].ljust(widths[0])
        rest = [c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True)]
        return '  '.join([first, *rest]).rstrip()

    return '\n'.join([row(header), '  '.join('-' * width for width in widths), *map(row, rows)])


def fitting_table(header: Sequence[str], rows: Sequence[Sequence[str]], width: int = 100) -> str:
    """A table; turned on its side where it would be wider than `width` and less so on its side."""
    upright = table(header, rows)
    if _width(upright) <= width:
        return upright
    turned, *lines = zip(header, *rows, strict=True)
    aside = table(turned, lines)
    return min(upright, aside, key=_width)


def _width(text: str) -> int:
    return max(map(len, text.splitlines()))
