# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`inspect`: what a checkpoint or artifact is, and what it lacks before it can run.

Exit status 0: it can run; 1: something is missing, all of it is listed; 2: no such directory, or
nothing of ours in it.
"""
from __future__ import annotations

import argparse
import sys
from pathlib import Path

from quantvla_ros.errors import CheckpointError

LAYOUTS = ('paper', 'language', 'full', 'extended')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('directory', type=Path, metavar='DIR', help='checkpoint or artifact')
    parser.add_argument(
        '--layout', choices=LAYOUTS, default='paper',
        help='which layers would be integer (default paper); an artifact has its own',
    )
    parser.add_argument(
        '--contract', type=Path, metavar='FILE',
        help='the robot: gives units, and what does not fit it counts as missing',
    )
    parser.add_argument('--json', metavar='FILE', help='write all facts as JSON; - for stdout')
    parser.epilog = (
        'Reads headers, never the weights. Exit status: 0 it can run, 1 something is missing (all '
        'of it is listed), 2 no checkpoint or artifact. docs/checkpoints.md explains the rest.'
    )


def run(args: argparse.Namespace) -> int:
    """Show the facts."""
    from quantvla_ros.cli.inspect_text import inspection_text
    from quantvla_ros.contract.load import load_contract
    from quantvla_ros.inspection.directory import as_json, inspect_directory

    contract = None if args.contract is None else load_contract(args.contract)
    facts = inspect_directory(args.directory, layout=args.layout, contract=contract)
    if args.json is not None and args.json != '-':
        try:
            Path(args.json).write_text(as_json(facts), encoding='utf-8')
        except OSError as error:
            raise CheckpointError(
                f'{args.json}: cannot write there ({error.strerror}); name another file'
            ) from None
    sys.stdout.write(as_json(facts) if args.json == '-' else inspection_text(facts))
    return 0 if facts['runnable'] else 1
