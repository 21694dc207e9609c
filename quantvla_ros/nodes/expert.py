# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The scripted expert as a node beside the simulated arm: drives it over the topic a policy uses.

It sees the world's ground truth, so it lives in the arm's process and shares its executor's one
thread; its trajectories take the way over the middleware all the same, so that a recording of them
is one of a commanded arm.
"""
from __future__ import annotations

import numpy as np
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from trajectory_msgs.msg import JointTrajectory

from quantvla_ros.contract.types import JointLimit
from quantvla_ros.control.chunk import Chunk
from quantvla_ros.control.trajectory import from_chunk
from quantvla_ros.nodes.messages import trajectory_message
from quantvla_ros.nodes.tabletop import FRAME, TabletopNode
from quantvla_ros.sim.tabletop.expert import expert_chunk
from quantvla_ros.sim.tabletop.kinematics import JOINTS

_HORIZON = 16  # control periods in a chunk
_EXECUTE = 4  # control periods between two chunks


class ExpertNode(Node):
    """Commands the arm while there is a task that is not done.

    Args:
        arm: whose world it sees.
    """

    def __init__(self, arm: TabletopNode) -> None:
        super().__init__('expert')
        self._arm = arm
        self._commands = self.create_publisher(
            JointTrajectory, 'arm_controller/joint_trajectory',
            QoSProfile(
                reliability=ReliabilityPolicy.RELIABLE, history=HistoryPolicy.KEEP_LAST, depth=1
            ),
        )
        self.create_timer(_EXECUTE * arm.world.control_period, self._command)

    def begin_stop(self) -> bool:
        """Nothing to hold."""
        return True

    def end_stop(self) -> None:
        """Nothing to free."""

    def _command(self) -> None:
        task, world = self._arm.task, self._arm.world
        if task is None:
            return
        limits = {
            name: JointLimit(lower, upper, velocity)
            for name, lower, upper, velocity in zip(
                JOINTS, world.limits.lower, world.limits.upper, world.limits.velocity, strict=True
            )
        }
        rows = expert_chunk(world, task, _HORIZON).astype(np.float64)
        chunk = Chunk(self._arm.now(), world.control_period, JOINTS, rows)
        points = from_chunk(chunk, limits, world.joint_positions)
        self._commands.publish(trajectory_message(points, FRAME))
