# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The policy's numbers become joint positions, part by part, as the contract's action space says.

Knows arrays and the contract; knows nothing of limits (see `guard`), timing, models or ROS.
"""
from __future__ import annotations

from collections.abc import Callable

import numpy as np

from quantvla_ros.contract.types import ActionKind, ActionPart, ActionSpace
from quantvla_ros.errors import ContractError

# One part: its numbers [steps, names] and the joints measured at the observation [names] -> [steps,
# names] joint positions.
_Convert = Callable[[ActionPart, np.ndarray, np.ndarray], np.ndarray]


def _position(part: ActionPart, numbers: np.ndarray, measured: np.ndarray) -> np.ndarray:
    return numbers


def _delta(part: ActionPart, numbers: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Every row is an offset from the one measurement the chunk was computed from."""
    return measured + numbers


def _gripper(part: ActionPart, numbers: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """The model's (closed, open) maps linearly onto the joint's; beyond its ends a gripper is shut.

    A number past either end means 'fully closed' or 'fully open', which no joint can exceed: the
    mapping saturates. A number that is not finite stays one, for the guard to find.
    """
    assert part.model_range is not None and part.joint_range is not None  # checked at configure
    closed, opened = part.model_range
    joint_closed, joint_open = part.joint_range
    share = np.clip((numbers - closed) / (opened - closed), 0.0, 1.0)
    return joint_closed + share * (joint_open - joint_closed)


_CONVERT: dict[ActionKind, _Convert] = {
    ActionKind.JOINT_POSITION: _position,
    ActionKind.JOINT_DELTA: _delta,
    ActionKind.GRIPPER: _gripper,
}


def check_supported(action: ActionSpace) -> None:
    """Refuse, by name, an action space that cannot become joint positions.

    Raises:
        ContractError: a part is an end-effector twist, or a gripper lacks its ranges.
    """
    for index, part in enumerate(action.parts):
        where = f'action.parts[{index}] ({part.kind.value}: {", ".join(part.names)})'
        if part.kind not in _CONVERT:
            kinds = ', '.join(kind.value for kind in _CONVERT)
            raise ContractError(
                f'{where}: expected one of {kinds}, found {part.kind.value}, which this version '
                'cannot command; describe the action in joint space'
            )
        if part.kind is ActionKind.GRIPPER:
            ranges = (part.model_range, part.joint_range)
            if any(ends is None or ends[0] == ends[1] for ends in ranges):
                raise ContractError(
                    f'{where}: expected model_range and joint_range with different ends, found '
                    f'{part.model_range} and {part.joint_range}; give (closed, open) of each'
                )


def joint_positions(raw: np.ndarray, action: ActionSpace, measured: np.ndarray) -> np.ndarray:
    """Joint positions that a policy's chunk asks for.

    Args:
        raw: [steps, actions] in the contract's units and order.
        action: the action space; `check_supported` has passed it.
        measured: [actions] the positions of `action.names` in the observation, rad or m.
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
    columns = []
    start = 0
    for part in action.parts:
        stop = start + len(part.names)
        columns.append(_CONVERT[part.kind](part, numbers[:, start:stop], measured[start:stop]))
        start = stop
    return np.concatenate(columns, axis=1)
