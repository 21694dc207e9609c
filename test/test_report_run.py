# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from quantvla_ros.contract.load import load_contract
from quantvla_ros.report.film import COLUMNS, film
from quantvla_ros.report.frame import HEIGHT, WIDTH, contact_sheet, draw
from quantvla_ros.report.run import Moment, Plan, moments
from quantvla_ros.report.table import table
from quantvla_ros.report.video import write_video
from quantvla_ros.sim.tabletop import JOINTS, Tabletop
from quantvla_ros.sim.tabletop.kinematics import fingertips

ROOT = Path(__file__).resolve().parents[1]
CONTRACT = load_contract(ROOT / 'config/contracts/tabletop.yaml')
BEGIN = 1_800_000_000 * 10**9
PERIOD = 50_000_000  # ns


def store():
    typestore = get_typestore(Stores.ROS2_KILTED)
    name = 'quantvla_ros/msg/ActionChunk'
    typestore.register(get_types_from_msg((ROOT / 'msg/ActionChunk.msg').read_text(), name))
    return typestore


@pytest.fixture(scope='module')
def bag(tmp_path_factory) -> Path:
    """Two commands of 2 s each, the first one done after 1 s; one chunk for each."""
    path = tmp_path_factory.mktemp('report') / 'run'
    typestore = store()
    types = typestore.types
    world = Tabletop(3)
    words = ('touch the red cube', 'pick up the red cube')

    def time(stamp: int):
        return types['builtin_interfaces/msg/Time'](stamp // 10**9, stamp % 10**9)

    def span(ns: int):
        return types['builtin_interfaces/msg/Duration'](ns // 10**9, ns % 10**9)

    def header(stamp: int):
        return types['std_msgs/msg/Header'](time(stamp), 'base_link')

    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = {}

        def put(topic: str, kind: str, message: object, stamp: int) -> None:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=typestore)
            writer.write(connections[topic], stamp, typestore.serialize_cdr(message, kind))

        for step in range(100):
            now = BEGIN + step * PERIOD
            for name, picture in world.render().items():
                put(f'/{name}/image_raw', 'sensor_msgs/msg/Image', types['sensor_msgs/msg/Image'](
                    header(now), 224, 224, 'rgb8', 0, 672, picture.reshape(-1)), now)
            for number, begin in enumerate((20, 60)):
                if step == begin:
                    put('/instruction', 'std_msgs/msg/String',
                        types['std_msgs/msg/String'](words[number]), now + 1)
                if step == begin + 4:
                    points = [
                        types['trajectory_msgs/msg/JointTrajectoryPoint'](
                            np.array(world.joint_positions + 0.02 * row)[::-1].copy(),
                            *[np.array([])] * 3, span((row + 1) * PERIOD),
                        ) for row in range(16)
                    ]
                    names = list(reversed(JOINTS))
                    chunk = types['quantvla_ros/msg/ActionChunk'](
                        header(now), number, words[number], 'artifact', names,
                        types['trajectory_msgs/msg/JointTrajectory'](header(now), names, points),
                        span(PERIOD), span(0), span(85_000_000),
                    )
                    put('/policy/action_chunk', 'quantvla_ros/msg/ActionChunk', chunk, now + 2)
            if step == 40:
                put('/tabletop/events', 'diagnostic_msgs/msg/DiagnosticStatus',
                    types['diagnostic_msgs/msg/DiagnosticStatus'](0, 'done', words[0], '', []),
                    now + 3)
    return path


def test_moments_follow_commands_chunks_and_success(bag):
    run = list(moments(bag, CONTRACT))
    assert len(run) == 99  # the first picture waits for the other camera
    commands = [moment.command for moment in run]
    assert commands == sorted(commands) and set(commands) == {-1, 0, 1}
    at = {round((moment.time - BEGIN) / PERIOD): moment for moment in run}
    assert at[20].command == -1 and at[21].command == 0
    assert at[24].plan is None and at[25].plan.sequence == 0
    assert not at[40].done and at[41].done
    assert at[61].plan is None and not at[61].done  # a new command begins with neither
    assert at[31].since == pytest.approx(0.55, abs=1e-6)
    np.testing.assert_array_equal(at[30].pictures['wrist'], Tabletop(3).render()['wrist'])


def test_a_plan_is_the_way_of_the_fingertips_whatever_the_order_of_the_joints(bag):
    plan = next(moment.plan for moment in moments(bag, CONTRACT) if moment.plan is not None)
    start = Tabletop(3).joint_positions
    np.testing.assert_allclose(plan.points[5], fingertips(start + 0.1), atol=1e-9)
    assert plan.inference == pytest.approx(0.085)


def test_only_rows_that_are_still_to_come_are_drawn():
    plan = Plan(BEGIN, 0.05, 0, np.zeros((16, 3)), 0.1, '')
    assert len(plan.ahead(BEGIN)) == 16
    assert len(plan.ahead(BEGIN + PERIOD)) == 16
    assert len(plan.ahead(BEGIN + PERIOD + 1)) == 15
    assert len(plan.ahead(BEGIN + 100 * PERIOD)) == 0


def test_the_planned_chunk_is_drawn_into_the_overhead_picture_alone():
    world = Tabletop(3)
    turn = np.array([0.05, 0.0, 0.0, 0.0, 0.0])
    path = np.array([fingertips(world.joint_positions + i * turn) for i in range(1, 8)])
    moment = Moment(BEGIN, world.render(), 0, 'touch the red cube')
    without = draw(moment, 'w8a8')
    with_plan = draw(
        Moment(BEGIN, world.render(), 0, 'touch the red cube',
               plan=Plan(BEGIN, 0.05, 0, path, 0.1, '')), 'w8a8',
    )
    changed = (without != with_plan).any(axis=2)
    changed[652:] = False  # the line of words below
    rows, columns = np.nonzero(changed)
    assert len(rows) > 200 and columns.max() < 26 + 560
    assert without.shape == (HEIGHT, WIDTH, 3)


def test_the_film_shows_the_run_and_the_sheet_each_command(bag, tmp_path):
    av = pytest.importorskip('av')
    path = tmp_path / 'run.mp4'
    said = []
    rows = film(bag, CONTRACT, path, 'w8a8', lambda done, total: said.append((done, total)))
    assert [len(row) for row in rows] == [COLUMNS, COLUMNS]
    sheet = contact_sheet(rows)
    assert sheet.shape[1] == COLUMNS * 600
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        frames = sum(1 for _ in file.decode(stream))
        assert stream.codec_context.name == 'h264' and stream.average_rate == 20
    assert frames == said[-1][0] == said[-1][1]
    assert frames == 99 - 10  # from half a second before the first command
    assert [p.name for p in tmp_path.iterdir()] == ['run.mp4']


def test_a_film_that_breaks_off_leaves_no_file(tmp_path):
    pytest.importorskip('av')

    def frames():
        yield np.zeros((16, 16, 3), np.uint8)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(tmp_path / 'run.mp4', frames(), 20)
    assert not list(tmp_path.iterdir())


def test_a_table_is_aligned():
    lines = table(('name', 'n'), [('a', '10'), ('long name', '5')]).splitlines()
    assert lines == ['name        n', '---------  --', 'a          10', 'long name   5']
