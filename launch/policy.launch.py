# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The policy node alone, for a robot that runs its own cameras and controllers.

The parameter file is the source of truth; an argument is for what differs between deployments, and
an empty one keeps the file's value. `ros2 launch quantvla_ros policy.launch.py --show-args` lists
them all.
"""
from __future__ import annotations

import os

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    GroupAction,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.conditions import IfCondition
from launch.events import matches_action
from launch.substitutions import EnvironmentVariable, LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode, PushRosNamespace
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare
from lifecycle_msgs.msg import Transition

SHARE = FindPackageShare('quantvla_ros')

# What Fast DDS reads: version 2 (up to Jazzy) knows only the older name, version 3 warns of it.
PROFILE_VARIABLE = (
    'FASTRTPS_DEFAULT_PROFILES_FILE'
    if os.environ.get('ROS_DISTRO') in ('humble', 'iron', 'jazzy')
    else 'FASTDDS_DEFAULT_PROFILES_FILE'
)

# Arguments that override a parameter of the same name, and its type.
OVERRIDES: dict[str, type] = {
    'policy': str,
    'contract': str,
    'device': str,
    'precision': str,
    'engine': str,
    'allow_fallback': bool,
    'schedule': str,
    'robot_description': str,
    'joint_limits': str,
    'use_sim_time': bool,
}


def declared_arguments() -> list[DeclareLaunchArgument]:
    """Every argument of this file, with its default and what it is for."""
    return [
        DeclareLaunchArgument(
            'params_file',
            default_value=PathJoinSubstitution([SHARE, 'config', 'policy.yaml']),
            description='Parameter file of the policy node.',
        ),
        DeclareLaunchArgument(
            'policy',
            default_value='',
            description='Directory of a quantized artifact or a float checkpoint; empty: '
            "the file's.",
        ),
        DeclareLaunchArgument(
            'contract',
            default_value='',
            description="Contract file: what the robot offers the policy; empty: the file's.",
        ),
        DeclareLaunchArgument(
            'device',
            default_value='',
            description="Where the policy runs: cpu, cuda or cuda:N; empty: the file's.",
        ),
        DeclareLaunchArgument(
            'precision',
            default_value='',
            description="Precision to run in, by name; empty: the file's.",
        ),
        DeclareLaunchArgument(
            'engine',
            default_value='',
            description="What runs the network: auto, graph or plain; empty: the file's.",
        ),
        DeclareLaunchArgument(
            'allow_fallback',
            default_value='',
            description='true: where engine, precision or device do not run here, run the next '
            "best and say so; empty: the file's.",
        ),
        DeclareLaunchArgument(
            'schedule',
            default_value='',
            description='How chunks follow each other: sync, async, ensemble or rtc; empty: '
            "the file's.",
        ),
        DeclareLaunchArgument(
            'robot_description',
            default_value='',
            description="URDF text that narrows the contract's limits; empty: the file's.",
        ),
        DeclareLaunchArgument(
            'joint_limits',
            default_value='',
            description="MoveIt's joint_limits.yaml, which narrows them too; empty: the file's.",
        ),
        DeclareLaunchArgument(
            'use_sim_time',
            default_value='',
            description="true: time comes from /clock; empty: the file's.",
        ),
        DeclareLaunchArgument(
            'namespace',
            default_value='',
            description='Namespace of the node and of all its relative topics.',
        ),
        DeclareLaunchArgument(
            'remappings',
            default_value='',
            description='Further remappings, separated by spaces: "from:=to from:=to".',
        ),
        DeclareLaunchArgument(
            'autostart',
            default_value='true',
            choices=['true', 'false'],
            description='true: configure and activate the node at start; false: leave it to a '
            'lifecycle manager.',
        ),
        DeclareLaunchArgument(
            'log_level',
            default_value='info',
            choices=['debug', 'info', 'warn', 'error', 'fatal'],
            description="Level of the node's log.",
        ),
        DeclareLaunchArgument(
            'fastdds_profile',
            default_value=EnvironmentVariable(
                PROFILE_VARIABLE,
                default_value=PathJoinSubstitution([SHARE, 'config', 'fastdds.xml']),
            ),
            description='Fast DDS profile with room for raw images; the cameras need it too. '
            'Empty: leave the environment as it is.',
        ),
    ]


def remapping_pairs(text: str) -> list[tuple[str, str]]:
    """Read "from:=to from:=to"."""
    pairs = []
    for item in text.split():
        source, separator, target = item.partition(':=')
        if not (source and separator and target):
            raise ValueError(f"remappings: expected 'from:=to', found '{item}'")
        pairs.append((source, target))
    return pairs


def overrides(context: LaunchContext) -> dict[str, ParameterValue]:
    """The parameters that were given as arguments; an empty one keeps the file's value."""
    given = {}
    for name, kind in OVERRIDES.items():
        argument = LaunchConfiguration(name)
        if argument.perform(context):
            given[name] = ParameterValue(argument, value_type=kind)
    return given


def node_actions(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The node, in its namespace and environment, and the transitions that start it."""
    policy = LifecycleNode(
        package='quantvla_ros',
        executable='policy',
        name='policy',
        namespace='',
        parameters=[LaunchConfiguration('params_file'), overrides(context)],
        remappings=remapping_pairs(LaunchConfiguration('remappings').perform(context)),
        ros_arguments=['--log-level', LaunchConfiguration('log_level')],
        output='screen',
        # An inference that has begun is finished before the node stops.
        sigterm_timeout='20',
        sigkill_timeout='10',
    )
    autostart = IfCondition(LaunchConfiguration('autostart'))
    configure = EmitEvent(
        event=ChangeState(
            lifecycle_node_matcher=matches_action(policy),
            transition_id=Transition.TRANSITION_CONFIGURE,
        ),
        condition=autostart,
    )
    activate = RegisterEventHandler(
        OnStateTransition(
            target_lifecycle_node=policy,
            start_state='configuring',
            goal_state='inactive',
            entities=[
                EmitEvent(
                    event=ChangeState(
                        lifecycle_node_matcher=matches_action(policy),
                        transition_id=Transition.TRANSITION_ACTIVATE,
                    )
                )
            ],
            # Once: whoever configures the node again by hand decides when it moves.
            handle_once=True,
        ),
        condition=autostart,
    )
    actions: list[LaunchDescriptionEntity] = []
    namespace = LaunchConfiguration('namespace').perform(context)
    if namespace:
        actions.append(PushRosNamespace(namespace))
    profile = LaunchConfiguration('fastdds_profile').perform(context)
    if profile:
        actions.append(SetEnvironmentVariable(PROFILE_VARIABLE, profile))
    return [GroupAction([*actions, activate, policy, configure])]


def generate_launch_description() -> LaunchDescription:
    """Entry point of `ros2 launch`."""
    return LaunchDescription([*declared_arguments(), OpaqueFunction(function=node_actions)])
