# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`tabletop`: the simulated arm as a process."""
from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All settings are ROS parameters: `--ros-args -p seed:=3`."""
    parser.epilog = (
        'Settings are ROS parameters: --ros-args -p seed:=3, or --params-file FILE. docs/node.md '
        'lists them.'
    )


def run(args: argparse.Namespace) -> int:
    """Spin the arm until SIGINT or SIGTERM."""
    from quantvla_ros.nodes.process import StopSignal, run

    stop = StopSignal()  # before the slow imports: a signal during them must be heard

    def nodes() -> list[object]:
        from quantvla_ros.nodes.expert import ExpertNode
        from quantvla_ros.nodes.tabletop import TabletopNode

        arm = TabletopNode()
        return [arm, ExpertNode(arm)] if arm.get_parameter('expert').value else [arm]

    return run(nodes, args.ros_arguments, stop)
