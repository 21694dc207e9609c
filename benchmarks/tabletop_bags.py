# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Bags of the built-in arm without ROS: data for calibration and for held-out evaluation.

    python benchmarks/tabletop_bags.py --episodes 24 --first-seed 100000 --out calibration_bag
    python benchmarks/tabletop_bags.py --episodes 24 --first-seed 200000 --out held_out_bag

What `quantvla_ros record` records over topics, in simulated instead of real time, the same bag for
the same seeds: the scripted expert drives the arm through its trajectory controller, cameras at the
control rate, joint states at 100 Hz, on the contract's topics. Kinds of task take turns. Scenes
are those of the seeds; closed-loop evaluation uses 0 to 499, calibration here 100000 on, held-out
bags 200000 on, training 1000000 on: no scene is in two of them.
"""
from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from quantvla_ros.contract.load import load_contract
from quantvla_ros.contract.types import JOINT_STATE, JOINT_TRAJECTORY, STRING, Contract
from quantvla_ros.control.chunk import Chunk
from quantvla_ros.control.trajectory import Trajectory, from_chunk
from quantvla_ros.errors import BagError, QuantVLAError
from quantvla_ros.sim.tabletop import Tabletop, TaskKind, sample_task
from quantvla_ros.sim.tabletop.controller import TrajectoryController
from quantvla_ros.sim.tabletop.expert import expert_chunk
from quantvla_ros.sim.tabletop.kinematics import JOINTS

CONTRACT = Path(__file__).resolve().parents[1] / 'config' / 'contracts' / 'tabletop.yaml'
NS = 1_000_000_000
BEGIN = 1_760_000_000 * NS  # of the first episode
BETWEEN = 5 * NS  # from one episode's end to the next one's begin
JOINT_PERIOD = NS // 100
HORIZON = 16  # control periods in a chunk of the expert
EXECUTE = 4  # control periods between two chunks
LONGEST = 20 * NS  # of an episode
# After their stamps, messages arrive in the order in which a robot would send them. The first
# camera of the contract triggers an observation, so the others come before it.
JOINTS_LATE, PICTURES_LATE, COMMAND_LATE = 1_000_000, 3_000_000, 6_000_000

Message = tuple[str, int, Any]  # topic, ns of recording, content


class Episodes:
    """Makes the messages; knows a type store's classes and the contract's topics."""

    def __init__(self, contract: Contract, types: dict[str, Any]) -> None:
        self._contract, self._types = contract, types

    def topics(self) -> dict[str, str]:
        """Type by topic."""
        contract = self._contract
        return {
            **{camera.topic: camera.type for camera in contract.cameras},
            contract.joint_states.topic: JOINT_STATE,
            contract.language.topic: STRING,
            contract.action.topic: JOINT_TRAJECTORY,
        }

    def episode(self, seed: int, kind: TaskKind, begin: int) -> Iterator[Message]:
        """One scene, one command, until it is done.

        Args:
            begin: ns, when the command is given.
        Raises:
            QuantVLAError: the expert did not finish.
        """
        world = Tabletop(seed)
        task = sample_task(world.scene, np.random.default_rng(seed), kind)
        controller = TrajectoryController(
            JOINTS, world.limits, world.joint_positions.tolist(), begin
        )
        period = round(world.control_period * NS)
        language = self._types[STRING](data=task.instruction)
        yield self._contract.language.topic, begin, language
        for now in range(begin, begin + LONGEST, JOINT_PERIOD):
            if now > begin:
                world.advance(controller.sample(now), JOINT_PERIOD / NS)
            yield self._contract.joint_states.topic, now + JOINTS_LATE, self._state(world, now)
            if (now - begin) % period == 0:
                yield from self._pictures(world, now)
            if world.succeeded(task):
                return
            if (now - begin) % (EXECUTE * period) == 0:
                rows = expert_chunk(world, task, HORIZON).astype(np.float64)
                chunk = Chunk(now, world.control_period, JOINTS, rows)
                points = from_chunk(chunk, self._contract.limits, world.joint_positions)
                controller.accept(
                    points.joints, points.times.tolist(), points.positions, points.velocities,
                    now, now,
                )
                yield self._contract.action.topic, now + COMMAND_LATE, self._command(points)
        raise QuantVLAError(
            f'scene {seed}: the expert did not finish {task.instruction!r} in {LONGEST // NS} s'
        )

    def _pictures(self, world: Tabletop, now: int) -> Iterator[Message]:
        drawn = world.render()
        for place, camera in enumerate(reversed(self._contract.cameras)):
            picture = np.ascontiguousarray(drawn[camera.name])
            height, width, _ = picture.shape
            image = self._types[camera.type](
                header=self._header(now, f'{camera.name}_optical'), height=height, width=width,
                encoding='rgb8', is_bigendian=0, step=width * 3, data=picture.reshape(-1),
            )
            yield camera.topic, now + PICTURES_LATE + place * 1_000_000, image

    def _state(self, world: Tabletop, now: int) -> Any:
        return self._types[JOINT_STATE](
            header=self._header(now), name=list(JOINTS), position=world.joint_positions,
            velocity=world.joint_velocities, effort=np.zeros(0),
        )

    def _command(self, points: Trajectory) -> Any:
        none = np.zeros(0)
        rows = [
            self._types['trajectory_msgs/msg/JointTrajectoryPoint'](
                positions=position, velocities=velocity, accelerations=none, effort=none,
                time_from_start=self._time('Duration', round(float(time) * NS)),
            )
            for time, position, velocity in zip(
                points.times, points.positions, points.velocities, strict=True
            )
        ]
        return self._types[JOINT_TRAJECTORY](
            header=self._header(points.stamp), joint_names=list(points.joints), points=rows
        )

    def _header(self, now: int, frame: str = '') -> Any:
        frame = frame or self._contract.action.frame_id
        return self._types['std_msgs/msg/Header'](stamp=self._time('Time', now), frame_id=frame)

    def _time(self, name: str, nanoseconds: int) -> Any:
        kind = self._types[f'builtin_interfaces/msg/{name}']
        return kind(sec=nanoseconds // NS, nanosec=nanoseconds % NS)


def write_bag(out: Path, episodes: int, first_seed: int) -> dict[str, int]:
    """Write a bag; it appears as a whole, or not at all.

    Args:
        out: folder; must not exist.
        first_seed: of the first scene; the following ones count up.
    Returns:
        Messages by topic.
    Raises:
        BagError: `out` exists.
    """
    if out.exists():
        raise BagError(f'{out}: expected a new folder for the bag, found one that exists')
    out.parent.mkdir(parents=True, exist_ok=True)
    store = get_typestore(Stores.ROS2_KILTED)
    made = Episodes(load_contract(CONTRACT), store.types)
    topics = made.topics()
    counts = dict.fromkeys(topics, 0)
    kinds = list(TaskKind)
    # Beside the target, so that the finished bag only has to be renamed.
    with tempfile.TemporaryDirectory(prefix='.recording-', dir=out.parent) as folder:
        bag = Path(folder) / out.name
        writer = Writer(bag, version=9, storage_plugin=StoragePlugin.MCAP)
        writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        with writer:
            connections = {
                topic: writer.add_connection(f'/{topic}', kind, typestore=store)
                for topic, kind in topics.items()
            }
            begin = last = BEGIN
            for index in range(episodes):
                for topic, last, message in made.episode(
                    first_seed + index, kinds[index % len(kinds)], begin
                ):
                    data = store.serialize_cdr(message, topics[topic])
                    writer.write(connections[topic], last, data)
                    counts[topic] += 1
                begin = last - last % JOINT_PERIOD + BETWEEN
        shutil.move(bag, out)
    return counts


def main() -> int:
    """Write one bag and say what is in it."""
    parser = argparse.ArgumentParser(description='Bags of the built-in arm without ROS')
    parser.add_argument('--out', type=Path, required=True, help='folder of the bag; must not exist')
    parser.add_argument('--episodes', type=int, default=24, help='how many (24)')
    parser.add_argument('--first-seed', type=int, default=100000, help='of the scenes (100000)')
    args = parser.parse_args()
    if args.episodes < 1 or args.first_seed < 0:
        parser.error('--episodes: expected 1 or more; --first-seed: 0 or more')
    try:
        counts = write_bag(args.out, args.episodes, args.first_seed)
    except QuantVLAError as error:
        print(error, file=sys.stderr)
        return 2
    print(f'{args.out}: {args.episodes} episodes')
    for topic, count in counts.items():
        print(f'  /{topic}: {count} messages')
    return 0


if __name__ == '__main__':
    sys.exit(main())
