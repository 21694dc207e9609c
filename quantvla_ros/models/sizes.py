# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Reading sizes from a config.json: sections, and bounds that no network leaves.

Knows dataclasses of numbers; knows nothing of any one architecture.
"""
from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from quantvla_ros.errors import CheckpointError

Sizes = TypeVar('Sizes', bound=Any)


def plausible(sizes: Sizes) -> Sizes:
    """Refuse sizes that no network has, before hours or all memory go into building one.

    Raises:
        CheckpointError: the first of them.
    """
    for field in fields(sizes):
        value = getattr(sizes, field.name)
        if hasattr(value, '__dataclass_fields__'):
            plausible(value)
            continue
        if field.type in (float, 'float'):
            good = isinstance(value, (int, float)) and 0.0 < value < math.inf
            expected = 'a positive number'
        else:
            largest = 1000 if field.name in ('depth', 'steps') else 2**24
            good = type(value) is int and 1 <= value <= largest
            expected = f'a whole number from 1 to {largest}'
        if not good:
            raise CheckpointError(
                f'config.json: {field.name}: expected {expected}, found {value!r}; fetch it again'
            )
    return sizes


def section(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A part of a config; an empty one where there is none.

    Raises:
        CheckpointError: it is not an object.
    """
    section = config.get(key, {})
    if not isinstance(section, dict):
        raise CheckpointError(
            f'config.json: {key}: expected an object, found {section!r}; fetch it again'
        )
    return section


def numbers(sizes: Mapping[str, Any], key: str, count: int) -> list[int]:
    """A list of so many whole numbers, of a reduced network's sizes; `plausible` bounds them.

    Raises:
        CheckpointError: it is something else.
    """
    values = sizes.get(key)
    if type(values) is not list or [type(v) for v in values] != [int] * count:
        raise CheckpointError(
            f'config.json: {key}: expected a list of {count} whole numbers, found '
            f'{str(values)[:80]}; fetch it again'
        )
    return values


def whole_number(config: Mapping[str, Any], key: str, default: int, low: int, high: int) -> int:
    """A whole number of a config; the default where it gives none.

    Raises:
        CheckpointError: it is something else, or outside of [low, high].
    """
    value = config.get(key)
    value = default if value is None else value
    if type(value) is not int or not low <= value <= high:
        raise CheckpointError(
            f'config.json: {key}: expected a whole number from {low} to {high}, found {value!r}; '
            f'fetch it again'
        )
    return value
