# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A bag gives the observations that the robot had, with the commands that answered them."""
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from quantvla_ros.contract.load import load_contract, parse_contract
from quantvla_ros.errors import BagError
from quantvla_ros.observation.buffer import ObservationBuffer
from quantvla_ros.observation.commands import RecordedCommands
from quantvla_ros.observation.replay import replay, resolve_topic
from quantvla_ros.observation.types import Observation, Reason

STORE = get_typestore(Stores.ROS2_HUMBLE)
T = 1_760_000_000_000_000_000
MS = 1_000_000
STEP = 50 * MS

TEXT = """\
contract: 1
robot: bench
control_period: 0.05
cameras:
  front: {topic: front, type: sensor_msgs/msg/Image, slot: images.front}
joint_states: {topic: joint_states, joints: [elbow, shoulder]}
language: {topic: /say, max_length: 30}
action:
  topic: arm/joint_trajectory
  recorded_topic: commands
  frame_id: base
  start_tolerance: 0.2
  parts:
    - {kind: joint_position, names: [elbow, shoulder], unit: rad}
limits:
  elbow: {lower: -9.0, upper: 9.0, velocity: 2.0}
  shoulder: {lower: -9.0, upper: 9.0, velocity: 2.0}
freshness: {cameras: 0.2, joint_states: 0.15, skew: 0.1}
"""
CONTRACT = parse_contract(TEXT)
TRAJECTORY = parse_contract(TEXT.replace('  recorded_topic: commands\n', ''))


def message(kind, **fields):
    return STORE.types[kind](**fields)


def header(stamp):
    time = message('builtin_interfaces/msg/Time', sec=stamp // 10**9, nanosec=stamp % 10**9)
    return message('std_msgs/msg/Header', stamp=time, frame_id='')


def picture(stamp, number):
    data = np.full(12, number % 256, np.uint8)
    return message('sensor_msgs/msg/Image', header=header(stamp), height=2, width=2,
                   encoding='rgb8', is_bigendian=0, step=6, data=data)


def joints(stamp, elbow, shoulder=0.0):
    none = np.zeros(0)
    return message('sensor_msgs/msg/JointState', header=header(stamp),
                   name=['shoulder', 'elbow'], position=np.array([shoulder, elbow]),
                   velocity=none, effort=none)


def trajectory(stamp, points, names=('elbow', 'shoulder')):
    none = np.zeros(0)
    return message(
        'trajectory_msgs/msg/JointTrajectory', header=header(stamp), joint_names=list(names),
        points=[message('trajectory_msgs/msg/JointTrajectoryPoint',
                        positions=np.array(positions, np.float64), velocities=none,
                        accelerations=none, effort=none,
                        time_from_start=message('builtin_interfaces/msg/Duration',
                                                sec=offset // 10**9, nanosec=offset % 10**9))
                for offset, positions in points],
    )


def say(text):
    return message('std_msgs/msg/String', data=text)


def write(path, recorded, storage=StoragePlugin.MCAP):
    """A bag of (time, topic, message), in this order."""
    topics = {}
    with Writer(path, version=9, storage_plugin=storage) as writer:
        for time, topic, content in recorded:
            kind = content.__msgtype__
            if topic not in topics:
                topics[topic] = writer.add_connection(topic, kind, typestore=STORE)
            writer.write(topics[topic], time, STORE.serialize_cdr(content, kind))
    return path


def episode(count=10, start=0, text='go', command=lambda stamp, step: joints(stamp, step + 0.5),
            topic='/commands'):
    """Joint states, a picture 4 ms later, and the command that answers it."""
    yield T + start * STEP, '/say', say(text)
    for step in range(start, start + count):
        stamp = T + step * STEP
        yield stamp + MS, '/joint_states', joints(stamp, step)
        yield stamp + 4 * MS, '/front', picture(stamp, step)
        yield stamp + 9 * MS, topic, command(stamp + 8 * MS, step)


def test_each_picture_gives_the_observation_and_the_command_that_answered_it(tmp_path):
    bag = write(tmp_path / 'day', episode())
    with replay(bag, CONTRACT) as frames:
        seen = list(frames)
        assert [frame.time for frame in seen] == [T + k * STEP + 4 * MS for k in range(10)]
        for step, frame in enumerate(seen):
            observation = frame.observation
            assert observation.stamp == T + step * STEP
            assert observation.state.tolist() == [step, 0.0]
            assert (observation.images['images.front'] == step).all()
            assert observation.instruction == 'go'
            assert frame.action.dtype == np.float32
            assert frame.action.tolist() == [step + 0.5, 0.0]  # given 8 ms after the picture
            assert frame.episode == 'day/0'
        assert (frames.frames, len(frames.commands), frames.refused) == (10, 10, {})
        assert frames.health.whole


def test_a_recorded_chunk_follows_the_commands_and_ends_with_the_recording(tmp_path):
    frames = replay(write(tmp_path / 'day', episode()), CONTRACT)
    seen = list(frames)
    chunk = frames.recorded_chunk(seen[2], 4)
    assert chunk.dtype == np.float32 and chunk[:, 0].tolist() == [2.5, 3.5, 4.5, 5.5]
    last = frames.recorded_chunk(seen[-1], 50)
    assert len(last) <= 3 and set(last[:, 0]) == {9.5}  # held no longer than two periods


def test_a_chunk_does_not_reach_into_the_next_instruction(tmp_path):
    recorded = [*episode(6), *episode(6, start=6, text='stop there'), *episode(6, start=12)]
    frames = replay(write(tmp_path / 'day', recorded), CONTRACT)
    seen = list(frames)
    assert [frame.episode for frame in seen] == ['day/0'] * 6 + ['day/1'] * 6 + ['day/2'] * 6
    assert len(frames.recorded_chunk(seen[4], 16)) == 2
    assert frames.recorded_chunk(seen[6], 4)[:, 0].tolist() == [6.5, 7.5, 8.5, 9.5]


def test_a_gap_begins_a_new_episode(tmp_path):
    later = list(episode(3, start=40))[1:]
    frames = replay(write(tmp_path / 'day', [*episode(3), *later]), CONTRACT)
    assert [frame.episode for frame in frames] == ['day/0'] * 3 + ['day/1'] * 3


@pytest.mark.parametrize('every', [2, 3])
def test_every_takes_each_nth_picture(tmp_path, every):
    bag = write(tmp_path / 'day', episode())
    states = [frame.observation.state[0] for frame in replay(bag, CONTRACT, every=every)]
    assert states == list(range(0, 10, every))


def test_a_bag_without_commands_still_gives_observations(tmp_path):
    bag = write(tmp_path / 'day', [item for item in episode() if item[1] != '/commands'])
    frames = replay(bag, CONTRACT)
    seen = list(frames)
    assert len(seen) == 10 and all(frame.action is None for frame in seen)
    assert frames.recorded_chunk(seen[0], 4) is None
    with pytest.raises(BagError, match='expected messages of /commands, found'):
        replay(bag, CONTRACT, need_actions=True)


def test_lacking_inputs_are_all_named_before_anything_is_read(tmp_path):
    bag = write(tmp_path / 'day', [item for item in episode() if item[1] == '/joint_states'])
    with pytest.raises(BagError, match=r'messages of /front, /say, found /joint_states \(10 of'):
        replay(bag, CONTRACT)


def test_a_namespace_leads_to_the_relative_topics(tmp_path):
    recorded = [(time, topic if topic == '/say' else f'/left{topic}', content)
                for time, topic, content in episode()]
    bag = write(tmp_path / 'day', recorded)
    assert len(list(replay(bag, CONTRACT, namespace='/left'))) == 10
    with pytest.raises(BagError, match='/left/front'):
        replay(bag, CONTRACT)
    assert resolve_topic('a/b') == '/a/b' and resolve_topic('a', '/x/y/') == '/x/y/a'
    assert resolve_topic('/a', 'x') == '/a'


def test_what_cannot_be_observed_is_counted_by_stream_and_reason(tmp_path):
    recorded = [item for item in episode()
                if item[1] != '/joint_states' or not 3 * STEP <= item[0] - T < 8 * STEP]
    recorded.insert(1, (T, '/front', picture(T - STEP, 0)))  # before any joint state
    frames = replay(write(tmp_path / 'day', recorded), CONTRACT)
    assert len(list(frames)) == 7
    assert frames.refused == {('joint_states', Reason.MISSING): 1,
                              ('joint_states', Reason.STALE): 3}
    patient = parse_contract(TEXT.replace('joint_states: 0.15', 'joint_states: 0.5'))
    frames = replay(tmp_path / 'day', patient)
    assert len(list(frames)) == 7
    assert frames.refused[('joint_states, front', Reason.OUT_OF_STEP)] == 3


def test_a_bag_without_one_observation_says_why(tmp_path):
    # Recorded on wall time from a simulator on its own time.
    recorded = [(time + 3600 * 10**9, topic, content) for time, topic, content in episode()]
    with pytest.raises(BagError, match=r'none in 10 pictures of front \(10 times .*use_sim_time'):
        list(replay(write(tmp_path / 'day', recorded), CONTRACT))


def test_disorder_and_duplicates_are_handled_and_counted(tmp_path):
    recorded = list(episode(6))
    front = [index for index, item in enumerate(recorded) if item[1] == '/front']
    recorded.append((recorded[-1][0] + MS, '/front', recorded[front[-1]][2]))  # sent twice
    recorded.append((recorded[-1][0] + MS, '/joint_states', joints(T + STEP, 77.0)))  # late
    recorded.append((recorded[-1][0] + MS, '/commands', joints(T + 8 * MS, 99.0)))  # again
    frames = replay(write(tmp_path / 'day', recorded), CONTRACT)
    seen = list(frames)
    assert [frame.observation.state[0] for frame in seen] == list(range(6))
    assert frames.dropped() == {('front', Reason.DUPLICATE): 1,
                                ('joint_states', Reason.OUT_OF_ORDER): 1}
    assert frames.commands.replaced == 1
    assert seen[0].action[0] == 99.0  # the one recorded later counts


def test_a_recording_of_a_loop_gives_its_first_pass(tmp_path):
    again = [(time + 60 * STEP, topic, content) for time, topic, content in episode(30)]
    # Both passes carry the stamps of the first: of the second, nothing is fresh.
    frames = replay(write(tmp_path / 'day', [*episode(30), *again]), CONTRACT)
    assert len(list(frames)) == 30
    assert frames.refused[('front', Reason.CLOCK_SKEW)] == 30
    assert frames.dropped()[('joint_states', Reason.TIME_JUMP)] == 1


def test_trajectories_are_sampled_one_period_after_the_observation(tmp_path):
    def plan(stamp, step):  # stamped with the observation; row i is meant for (i + 1) periods
        return trajectory(stamp - 8 * MS, [((i + 1) * STEP, (step + 0.1 * i, 1.0))
                                           for i in range(3)])

    bag = write(tmp_path / 'day', episode(command=plan, topic='/arm/joint_trajectory'))
    frames = replay(bag, TRAJECTORY)
    seen = list(frames)
    assert [frame.action[0] for frame in seen] == list(range(10))
    chunk = frames.recorded_chunk(seen[9], 9)
    # The last trajectory goes on to its end and holds there for two periods.
    assert np.allclose(chunk[:, 0], [9.0, 9.1, 9.2, 9.2, 9.2])


def test_a_trajectory_without_a_stamp_begins_when_it_comes(tmp_path):
    def plan(stamp, step):
        return trajectory(0, [(STEP, (step, 0.0)), (2 * STEP, (step + 1.0, 0.0))])

    bag = write(tmp_path / 'day', episode(command=plan, topic='/arm/joint_trajectory'))
    for step, frame in enumerate(replay(bag, TRAJECTORY)):
        assert frame.action[0] == step  # 9 ms late, it has not reached its first point


def test_deltas_and_grippers_come_back_in_the_policys_numbers():
    text = TEXT.replace(
        '    - {kind: joint_position, names: [elbow, shoulder], unit: rad}\n',
        '    - {kind: joint_delta, names: [shoulder], unit: rad}\n'
        '    - {kind: gripper, names: [elbow], unit: rad, model_range: [1.0, -1.0],\n'
        '       joint_range: [0.2, 0.6]}\n',
    )
    commands = RecordedCommands(parse_contract(text))
    commands.add(joints(T, elbow=0.5, shoulder=0.7), T)
    action = commands.action(T, np.array([0.3, 0.4], np.float32))
    assert action.tolist() == pytest.approx([0.7 - 0.4, 1.0 - 2.0 * 0.75])
    assert commands.joints == ('shoulder', 'elbow')


def test_a_twist_cannot_be_told_from_joint_commands():
    text = TEXT.replace('{kind: joint_position, names: [elbow, shoulder], unit: rad}',
                        '{kind: twist}')
    commands = RecordedCommands(parse_contract(text))
    commands.add(joints(T, 1.0), T)
    assert commands.action(T, np.zeros(2, np.float32)) is None


@pytest.mark.parametrize('content', [
    trajectory(T, []),
    trajectory(T, [(STEP, (1.0, 2.0)), (STEP, (1.0, 2.0))]),
    trajectory(T, [(STEP, (1.0,))]),
    trajectory(T, [(STEP, (1.0, np.nan))]),
    trajectory(T, [(STEP, (1.0, 2.0))], names=('elbow', 'wrist')),
    joints(T, np.nan),
], ids=['empty', 'disorder', 'short', 'nan', 'other joints', 'nan joint'])
def test_commands_that_say_nothing_full_are_counted(content):
    commands = RecordedCommands(CONTRACT)
    commands.add(content, T)
    assert (len(commands), commands.unusable) == (0, 1)
    assert commands.at(T) is None


def test_between_commands_the_nearest_counts_and_an_old_one_does_not():
    commands = RecordedCommands(CONTRACT)
    for stamp, value in [(0, 1.0), (20, 2.0), (40, 3.0), (300, 4.0)]:
        commands.add(joints(T + stamp * MS, value), T + stamp * MS)
    values = {at: commands.at(T + at * MS) for at in (-30, -20, 8, 12, 30, 140, 141, 270, 276)}
    found = {at: None if value is None else value[0] for at, value in values.items()}
    assert found == {-30: None, -20: 1.0, 8: 1.0, 12: 2.0, 30: 2.0, 140: 3.0, 141: None,
                     270: None, 276: 4.0}


def test_a_bag_and_the_live_messages_give_the_same_bits(tmp_path):
    # The node feeds the same buffer; here live messages are plain ones with a compressed picture.
    contract = parse_contract(TEXT.replace('msg/Image', 'msg/CompressedImage'))
    rng = np.random.default_rng(0)
    recorded, live = [(T, '/say', say('go'))], ObservationBuffer(contract)
    live.store('language', 'go', T)
    expected = []
    for step in range(5):
        stamp = T + step * STEP
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        jpeg = cv2.imencode('.jpg', pixels)[1].ravel()
        state = joints(stamp, rng.normal(), rng.normal())
        shown = message('sensor_msgs/msg/CompressedImage', header=header(stamp), format='jpeg',
                        data=jpeg)
        recorded += [(stamp + MS, '/joint_states', state), (stamp + 2 * MS, '/front', shown)]
        stamped = SimpleNamespace(stamp=SimpleNamespace(sec=stamp // 10**9,
                                                        nanosec=stamp % 10**9))
        live.store('joint_states', SimpleNamespace(
            header=stamped, name=state.name, position=state.position.tolist()), stamp + MS)
        live.store('front', SimpleNamespace(
            header=stamped, format='jpeg', data=jpeg.tobytes()), stamp + 2 * MS)
        expected.append(live.observe(stamp + 2 * MS))
    frames = list(replay(write(tmp_path / 'day', recorded, StoragePlugin.SQLITE3), contract))
    assert len(frames) == 5
    for frame, live_one in zip(frames, expected, strict=True):
        assert isinstance(live_one, Observation)
        assert frame.observation.stamps == live_one.stamps
        assert frame.observation.state.tobytes() == live_one.state.tobytes()
        assert np.array_equal(frame.observation.images['images.front'],
                              live_one.images['images.front'])


SHARED = Path(__file__).resolve().parents[2] / 'shared' / 'bags'


@pytest.mark.skipif(not SHARED.exists(), reason='no shared bags beside this checkout')
def test_the_recorded_robot_replays_through_its_contract():
    contract = load_contract(
        Path(__file__).resolve().parents[1] / 'config' / 'contracts' / 'gr1_arms.yaml'
    )
    frames = replay(SHARED / 'gr1_pick_place_0', contract)
    seen = list(frames)
    assert len(seen) == 416 and frames.refused == {} and frames.health.whole
    assert seen[0].observation.instruction.startswith('pick the pear')
    assert seen[0].observation.images['observation.images.ego_view'].shape == (256, 256, 3)
    limits = [contract.limits[name] for name in contract.action.names]
    lower, upper, speed = (np.array([getattr(limit, key) for limit in limits])
                           for key in ('lower', 'upper', 'velocity'))
    actions = np.stack([frame.action for frame in seen])
    states = np.stack([frame.observation.state for frame in seen])
    for values in (actions, states):
        assert (values >= lower).all() and (values <= upper).all()
    period = contract.control_period
    assert (np.abs(np.diff(actions, axis=0)) / period <= speed).all()
    assert (np.abs(actions - states) / period <= speed).all()
    assert np.abs(actions - states).max() <= contract.action.start_tolerance
    chunk = frames.recorded_chunk(seen[100], 16)
    assert np.array_equal(chunk, actions[100:116])
