# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A Panda on ros2_control's mock hardware, MoveIt and a policy on the same controller.

    ros2 launch quantvla_ros moveit.launch.py policy:=DIR

Needs moveit_ros_move_group, moveit_simple_controller_manager, moveit_configs_utils,
moveit_resources_panda_moveit_config, ros2_control and ros2_controllers. For a robot of your own
take the files of config/moveit as a pattern; docs/moveit.md goes through them.
"""
from __future__ import annotations

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from quantvla_ros.nodes.launch_arguments import declare, shared

# Handed on to policy.launch.py.
POLICY_ARGUMENTS = (
    'policy', 'contract', 'device', 'joint_limits', 'params_file', 'autostart', 'log_level',
)
CONTROLLERS = ('joint_state_broadcaster', 'panda_arm_controller', 'panda_hand_controller')


def declared_arguments() -> list[DeclareLaunchArgument]:
    """Every argument of this file."""
    return [
        declare(
            'policy',
            description='Directory of a quantized artifact or a float checkpoint; empty: '
            'everything but the policy node is started.',
        ),
        declare('contract', file='config/moveit/contract.yaml'),
        declare('params_file'),
        declare('device'),
        declare(
            'joint_limits',
            default=PathJoinSubstitution([
                FindPackageShare('moveit_resources_panda_moveit_config'), 'config',
                'joint_limits.yaml',
            ]),
            description="MoveIt's joint_limits.yaml: narrows the contract's limits.",
        ),
        declare('autostart'),
        declare('log_level'),
        DeclareLaunchArgument(
            'controllers_file',
            default_value=shared('config/moveit/ros2_controllers.yaml'),
            description="Parameters of ros2_control's controllers.",
        ),
        DeclareLaunchArgument(
            'moveit_controllers_file',
            default_value=shared('config/moveit/moveit_controllers.yaml'),
            description="Parameters of MoveIt's simple controller manager.",
        ),
    ]


def robot_actions(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Hardware, controllers and move_group."""
    # Here, so that the policy's arguments can be listed without MoveIt.
    from moveit_configs_utils import MoveItConfigsBuilder

    moveit = (
        MoveItConfigsBuilder('moveit_resources_panda')
        .robot_description(
            file_path='config/panda.urdf.xacro',
            mappings={'ros2_control_hardware_type': 'mock_components'},
        )
        .trajectory_execution(
            file_path=LaunchConfiguration('moveit_controllers_file').perform(context)
        )
        .to_moveit_configs()
    )
    controllers_file = LaunchConfiguration('controllers_file')
    return [
        Node(
            package='robot_state_publisher', executable='robot_state_publisher',
            parameters=[moveit.robot_description],
        ),
        Node(
            package='controller_manager', executable='ros2_control_node',
            parameters=[controllers_file],
            remappings=[('~/robot_description', 'robot_description')],
        ),
        Node(
            package='controller_manager', executable='spawner', arguments=list(CONTROLLERS),
        ),
        Node(
            package='moveit_ros_move_group', executable='move_group', output='screen',
            parameters=[moveit.to_dict()],
        ),
    ]


def policy_actions(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The policy node, where a policy was given."""
    if not LaunchConfiguration('policy').perform(context):
        return []
    return [
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(shared('launch/policy.launch.py')),
            launch_arguments={
                name: LaunchConfiguration(name) for name in POLICY_ARGUMENTS
            }.items(),
        )
    ]


def generate_launch_description() -> LaunchDescription:
    """Entry point of `ros2 launch`."""
    return LaunchDescription([
        *declared_arguments(),
        OpaqueFunction(function=robot_actions),
        OpaqueFunction(function=policy_actions),
    ])
