# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`python -m quantvla_ros COMMAND` and `ros2 run quantvla_ros COMMAND`: one table, one entry point.

Each command is a module of this package with `add_arguments(parser)` and `run(args) -> int`; it is
imported only when it is asked for, so that an offline command never needs rclpy and none pays for
torch unless it uses it.
"""
from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from quantvla_ros import __version__
from quantvla_ros.errors import QuantVLAError

# command: (module, one line of help)
COMMANDS: dict[str, tuple[str, str]] = {
    'policy': ('policy', 'run the policy node (ROS 2)'),
    'tabletop': ('tabletop', 'run the simulated arm (ROS 2)'),
    'record': ('record', 'record expert episodes of the simulated arm as a bag (ROS 2)'),
    'replay': ('replay', 'infer again what a policy node recorded: are the bits the same?'),
    'demo': ('demo', 'the whole chain on the simulated arm, with video (ROS 2)'),
    'calibrate': ('calibrate', 'quantize a checkpoint from recorded bags'),
    'evaluate': ('evaluate', 'open-loop error on bags, or success in the built-in simulator'),
    'inspect': ('inspect', 'what a checkpoint or artifact is, and what it lacks before it can run'),
    'fetch': ('fetch', 'fetch a checkpoint from the hub, without pickles (not on the robot)'),
    'bench': ('bench', 'how long a policy takes here, in every precision'),
    'tune': ('tune', 'find the fastest tiles of the kernels on this GPU, and keep them'),
    'faults': ('faults', 'scripted faults against the policy node: what it makes of them (ROS 2)'),
    'random-checkpoint': ('random_checkpoint', 'write a complete checkpoint with random weights'),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status. A user's error is one line on stderr, status 2."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog='quantvla_ros', description='QuantVLA policies on ROS 2')
    parser.add_argument('--version', action='version', version=f'quantvla_ros {__version__}')
    subparsers = parser.add_subparsers(dest='command', metavar='COMMAND', required=True)
    module = None
    for name, (module_name, summary) in COMMANDS.items():
        sub = subparsers.add_parser(name, help=summary, description=summary, add_help=True)
        if arguments and arguments[0] == name:
            module = importlib.import_module(f'quantvla_ros.cli.{module_name}')
            module.add_arguments(sub)
    # ROS passes its own arguments after --ros-args: they belong to rclpy.
    own, ros = _split_ros_arguments(arguments)
    args = parser.parse_args(own)
    args.ros_arguments = ros
    assert module is not None  # argparse has refused any other command
    try:
        return int(module.run(args) or 0)
    except QuantVLAError as error:
        print(f'quantvla_ros {args.command}: {error}', file=sys.stderr)
        return 2


def _split_ros_arguments(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Separate `--ros-args ... [--]` sections from our own arguments."""
    own: list[str] = []
    ros: list[str] = []
    inside = False
    for argument in arguments:
        if argument == '--ros-args':
            inside = True
            ros.append(argument)
        elif inside and argument == '--':
            inside = False
            ros.append(argument)
        else:
            (ros if inside else own).append(argument)
    return own, ros
