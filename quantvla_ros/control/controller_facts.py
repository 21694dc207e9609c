# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the parameters of a running joint_trajectory_controller mean for chunks of ours.

Names and meanings from ros2_controllers' joint_trajectory_controller (its parameters and userdoc);
older controllers have other names for some. Knows names and values; knows nothing of ROS.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence

# What is asked of a controller, where it has it.
ASKED = (
    'joints',
    'interpolate_from_desired_state',
    'open_loop_control',
    'allow_partial_joints_goal',
    'allow_nonzero_velocity_at_trajectory_end',
    'allow_trajectory_replacement',
    'positions_upsampling.enable',
    'state_interfaces',
)


def advice(found: Mapping[str, object], joints: Sequence[str]) -> list[str]:
    """What is wrong with a controller for us, one line each: the parameter, why, what to set.

    Args:
        found: its parameters of `ASKED`, those that it has.
        joints: that we send.
    """
    lines = []
    controlled = found.get('joints')
    if isinstance(controlled, Sequence) and not isinstance(controlled, str) and controlled:
        unknown = [name for name in joints if name not in controlled]
        if unknown:
            lines.append(
                f'joints: the controller has no {", ".join(unknown)} and refuses every '
                'trajectory; correct the contract, or give the joint a gripper output of its own'
            )
        left_out = [name for name in controlled if name not in joints]
        if left_out and found.get('allow_partial_joints_goal') is False:
            lines.append(
                f'allow_partial_joints_goal: false, and we send no {", ".join(left_out)}: every '
                'trajectory is refused; set it to true'
            )
    # Newer controllers have the first, older ones the second.
    for name in ('interpolate_from_desired_state', 'open_loop_control'):
        if name in found:
            if found[name] is False:
                lines.append(
                    f'{name}: false, so each chunk begins where the arm is measured, behind where '
                    'it was told to be: a step back at every seam; set it to true'
                )
            break
    interfaces = found.get('state_interfaces')
    if isinstance(interfaces, Sequence) and interfaces and 'velocity' not in interfaces:
        lines.append(
            'state_interfaces: no velocity, so the controller joins a new chunk to a motion that '
            'it takes to be at rest; add velocity'
        )
    return lines
