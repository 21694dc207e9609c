# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`evaluate`: a policy against recorded actions, or in closed loop in the built-in simulator.

Takes float checkpoints and quantized artifacts, alone or held against one of them. Needs no ROS.
"""
from __future__ import annotations

import argparse
import datetime
import json
import platform
import sys
from pathlib import Path
from typing import Any

from quantvla_ros.errors import QuantVLAError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        '--policy', type=Path, required=True, nargs='+',
        help='float checkpoints or quantized artifacts',
    )
    parser.add_argument(
        '--against', type=Path, help='the policy that each of them is compared with'
    )
    parser.add_argument('--contract', type=Path, required=True, help='the robot (YAML)')
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument('--bag', type=Path, nargs='+', help='open loop: recorded bags')
    where.add_argument('--tabletop', action='store_true', help='closed loop: built-in simulator')
    parser.add_argument('--frames', type=int, default=64, help='open loop: observations (64)')
    parser.add_argument(
        '--allow-seen', action='store_true',
        help='open loop: take bags too that an artifact was calibrated on',
    )
    parser.add_argument('--namespace', default='', help='open loop: of relative topics in the bags')
    parser.add_argument('--seeds', type=int, default=200, help='closed loop: scenes (200)')
    parser.add_argument('--first-seed', type=int, default=0, help='closed loop: first scene (0)')
    parser.add_argument('--steps', type=int, default=200, help='closed loop: time limit, periods')
    parser.add_argument(
        '--delay', type=int, default=2, help='closed loop: periods until a chunk arrives (2)'
    )
    parser.add_argument(
        '--no-control', action='store_true', help='closed loop: leave out the wrong commands'
    )
    parser.add_argument('--jobs', type=int, default=1, help='processes (1)')
    parser.add_argument('--seed', type=int, default=0, help='of the sample and the noise (0)')
    parser.add_argument('--device', default='cpu', help='cpu, cuda or cuda:N (cpu)')
    parser.add_argument(
        '--allow-fallback', action='store_true',
        help='where engine or device do not run here, run what comes next best, and say so',
    )
    parser.add_argument(
        '--json', '--out', type=Path, metavar='FILE', help='JSON file to write, for programs'
    )
    parser.add_argument(
        '--report', type=Path, metavar='FILE', help='HTML page to write, with plots'
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate, print, and write the JSON."""
    from quantvla_ros.cli import evaluate_bags, evaluate_tabletop
    from quantvla_ros.report.evaluation_page import EvaluationData, write_evaluation

    for name in ('frames', 'seeds', 'steps', 'jobs'):
        if getattr(args, name) < 1:
            raise QuantVLAError(f'--{name}: expected 1 or more, found {getattr(args, name)}')
    for name in ('seed', 'first_seed', 'delay'):
        if getattr(args, name) < 0:
            option = name.replace('_', '-')
            raise QuantVLAError(f'--{option}: expected 0 or more, found {getattr(args, name)}')
    for name in ('json', 'report'):
        path = getattr(args, name)
        if path is not None and not path.resolve().parent.is_dir():
            raise QuantVLAError(f'--{name}: expected a file in an existing directory, found {path}')
    try:
        evaluation = (evaluate_tabletop if args.tabletop else evaluate_bags).evaluate(args)
    except KeyboardInterrupt:
        print('quantvla_ros evaluate: interrupted', file=sys.stderr)
        return 130
    print(evaluation.text)
    for part in evaluation.content.values():
        for policy in part['policies']:
            if policy['fallback'] is not None:
                print(f'WARNING: {policy["path"]}: {policy["fallback"]}', file=sys.stderr)
    content = {'about': about(args), **evaluation.content}
    if args.json is not None:
        args.json.write_text(json.dumps(content, indent=1, allow_nan=False) + '\n')
    if args.report is not None:
        data = EvaluationData(content, evaluation.chunks, evaluation.policy)
        write_evaluation(data, args.report)
    return 0


def about(args: argparse.Namespace) -> dict[str, Any]:
    """What an evaluation belongs to."""
    import torch

    from quantvla_ros import __version__

    device = torch.device(args.device)
    return {
        'date': datetime.date.today().isoformat(),
        'quantvla_ros': __version__,
        'torch': torch.__version__,
        'device': torch.cuda.get_device_name(device)
        if device.type == 'cuda' and torch.cuda.is_available()
        else platform.machine(),
        'arguments': {
            name: [str(item) for item in value] if isinstance(value, list) else _plain(value)
            for name, value in sorted(vars(args).items())
            if name not in ('command', 'ros_arguments', 'json', 'report')
        },
    }


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
