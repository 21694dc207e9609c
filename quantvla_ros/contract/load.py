# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A contract from its YAML file, checked to the last key.

Knows the file's layout (docs/contract.md) and what can be true of a robot; knows nothing of
messages, models or ROS at run time. The first fault raises a ContractError of one line:
`file:line: place.in.file: expected ..., found ...; what to do`.
"""
from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from quantvla_ros.contract.instruction import clean_instruction
from quantvla_ros.contract.output import read_output, read_safety, read_workspace
from quantvla_ros.contract.types import (
    COMPRESSED_IMAGE,
    IMAGE,
    JOINT_STATE,
    JOINT_TRAJECTORY,
    STRING,
    ActionKind,
    ActionPart,
    ActionSpace,
    Camera,
    Contract,
    Freshness,
    JointLimit,
    JointStates,
    Language,
    Output,
    Safety,
    StatePart,
)
from quantvla_ros.contract.yaml_reader import Place, suggest
from quantvla_ros.errors import ContractError, ObservationError

VERSION = 1  # of the file's layout
TWIST_AXES = ('vx', 'vy', 'vz', 'wx', 'wy', 'wz')
TWIST_UNIT = 'm/s, rad/s'
JOINT_UNITS = ('rad', 'm')
JOINT_STREAM = 'joint_states'
LANGUAGE_STREAM = 'language'

_TOKEN = re.compile(r'[A-Za-z_][A-Za-z0-9_]*')
_TYPE = re.compile(r'[a-z][a-z0-9_]*/msg/[A-Z][A-Za-z0-9]*')
_FIELD = re.compile(r'[a-z][a-z0-9_]*(\.([a-z][a-z0-9_]*|\d+))*')
_DEGREES = 'contracts are in SI units (REP-103); let the driver convert'


def load_contract(path: str | Path) -> Contract:
    """Read and check a contract file.

    Raises:
        ContractError: the file cannot be read, or the first fault in it, in one line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding='utf-8-sig')
    except FileNotFoundError:
        raise ContractError(
            f'{path}: expected a contract file, found none; config/contracts/ has examples'
        ) from None
    except UnicodeDecodeError as error:
        raise ContractError(
            f'{path}:1: expected UTF-8 text, found byte {error.object[error.start]:#04x} at '
            f'offset {error.start}; save it as UTF-8'
        ) from None
    except OSError as error:
        raise ContractError(
            f'{path}: expected a readable file, found: {error.strerror}; check path and rights'
        ) from None
    return parse_contract(text, str(path))


def parse_contract(text: str, source: str = '<memory>') -> Contract:
    """Check the text of a contract; `source` names it in messages.

    Raises:
        ContractError: the first fault, in one line.
    """
    top = Place.top(text, source)
    fields = top.fields(
        ('contract', 'robot', 'control_period', 'cameras', 'joint_states', 'language', 'action',
         'limits'),
        ('state', 'freshness', 'output', 'safety'),
    )
    if fields['contract'].integer(0, 1_000_000) != VERSION:
        fields['contract'].fail(
            f'layout {VERSION}', remedy='this version of quantvla_ros reads no other layout'
        )
    topics = _Topics()
    cameras = _cameras(fields['cameras'], topics)
    joint_states = _joint_states(fields['joint_states'], topics)
    streams = {camera.name for camera in cameras} | {JOINT_STREAM, LANGUAGE_STREAM}
    state = _state(fields['state'], topics, streams) if 'state' in fields else ()
    language = _language(fields['language'], topics)
    limits = _limits(fields['limits'], joint_states.joints)
    action = _action(fields['action'], topics, joint_states.joints, limits)
    output, safety = Output(), Safety()
    if 'output' in fields:
        output = read_output(fields['output'], topics.take, action, limits)
    if 'safety' in fields:
        safety = read_safety(fields['safety'], topics.take)
    return Contract(
        robot=fields['robot'].text(),
        control_period=fields['control_period'].between(0.0, 10.0, 's'),
        cameras=cameras,
        joint_states=joint_states,
        state=state,
        language=language,
        action=action,
        limits=limits,
        freshness=_freshness(fields['freshness']) if 'freshness' in fields else Freshness(),
        source=source,
        output=output,
        safety=safety,
    )


def contract_content(contract: Contract) -> dict[str, Any]:
    """All that the contract says, as plain JSON values, without the file it came from."""
    content = _plain(contract)
    del content['source']
    return content


def contract_hash(contract: Contract) -> str:
    """SHA-256 (hex) of the contract's content: equal for equal contracts, however written."""
    text = json.dumps(contract_content(contract), sort_keys=True, separators=(',', ':'))
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value.value if isinstance(value, Enum) else value


class _Topics:
    """Topic names taken so far: one topic carries one message type."""

    def __init__(self) -> None:
        self._types: dict[str, tuple[str, str]] = {}

    def take(self, place: Place, message_type: str, *, alone: bool = False) -> str:
        name = place.checked(_topic_fault, 'a ROS 2 topic name')
        known, where = self._types.setdefault(name.lstrip('/'), (message_type, place.path))
        if where != place.path and (alone or known != message_type):
            place.fail(
                'a topic of its own' if known == message_type else f'a topic of {message_type}',
                f'{name!r}, which {where} uses with {known}', 'check which of the two is meant',
            )
        return name


def _topic_fault(name: str) -> str | None:
    if name.startswith('~'):
        return 'private names depend on the node; write an absolute or a relative name'
    tokens = name.removeprefix('/').split('/')
    if '' in tokens:
        return 'no empty part: one slash between parts, none at the end'
    if bad := next((token for token in tokens if not _TOKEN.fullmatch(token)), None):
        return f'{bad!r} may hold only letters, digits and _, and not begin with a digit'
    return 'ROS 2 does not allow two underscores in a row' if '__' in name else None


def _type_fault(name: str) -> str | None:
    if _TYPE.fullmatch(name):
        return None
    parts = name.replace('.', '/').split('/')
    if len(parts) >= 2 and _TYPE.fullmatch(guess := f'{parts[0]}/msg/{parts[-1]}'):
        return f'write {guess}'
    return 'write it as package/msg/Name'


def _cameras(place: Place, topics: _Topics) -> tuple[Camera, ...]:
    cameras: list[Camera] = []
    for name, entry in place.items().items():
        _stream_name(entry, name, {JOINT_STREAM, LANGUAGE_STREAM})
        fields = entry.fields(('topic', 'type', 'slot'), ('required',))
        kind = fields['type'].choice(
            (IMAGE, COMPRESSED_IMAGE), 'other message types carry no picture that can be decoded'
        )
        slot = fields['slot'].text('the name of a camera slot of the model')
        for other in cameras:
            if other.slot == slot:
                fields['slot'].fail(
                    'a slot of its own', f'{slot!r}, which cameras.{other.name} feeds',
                    'each camera feeds one slot of the model',
                )
        required = fields['required'].boolean() if 'required' in fields else True
        topic = topics.take(fields['topic'], kind, alone=True)
        cameras.append(Camera(name, topic, kind, slot, required))
    if not any(camera.required for camera in cameras):
        place.fail(
            'at least one required camera', 'none', 'set required: true where the policy must see'
        )
    return tuple(cameras)


def _joint_states(place: Place, topics: _Topics) -> JointStates:
    fields = place.fields(('topic', 'joints'))
    joints = _names(fields['joints'], 'a joint name')
    return JointStates(topics.take(fields['topic'], JOINT_STATE), joints)


def _state(place: Place, topics: _Topics, streams: set[str]) -> tuple[StatePart, ...]:
    parts = []
    taken = set(streams)
    for entry in place.sequence():
        fields = entry.fields(('name', 'topic', 'type', 'fields', 'unit'))
        name = fields['name'].text('a name')
        _stream_name(fields['name'], name, taken)
        taken.add(name)
        message_type = fields['type'].checked(_type_fault, 'a message type (package/msg/Name)')
        paths = _names(fields['fields'], 'a field')
        for field in fields['fields'].sequence():
            if not _FIELD.fullmatch(field.text()):
                field.fail(
                    'dotted field names, a number for an element (wrench.force.x, data.0)'
                )
        parts.append(StatePart(
            name, topics.take(fields['topic'], message_type), message_type, paths,
            fields['unit'].text('a unit such as N, m or rad/s, or the text "1" for a bare number'),
        ))
    return tuple(parts)


def _stream_name(place: Place, name: str, taken: set[str]) -> None:
    if not _TOKEN.fullmatch(name):
        place.fail('a name of letters, digits and _', repr(name), 'rename it')
    if name in taken:
        place.fail('a name that no other input has', repr(name), 'rename it')


def _language(place: Place, topics: _Topics) -> Language:
    fields = place.fields(('topic',), ('default', 'max_length'))
    longest = fields['max_length'].integer(1, 10_000) if 'max_length' in fields else 200
    default = None
    if 'default' in fields and not fields['default'].is_null:
        text = fields['default'].text('a command in words, or null for none')
        try:
            default = clean_instruction(text, longest)
        except ObservationError as error:
            fields['default'].fail(
                f'a command of 1 to {longest} characters', str(error).split(', found ')[-1]
            )
    return Language(topics.take(fields['topic'], STRING), default, longest)


def _limits(place: Place, joints: tuple[str, ...]) -> dict[str, JointLimit]:
    limits = {}
    for joint, entry in place.items().items():
        if joint not in joints and joint not in TWIST_AXES:
            entry.fail(
                'a joint of joint_states.joints', repr(joint),
                suggest(joint, joints) or f'known joints: {", ".join(joints)}',
            )
        limits[joint] = _limit(entry, joint)
    return limits


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
        unit = fields['unit'].choice(JOINT_UNITS, _DEGREES)
    if continuous and unit != 'rad':
        fields['unit'].fail('rad, since the joint is continuous', repr(unit))
    further = {
        name: fields[name].between(0.0, largest, f'{unit}/s^{power}')
        for name, largest, power in (('acceleration', 1e5, 2), ('jerk', 1e7, 3))
        if name in fields
    }
    velocity = fields['velocity'].between(0.0, 1000.0, f'{unit}/s')
    return JointLimit(lower, upper, velocity, unit, continuous=continuous, **further)


def _action(
    place: Place, topics: _Topics, joints: tuple[str, ...], limits: dict[str, JointLimit]
) -> ActionSpace:
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
        recorded = topics.take(fields['recorded_topic'], JOINT_STATE)
    workspace = None
    if 'workspace' in fields:
        workspace = read_workspace(fields['workspace'], topics.take)
        if not any(part.kind is ActionKind.TWIST for part in parts):
            fields['workspace'].fail(
                'a box only where a part is a twist', 'joint-space parts',
                'remove it; the limits of the joints hold there',
            )
    return ActionSpace(
        parts=tuple(parts),
        topic=topics.take(fields['topic'], JOINT_TRAJECTORY),
        frame_id=fields['frame_id'].text('the name of a frame'),
        start_tolerance=fields['start_tolerance'].between(0.0, 10.0, 'rad or m'),
        recorded_topic=recorded,
        workspace=workspace,
    )


def _part(place: Place, joints: tuple[str, ...], limits: dict[str, JointLimit]) -> ActionPart:
    kind = place.items()['kind'].member(ActionKind) if 'kind' in place.items() else None
    if kind is ActionKind.TWIST:
        fields = place.fields(('kind',), ('names', 'unit'))
        if 'names' in fields and _names(fields['names'], 'an axis') != TWIST_AXES:
            fields['names'].fail(f'the axes {", ".join(TWIST_AXES)} in this order', 'others')
        if 'unit' in fields:
            fields['unit'].choice((TWIST_UNIT,), _DEGREES)
        return ActionPart(kind, TWIST_AXES, TWIST_UNIT)
    if kind is ActionKind.GRIPPER:
        fields = place.fields(('kind', 'names', 'unit', 'model_range', 'joint_range'))
    else:
        fields = place.fields(('kind', 'names', 'unit'))
        kind = fields['kind'].member(ActionKind)
    names = _names(fields['names'], 'a joint name')
    unit = fields['unit'].choice(JOINT_UNITS, _DEGREES)
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


def _names(place: Place, what: str) -> tuple[str, ...]:
    """A list of different names, at least one."""
    names: list[str] = []
    for entry in place.sequence():
        name = entry.text(what)
        if name in names:
            entry.fail('each name once', f'{name!r} a second time', 'remove one of them')
        names.append(name)
    if not names:
        place.fail(f'at least one of {what}', 'an empty list')
    return tuple(names)


def _freshness(place: Place) -> Freshness:
    names = [field.name for field in dataclasses.fields(Freshness)]
    fields = place.fields((), names)
    never = 'frozen' in fields and fields['frozen'].is_null
    limits = {
        name: entry.between(0.0, 10.0, 'rad or m' if name == 'moved' else 's')
        for name, entry in fields.items() if not (never and name == 'frozen')
    }
    freshness = Freshness(**limits)
    return dataclasses.replace(freshness, frozen=None) if never else freshness
