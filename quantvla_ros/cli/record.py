# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`record`: expert episodes of the simulated arm, over real topics, as a bag for calibration."""
from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from quantvla_ros.cli.processes import Child, ros_parameters
from quantvla_ros.cli.steps import Steps
from quantvla_ros.errors import BagError, QuantVLAError

if TYPE_CHECKING:
    from quantvla_ros.nodes.operator import Operator
    from quantvla_ros.nodes.process import StopSignal

_EPISODE = 20.0  # s, at most
_SETTLE = 0.3  # s between a reset and its command, for the cameras to show the new scene


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument('--out', type=Path, required=True, help='folder of the bag; must not exist')
    parser.add_argument(
        '--episodes', type=int, default=6, help='how many; kinds of task take turns (default 6)'
    )
    parser.add_argument('--seed', type=int, default=1000, help='of the first scene (default 1000)')


def run(args: argparse.Namespace) -> int:
    """Start the arm with its expert, record, end everything in order."""
    from quantvla_ros.nodes.process import Interrupted, StopSignal

    if args.episodes < 1:
        raise QuantVLAError(f'--episodes: expected at least 1, found {args.episodes}')
    stop = StopSignal()
    try:
        record(args.out, args.episodes, args.seed, stop, args.ros_arguments)
    except Interrupted:
        return 130
    finally:
        stop.restore()
    return 0


def record(
    out: Path, episodes: int, seed: int, stop: StopSignal, ros_arguments: list[str]
) -> dict[str, int]:
    """Record expert episodes; the bag appears as a whole, or not at all.

    Args:
        out: folder of the bag; must not exist.
        episodes: how many.
        seed: of the first scene; the following ones count up.
        stop: breaks off.
        ros_arguments: of the recording node.
    Returns:
        Messages by topic.
    Raises:
        BagError: `out` exists.
        QuantVLAError: the arm's process failed.
        Interrupted: the user asked to stop.
    """
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    from quantvla_ros.contract.load import load_contract
    from quantvla_ros.nodes.operator import Operator
    from quantvla_ros.nodes.recorder import Recorder, contract_topics
    from quantvla_ros.nodes.share import share

    if out.exists():
        raise BagError(f'{out}: expected a new folder for the bag, found one that exists')
    out.parent.mkdir(parents=True, exist_ok=True)
    steps = Steps('record')
    steps.show('starting the simulated arm')
    contract = load_contract(share('config/contracts/tabletop.yaml'))
    # Beside the target, so that the finished bag only has to be renamed.
    with tempfile.TemporaryDirectory(prefix='.recording-', dir=out.parent) as folder:
        bag = Path(folder) / out.name
        arm: Child | None = None
        rclpy.init(args=ros_arguments, signal_handler_options=SignalHandlerOptions.NO)
        try:
            with Operator(stop) as operator:
                operator.refuse_company()
                arm = Child(
                    'tabletop', ros_parameters({'expert': True, 'seed': seed}),
                    Path(folder) / 'tabletop.log',
                )
                operator.watched.append(arm.check)
                operator.reset(seed)
                with Recorder(
                    operator.node, bag, contract_topics(contract), now=operator.now
                ) as recorder:
                    _episodes(operator, episodes, seed, stop, steps)
        finally:
            if arm is not None:
                arm.end()
            rclpy.shutdown()
            steps.close()
        shutil.move(bag, out)
    steps.done(f'{episodes} episodes, {sum(recorder.counts.values())} messages in {out}')
    return dict(recorder.counts)


def _episodes(
    operator: Operator, episodes: int, seed: int, stop: StopSignal, steps: Steps
) -> None:
    """Kinds of task take turns; each episode has a scene of its own."""
    import numpy as np

    from quantvla_ros.sim.tabletop import Tabletop, TaskKind, sample_task

    kinds = list(TaskKind)
    for index in range(episodes):
        world = Tabletop(seed + index)
        rng = np.random.default_rng(seed + index)
        task = sample_task(world.scene, rng, kinds[index % len(kinds)])
        operator.reset(seed + index)
        stop.wait(_SETTLE)
        steps.show(f'episode {index + 1} of {episodes}: {task.instruction}')
        operator.command(task.instruction)
        event = operator.wait_for('done', _EPISODE)
        if event is None:
            raise QuantVLAError(
                f'scene {seed + index}: the expert did not finish {task.instruction!r} in '
                f'{_EPISODE:.0f} s; is the machine too busy for the arm to run in real time?'
            )
