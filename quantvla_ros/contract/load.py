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
import re
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from quantvla_ros.contract.action import read_action, read_limits
from quantvla_ros.contract.instruction import clean_instruction
from quantvla_ros.contract.output import read_output, read_safety
from quantvla_ros.contract.types import (
    COMPRESSED_IMAGE,
    IMAGE,
    JOINT_STATE,
    JOINT_STREAM,
    LANGUAGE_STREAM,
    STRING,
    Camera,
    Contract,
    Freshness,
    JointStates,
    Language,
    Output,
    Safety,
    StatePart,
)
from quantvla_ros.contract.yaml_reader import Place
from quantvla_ros.errors import ContractError, ObservationError

VERSION = 1  # of the file's layout

_TOKEN = re.compile(r'[A-Za-z_][A-Za-z0-9_]*')
_TYPE = re.compile(r'[a-z][a-z0-9_]*/msg/[A-Z][A-Za-z0-9]*')
_FIELD = re.compile(r'[a-z][a-z0-9_]*(\.([a-z][a-z0-9_]*|\d+))*')


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
    limits = read_limits(fields['limits'], joint_states.joints)
    action = read_action(fields['action'], topics.take, joint_states.joints, limits)
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
    joints = fields['joints'].names('a joint name')
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
        paths = fields['fields'].names('a field')
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
