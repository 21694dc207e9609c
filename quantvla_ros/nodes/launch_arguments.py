# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The arguments of policy.launch.py, of which the other launch files have some too: one table.

Knows names and words; `launch` is imported where an argument is declared: there is none without a
ROS 2.
"""
from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

PACKAGE = 'quantvla_ros'
# What Fast DDS reads: version 2 (up to Jazzy) knows only the older name, version 3 warns of it.
PROFILE_VARIABLE = (
    'FASTRTPS_DEFAULT_PROFILES_FILE'
    if os.environ.get('ROS_DISTRO') in ('humble', 'iron', 'jazzy')
    else 'FASTDDS_DEFAULT_PROFILES_FILE'
)
_KEPT = "; empty: the file's."


@dataclass(frozen=True)
class Argument:
    """A launch argument.

    Attributes:
        description: for `--show-args`.
        default: a word or a substitution.
        file: of the package, which is the default in place of that.
        variable: of the environment, which says otherwise where it is set.
        choices: all there are; empty for any.
    """

    description: str
    default: Any = ''
    file: str = ''
    variable: str = ''
    choices: tuple[str, ...] = ()


ARGUMENTS: Mapping[str, Argument] = {
    'params_file': Argument('Parameter file of the policy node.', file='config/policy.yaml'),
    'policy': Argument(f'Directory of a quantized artifact or a float checkpoint{_KEPT}'),
    'contract': Argument(f'Contract file: what the robot offers the policy{_KEPT}'),
    'device': Argument(f'Where the policy runs: cpu, cuda or cuda:N{_KEPT}'),
    'precision': Argument(f'Precision to run in, by name{_KEPT}'),
    'engine': Argument(f'What runs the network: auto, graph or plain{_KEPT}'),
    'allow_fallback': Argument(
        'true: where engine, precision or device do not run here, run the next best and say '
        f'so{_KEPT}'
    ),
    'schedule': Argument(
        f'How chunks follow each other: sync, async, ensemble or rtc{_KEPT}'
    ),
    'robot_description': Argument(f"URDF text that narrows the contract's limits{_KEPT}"),
    'joint_limits': Argument(
        f"MoveIt's joint_limits.yaml, which narrows the contract's limits too{_KEPT}"
    ),
    'use_sim_time': Argument(f'true: time comes from /clock{_KEPT}'),
    'namespace': Argument('Namespace of what is started here, and of all its relative topics.'),
    'remappings': Argument('Further remappings, separated by spaces: "from:=to from:=to".'),
    'autostart': Argument(
        'true: configure and activate the policy node at start; false: leave it to a lifecycle '
        'manager.', default='true', choices=('true', 'false'),
    ),
    'log_level': Argument(
        'Level of the logs of what this package starts.', default='info',
        choices=('debug', 'info', 'warn', 'error', 'fatal'),
    ),
    'fastdds_profile': Argument(
        'Fast DDS profile with room for raw images; the cameras need it too. Empty: leave the '
        'environment as it is.', file='config/fastdds.xml', variable=PROFILE_VARIABLE,
    ),
}


def declare(name: str, **other: Any) -> Any:
    """The argument, to be put into a launch description.

    Args:
        name: in `ARGUMENTS`.
        other: its `default` or `file`, and its `description`, where a launch file has its own.
    Returns:
        DeclareLaunchArgument
    """
    from launch.actions import DeclareLaunchArgument

    argument = replace(ARGUMENTS[name], **other)
    # Some versions of launch take no None for choices.
    choices = {'choices': list(argument.choices)} if argument.choices else {}
    return DeclareLaunchArgument(
        name, default_value=_default(argument), description=argument.description, **choices
    )


def _default(argument: Argument) -> Any:
    """What launch makes the default of."""
    found = shared(argument.file) if argument.file else argument.default
    if not argument.variable:
        return found
    from launch.substitutions import EnvironmentVariable

    return EnvironmentVariable(argument.variable, default_value=found)


def shared(path: str) -> Any:
    """A file of the package ('config/policy.yaml'), wherever it is installed."""
    from launch.substitutions import PathJoinSubstitution
    from launch_ros.substitutions import FindPackageShare

    return PathJoinSubstitution([FindPackageShare(PACKAGE), *path.split('/')])
