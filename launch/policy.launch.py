# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The policy node alone, for a robot that runs its own cameras and controllers.

The parameter file is the source of truth; an argument is for what differs between deployments, and
an empty one keeps the file's value. `ros2 launch quantvla_ros policy.launch.py --show-args` lists
them all.
"""
from __future__ import annotations

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    EmitEvent,
    GroupAction,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.conditions import IfCondition
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, PushRosNamespace
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.parameter_descriptions import ParameterValue
from lifecycle_msgs.msg import Transition

from quantvla_ros.nodes.launch_arguments import ARGUMENTS, PROFILE_VARIABLE, declare

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
    return LaunchDescription([*map(declare, ARGUMENTS), OpaqueFunction(function=node_actions)])
