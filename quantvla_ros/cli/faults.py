# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`faults`: scripted faults against the policy node as a process, and what it made of them."""
from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from quantvla_ros.cli.domain import own_domain
from quantvla_ros.cli.processes import Child, ros_parameters
from quantvla_ros.cli.steps import Steps
from quantvla_ros.errors import QuantVLAError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from quantvla_ros.faults.case import Case
    from quantvla_ros.faults.report import Report
    from quantvla_ros.faults.results import Result
    from quantvla_ros.faults.setting import Process, Setting, Start
    from quantvla_ros.faults.soak import Memory
    from quantvla_ros.nodes.process import StopSignal

POLICY = 'assets/tabletop_pi05'
CONTRACT = 'config/contracts/tabletop.yaml'
_SEED = 3
_MODULES = {'policy': 'quantvla_ros.faults.spoiled'}
_STAGES = 5  # that may be lost before something is thoroughly wrong
_FORGOTTEN = 20.0  # s until a ROS graph has forgotten a process that did not say goodbye


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
    parser.add_argument(
        '--json', type=Path, metavar='FILE',
        help='write the results there too, from the first case on',
    )
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
    stop, steps = StopSignal(), Steps('faults')
    with contextlib.ExitStack() as ended:
        ended.callback(stop.restore)
        ended.callback(steps.close)
        scratch = ended.enter_context(tempfile.TemporaryDirectory(prefix='quantvla_ros_faults_'))
        if setting.own_arm:
            ended.enter_context(own_domain())
        report = _report(args, setting, left_out, scratch)
        round_ = _Round(args, setting, Path(scratch), stop, steps, Memory(), report)
        complete = False
        try:
            round_.play(cases)
            complete = True
        except Interrupted:
            steps.close()
            print('faults: interrupted; every process has ended')
            return 130
        finally:
            steps.close()
            round_.end(complete=complete)
        return 0 if all(result.passed for result in round_.results) else 1


def _setting(args: argparse.Namespace) -> Setting:
    """What is put on the stage.

    Raises:
        QuantVLAError: something is missing for an arm that is not ours.
    """
    from quantvla_ros.faults.setting import Setting
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


@dataclass
class _Round:
    """One call of the command: what it goes by, and what has come of it so far."""

    args: argparse.Namespace
    setting: Setting
    scratch: Path
    stop: StopSignal
    steps: Steps
    memory: Memory
    report: Report
    results: list[Result] = field(default_factory=list)

    def play(self, cases: Sequence[Case]) -> None:
        """Play them all, on another stage where one was lost."""
        import rclpy
        from rclpy.signals import SignalHandlerOptions

        from quantvla_ros.faults.runner import StageLost
        from quantvla_ros.nodes.process import Interrupted

        logs = self.args.logs or self.scratch / 'logs'
        logs.mkdir(parents=True, exist_ok=True)
        processes = _Processes(logs, self.args.ros_arguments)
        order = _order(self.args, cases)
        rclpy.init(args=self.args.ros_arguments, signal_handler_options=SignalHandlerOptions.NO)
        try:
            for stages in range(1, _STAGES + 1):
                try:
                    self._on_a_stage(processes, order)
                    return
                except StageLost as lost:
                    self._take(lost.result)
                    if stages == _STAGES:
                        raise
                if self.stop.wait(_FORGOTTEN):
                    raise Interrupted
        finally:
            rclpy.shutdown()

    def _on_a_stage(self, processes: _Processes, order: Iterator[tuple[str, Case]]) -> None:
        from quantvla_ros.faults.runner import play_fairly
        from quantvla_ros.faults.stage import Stage
        from quantvla_ros.faults.stalls import Stalls

        ours = self.setting.own_arm
        self.steps.show('starting arm and policy' if ours else 'starting the policy')
        with Stalls() as stalls, Stage(
            self.setting, processes.start, self.stop, self.scratch
        ) as stage:
            stage.begin()
            for place, case in order:
                self.steps.show(f'{place}: {case.number} {case.name}')
                result = play_fairly(stage, case, stalls)
                processes.weigh(self.memory)
                self._take(result)

    def _take(self, result: Result) -> None:
        self.results.append(result)
        if result.excused:
            self.steps.done(
                f'{result.number} {result.name}: played twice, as the machine stood still for '
                f'{result.stood_still:.2f} s: {result.excused[0]}'
            )
        if not result.passed:
            self.steps.done(f'{result.number} {result.name}: {result.problems[0]}')
        self.report.look(self.results, self.memory)

    def end(self, *, complete: bool) -> None:
        """Say what has come of it, and write it."""
        if self.results:
            self.report.write(self.results, self.memory, complete=complete)
            print(_text(self.results, self.memory, soak=self.args.soak is not None))


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


class _Processes:
    """Starts the processes of the stage, in our namespace and with a log each.

    Args:
        logs: folder of the logs.
        ros_arguments: of the command line.
    """

    def __init__(self, logs: Path, ros_arguments: Sequence[str]) -> None:
        self._logs, self._ros_arguments = logs, ros_arguments
        self._counts: dict[str, int] = {}
        self._running: dict[str, Child] = {}

    @property
    def start(self) -> Start:
        """What starts one."""
        return self._start

    def _start(
        self, name: str, parameters: dict[str, object], remappings: dict[str, str]
    ) -> Process:
        self._counts[name] = self._counts.get(name, 0) + 1
        arguments = [*ros_parameters(parameters)]
        for source, target in remappings.items():
            arguments += ['-r', f'{source}:={target}']
        ours = ['--', *self._ros_arguments] if self._ros_arguments else []
        child = self._running[name] = Child(
            name, [*arguments, *ours], self._logs / f'{name}.{self._counts[name]}.log',
            _MODULES.get(name, ''),
        )
        return child

    def weigh(self, memory: Memory) -> None:
        """Note the memory of each, and our own."""
        from quantvla_ros.cli.processes import resident

        now = time.monotonic()
        for name, child in self._running.items():
            memory.add(name, self._counts[name], now, child.memory())
        memory.add('faults', 1, now, resident(os.getpid()))


def _report(
    args: argparse.Namespace, setting: Setting, left_out: dict[int, str], scratch: str
) -> Report:
    """The file, with what it says of the run and of the machine."""
    from quantvla_ros.faults.report import Report

    about: dict[str, object] = {}
    if args.json is not None:
        import torch

        from quantvla_ros.bench.machine import describe

        about = {
            'command': ' '.join(['python -m quantvla_ros', *sys.argv[1:]]),
            **describe(torch.device(setting.device)),
            'threads': 1,  # of the policy (faults.spoiled)
            'ros_distro': os.environ.get('ROS_DISTRO', ''),
            'rmw': os.environ.get('RMW_IMPLEMENTATION', 'default'),
            'policy': setting.policy.name, 'contract': setting.contract.name,
            'instructions': list(setting.instructions),
        }
    hide = [f'{Path(scratch)}/', f'{setting.policy.resolve().parent}/', f'{Path.cwd()}/']
    soak = None if args.soak is None else {'minutes': args.soak, 'seed': args.seed}
    return Report(args.json, about, left_out, hide, soak)


def _text(results: Sequence[Result], memory: Memory, *, soak: bool) -> str:
    """The table; of a soak what failed, and the numbers over all."""
    from quantvla_ros.faults.report import summary
    from quantvla_ros.faults.results import show, spread_lines

    if not soak:
        return show(results)
    failed = [result for result in results if not result.passed]
    counts = summary(results).items()
    return '\n'.join([
        *([show(failed), ''] if failed else []), *spread_lines(results), *memory.lines(),
        ', '.join(f'{count} {name.replace("_", " ")}' for name, count in counts),
    ])


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
