# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The contract's `output`, `safety` and `action.workspace`: what commands go to, what latches.

Part of `load`, with the same errors; knows nothing of messages or ROS at run time.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from quantvla_ros.contract.types import (
    BOOL,
    JOINT_TRAJECTORY,
    NUMBERS,
    POSE,
    ActionKind,
    ActionSpace,
    GripperKind,
    GripperOutput,
    JointLimit,
    Output,
    OutputKind,
    Safety,
    Tolerances,
    Workspace,
)
from quantvla_ros.contract.yaml_reader import Place

# Names of actions and nodes are checked as topics are, under types that no topic has.
_FOLLOW = 'control_msgs/action/FollowJointTrajectory'
_GRIPPER = 'control_msgs/action/GripperCommand'
_SERVO = 'a node'

_KEYS: dict[OutputKind, tuple[tuple[str, ...], tuple[str, ...]]] = {  # required, optional
    OutputKind.TRAJECTORY: ((), ()),
    OutputKind.FOLLOW: (('action',), ('path_tolerance', 'goal_tolerance', 'goal_time')),
    OutputKind.JOINT_JOG: (('servo',), ('rate',)),
    OutputKind.TWIST: (('servo',), ('rate',)),
}
# MoveIt Servo halts where nothing has come for 0.1 s.
_SLOWEST = 20.0


class Take(Protocol):
    """Checks a name and that nothing else uses it for another type."""

    def __call__(self, place: Place, message_type: str, *, alone: bool = False) -> str:
        """The name."""


def read_output(
    place: Place, take: Take, action: ActionSpace, limits: Mapping[str, JointLimit]
) -> Output:
    """The `output` section.

    Raises:
        ContractError: the first fault, in one line.
    """
    items = place.items()
    kind = items['kind'].member(OutputKind) if 'kind' in items else OutputKind.TRAJECTORY
    required, optional = _KEYS[kind]
    fields = place.fields(required, ('kind', 'grippers', *optional))
    twists = any(part.kind is ActionKind.TWIST for part in action.parts)
    if twists != (kind is OutputKind.TWIST):
        where = fields.get('kind', place)
        where.fail(
            'servo_twist where, and only where, a part of the action is a twist', repr(kind.value),
            'correct output.kind or action.parts',
        )
    grippers: list[GripperOutput] = []
    for entry in fields['grippers'].sequence() if 'grippers' in fields else []:
        gripper = _gripper(entry, take, action, limits)
        if gripper.joint in (other.joint for other in grippers):
            entry.fail('each gripper once', f'{gripper.joint!r} a second time', 'remove one')
        grippers.append(gripper)
    _check_all_reach(place, kind, action, limits, {gripper.joint for gripper in grippers})
    numbers = {
        name: fields[name].between(0.0, 10.0, unit)
        for name, unit in (
            ('path_tolerance', 'rad or m'), ('goal_tolerance', 'rad or m'), ('goal_time', 's')
        )
        if name in fields
    }
    return Output(
        kind=kind,
        action=take(fields['action'], _FOLLOW) if 'action' in fields else None,
        tolerances=Tolerances(
            numbers.get('path_tolerance'), numbers.get('goal_tolerance'), numbers.get('goal_time')
        ),
        servo=take(fields['servo'], _SERVO) if 'servo' in fields else None,
        rate=fields['rate'].between(_SLOWEST, 1000.0, 'Hz', open_low=False)
        if 'rate' in fields else Output.rate,
        grippers=tuple(grippers),
    )


def _gripper(
    place: Place, take: Take, action: ActionSpace, limits: Mapping[str, JointLimit]
) -> GripperOutput:
    items = place.items()
    kind = items['kind'].member(GripperKind) if 'kind' in items else None
    if kind is GripperKind.COMMAND:
        fields = place.fields(('joint', 'kind', 'action'), ('max_effort', 'tolerance'))
    else:
        fields = place.fields(('joint', 'kind', 'topic'))
        kind = fields['kind'].member(GripperKind)
    names = [
        part.names[0] for part in action.parts if part.kind is ActionKind.GRIPPER
    ]
    if not names:
        place.fail('a gripper only where a part of the action is one', 'none', 'remove it')
    joint = fields['joint'].choice(names, 'the joint of a part of kind gripper')
    if kind is GripperKind.TRAJECTORY:
        return GripperOutput(joint, kind, take(fields['topic'], JOINT_TRAJECTORY, alone=True))
    if kind is GripperKind.POSITION:
        return GripperOutput(joint, kind, take(fields['topic'], NUMBERS, alone=True))
    limit = limits[joint]
    travel = limit.upper - limit.lower
    return GripperOutput(
        joint, kind, take(fields['action'], _GRIPPER, alone=True),
        max_effort=fields['max_effort'].between(0.0, 1e4, 'N', open_low=False)
        if 'max_effort' in fields else 0.0,
        tolerance=fields['tolerance'].between(0.0, travel, limit.unit)
        if 'tolerance' in fields else 0.02 * travel,
    )


def _check_all_reach(
    place: Place,
    kind: OutputKind,
    action: ActionSpace,
    limits: Mapping[str, JointLimit],
    apart: set[str],
) -> None:
    """Servo moves an arm; whatever else the policy commands needs a way of its own."""
    if kind in (OutputKind.TRAJECTORY, OutputKind.FOLLOW):
        return
    if kind is OutputKind.TWIST:
        for axis in (name for part in action.parts if part.kind is ActionKind.TWIST
                     for name in part.names):
            if axis not in limits:
                place.fail(
                    f'a limit for every axis of the twist, limits.{axis} too', 'none',
                    f'add limits.{axis}: {{velocity: ...}}',
                )
    for part in action.parts:
        if part.kind is ActionKind.GRIPPER and part.names[0] not in apart:
            place.fail(
                f'an entry in grippers for {part.names[0]}', 'none',
                'MoveIt Servo moves the arm alone; say where the gripper is commanded',
            )
        if kind is OutputKind.TWIST and part.kind not in (ActionKind.TWIST, ActionKind.GRIPPER):
            place.fail(
                'twists and grippers alone', f'a part of kind {part.kind.value}',
                'Servo takes one kind of command at a time',
            )


def read_safety(place: Place, take: Take) -> Safety:
    """The `safety` section.

    Raises:
        ContractError: the first fault, in one line.
    """
    fields = place.fields(
        (), ('stretch', 'not_finite_latch', 'rejection_latch', 'emergency_stop')
    )
    default = Safety()
    topic = None
    if 'emergency_stop' in fields and not fields['emergency_stop'].is_null:
        topic = take(fields['emergency_stop'], BOOL, alone=True)
    return Safety(
        stretch=fields['stretch'].between(1.0, 4.0, '', open_low=False)
        if 'stretch' in fields else default.stretch,
        not_finite_latch=fields['not_finite_latch'].integer(1, 1000)
        if 'not_finite_latch' in fields else default.not_finite_latch,
        rejection_latch=fields['rejection_latch'].integer(1, 10_000)
        if 'rejection_latch' in fields else default.rejection_latch,
        emergency_stop=topic,
    )


def read_workspace(place: Place, take: Take) -> Workspace:
    """The box of `action.workspace`.

    Raises:
        ContractError: the first fault, in one line.
    """
    fields = place.fields(('lower', 'upper', 'pose_topic'))
    lower, upper = _point(fields['lower']), _point(fields['upper'])
    for axis, low, high in zip('xyz', lower, upper, strict=True):
        if low >= high:
            fields['upper'].fail(
                f'more than lower ({low:g}) in {axis}', f'{high:g}', 'exchange or correct them'
            )
    return Workspace(lower, upper, take(fields['pose_topic'], POSE, alone=True))


def _point(place: Place) -> tuple[float, float, float]:
    entries = place.sequence()
    if len(entries) != 3:
        place.fail('three numbers [x, y, z] in m', f'{len(entries)} of them')
    x, y, z = (entry.number() for entry in entries)
    return x, y, z
