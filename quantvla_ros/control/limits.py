# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The limits of several joints as arrays, and how limits of several sources become one.

Limits are only ever tightened: of two sources the narrower one holds, number by number. Knows
numbers; knows nothing of files (see `robot_description`), chunks or ROS.
"""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from quantvla_ros.contract.types import JointLimit
from quantvla_ros.errors import ContractError


@dataclass(frozen=True)
class Bounds:
    """Limits of joints in the order of `joints`, [joints] each, infinite where there is none."""

    joints: tuple[str, ...]
    units: tuple[str, ...]
    lower: np.ndarray
    upper: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray
    jerk: np.ndarray
    continuous: np.ndarray  # bool


def bounds(limits: Mapping[str, JointLimit], joints: Sequence[str]) -> Bounds:
    """The limits of `joints`, each of which has some."""
    rows = [limits[name] for name in joints]

    def column(name: str) -> np.ndarray:
        return np.array([_number(getattr(row, name)) for row in rows], dtype=np.float64)

    return Bounds(
        tuple(joints), tuple(row.unit for row in rows), column('lower'), column('upper'),
        column('velocity'), column('acceleration'), column('jerk'),
        np.array([row.continuous for row in rows], dtype=bool),
    )


def tightened(
    limits: Mapping[str, JointLimit], others: Mapping[str, JointLimit], source: str
) -> dict[str, JointLimit]:
    """The narrower of two limits, number by number, for every joint of `limits`.

    Args:
        limits: what holds now, by joint name.
        others: what may narrow it; joints that `limits` has not are passed over.
        source: where `others` come from, for messages.
    Raises:
        ContractError: the two contradict each other: units, or no position that both allow.
    """
    result = dict(limits)
    for name, mine in limits.items():
        if name not in others:
            continue
        other = others[name]
        if other.unit != mine.unit:
            raise ContractError(
                f'limits.{name}: expected the unit of {source} ({other.unit}), found {mine.unit}; '
                'correct the contract'
            )
        narrow = replace(
            mine,
            lower=max(mine.lower, other.lower),
            upper=min(mine.upper, other.upper),
            velocity=min(mine.velocity, other.velocity),
            acceleration=_narrower(mine.acceleration, other.acceleration),
            jerk=_narrower(mine.jerk, other.jerk),
        )
        if not narrow.lower < narrow.upper:
            raise ContractError(
                f'limits.{name}: expected positions that {source} allows too '
                f'([{other.lower:g}, {other.upper:g}] {other.unit}), found '
                f'[{mine.lower:g}, {mine.upper:g}]; correct the contract'
            )
        if not min(narrow.velocity, _number(narrow.acceleration), _number(narrow.jerk)) > 0.0:
            raise ContractError(
                f'limits.{name}: expected limits above 0, found one of 0 in {source}; correct it'
            )
        result[name] = narrow
    return result


def narrowed(limits: Mapping[str, JointLimit], share: float) -> dict[str, JointLimit]:
    """Velocities, accelerations and jerks at a share of what they were, as for a slow first run.

    Args:
        limits: by joint name.
        share: in (0, 1].
    Raises:
        ContractError: `share` is outside (0, 1].
    """
    if not 0.0 < share <= 1.0:
        raise ContractError(
            f'expected a share of the limits in (0, 1], found {share:g}; limits cannot be widened'
        )
    return {
        name: replace(
            limit,
            velocity=limit.velocity * share,
            acceleration=None if limit.acceleration is None else limit.acceleration * share,
            jerk=None if limit.jerk is None else limit.jerk * share,
        )
        for name, limit in limits.items()
    }


def wider(before: Mapping[str, JointLimit], after: Mapping[str, JointLimit]) -> list[str]:
    """What `after` allows and `before` did not, one line each; empty where nothing got wider.

    For changes while an arm moves: they are taken only where this is empty.
    """
    lines = []
    for name, old in before.items():
        new = after.get(name)
        if new is None:
            lines.append(f'{name}: has no limits any more')
            continue
        if new.lower < old.lower or new.upper > old.upper:
            lines.append(
                f'{name}: position [{new.lower:g}, {new.upper:g}] {old.unit}, was '
                f'[{old.lower:g}, {old.upper:g}]'
            )
        for kind, power in (('velocity', '/s'), ('acceleration', '/s^2'), ('jerk', '/s^3')):
            was, now = _number(getattr(old, kind)), _number(getattr(new, kind))
            if now > was or math.isnan(now):
                lines.append(f'{name}: {kind} {now:g} {old.unit}{power}, was {was:g}')
        if new.continuous and not old.continuous:
            lines.append(f'{name}: turns without end, did not')
    return lines


def _number(limit: float | None) -> float:
    return math.inf if limit is None else limit


def _narrower(one: float | None, other: float | None) -> float | None:
    given = [limit for limit in (one, other) if limit is not None]
    return min(given) if given else None
