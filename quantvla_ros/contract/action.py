# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The contract's `limits` and `action`: what may be commanded, in which units, how far and fast.

Part of `load`, with the same errors; knows nothing of messages or ROS at run time.
"""
from __future__ import annotations

import math

from quantvla_ros.contract.output import Take, read_workspace
from quantvla_ros.contract.types import (
    JOINT_STATE,
    JOINT_TRAJECTORY,
    TWIST_AXES,
    ActionKind,
    ActionPart,
    ActionSpace,
    JointLimit,
)
from quantvla_ros.contract.yaml_reader import Place, suggest

_TWIST_UNIT = 'm/s, rad/s'
_JOINT_UNITS = ('rad', 'm')
_DEGREES = 'contracts are in SI units (REP-103); let the driver convert'


def read_limits(place: Place, joints: tuple[str, ...]) -> dict[str, JointLimit]:
    """The `limits` section, by joint or axis of a twist.

    Raises:
        ContractError: the first fault, in one line.
    """
    limits = {}
    for joint, entry in place.items().items():
        if joint not in joints and joint not in TWIST_AXES:
            entry.fail(
                'a joint of joint_states.joints', repr(joint),
                suggest(joint, joints) or f'known joints: {", ".join(joints)}',
            )
        limits[joint] = _limit(entry, joint)
    return limits


def read_action(
    place: Place, take: Take, joints: tuple[str, ...], limits: dict[str, JointLimit]
) -> ActionSpace:
    """The `action` section.

    Raises:
        ContractError: the first fault, in one line.
    """
    fields = place.fields(
        ('topic', 'frame_id', 'start_tolerance', 'parts'), ('recorded_topic', 'workspace')
    )
    parts: list[ActionPart] = []
    taken: dict[str, str] = {}
    for entry in fields['parts'].sequence():
        part = _part(entry, joints, limits)
        for name in part.names:
            if name in taken:
                entry.fail(
                    'each joint or axis in one part', f'{name!r}, which {taken[name]} has too',
                    'remove it from one of them',
                )
            taken[name] = entry.path
        parts.append(part)
    if not parts:
        fields['parts'].fail('at least one part', 'an empty list', 'say what the policy commands')
    recorded = None
    if 'recorded_topic' in fields and not fields['recorded_topic'].is_null:
        recorded = take(fields['recorded_topic'], JOINT_STATE)
    workspace = None
    if 'workspace' in fields:
        workspace = read_workspace(fields['workspace'], take)
        if not any(part.kind is ActionKind.TWIST for part in parts):
            fields['workspace'].fail(
                'a box only where a part is a twist', 'joint-space parts',
                'remove it; the limits of the joints hold there',
            )
    return ActionSpace(
        parts=tuple(parts),
        topic=take(fields['topic'], JOINT_TRAJECTORY),
        frame_id=fields['frame_id'].text('the name of a frame'),
        start_tolerance=fields['start_tolerance'].between(0.0, 10.0, 'rad or m'),
        recorded_topic=recorded,
        workspace=workspace,
    )


def _limit(place: Place, joint: str) -> JointLimit:
    optional = ('acceleration', 'jerk', 'unit')
    axis = joint in TWIST_AXES
    continuous = not axis and 'continuous' in place.items()
    if axis:
        fields = place.fields(('velocity',), ('acceleration', 'jerk'))
    elif continuous:
        fields = place.fields(('velocity', 'continuous'), optional)
        if not fields['continuous'].boolean():
            fields['continuous'].fail(
                'true', 'false', 'remove it and give lower and upper'
            )
    else:
        fields = place.fields(('lower', 'upper', 'velocity'), (*optional, 'continuous'))
    lower, upper = -math.inf, math.inf
    if 'lower' in fields:
        lower = fields['lower'].number('the lowest position')
        upper = fields['upper'].number('the highest position')
        if lower >= upper:
            fields['upper'].fail(
                f'more than lower ({lower:g})', f'{upper:g}', 'exchange or correct them'
            )
    unit = 'm' if joint in TWIST_AXES[:3] else 'rad'
    if 'unit' in fields:
        unit = fields['unit'].choice(_JOINT_UNITS, _DEGREES)
    if continuous and unit != 'rad':
        fields['unit'].fail('rad, since the joint is continuous', repr(unit))
    further = {
        name: fields[name].between(0.0, largest, f'{unit}/s^{power}')
        for name, largest, power in (('acceleration', 1e5, 2), ('jerk', 1e7, 3))
        if name in fields
    }
    velocity = fields['velocity'].between(0.0, 1000.0, f'{unit}/s')
    return JointLimit(lower, upper, velocity, unit, continuous=continuous, **further)


def _part(place: Place, joints: tuple[str, ...], limits: dict[str, JointLimit]) -> ActionPart:
    kind = place.items()['kind'].member(ActionKind) if 'kind' in place.items() else None
    if kind is ActionKind.TWIST:
        fields = place.fields(('kind',), ('names', 'unit'))
        if 'names' in fields and fields['names'].names('an axis') != TWIST_AXES:
            fields['names'].fail(f'the axes {", ".join(TWIST_AXES)} in this order', 'others')
        if 'unit' in fields:
            fields['unit'].choice((_TWIST_UNIT,), _DEGREES)
        return ActionPart(kind, TWIST_AXES, _TWIST_UNIT)
    if kind is ActionKind.GRIPPER:
        fields = place.fields(('kind', 'names', 'unit', 'model_range', 'joint_range'))
    else:
        fields = place.fields(('kind', 'names', 'unit'))
        kind = fields['kind'].member(ActionKind)
    names = fields['names'].names('a joint name')
    unit = fields['unit'].choice(_JOINT_UNITS, _DEGREES)
    for name, entry in zip(names, fields['names'].sequence(), strict=True):
        if name not in joints:
            entry.fail(
                'a joint of joint_states.joints', repr(name),
                suggest(name, joints) or f'known joints: {", ".join(joints)}',
            )
        if name not in limits:
            entry.fail('a joint with limits', repr(name), f'add limits.{name}')
        if limits[name].unit != unit:
            fields['unit'].fail(
                f'the unit of limits.{name} ({limits[name].unit})', repr(unit),
                'correct one of them; joints of another unit go into a part of their own',
            )
    if kind is not ActionKind.GRIPPER:
        return ActionPart(kind, names, unit)
    if len(names) != 1:
        fields['names'].fail('one joint', f'{len(names)}', 'write one gripper part per joint')
    joint_range = _range(fields['joint_range'])
    limit = limits[names[0]]
    for value, entry in zip(joint_range, fields['joint_range'].sequence(), strict=True):
        if not limit.lower <= value <= limit.upper:
            entry.fail(f'a position within limits.{names[0]} [{limit.lower:g}, {limit.upper:g}]')
    return ActionPart(kind, names, unit, _range(fields['model_range']), joint_range)


def _range(place: Place) -> tuple[float, float]:
    """The two ends (closed, open) of a gripper's travel; closed may be the larger number."""
    ends = place.sequence()
    if len(ends) != 2:
        place.fail('two numbers [closed, open]', f'{len(ends)} of them')
    closed, opened = (end.number() for end in ends)
    if closed == opened:
        place.fail('two different numbers [closed, open]', f'{closed:g} twice')
    return closed, opened
