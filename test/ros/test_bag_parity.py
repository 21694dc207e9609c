# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A bag played through real topics into the node's subscriptions, and the same bag read offline.

What calibration sees and what the robot sees must be the same to the last bit. Messages are played
in lockstep: the next one goes out when the one before has been heard, so that none is lost.
"""
from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import PATIENCE, ROOT
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from quantvla_ros.contract.load import load_contract
from quantvla_ros.contract.types import JOINT_STATE, STRING
from quantvla_ros.control.measured import MeasuredJoints
from quantvla_ros.nodes.inputs import Inputs
from quantvla_ros.nodes.messages import message_class
from quantvla_ros.observation.buffer import ObservationBuffer
from quantvla_ros.observation.replay import replay
from quantvla_ros.observation.types import Observation
from quantvla_ros.sim.tabletop import JOINTS, Tabletop

SHARED = Path(__file__).resolve().parents[3] / 'shared'
STORE = get_typestore(Stores.ROS2_KILTED)


def write_tabletop_bag(path: Path) -> None:
    """Two seconds of the simulated arm, with stamps as they come from a real clock."""
    types = STORE.types
    world = Tabletop(5)
    rng = np.random.default_rng(0)
    begin = 1_800_000_000_123_456_789

    def header(stamp: int, frame: str):
        time = types['builtin_interfaces/msg/Time'](stamp // 10**9, stamp % 10**9)
        return types['std_msgs/msg/Header'](time, frame)

    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        def topic(name: str, kind: str):
            return writer.add_connection(name, kind, typestore=STORE), kind

        def put(where, message, stamp: int) -> None:
            connection, kind = where
            delay = int(rng.integers(200_000, 4_000_000))
            writer.write(connection, stamp + delay, STORE.serialize_cdr(message, kind))

        cameras = {name: topic(f'/{name}/image_raw', 'sensor_msgs/msg/Image')
                   for name in ('overhead', 'wrist')}
        joints = topic('/joint_states', JOINT_STATE)
        words = topic('/instruction', STRING)
        put(words, types[STRING]('  Touch the\tred cube\n'), begin)
        for step in range(200):
            now = begin + step * 10_000_000
            world.advance(world.joint_positions + rng.normal(0.0, 0.01, 5), 0.01)
            put(joints, types[JOINT_STATE](
                header(now, 'base_link'), list(reversed(JOINTS)),
                world.joint_positions[::-1].copy(), world.joint_velocities[::-1].copy(),
                np.array([], np.float64),
            ), now)
            if step % 5 == 0:
                for name, picture in world.render().items():
                    put(cameras[name], types['sensor_msgs/msg/Image'](
                        header(now, name), 224, 224, 'rgb8', 0, 672, picture.reshape(-1)
                    ), now)
            if step == 100:
                put(words, types[STRING]('pick up the blue cube'), now)


def played(bag: Path, contract) -> list[Observation]:
    """What the node's subscriptions make of the bag."""
    clock = [0]
    buffer = ObservationBuffer(contract)
    heard = threading.Semaphore(0)
    node, robot = Node('listener'), Node('robot')
    inputs = Inputs(
        node, contract, buffer, MeasuredJoints(contract.action.names), lambda: clock[0],
        lambda: None,
    )
    store = buffer.store

    def counted(stream, message, receive_ns):
        fault = store(stream, message, receive_ns)
        heard.release()
        return fault

    buffer.store = counted
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    closing = threading.Event()

    def spin() -> None:
        while not closing.is_set():
            executor.spin_once(timeout_sec=0.1)

    thread = threading.Thread(target=spin)
    thread.start()
    trigger = next(camera for camera in contract.cameras if camera.required)
    streams = {entry.topic.lstrip('/'): entry for entry in inputs.all}
    observations = []
    try:
        with AnyReader([bag], default_typestore=STORE) as reader:
            connections = [c for c in reader.connections if c.topic.lstrip('/') in streams]
            publishers = {
                c.topic: robot.create_publisher(message_class(c.msgtype), c.topic, 10)
                for c in connections
            }
            matched = threading.Event()
            for publisher in publishers.values():
                for _ in range(int(PATIENCE / 0.02)):
                    if publisher.get_subscription_count():
                        break
                    matched.wait(0.02)
                assert publisher.get_subscription_count() == 1
            for connection, time, data in reader.messages(connections):
                clock[0] = time
                publishers[connection.topic].publish(bytes(data))
                assert heard.acquire(timeout=PATIENCE), f'{connection.topic} was not heard'
                if connection.topic.lstrip('/') == trigger.topic.lstrip('/'):
                    observed = buffer.observe(time)
                    if isinstance(observed, Observation):
                        observations.append(observed)
    finally:
        closing.set()
        thread.join()
        executor.shutdown()
        node.destroy_node()
        robot.destroy_node()
    return observations


def assert_identical(live: list[Observation], offline: list[Observation]) -> None:
    assert len(live) == len(offline) > 0
    for one, other in zip(live, offline, strict=True):
        assert one.stamp == other.stamp
        assert one.instruction == other.instruction
        assert dict(one.stamps) == dict(other.stamps)
        assert one.state.tobytes() == other.state.tobytes()
        assert one.images.keys() == other.images.keys()
        for slot, picture in one.images.items():
            assert picture.shape == other.images[slot].shape
            assert np.array_equal(picture, other.images[slot])


def test_the_simulated_arm_gives_the_same_observations_live_and_offline(tmp_path):
    bag = tmp_path / 'bag'
    write_tabletop_bag(bag)
    contract = load_contract(ROOT / 'config/contracts/tabletop.yaml')
    live = played(bag, contract)
    assert_identical(live, [frame.observation for frame in replay(bag, contract)])
    assert {one.instruction for one in live} == {'Touch the red cube', 'pick up the blue cube'}
    assert len(live) >= 38


@pytest.mark.skipif(not (SHARED / 'bags').is_dir(), reason='the GR1 recordings are not here')
def test_the_gr1_recording_gives_the_same_observations_live_and_offline():
    bag = SHARED / 'bags' / 'gr1_pick_place_0'
    contract = load_contract(ROOT / 'config/contracts/gr1_arms.yaml')
    assert_identical(played(bag, contract), [f.observation for f in replay(bag, contract)])
