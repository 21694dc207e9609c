# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a policy wants against what a contract offers, as lines that a person can act on.

Knows names, sizes and periods; knows nothing of models, artifacts or where either side came from.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from quantvla_ros.contract.types import Contract
from quantvla_ros.contract.yaml_reader import suggest


def camera_counts(contract: Contract) -> tuple[int, ...]:
    """How many pictures an observation may have: the required cameras', up to all."""
    required = sum(camera.required for camera in contract.cameras)
    return tuple(range(max(required, 1), len(contract.cameras) + 1))


def differences(
    contract: Contract,
    *,
    slots: Sequence[str],
    optional_slots: Sequence[str] = (),
    state_names: Sequence[str] | None = None,
    state_size: int | None = None,
    action_names: Sequence[str] | None = None,
    action_size: int | None = None,
    control_period: float | None = None,
) -> list[str]:
    """Where the policy does not fit the contract; an empty list means that it does.

    Args:
        contract: what the robot offers.
        slots: camera slots that the policy cannot do without.
        optional_slots: further slots that it knows (it masks them where no picture comes).
        state_names, action_names: names of the dimensions in the policy's order, where the policy
            records them; order counts.
        state_size, action_size: numbers of dimensions, where only these are known.
        control_period: s between two actions of a chunk that the policy was made for.

    Returns:
        One line each: `part: the policy wants ..., the contract ...; what to do`.
    """
    lines = _slots(contract, slots, optional_slots)
    lines += _dimensions('state', state_names, state_size, contract.state_names,
                         'joint_states.joints and state')
    lines += _dimensions('action', action_names, action_size, contract.action.names,
                         'action.parts')
    if control_period is not None and abs(control_period - contract.control_period) > 1e-6:
        lines.append(
            f'control_period: the policy wants {control_period:g} s, '
            f'the contract has {contract.control_period:g} s; the motion would run '
            f'{control_period / contract.control_period:.2g} times as fast'
        )
    return lines


def _slots(contract: Contract, slots: Sequence[str], optional: Sequence[str]) -> list[str]:
    offered = {camera.slot: camera for camera in contract.cameras}
    free = [slot for slot in offered if slot not in slots and slot not in optional]
    lines = []
    for slot in slots:
        if slot not in offered:
            remedy = suggest(slot, free) or f'give a camera slot: {slot}'
            lines.append(
                f'cameras: the policy wants slot {slot!r}, the contract feeds '
                f'{", ".join(offered)}; {remedy}'
            )
    for slot in free:
        known = ', '.join([*slots, *optional]) or 'none'
        lines.append(
            f'cameras.{offered[slot].name}: the policy has no slot {slot!r} (it has {known}); '
            'correct the slot or remove the camera'
        )
    return lines


def _dimensions(
    part: str,
    wanted: Sequence[str] | None,
    size: int | None,
    offered: tuple[str, ...],
    keys: str,
) -> list[str]:
    if wanted is None:
        if size is None or size == len(offered):
            return []
        return [
            f'{part}: the policy wants {size} numbers, the contract has {len(offered)} '
            f'({_listed(offered)}); correct {keys}'
        ]
    if tuple(wanted) == offered:
        return []
    lacking = list((Counter(wanted) - Counter(offered)).elements())
    spare = list((Counter(offered) - Counter(wanted)).elements())
    lines = []
    if lacking:
        near = suggest(lacking[0], spare)
        lines.append(
            f'{part}: the policy wants {_listed(lacking)}, which the contract lacks; '
            f'{near or f"add to {keys}"}'
        )
    if spare:
        lines.append(
            f'{part}: the contract has {_listed(spare)}, which the policy does not know; '
            f'remove from {keys}'
        )
    if not lines:
        index = next(i for i, (a, b) in enumerate(zip(wanted, offered, strict=True)) if a != b)
        lines.append(
            f'{part}: same names in another order: number {index} is {wanted[index]!r} for the '
            f'policy, {offered[index]!r} in the contract; reorder {keys}'
        )
    return lines


def _listed(names: Sequence[str], most: int = 8) -> str:
    shown = ', '.join(names[:most])
    return shown if len(names) <= most else f'{shown} and {len(names) - most} more'
