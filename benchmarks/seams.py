# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What happens where one chunk follows another: four schedules, three latencies, the same scenes.

    python benchmarks/seams.py --out benchmarks/results/seams_cpu.json --plot docs/seams.svg

The built-in robot's policy in closed loop, in simulated time: the node's own supervisor with a
clock of its own, the simulated arm behind its model of joint_trajectory_controller, an inference
that takes as long as it is told to. At the instant at which a chunk takes over, two things are
compared, joint by joint (the gripper apart):

- the chunks: how far the new chunk's path is from the old one's there, in position, velocity and
  acceleration (of an ensemble, the averages'). That is the step that an arm would be sent through
  by whoever puts one chunk after another;
- the command: the same for what was commanded, just before and just after.

Scene, task and noise are the same for all. `--plot` draws what stands in `--out`.
"""
from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

for _name in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS'):
    os.environ.setdefault(_name, '1')

import numpy as np  # noqa: E402

from quantvla_ros import __version__, load_policy  # noqa: E402
from quantvla_ros.contract.load import load_contract  # noqa: E402
from quantvla_ros.contract.types import Contract  # noqa: E402
from quantvla_ros.control.handover import LEAD  # noqa: E402
from quantvla_ros.control.measured import MeasuredJoints  # noqa: E402
from quantvla_ros.control.modes import Mode, Scheduling  # noqa: E402
from quantvla_ros.control.schedule import Schedule  # noqa: E402
from quantvla_ros.control.smoothing import state_of  # noqa: E402
from quantvla_ros.control.splice import Path as RowPath  # noqa: E402
from quantvla_ros.control.trajectory import Trajectory  # noqa: E402
from quantvla_ros.nodes.decisions import Sent, Work  # noqa: E402
from quantvla_ros.nodes.supervisor import Supervisor, Tuning  # noqa: E402
from quantvla_ros.observation.buffer import ObservationBuffer  # noqa: E402
from quantvla_ros.report import chart  # noqa: E402
from quantvla_ros.report.html import Html, tag  # noqa: E402
from quantvla_ros.report.paired import paired, wilson  # noqa: E402
from quantvla_ros.sim.tabletop import JOINTS, Tabletop  # noqa: E402
from quantvla_ros.sim.tabletop.controller import TrajectoryController  # noqa: E402
from quantvla_ros.sim.tabletop.kinematics import Limits  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
MS = 1_000_000
TICK = 10 * MS  # joint states, the arm, the watch
SAMPLE = 5 * MS  # of the command
EPISODE = 10_000  # ms, as many as `evaluate` gives
ARM = slice(0, 4)  # of the joints; the gripper has no path of its own
KINDS = ('position', 'velocity', 'acceleration')
UNITS = {'position': 'rad', 'velocity': 'rad/s', 'acceleration': 'rad/s²'}
EPSILON = 20  # ns, to either side of an instant


@dataclass
class Seams:
    """What was found at the instants at which chunks took over; [seams] by kind."""

    chunks: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    command: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})


class Loop:
    """One episode: world, controller, supervisor and clock.

    Args:
        policy: with `infer`.
        latency: ms of every inference.
        seed: of scene, task and noise.
    """

    def __init__(
        self, policy: Any, contract: Contract, mode: Mode, latency: int, seed: int, size: int
    ) -> None:
        self.now = 1_000_000 * MS
        self.policy, self.contract, self.latency, self.seed = policy, contract, latency, seed
        self.world = Tabletop(seed, contract.control_period, image_size=size)
        self.buffer = ObservationBuffer(contract)
        self.joints = MeasuredJoints(contract.action.names)
        info = policy.info
        self.schedule = Schedule(
            contract.control_period, info.execute_steps, info.chunk_size, Scheduling(mode)
        )
        self.supervisor = Supervisor(
            contract, self.buffer, self.joints, self.schedule, Tuning(0.3, 0.5), self,
            lambda: self.now,
        )
        # What is sent must keep the limits; this one does not help.
        none = (np.inf,) * len(JOINTS)
        self.controller = TrajectoryController(
            JOINTS, Limits(tuple(-limit for limit in none), none, none),
            self.world.joint_positions.tolist(), self.now,
        )
        self.pending: tuple[Work, np.ndarray, int] | None = None
        self.before: Sent | None = None
        self.points: Trajectory | None = None
        self.seams, self.holds, self.inferences = Seams(), 0, 0
        self.commands: list[np.ndarray] = []
        self.buffer.store('language', self.world.task.instruction, self.now)

    # The sink.
    def chunk(self, sent: Sent) -> None:
        """A chunk takes over."""
        if self.before is not None and self.points is not None:
            self._compare(self.before, sent, self.points)
        self.before, self.points = sent, sent.points
        self._send(sent.points)

    def hold(self, points: Trajectory) -> None:
        """The arm is stopped."""
        self.holds += 1
        self.before, self.points = None, points
        self._send(points)

    def changed(self, status: object) -> None:
        """Nobody listens."""

    def _send(self, points: Trajectory) -> None:
        reply = self.controller.accept(
            points.joints, points.times.tolist(), points.positions, points.velocities,
            points.stamp, self.now,
        )
        if not reply.accepted:
            raise RuntimeError(f'the controller refused what was sent: {reply}')

    def _compare(self, old: Sent, new: Sent, points: Trajectory) -> None:
        # Points before this one still belong to the motion that is left.
        times = new.points.stamp + np.round(new.points.times * 1e9).astype(int)
        instant = int(times[times >= self.now + round(LEAD * 1e9) - 1][0])
        rows = self.schedule.rows
        sides = [_on_path(old, rows, instant, -1.0), _on_path(new, rows, instant, 1.0)]
        left = state_of(points, instant - EPSILON)
        right = state_of(new.points, instant + EPSILON)
        command = [(s.position, s.velocity, s.acceleration) for s in (left, right)]
        for found, (a, b) in ((self.seams.chunks, sides), (self.seams.command, command)):
            for kind, x, y in zip(KINDS, a, b, strict=True):
                found[kind].append(float(np.abs(y[ARM] - x[ARM]).max()))

    def run(self) -> dict[str, Any]:
        """Until the task is done or the time is up."""
        begin = self.now
        self.supervisor.activate()
        done = None
        while self.now - begin < EPISODE * MS and done is None:
            for _ in range(TICK // SAMPLE):
                self.now += SAMPLE
                self.commands.append(self.controller.sample(self.now))
                self.world.advance(self.commands[-1], SAMPLE * 1e-9)
            self._measure()
            self.supervisor.watch()
            self._infer()
            if self.world.succeeded(self.world.task):
                done = (self.now - begin) * 1e-9
        commands = np.array(self.commands)[:, ARM]
        speeds = np.diff(commands, axis=0) / (SAMPLE * 1e-9)
        counts = self.supervisor.counts
        return {
            'seed': self.seed,
            'success': done is not None,
            'seconds': done,
            'inferences': self.inferences,
            'holds': self.holds,
            'chunks_ended': counts.ended,
            'dropped': {reason.name: n for reason, n in counts.dropped.items() if n},
            'standing': float((np.abs(speeds) < 1e-3).all(axis=1).mean()),
            'largest_speed': float(np.abs(speeds).max()),
            'largest_acceleration': float(np.abs(np.diff(speeds, axis=0)).max() / (SAMPLE * 1e-9)),
        }

    def _measure(self) -> None:
        header = SimpleNamespace(
            stamp=SimpleNamespace(sec=self.now // 10**9, nanosec=self.now % 10**9)
        )
        position = self.world.joint_positions.tolist()
        message = SimpleNamespace(header=header, name=list(JOINTS), position=position)
        self.buffer.store('joint_states', message, self.now)
        speed = self.world.joint_velocities.tolist()
        self.joints.store(self.now, JOINTS, position, speed)
        if self.now % round(self.contract.control_period * 1e9) == 0:
            for name, picture in self.world.render().items():
                height, width, _ = picture.shape
                image = SimpleNamespace(
                    header=header, height=height, width=width, encoding='rgb8', is_bigendian=0,
                    step=3 * width, data=picture.tobytes(),
                )
                self.buffer.store(name, image, self.now)

    def _infer(self) -> None:
        if self.pending is not None and self.now >= self.pending[2]:
            work, rows, _ = self.pending
            self.pending = None
            self.supervisor.deliver(work, rows, self.latency * 1e-3)
        if self.pending is not None:
            return
        planned = self.supervisor.plan()
        if planned is None:
            return
        asked = {} if planned.guidance is None else {'guidance': planned.guidance}
        seed = (self.seed * 1_000_003 + self.inferences) % 2**32
        rows = self.policy.infer(planned.observation, seed=seed, **asked)
        self.inferences += 1
        self.pending = (planned, rows, self.now + self.latency * MS)


def _on_path(
    sent: Sent, rows: int, instant: int, side: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[joints] position, velocity and acceleration of a chunk's own path just before an instant
    (side -1) or just after it (1); at rest after its end.
    """
    start = sent.work.observation.state[: len(JOINTS)].astype(np.float64)
    path = RowPath(
        np.concatenate([start[np.newaxis], sent.chunk.positions[:rows]]), sent.chunk.period
    )
    first, second = (instant - sent.begin) * 1e-9 + side * np.array([1e-6, 1e-4])
    positions, speeds = path.at(np.array([first, second]))
    return positions[0], speeds[0], (speeds[1] - speeds[0]) / (second - first)


def summary(values: list[float]) -> dict[str, float]:
    """Of the steps at all seams."""
    if not values:
        return {'median': 0.0, 'p95': 0.0, 'largest': 0.0}  # one chunk was enough
    return {
        'median': float(np.median(values)),
        'p95': float(np.percentile(values, 95)),
        'largest': float(np.max(values)),
    }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All of it."""
    policy = load_policy(args.policy)
    policy.warm_up()
    contract = load_contract(args.contract)
    # The command is the question here; what is fresh enough must not depend on the latency.
    contract = replace(contract, freshness=replace(contract.freshness, skew=0.2))
    rows = []
    for latency in args.latency:
        for name in args.schedule:
            mode, seams, episodes = Mode.named(name), Seams(), []
            begun = time.perf_counter()
            for seed in range(args.first_seed, args.first_seed + args.seeds):
                loop = Loop(policy, contract, mode, latency, seed, args.size)
                episodes.append(loop.run())
                for kind in KINDS:
                    seams.chunks[kind] += loop.seams.chunks[kind]
                    seams.command[kind] += loop.seams.command[kind]
            rows.append(_row(name, latency, seams, episodes))
            sys.stderr.write(
                f'{latency} ms {name}: {time.perf_counter() - begun:.0f} s, '
                f'{rows[-1]["successes"]}/{len(episodes)}\n'
            )
    _pair(rows)
    return {
        'command': ' '.join(['python', 'benchmarks/seams.py', *args.given]),
        'date': datetime.date.today().isoformat(),
        'version': __version__,
        'python': platform.python_version(),
        'policy': policy.info.artifact_id,
        'precision': policy.info.precision,
        'control_period': contract.control_period,
        'chunk': policy.info.chunk_size,
        'execute_steps': policy.info.execute_steps,
        'limits': {
            joint: {'velocity': contract.limits[joint].velocity,
                    'acceleration': contract.limits[joint].acceleration}
            for joint in JOINTS
        },
        'rows': rows,
    }


def _row(
    name: str, latency: int, seams: Seams, episodes: list[dict[str, Any]]
) -> dict[str, Any]:
    successes = sum(episode['success'] for episode in episodes)
    seconds = [episode['seconds'] for episode in episodes if episode['success']]
    return {
        'schedule': name,
        'latency_ms': latency,
        'seams': len(seams.chunks['position']),
        'between_chunks': {kind: summary(seams.chunks[kind]) for kind in KINDS},
        'in_the_command': {kind: summary(seams.command[kind]) for kind in KINDS},
        'successes': successes,
        'success_95': list(wilson(successes, len(episodes))),
        'seconds_to_success': float(np.median(seconds)) if seconds else None,
        'standing': float(np.mean([episode['standing'] for episode in episodes])),
        'largest_speed': max(episode['largest_speed'] for episode in episodes),
        'largest_acceleration': max(episode['largest_acceleration'] for episode in episodes),
        'inferences': float(np.mean([episode['inferences'] for episode in episodes])),
        'holds': sum(episode['holds'] for episode in episodes),
        'episodes': episodes,
    }


def _pair(rows: list[dict[str, Any]]) -> None:
    """Success against async of the same latency, scene by scene."""
    by = {(row['schedule'], row['latency_ms']): row for row in rows}
    for row in rows:
        other = by.get(('async', row['latency_ms']))
        if other is not None and other is not row:
            row['against_async'] = paired(
                *({e['seed']: e['success'] for e in r['episodes']} for r in (row, other))
            )


STYLE = """
text{font:11px system-ui,sans-serif;fill:#4b5563}.title{font-size:13px;font-weight:600;fill:#1f2937}
.tick-x,.name{text-anchor:middle}.tick-y{text-anchor:end}.grid{stroke:#e6e9ee}.axis{stroke:#c5ccd6}
.chunks{fill:#c2410c}.command{fill:#2563b8}.stem{stroke:#c5ccd6}
"""


def drawn(results: dict[str, Any]) -> Html:
    """The largest step of each kind, by schedule and latency: between chunks, in the command."""
    rows = results['rows']
    width, height, left, top, gap = 800, 170, 52, 66, 62
    parts: list[Html] = [
        tag('style', STYLE),
        tag('rect', width='100%', height='100%', fill='#ffffff'),
        tag('circle', cx=left, cy=20, r=4, class_='chunks'),
        tag('text', 'between the chunks', x=left + 9, y=24),
        tag('circle', cx=left + 150, cy=20, r=4, class_='command'),
        tag('text', 'in the command', x=left + 159, y=24),
    ]
    for index, kind in enumerate(KINDS):
        most = max(
            row[of][kind]['largest'] for row in rows for of in ('between_chunks', 'in_the_command')
        )
        scale = chart.linear(0.0, 1.05 * most)
        marks: list[Html] = [
            part for value, words in scale.ticks for part in (
                chart.line(0, scale.place(value), 100, scale.place(value), 'grid'),
                chart.label(0, scale.place(value), words, 'tick-y', dx=-6, dy=4),
            )
        ]
        for place, row in enumerate(rows):
            x = 100 * (place + 0.5) / len(rows)
            ends = []
            for of, class_ in (('between_chunks', 'chunks'), ('in_the_command', 'command')):
                largest = row[of][kind]['largest']
                ends.append(scale.place(largest))
                words = f'{row["schedule"]}, {row["latency_ms"]} ms: {largest:.3g} {UNITS[kind]}'
                marks.append(chart.dot(x, ends[-1], class_, words, 4))
            marks.insert(0, chart.line(x, ends[0], x, ends[1], 'stem'))
            marks.append(chart.label(x, 0, row['schedule'], 'tick-x', dy=15))
            if index == len(KINDS) - 1 and place % 4 == 1:
                marks.append(
                    chart.label(x + 50 / len(rows), 0, f'{row["latency_ms"]} ms', 'name', dy=31)
                )
        y_box = top + index * (height + gap)
        parts.append(tag('text', f'largest step of {kind}, {UNITS[kind]}', x=left, y=y_box - 8,
                         class_='title'))
        parts.append(tag('svg', chart.line(0, 0, 100, 0, 'axis'), marks, x=left, y=y_box,
                         width=width - left - 20, height=height, overflow='visible'))
    total = top + len(KINDS) * (height + gap) - 20
    return tag('svg', parts, xmlns='http://www.w3.org/2000/svg', viewBox=f'0 0 {width} {total}',
               width=width, height=total, role='img',
               aria_label='Largest steps at the seams between chunks')


def table(results: dict[str, Any]) -> str:
    """The rows as docs/control.md has them."""
    lines = [
        '| latency | schedule | chunks: rad | rad/s | rad/s² | command: rad | rad/s | rad/s² '
        '| largest acceleration | standing | success | seconds |',
        '|---|---|---|---|---|---|---|---|---|---|---|---|',
    ]
    for row in results['rows']:
        steps = [
            ('0' if row[of][kind]['largest'] < 1e-5 else f'{row[of][kind]["largest"]:.3g}')
            for of in ('between_chunks', 'in_the_command') for kind in KINDS
        ]
        seconds = row['seconds_to_success']
        lines.append(
            f'| {row["latency_ms"]} ms | {row["schedule"]} | {" | ".join(steps)} '
            f'| {row["largest_acceleration"]:.1f} | {100 * row["standing"]:.0f} % '
            f'| {row["successes"]} of {len(row["episodes"])} '
            f'| {"-" if seconds is None else f"{seconds:.2f}"} |'
        )
    return '\n'.join(lines)


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--policy', type=Path, default=ROOT / 'assets' / 'tabletop_w8a8')
    parser.add_argument('--contract', type=Path,
                        default=ROOT / 'config' / 'contracts' / 'tabletop.yaml')
    parser.add_argument('--schedule', nargs='+', default=[mode.name.lower() for mode in Mode])
    parser.add_argument('--latency', nargs='+', type=int, default=[20, 100, 400], metavar='MS')
    parser.add_argument('--seeds', type=int, default=20)
    parser.add_argument('--first-seed', type=int, default=900_000)
    parser.add_argument('--size', type=int, default=224, help="px, side of the cameras' pictures")
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument('--plot', type=Path, help='draw --out into this file (.svg)')
    parser.add_argument('--drawn-only', action='store_true', help='--out is there already')
    args = parser.parse_args(argv)
    args.given = sys.argv[1:] if argv is None else argv
    if not args.drawn_only:
        results = measure(args)
        args.out.write_text(json.dumps(results, indent=1, allow_nan=False) + '\n', encoding='utf-8')
    results = json.loads(args.out.read_text(encoding='utf-8'))
    sys.stdout.write(table(results) + '\n')
    if args.plot is not None:
        args.plot.write_text(drawn(results) + '\n', encoding='utf-8')
    return 0


if __name__ == '__main__':
    sys.exit(main())
