# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`faults`: scripted faults against the policy node as a process, and what it made of them."""
from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from quantvla_ros.cli.processes import Child, ros_parameters
from quantvla_ros.cli.steps import Steps
from quantvla_ros.errors import QuantVLAError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from quantvla_ros.faults.case import Case
    from quantvla_ros.faults.results import Result
    from quantvla_ros.faults.soak import Memory
    from quantvla_ros.faults.stage import Process, Setting, Start
    from quantvla_ros.nodes.process import StopSignal

POLICY = 'assets/tabletop_pi05'
CONTRACT = 'config/contracts/tabletop.yaml'
_SEED = 3
_MODULES = {'policy': 'quantvla_ros.faults.spoiled'}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument('--list', action='store_true', help='say what there is, play nothing')
    parser.add_argument(
        '--quick', action='store_true', help='one case of each kind, in about a minute'
    )
    parser.add_argument(
        '--only', type=_numbers, default=(), metavar='LIST',
        help='these cases by number, as 1,5,19 or 1-8',
    )
    parser.add_argument(
        '--repeat', type=int, default=1, metavar='N', help='play all of them N times (default 1)'
    )
    parser.add_argument(
        '--soak', type=float, metavar='MINUTES',
        help="play them in random order for so long, in one process, and watch that one's memory",
    )
    parser.add_argument('--seed', type=int, default=0, help='of the order of --soak (default 0)')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the results there too')
    parser.add_argument(
        '--logs', type=Path, metavar='FOLDER', help="keep the processes' output in this folder"
    )
    parser.add_argument('--policy', type=Path, help=f'artifact or checkpoint (default {POLICY})')
    parser.add_argument('--contract', type=Path, help=f'of the robot (default {CONTRACT})')
    parser.add_argument('--device', default='cpu', help='of the policy (default cpu)')
    arm = parser.add_argument_group('on an arm of your own')
    arm.add_argument(
        '--no-arm', action='store_true',
        help='start no arm: one runs already, on the topics of --contract, in this namespace '
        '(--ros-args -r __ns:=/NAME)',
    )
    arm.add_argument(
        '--instruction', action='append', default=[], metavar='TEXT',
        help='a command that makes the arm move; give two that take turns',
    )
    arm.add_argument(
        '--dangerous', action='store_true',
        help='play those cases too in which the arm would move wrongly if the node failed',
    )


def run(args: argparse.Namespace) -> int:
    """Play them; status 0 where all passed, 1 where not, 130 after Ctrl-C."""
    from quantvla_ros.contract.load import load_contract
    from quantvla_ros.faults.cases import choose
    from quantvla_ros.faults.soak import Memory
    from quantvla_ros.nodes.process import Interrupted, StopSignal

    setting = _setting(args)
    contract = load_contract(setting.contract)
    cases, left_out = choose(
        contract, setting, quick=args.quick, only=args.only,
        dangerous=setting.own_arm or args.dangerous,
    )
    if args.list:
        print(_list(cases, left_out))
        return 0
    if not cases:
        raise QuantVLAError('expected a case to play, found none; see --list')
    stop = StopSignal()
    steps = Steps('faults')
    results: list[Result] = []
    memory = Memory()
    try:
        with tempfile.TemporaryDirectory(prefix='quantvla_ros_faults_') as scratch:
            _play(args, setting, cases, Path(scratch), stop, steps, results, memory)
    except Interrupted:
        steps.close()
        print('faults: interrupted; every process has ended')
        return 130
    finally:
        steps.close()
        stop.restore()
        if results:
            _say(args, setting, results, left_out, memory)
    return 0 if all(result.passed for result in results) else 1


def _setting(args: argparse.Namespace) -> Setting:
    """What is put on the stage.

    Raises:
        QuantVLAError: something is missing for an arm that is not ours.
    """
    from quantvla_ros.faults.stage import Setting
    from quantvla_ros.nodes.share import share

    words = tuple(args.instruction)
    if args.no_arm:
        for name in ('policy', 'contract'):
            if getattr(args, name) is None:
                raise QuantVLAError(f'--no-arm: expected --{name} of your robot, found none')
        if len(words) < 2:
            raise QuantVLAError(
                f'--no-arm: expected two of --instruction, found {len(words)}; give commands that '
                'make the arm move'
            )
    return Setting(
        policy=args.policy or share(POLICY),
        contract=args.contract or share(CONTRACT),
        instructions=words or _instructions(_SEED),
        own_arm=not args.no_arm,
        seed=_SEED,
        device=args.device,
    )


def _instructions(seed: int) -> tuple[str, ...]:
    """Two commands for the scene of a seed that take the arm to two places."""
    from quantvla_ros.sim.tabletop import Tabletop, Task, TaskKind

    scene = Tabletop(seed).scene
    return tuple(Task(TaskKind.REACH, cube.colour).instruction for cube in scene.cubes[:2])


def _play(
    args: argparse.Namespace,
    setting: Setting,
    cases: Sequence[Case],
    scratch: Path,
    stop: StopSignal,
    steps: Steps,
    results: list[Result],
    memory: Memory,
) -> None:
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    from quantvla_ros.contract.load import load_contract
    from quantvla_ros.faults.runner import play
    from quantvla_ros.faults.stage import Stage

    logs = args.logs or scratch / 'logs'
    logs.mkdir(parents=True, exist_ok=True)
    rclpy.init(args=args.ros_arguments, signal_handler_options=SignalHandlerOptions.NO)
    try:
        steps.show('starting arm and policy' if setting.own_arm else 'starting the policy')
        with Stage(
            setting, load_contract(setting.contract), _start(logs, args.ros_arguments), stop,
            scratch,
        ) as stage:
            stage.begin()
            for place, case in _order(args, cases):
                steps.show(f'{place}: {case.number} {case.name}')
                results.append(play(stage, case))
                memory.add(time.monotonic(), stage.policy.memory())
                if not results[-1].passed:
                    steps.done(f'{case.number} {case.name}: {results[-1].problems[0]}')
    finally:
        rclpy.shutdown()


def _order(args: argparse.Namespace, cases: Sequence[Case]) -> Iterator[tuple[str, Case]]:
    """The cases in their order, or by chance until the time is over; and how far that is."""
    from quantvla_ros.faults.soak import order

    if args.soak is None:
        many = [case for _ in range(args.repeat) for case in cases]
        yield from ((f'{place} of {len(many)}', case) for place, case in enumerate(many, 1))
        return
    begun = time.monotonic()
    for case in order(cases, args.seed):
        minutes = (time.monotonic() - begun) / 60.0
        if minutes >= args.soak:
            return
        yield f'{minutes:.1f} of {args.soak:g} min', case


def _start(logs: Path, ros_arguments: Sequence[str]) -> Start:
    """What starts the processes of the stage, in our namespace and with a log each."""
    counts: dict[str, int] = {}

    def start(
        name: str, parameters: dict[str, object], remappings: dict[str, str]
    ) -> Process:
        counts[name] = counts.get(name, 0) + 1
        arguments = [*ros_parameters(parameters)]
        for source, target in remappings.items():
            arguments += ['-r', f'{source}:={target}']
        return Child(
            name, [*arguments, *(['--', *ros_arguments] if ros_arguments else [])],
            logs / f'{name}.{counts[name]}.log', _MODULES.get(name, ''),
        )

    return start


def _say(
    args: argparse.Namespace,
    setting: Setting,
    results: Sequence[Result],
    left_out: dict[int, str],
    memory: Memory,
) -> None:
    from quantvla_ros.faults.results import show, write

    print(show(results))
    if args.soak is not None:
        print(', '.join(f'{name} {value:.1f}' for name, value in memory.facts().items()))
    if args.json is not None:
        about = {
            'policy': setting.policy.name, 'contract': setting.contract.name,
            'device': setting.device, 'cores': os.cpu_count(),
            **({'soak': memory.facts(), 'seed': args.seed} if args.soak is not None else {}),
        }
        write(results, left_out, about, args.json)


def _list(cases: Sequence[Case], left_out: dict[int, str]) -> str:
    """What would be played, and why the rest would not."""
    lines = []
    for case in cases:
        marks = ' [dangerous]' if case.dangerous else ''
        lines += [f'{case.number:2d} {case.name}{marks}', f'     {case.expected}']
    if left_out:
        lines += ['', 'not played:']
        lines += [f'{number:2d} {reason}' for number, reason in sorted(left_out.items())]
    return '\n'.join(lines)


def _numbers(text: str) -> tuple[int, ...]:
    """'1,5,19-22' as numbers."""
    numbers: list[int] = []
    for part in text.split(','):
        first, _, last = part.partition('-')
        try:
            numbers += range(int(first), int(last or first) + 1)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f'expected numbers as 1,5,19-22, found {text!r}'
            ) from None
    return tuple(numbers)
