# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The simulated arm and the policy node, ready for a language command.

    ros2 launch quantvla_ros demo.launch.py
    ros2 topic pub --once /instruction std_msgs/msg/String '{data: pick the red cube}'

The policy node is started by policy.launch.py; its arguments that are not named here can be given
as well.
"""
from __future__ import annotations

import os

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    GroupAction,
    IncludeLaunchDescription,
    OpaqueFunction,
    SetEnvironmentVariable,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import EnvironmentVariable, LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node, PushRosNamespace
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

SHARE = FindPackageShare('quantvla_ros')

# What Fast DDS reads: version 2 (up to Jazzy) knows only the older name, version 3 warns of it.
PROFILE_VARIABLE = (
    'FASTRTPS_DEFAULT_PROFILES_FILE'
    if os.environ.get('ROS_DISTRO') in ('humble', 'iron', 'jazzy')
    else 'FASTDDS_DEFAULT_PROFILES_FILE'
)

# Handed on to policy.launch.py; namespace and profile are set here, for both nodes.
POLICY_ARGUMENTS = (
    'params_file', 'policy', 'contract', 'device', 'allow_fallback', 'autostart', 'log_level',
)


def declared_arguments() -> list[DeclareLaunchArgument]:
    """Every argument of this file, with its default and what it is for."""
    return [
        DeclareLaunchArgument(
            'params_file',
            default_value=PathJoinSubstitution([SHARE, 'config', 'policy.yaml']),
            description='Parameter file of the policy node.',
        ),
        DeclareLaunchArgument(
            'tabletop_params_file',
            default_value=PathJoinSubstitution([SHARE, 'config', 'tabletop.yaml']),
            description='Parameter file of the simulated arm.',
        ),
        DeclareLaunchArgument(
            'policy',
            default_value=PathJoinSubstitution([SHARE, 'assets', 'tabletop_w8a8']),
            description='Directory of a quantized artifact or a float checkpoint; by default the '
            "package's own small policy for this arm, in W8A8 (assets/tabletop_pi05: in float).",
        ),
        DeclareLaunchArgument(
            'contract',
            default_value=PathJoinSubstitution([SHARE, 'config', 'contracts', 'tabletop.yaml']),
            description='Contract file: what the arm offers the policy.',
        ),
        DeclareLaunchArgument(
            'device',
            default_value='',
            description="Where the policy runs: cpu, cuda or cuda:N; empty: params_file's.",
        ),
        DeclareLaunchArgument(
            'allow_fallback',
            default_value='',
            description='true: where engine, precision or device do not run here, run the next '
            "best and say so; empty: params_file's.",
        ),
        DeclareLaunchArgument(
            'seed',
            default_value='',
            description="Seed of the scene; empty: tabletop_params_file's.",
        ),
        DeclareLaunchArgument(
            'namespace',
            default_value='',
            description='Namespace of both nodes and of all their topics.',
        ),
        DeclareLaunchArgument(
            'autostart',
            default_value='true',
            choices=['true', 'false'],
            description='true: configure and activate the policy node at start.',
        ),
        DeclareLaunchArgument(
            'log_level',
            default_value='info',
            choices=['debug', 'info', 'warn', 'error', 'fatal'],
            description="Level of both nodes' logs.",
        ),
        DeclareLaunchArgument(
            'fastdds_profile',
            default_value=EnvironmentVariable(
                PROFILE_VARIABLE,
                default_value=PathJoinSubstitution([SHARE, 'config', 'fastdds.xml']),
            ),
            description='Fast DDS profile with room for raw images, for both nodes. Empty: leave '
            'the environment as it is.',
        ),
    ]


def nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Both nodes, in one namespace and environment."""
    parameters: list = [LaunchConfiguration('tabletop_params_file')]
    seed = LaunchConfiguration('seed')
    if seed.perform(context):
        parameters.append({'seed': ParameterValue(seed, value_type=int)})
    arm = Node(
        package='quantvla_ros',
        executable='tabletop',
        name='tabletop',
        parameters=parameters,
        ros_arguments=['--log-level', LaunchConfiguration('log_level')],
        output='screen',
    )
    policy = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(PathJoinSubstitution([SHARE, 'launch', 'policy.launch.py'])),
        launch_arguments=[
            *((name, LaunchConfiguration(name)) for name in POLICY_ARGUMENTS),
            ('namespace', ''),
            ('fastdds_profile', ''),
        ],
    )
    surroundings: list[LaunchDescriptionEntity] = []
    namespace = LaunchConfiguration('namespace').perform(context)
    if namespace:
        surroundings.append(PushRosNamespace(namespace))
    profile = LaunchConfiguration('fastdds_profile').perform(context)
    if profile:
        surroundings.append(SetEnvironmentVariable(PROFILE_VARIABLE, profile))
    return [GroupAction([*surroundings, arm, policy])]


def generate_launch_description() -> LaunchDescription:
    """Entry point of `ros2 launch`."""
    return LaunchDescription([*declared_arguments(), OpaqueFunction(function=nodes)])
