# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The policy's numbers become joint positions, part by part, as the contract's action space says.

Knows arrays and the contract; knows nothing of models or ROS. Whether positions and deltas keep the
limits is for `guard` to judge.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from quantvla_ros.contract.types import ActionKind, ActionPart, ActionSpace, JointLimit
from quantvla_ros.control.twist import displacements
from quantvla_ros.errors import ContractError

# The controller's cubic from rest to rest peaks at 3/2 of its mean speed: a gripper that moves at
# 2/3 of its limit from row to row never exceeds it.
_GRIPPER_SPEED = 2.0 / 3.0


@dataclass(frozen=True)
class _Arm:
    """What a conversion may need besides the numbers."""

    measured: np.ndarray  # [names] positions, rad or m
    over: int  # rows whose time has passed
    reach: np.ndarray  # [names] way that each joint can go in one control period, rad or m
    period: float  # s


_Convert = Callable[[ActionPart, np.ndarray, _Arm], np.ndarray]  # numbers [steps, names] -> same


def _position(part: ActionPart, numbers: np.ndarray, arm: _Arm) -> np.ndarray:
    return numbers


def _delta(part: ActionPart, numbers: np.ndarray, arm: _Arm) -> np.ndarray:
    """Every row is an offset from the one measurement the chunk was computed from."""
    return arm.measured + numbers


def _twist(part: ActionPart, numbers: np.ndarray, arm: _Arm) -> np.ndarray:
    """Speeds become displacements from where the end effector is said to be."""
    return arm.measured + displacements(numbers, arm.period)


def _gripper(part: ActionPart, numbers: np.ndarray, arm: _Arm) -> np.ndarray:
    """How far open the gripper shall be, turned into the way there.

    The model's (closed, open) maps linearly onto the joint's. Past either end means fully closed or
    fully open; and since many policies say no more than open or shut, from one row to the next, the
    joint gets there at the speed that it has, from where it is now. Other joints are never
    clamped. A number that is not finite stays one, for the guard to find.
    """
    assert part.model_range is not None and part.joint_range is not None  # checked at configure
    closed, opened = part.model_range
    joint_closed, joint_open = part.joint_range
    share = np.clip((numbers - closed) / (opened - closed), 0.0, 1.0)
    share[np.isinf(numbers)] = np.nan  # clipped, it would mean open or closed
    wanted = joint_closed + share * (joint_open - joint_closed)
    here = arm.measured
    rows = np.empty_like(wanted)
    step = _GRIPPER_SPEED * arm.reach
    for index, row in enumerate(wanted):
        # The first row that is still ahead may be a moment away: no time to move for it.
        reach = 0.0 * step if 0 < arm.over >= index else step
        here = here + np.clip(row - here, -reach, reach)
        rows[index] = here
    return rows


_CONVERT: dict[ActionKind, _Convert] = {
    ActionKind.JOINT_POSITION: _position,
    ActionKind.JOINT_DELTA: _delta,
    ActionKind.GRIPPER: _gripper,
    ActionKind.TWIST: _twist,
}


def check_supported(action: ActionSpace, *, twists: bool = False) -> None:
    """Refuse, by name, an action space that cannot become positions.

    Args:
        action: of the contract.
        twists: whether end-effector twists can be commanded, as by MoveIt Servo.
    Raises:
        ContractError: a part is an end-effector twist, or a gripper lacks its ranges.
    """
    for index, part in enumerate(action.parts):
        where = f'action.parts[{index}] ({part.kind.value}: {", ".join(part.names)})'
        if part.kind is ActionKind.TWIST and not twists:
            kinds = ', '.join(kind.value for kind in _CONVERT if kind is not ActionKind.TWIST)
            raise ContractError(
                f'{where}: expected one of {kinds}, found {part.kind.value}, which only MoveIt '
                'Servo takes; give output.kind: servo_twist, or describe the action in joint space'
            )
        if part.kind is ActionKind.GRIPPER:
            ranges = (part.model_range, part.joint_range)
            if any(ends is None or ends[0] == ends[1] for ends in ranges):
                raise ContractError(
                    f'{where}: expected model_range and joint_range with different ends, found '
                    f'{part.model_range} and {part.joint_range}; give (closed, open) of each'
                )


def gripper_columns(action: ActionSpace) -> np.ndarray:
    """[actions] bool: which of `action.names` are grippers."""
    return np.array(
        [part.kind is ActionKind.GRIPPER for part in action.parts for _ in part.names], dtype=bool
    )


def twist_columns(action: ActionSpace) -> np.ndarray:
    """[actions] bool: which of `action.names` are axes of a twist."""
    return np.array(
        [part.kind is ActionKind.TWIST for part in action.parts for _ in part.names], dtype=bool
    )


def offset_columns(action: ActionSpace) -> np.ndarray:
    """[actions] bool: which of `action.names` are offsets from the joints in the observation."""
    return np.array(
        [part.kind is ActionKind.JOINT_DELTA for part in action.parts for _ in part.names],
        dtype=bool,
    )


def joint_positions(
    raw: np.ndarray,
    action: ActionSpace,
    measured: np.ndarray,
    limits: Mapping[str, JointLimit],
    period: float,
    *,
    over: int = 0,
) -> np.ndarray:
    """Joint positions that a policy's chunk asks for.

    Args:
        raw: [steps, actions] in the contract's units and order.
        action: the action space; `check_supported` has passed it.
        measured: [actions] the positions of `action.names`, rad or m: in the observation, but those
            of `gripper_columns` the newest.
        limits: by joint name.
        period: s between rows.
        over: rows whose time has passed already; grippers move after them.
    Returns:
        [steps, actions] float64, rad or m, columns in the order of `action.names`.
    Raises:
        ValueError: the shapes disagree with the action space.
    """
    width = len(action.names)
    if raw.ndim != 2 or raw.shape[1] != width or measured.shape != (width,):
        raise ValueError(
            f'expected a chunk [steps, {width}] and measured joints [{width}], '
            f'found {raw.shape} and {measured.shape}'
        )
    numbers = raw.astype(np.float64)
    reach = np.array([limits[name].velocity * period for name in action.names])
    columns = []
    start = 0
    for part in action.parts:
        mine = slice(start, start + len(part.names))
        arm = _Arm(measured[mine], over, reach[mine], period)
        columns.append(_CONVERT[part.kind](part, numbers[:, mine], arm))
        start = mine.stop
    return np.concatenate(columns, axis=1)
