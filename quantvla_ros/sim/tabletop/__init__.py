# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The built-in robot: a small arm over a table with coloured cubes and trays, and two cameras.

Knows NumPy and OpenCV; knows nothing of ROS, torch or how a policy works.
"""
from quantvla_ros.sim.tabletop.kinematics import ARM_LIMITS, JOINTS
from quantvla_ros.sim.tabletop.scene import Scene, sample_scene
from quantvla_ros.sim.tabletop.tasks import Task, TaskKind, other_task, parse_task, sample_task
from quantvla_ros.sim.tabletop.world import Tabletop

__all__ = ['ARM_LIMITS', 'JOINTS', 'Scene', 'Tabletop', 'Task', 'TaskKind', 'other_task',
           'parse_task', 'sample_scene', 'sample_task']
