# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The simulated arm and the policy node, ready for a language command.

    ros2 launch quantvla_ros demo.launch.py policy:=DIRECTORY
    ros2 topic pub --once /instruction std_msgs/msg/String '{data: pick the red cube}'

The policy node is started by policy.launch.py; its arguments that are not named here can be given
as well.
"""
from __future__ import annotations

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

# Handed on to policy.launch.py.
POLICY_ARGUMENTS = (
    'params_file',
    'policy',
    'contract',
    'device',
    'namespace',
    'autostart',
    'log_level',
    'fastdds_profile',
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
            default_value=PathJoinSubstitution([SHARE, 'assets', 'tabletop_pi05']),
            description='Directory of a quantized artifact or a float checkpoint; by default the '
            'small float policy that comes with the package.',
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
                'FASTDDS_DEFAULT_PROFILES_FILE',
                default_value=PathJoinSubstitution([SHARE, 'config', 'fastdds.xml']),
            ),
            description='Fast DDS profile with room for raw images, for both nodes. Empty: leave '
            'the environment as it is.',
        ),
    ]


def arm_actions(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The simulated arm, in its namespace and environment."""
    parameters: list = [LaunchConfiguration('tabletop_params_file')]
    seed = LaunchConfiguration('seed').perform(context)
    if seed:
        parameters.append({'seed': ParameterValue(seed, value_type=int)})
    actions: list[LaunchDescriptionEntity] = []
    namespace = LaunchConfiguration('namespace').perform(context)
    if namespace:
        actions.append(PushRosNamespace(namespace))
    profile = LaunchConfiguration('fastdds_profile').perform(context)
    if profile:
        actions.append(SetEnvironmentVariable('FASTDDS_DEFAULT_PROFILES_FILE', profile))
        actions.append(SetEnvironmentVariable('FASTRTPS_DEFAULT_PROFILES_FILE', profile))
    arm = Node(
        package='quantvla_ros',
        executable='tabletop',
        name='tabletop',
        parameters=parameters,
        ros_arguments=['--log-level', LaunchConfiguration('log_level')],
        output='screen',
    )
    return [GroupAction([*actions, arm])]


def generate_launch_description() -> LaunchDescription:
    """Entry point of `ros2 launch`."""
    policy = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(PathJoinSubstitution([SHARE, 'launch', 'policy.launch.py'])),
        launch_arguments=[(name, LaunchConfiguration(name)) for name in POLICY_ARGUMENTS],
    )
    return LaunchDescription([*declared_arguments(), OpaqueFunction(function=arm_actions), policy])
