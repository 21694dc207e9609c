# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Numbers as people read them. Knows nothing of what they measure."""
from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

MISSING = '\u2013'
_SPACE = '\u202f'  # narrow, never broken


def number(value: float | None, digits: int = 3) -> str:
    """A plain number with so many significant digits."""
    if value is None:
        return MISSING
    if math.isnan(value):
        return 'not a number'
    if math.isinf(value):
        return 'infinite' if value > 0 else 'minus infinite'
    if value == 0:
        return '0'
    size = math.floor(math.log10(abs(value)))
    if size < -4 or size > 6:
        mantissa, power = f'{value:.{digits - 1}e}'.split('e')
        return _minus(f'{mantissa}e{int(power)}')
    places = max(0, digits - 1 - size)
    return _minus(f'{value:.{places}f}' if size < digits else f'{value:,.0f}'.replace(',', _SPACE))


def _minus(text: str) -> str:
    return text.replace('-', '\u2212', 1) if text.startswith('-') else text


def percent(fraction: float | None, digits: int = 2) -> str:
    """A fraction as percent."""
    if fraction is None or not math.isfinite(fraction):
        return number(fraction)
    return f'{number(100 * fraction, digits)}{_SPACE}%'


def factor(value: float | None) -> str:
    """A correction: three decimals."""
    finite = value is not None and math.isfinite(value)
    return f'{value:.3f}' if finite else number(value)


def size(count: int) -> str:
    """Bytes."""
    for unit, power in (('GiB', 30), ('MiB', 20), ('KiB', 10)):
        if count >= 2**power:
            return f'{number(count / 2**power)}{_SPACE}{unit}'
    return f'{count}{_SPACE}B'


def less(before: int, after: int) -> str:
    """How much smaller `after` is, in words."""
    if before <= 0:
        return MISSING
    share = 1 - after / before
    return f'{percent(abs(share))} {"smaller" if share >= 0 else "larger"}'


def count(value: int) -> str:
    """A whole number, with groups of three."""
    return f'{value:,}'.replace(',', _SPACE)


def plural(value: int, one: str, many: str | None = None) -> str:
    """'1 layer', '2 layers'."""
    return f'{count(value)} {one if value == 1 else many or one + "s"}'


def finite(values: Iterable[float | None]) -> np.ndarray:
    """Those that are numbers, float64."""
    known = np.array([v for v in values if v is not None], np.float64)
    return known[np.isfinite(known)]


def median(values: Iterable[float | None]) -> float | None:
    """Of those that are numbers; None where there are none."""
    known = finite(values)
    return float(np.median(known)) if len(known) else None
