# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`demo`: the whole chain on the simulated arm, with video.

Record expert episodes over ROS, calibrate the float policy on them, run the quantized policy in a
node of its own, give three commands, say what came of each.
"""
from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from quantvla_ros.cli.processes import Child, ros_parameters
from quantvla_ros.cli.steps import Steps
from quantvla_ros.errors import QuantVLAError

if TYPE_CHECKING:
    from quantvla_ros.nodes.operator import Operator
    from quantvla_ros.nodes.process import StopSignal
    from quantvla_ros.quantization.manifest import Manifest

CHECKPOINT = 'assets/tabletop_pi05'
CONTRACT = 'config/contracts/tabletop.yaml'
RECIPE = 'w8a8'
# What an earlier run left; nothing else in the folder is touched.
_OURS = ('calibration_bag', 'policy', 'run', 'logs', 'run.mp4', 'contact_sheet.png', 'results.json')
_EPISODES = 6
_SAMPLES = 64  # of the recipe's 128: enough to see it work, in half the time
_LIMIT = 20.0  # s for a command
_PAUSE = 0.8  # s between two commands


@dataclass(frozen=True)
class Outcome:
    """What came of one command.

    Attributes:
        instruction: the words.
        done: whether the simulator said so in time.
        seconds: until then; None where it did not.
        chunks: how many arrived for it.
        latency_p50, latency_p99: s, from an observation to the arrival of its chunk; None where
            none arrived.
        inference_p50: s.
        reason: what the policy node said last, where the command was not done.
    """

    instruction: str
    done: bool
    seconds: float | None
    chunks: int
    latency_p50: float | None
    latency_p99: float | None
    inference_p50: float | None
    reason: str = ''


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        '--out', type=Path, default=Path('demo_out'),
        help='folder for video, pictures and bags (default demo_out); what an earlier demo left '
        'there is replaced',
    )
    parser.add_argument('--seed', type=int, default=3, help='of the scene (default 3)')
    parser.add_argument(
        '--checkpoint', type=Path, help=f'float policy to quantize (default {CHECKPOINT})'
    )
    parser.add_argument('--device', default='cpu', help='cpu, cuda or cuda:N (default cpu)')
    parser.add_argument(
        '--allow-fallback', action='store_true',
        help='where the engine does not run on the device, run what comes next best, and say so',
    )


def run(args: argparse.Namespace) -> int:
    """Run it all; status 0 where every command was done, 1 where not, 130 after Ctrl-C."""
    from quantvla_ros.nodes.process import Interrupted, StopSignal

    stop = StopSignal()
    try:
        return _run(args, stop)
    except Interrupted:
        print('quantvla_ros demo: interrupted; every process has ended', file=sys.stderr)
        return 130
    finally:
        stop.restore()


def _run(args: argparse.Namespace, stop: StopSignal) -> int:
    from quantvla_ros.cli.record import record
    from quantvla_ros.nodes.share import share
    from quantvla_ros.quantization.manifest import read_manifest

    checkpoint = args.checkpoint or share(CHECKPOINT)
    out = _prepare(args.out)
    steps = Steps('demo')
    steps.done(f'1 of 4: {_EPISODES} expert episodes over ROS, for calibration')
    record(out / 'calibration_bag', _EPISODES, 1000 + args.seed, stop, args.ros_arguments)
    steps.done(f'2 of 4: quantize {checkpoint} ({RECIPE})')
    Child(
        'calibrate',
        [
            '--checkpoint', str(checkpoint), '--bag', str(out / 'calibration_bag'),
            '--contract', str(share(CONTRACT)), '--recipe', RECIPE, '--out', str(out / 'policy'),
            '--device', args.device, '--samples', str(_SAMPLES),
        ],
        None,
    ).finish(stop)
    manifest = read_manifest(out / 'policy')
    steps.done('3 of 4: the quantized policy drives the arm')
    outcomes = _drive(args, out, stop, steps)
    steps.done('4 of 4: video and contact sheet')
    _picture(out, manifest.precision, stop, steps)
    (out / 'results.json').write_text(
        json.dumps(
            {
                'precision': manifest.precision,
                'artifact': manifest.artifact_id,
                'weight_bytes': manifest.quantized_bytes,
                'float_weight_bytes': manifest.float_bytes,
                'commands': [asdict(outcome) for outcome in outcomes],
            },
            indent=2,
        ) + '\n'
    )
    print(_report(outcomes, manifest, out))
    return 0 if all(outcome.done for outcome in outcomes) else 1


def _prepare(out: Path) -> Path:
    """The output folder, without what an earlier run left in it."""
    if out.exists() and not out.is_dir():
        raise QuantVLAError(f'{out}: expected a folder, found a file; choose another --out')
    out.mkdir(parents=True, exist_ok=True)
    for name in _OURS:
        path = out / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    (out / 'logs').mkdir()
    return out


def _commands(seed: int) -> list[str]:
    """Three commands of three kinds for the scene of a seed, all with different cubes or goals."""
    from quantvla_ros.sim.tabletop import Tabletop, Task, TaskKind

    scene = Tabletop(seed).scene
    first, second = (cube.colour for cube in scene.cubes[:2])
    return [
        Task(TaskKind.REACH, first).instruction,
        Task(TaskKind.PICK, second).instruction,
        Task(TaskKind.PLACE, second, scene.trays[0].colour).instruction,
    ]


def _drive(
    args: argparse.Namespace, out: Path, stop: StopSignal, steps: Steps
) -> list[Outcome]:
    """Arm and policy as processes; every command in turn, all of it recorded."""
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    from quantvla_ros.contract.load import load_contract
    from quantvla_ros.nodes.operator import Operator
    from quantvla_ros.nodes.recorder import Recorder, contract_topics
    from quantvla_ros.nodes.share import share

    contract = share(CONTRACT)
    children: list[Child] = []
    rclpy.init(args=args.ros_arguments, signal_handler_options=SignalHandlerOptions.NO)
    try:
        with Operator(stop) as operator:
            operator.refuse_company()
            for command, parameters in (
                ('tabletop', {'seed': args.seed}),
                ('policy', {
                    'policy': (out / 'policy').resolve(), 'contract': contract.resolve(),
                    'device': args.device, 'allow_fallback': args.allow_fallback,
                    # The arm's process needs a core as well: a second thread would wait for it.
                    'threads': 1,
                }),
            ):
                child = Child(command, ros_parameters(parameters), out / 'logs' / f'{command}.log')
                children.append(child)
                operator.watched.append(child.check)
            steps.show('loading the policy')
            _transition(operator, 1, 'configure', children[1])
            with Recorder(
                operator.node, out / 'run', [*contract_topics(load_contract(contract)), *_TOPICS],
                now=operator.now, latched=('policy/status', 'tabletop/events'),
            ):
                _transition(operator, 3, 'activate', children[1])
                outcomes = [
                    _give(operator, words, stop, steps) for words in _commands(args.seed)
                ]
                _transition(operator, 4, 'deactivate', children[1])
    finally:
        # The policy first: it ends with a hold, which an arm must be there to hear.
        for child in reversed(children):
            child.end()
        rclpy.shutdown()
        steps.close()
    return outcomes


_TOPICS = (
    ('policy/action_chunk', 'quantvla_ros/msg/ActionChunk'),
    ('policy/status', 'quantvla_ros/msg/PolicyStatus'),
    ('tabletop/events', 'diagnostic_msgs/msg/DiagnosticStatus'),
    ('/diagnostics', 'diagnostic_msgs/msg/DiagnosticArray'),
)


def _transition(operator: Operator, number: int, name: str, policy: Child) -> None:
    if not operator.transition(number):
        raise QuantVLAError(f'the policy node refused to {name}:\n{policy.tail()}')


def _give(operator: Operator, words: str, stop: StopSignal, steps: Steps) -> Outcome:
    """One command, until it is done or its time is over."""
    import numpy as np

    from quantvla_ros.observation.messages import nanoseconds

    steps.show(f'{words} ...')
    operator.chunks.clear()
    operator.command(words)
    event = operator.wait_for('done', _LIMIT)
    mine = [(at, chunk) for at, chunk in operator.chunks if chunk.instruction == words]
    latency = [(at - nanoseconds(chunk.header.stamp)) * 1e-9 for at, chunk in mine]
    inference = [nanoseconds(chunk.inference_time) * 1e-9 for _, chunk in mine]
    status = operator.status
    reason = '' if event or status is None else status.reason
    steps.done(f'{words}: ' + (f'done in {event.seconds:.1f} s' if event else 'not done'))
    stop.wait(_PAUSE)

    def percentile(values: list[float], percent: int) -> float | None:
        return float(np.percentile(values, percent)) if values else None

    return Outcome(
        words, event is not None, event.seconds if event else None, len(mine),
        percentile(latency, 50), percentile(latency, 99), percentile(inference, 50), reason,
    )


def _picture(out: Path, precision: str, stop: StopSignal, steps: Steps) -> None:
    """run.mp4 and contact_sheet.png from the recorded run."""
    import cv2

    from quantvla_ros.contract.load import load_contract
    from quantvla_ros.nodes.process import Interrupted
    from quantvla_ros.nodes.share import share
    from quantvla_ros.report.film import film
    from quantvla_ros.report.frame import contact_sheet

    contract = load_contract(share(CONTRACT))

    def said(done: int, total: int) -> None:
        if stop.is_set():
            raise Interrupted
        steps.show(f'{10 * (10 * done // total)} % of {total} pictures')

    rows = film(out / 'run', contract, out / 'run.mp4', precision, said)
    steps.close()
    if not cv2.imwrite(str(out / 'contact_sheet.png'), contact_sheet(rows)[..., ::-1]):
        raise QuantVLAError(f'{out / "contact_sheet.png"}: could not be written; is the disk full?')


def _report(outcomes: list[Outcome], manifest: Manifest, out: Path) -> str:
    from quantvla_ros.report.table import table

    weights = (
        f'{manifest.quantized_bytes / 2**20:.1f} of {manifest.float_bytes / 2**20:.1f} MiB'
    )
    rows = [
        (
            outcome.instruction,
            'yes' if outcome.done else 'no',
            '-' if outcome.seconds is None else f'{outcome.seconds:.1f} s',
            str(outcome.chunks),
            _milliseconds(outcome.latency_p50),
            _milliseconds(outcome.latency_p99),
            manifest.precision,
            weights,
        )
        for outcome in outcomes
    ]
    header = (
        'command', 'done', 'time', 'chunks', 'latency p50', 'p99', 'precision', 'weights of float'
    )
    failed = [
        f'{outcome.instruction}: not done; the policy node said: {outcome.reason}'
        for outcome in outcomes if not outcome.done
    ]
    return '\n'.join(failed) + (
        f'\n{table(header, rows)}\n\n'
        'latency: from an observation to the arrival of its chunk\n'
        f'{out}/run.mp4, contact_sheet.png, policy/report.html, run (MCAP bag), results.json, logs'
    )


def _milliseconds(seconds: float | None) -> str:
    return '-' if seconds is None else f'{seconds * 1e3:.0f} ms'
