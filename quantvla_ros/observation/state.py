# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Numbers from messages by name: joint positions and the fields of further state parts.

Knows the shape of messages; knows nothing of time, buffers or rclpy.
"""
from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from quantvla_ros.errors import ObservationError
from quantvla_ros.observation.messages import JointState


def joint_positions(message: JointState, joints: Sequence[str]) -> np.ndarray:
    """Positions of `joints` in this order, wherever they stand in the message.

    Returns:
        [joints] float64, rad or m.

    Raises:
        ObservationError: a joint is missing or there twice, has no position, or one that is no
            finite number.
    """
    return named_values(message.name, message.position, joints, 'position')


def named_values(
    names: Sequence[str], values: Sequence[float], wanted: Sequence[str], what: str
) -> np.ndarray:
    """`values` of the `wanted` names, in their order: [wanted] float64.

    Raises:
        ObservationError: as in `joint_positions`; `what` names the kind of value.
    """
    names = list(names)
    if len(values) != len(names):
        raise ObservationError(
            f'expected one {what} for each of the {len(names)} joints, found {len(values)}; '
            'the publisher must fill it for all'
        )
    index = {name: position for position, name in enumerate(names)}
    if missing := [name for name in wanted if name not in index]:
        raise ObservationError(
            f'expected joint {missing[0]!r}'
            + (f' and {len(missing) - 1} more' if len(missing) > 1 else '')
            + f', found {", ".join(names) or "none"}; correct the contract, or publish all joints '
            'in one message'
        )
    if len(index) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ObservationError(f'expected each joint once, found {twice!r} twice in a message')
    result = np.asarray(values, np.float64)[[index[name] for name in wanted]]
    if not np.isfinite(result).all():
        bad = int(np.flatnonzero(~np.isfinite(result))[0])
        raise ObservationError(
            f'expected a finite {what} of joint {wanted[bad]!r}, found {result[bad]}; '
            'check its encoder or driver'
        )
    return result


def field_values(message: object, paths: Sequence[str]) -> np.ndarray:
    """Numbers at dotted paths ('wrench.force.x', 'data.0') of any message.

    Returns:
        [paths] float64.

    Raises:
        ObservationError: a path leads nowhere, or to what is no finite number.
    """
    return np.array([_field_value(message, path) for path in paths], np.float64)


def _field_value(message: object, path: str) -> float:
    value: object = message
    for part in path.split('.'):
        try:
            value = value[int(part)] if part.isdigit() else getattr(value, part)  # type: ignore[index]
        except (AttributeError, IndexError, KeyError, TypeError):
            raise ObservationError(
                f'expected the field {path!r}, found no {part!r} in '
                f'{type(value).__name__.replace("__", "/")}; correct the field in the contract'
            ) from None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ObservationError(
            f'expected a number in the field {path!r}, found {type(value).__name__}; '
            'go on to a field of it'
        ) from None
    if not math.isfinite(number):
        raise ObservationError(f'expected a finite number in the field {path!r}, found {number}')
    return number
