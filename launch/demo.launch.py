# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The simulated arm and the policy node, ready for a language command.

    ros2 launch quantvla_ros demo.launch.py
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
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node, PushRosNamespace
from launch_ros.parameter_descriptions import ParameterValue

from quantvla_ros.nodes.launch_arguments import PROFILE_VARIABLE, declare, shared

# Handed on to policy.launch.py; namespace and profile are set here, for both nodes.
POLICY_ARGUMENTS = (
    'params_file', 'policy', 'contract', 'device', 'allow_fallback', 'autostart', 'log_level',
)


def declared_arguments() -> list[DeclareLaunchArgument]:
    """Every argument of this file."""
    return [
        declare('params_file'),
        DeclareLaunchArgument(
            'tabletop_params_file',
            default_value=shared('config/tabletop.yaml'),
            description='Parameter file of the simulated arm.',
        ),
        declare(
            'policy',
            file='assets/tabletop_w8a8',
            description='Directory of a quantized artifact or a float checkpoint; by default the '
            "package's own small policy for this arm, in W8A8 (assets/tabletop_pi05: in float).",
        ),
        declare('contract', file='config/contracts/tabletop.yaml'),
        declare('device'),
        declare('allow_fallback'),
        DeclareLaunchArgument(
            'seed',
            default_value='',
            description="Seed of the scene; empty: tabletop_params_file's.",
        ),
        declare('namespace'),
        declare('autostart'),
        declare('log_level'),
        declare('fastdds_profile'),
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
        PythonLaunchDescriptionSource(shared('launch/policy.launch.py')),
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
