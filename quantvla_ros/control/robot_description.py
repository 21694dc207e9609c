# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Joint limits out of a robot_description (URDF) and of MoveIt's joint_limits.yaml.

What is not said there stays unlimited: these limits only ever narrow those of a contract
(`limits.tightened`). Formats: URDF's `<limit>` and `<safety_controller>`
(wiki.ros.org/urdf/XML/joint), MoveIt's `joint_limits` with its `has_..._limits` switches. Knows
text; knows nothing of ROS or of chunks.
"""
from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml

from quantvla_ros.contract.types import JointLimit
from quantvla_ros.errors import ContractError

_UNITS = {'revolute': 'rad', 'continuous': 'rad', 'prismatic': 'm'}
_FLAGS = {
    'position': ('min_position', 'max_position'),
    'velocity': ('max_velocity',),
    'acceleration': ('max_acceleration',),
    'jerk': ('max_jerk',),
}


def urdf_limits(text: str) -> dict[str, JointLimit]:
    """Limits of every joint of a URDF that moves by one number.

    Args:
        text: the XML, as in the parameter or topic robot_description; xacro already resolved.
    Raises:
        ContractError: it is no URDF, or a number in it is none.
    """
    if '<!DOCTYPE' in text or '<!ENTITY' in text:  # entities can grow without bound
        raise ContractError(
            'robot_description: expected a URDF without DOCTYPE or entities, found one with; '
            'remove them'
        )
    try:
        root = ElementTree.fromstring(text.strip())
    except ElementTree.ParseError as error:
        raise ContractError(
            f'robot_description: expected a URDF, found a fault ({error}); pass the text that '
            'xacro puts out, not a file name'
        ) from None
    if root.tag != 'robot':
        raise ContractError(
            f'robot_description: expected <robot> at the top, found <{root.tag}>; pass a URDF'
        )
    limits = {}
    for joint in root.findall('joint'):
        name, kind = joint.get('name', ''), joint.get('type', '')
        if kind not in _UNITS:
            continue
        lower, upper, velocity = -math.inf, math.inf, math.inf
        for element in (joint.find('limit'), joint.find('safety_controller')):
            if element is None:
                continue
            soft = 'soft_' if element.tag == 'safety_controller' else ''
            # Without a soft limit the hard one holds; a hard limit left out is 0 (URDF's default).
            default = (lower, upper) if soft else (0.0, 0.0)
            if kind != 'continuous':
                low = _number(element, name, f'{soft}lower{"_limit" if soft else ""}', default[0])
                high = _number(element, name, f'{soft}upper{"_limit" if soft else ""}', default[1])
                lower, upper = max(lower, low), min(upper, high)
            if not soft:
                velocity = _number(element, name, 'velocity', math.inf)
        limits[name] = JointLimit(
            lower, upper, velocity, _UNITS[kind], continuous=kind == 'continuous'
        )
    return limits


def moveit_limits(path: str | Path, units: dict[str, str]) -> dict[str, JointLimit]:
    """Limits of a joint_limits.yaml of MoveIt.

    Its default scaling factors are those of planning requests, not limits, and are passed over.

    Args:
        path: the file.
        units: rad or m by joint name; joints of other names are passed over.
    Raises:
        ContractError: the file cannot be read, or something in it is not as MoveIt has it.
    """
    try:
        content = yaml.load(Path(path).read_text(encoding='utf-8'), Loader=_MoveItLoader)
    except OSError as error:
        raise ContractError(
            f'{path}: expected a readable joint_limits.yaml, found: {error.strerror}; check it'
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        fault = ' '.join(str(error).split())
        raise ContractError(f'{path}: expected valid YAML, found a fault ({fault})') from None
    joints = content.get('joint_limits') if isinstance(content, dict) else None
    if not isinstance(joints, dict):
        raise ContractError(
            f'{path}: expected the key joint_limits with joints below it, found none; give '
            "MoveIt's joint_limits.yaml"
        )
    limits = {}
    for name, unit in units.items():
        entry = joints.get(name)
        if entry is None:
            continue
        if not isinstance(entry, dict):
            raise ContractError(f'{path}: joint_limits.{name}: expected keys, found {entry!r}')
        found = {
            kind: [_entry(path, name, entry, key) for key in keys]
            if entry.get(f'has_{kind}_limits', False) is True else None
            for kind, keys in _FLAGS.items()
        }
        lower, upper = found['position'] or (-math.inf, math.inf)
        velocity, acceleration, jerk = (
            numbers[0] if (numbers := found[kind]) else None
            for kind in ('velocity', 'acceleration', 'jerk')
        )
        limits[name] = JointLimit(
            lower, upper, math.inf if velocity is None else velocity, unit, acceleration, jerk
        )
    return limits


class _MoveItLoader(yaml.SafeLoader):
    """Knows `!degrees` and `!radians`, as MoveIt's and ros2_control's configurations use them."""


def _angle(scale: float) -> Any:
    def construct(loader: yaml.SafeLoader, node: yaml.Node) -> float:
        text = str(node.value)
        if not re.fullmatch(r'\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*', text):
            raise yaml.MarkedYAMLError(
                problem=f'{text!r} is no number', problem_mark=node.start_mark
            )
        return float(text) * scale

    return construct


_MoveItLoader.add_constructor('!degrees', _angle(math.pi / 180.0))
_MoveItLoader.add_constructor('!radians', _angle(1.0))


def _entry(path: str | Path, name: str, entry: dict[str, Any], key: str) -> float:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ContractError(
            f'{path}: joint_limits.{name}.{key}: expected a finite number, since its '
            f'has_..._limits is true, found {value!r}'
        )
    return float(value)


def _number(element: ElementTree.Element, joint: str, key: str, default: float) -> float:
    text = element.get(key)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ContractError(
            f'robot_description: joint {joint}: {key}: expected a finite number, found {text!r}'
        )
    return value
