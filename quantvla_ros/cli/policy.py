# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`policy`: the policy node as a process."""
from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All settings are ROS parameters: `--ros-args -p policy:=DIR -p contract:=FILE`."""
    parser.epilog = (
        'Settings are ROS parameters: --ros-args -p policy:=DIR -p contract:=FILE, or '
        '--params-file FILE. docs/node.md lists them. The node is a lifecycle node: configure and '
        'activate it, or start it with `ros2 launch quantvla_ros policy.launch.py`.'
    )


def run(args: argparse.Namespace) -> int:
    """Spin the node until SIGINT or SIGTERM."""
    from quantvla_ros.nodes.process import StopSignal, run

    stop = StopSignal()  # before the slow imports: a signal during them must be heard

    def nodes() -> list[object]:
        from quantvla_ros.nodes.policy import PolicyNode

        return [PolicyNode()]

    return run(nodes, args.ros_arguments, stop)
