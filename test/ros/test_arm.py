# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The simulated arm over its topics obeys what a joint_trajectory_controller obeys."""
from __future__ import annotations

import signal
import threading

import numpy as np
import pytest
import rclpy
from conftest import PATIENCE, stop
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from quantvla_ros.nodes.messages import duration_message, time_message
from quantvla_ros.nodes.tabletop import EVENT_QOS
from quantvla_ros.observation.messages import nanoseconds
from quantvla_ros.sim.tabletop import JOINTS, Tabletop


class Controlled:
    """A client of the arm."""

    def __init__(self) -> None:
        self.node = Node('client')
        self.states: list[JointState] = []
        self.pictures: dict[str, Image] = {}
        self.events: list[DiagnosticStatus] = []
        self._news = threading.Condition()
        sensor = rclpy.qos.qos_profile_sensor_data
        node = self.node
        self.instruction = node.create_publisher(String, 'instruction', 1)
        self.commands = node.create_publisher(
            JointTrajectory, 'arm_controller/joint_trajectory', 1
        )
        node.create_subscription(JointState, 'joint_states', self._state, sensor)
        for name in ('overhead', 'wrist'):
            node.create_subscription(
                Image, f'{name}/image_raw', lambda m, name=name: self._picture(name, m), sensor
            )
        node.create_subscription(DiagnosticStatus, 'tabletop/events', self._event, EVENT_QOS)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(node)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self._executor.shutdown()
        self.node.destroy_node()

    def until(self, condition, what: str) -> None:
        with self._news:
            assert self._news.wait_for(condition, PATIENCE), f'{what}: in vain'

    @property
    def position(self) -> np.ndarray:
        return np.array(self.states[-1].position)

    def now(self) -> int:
        return self.node.get_clock().now().nanoseconds

    def send(self, *points, stamp: int = 0, joints=JOINTS, velocities=None) -> int:
        """Send (time in s, positions) points; returns how many states had come before."""
        self.until(lambda: self.commands.get_subscription_count() > 0, 'the controller')
        message = JointTrajectory(joint_names=list(joints))
        message.header.stamp = time_message(stamp)
        for index, (time, position) in enumerate(points):
            point = JointTrajectoryPoint(
                positions=[float(q) for q in position], time_from_start=duration_message(time)
            )
            if velocities is not None:
                point.velocities = [float(v) for v in velocities[index]]
            message.points.append(point)
        before = len(self.states)
        self.commands.publish(message)
        return before

    def until_at(self, position) -> None:
        self.until(
            lambda: self.states and np.allclose(self.position, position, atol=1e-3),
            f'the arm at {position}',
        )

    def moved_since(self, before: int) -> bool:
        positions = np.array([state.position for state in self.states[before:]])
        return bool(np.abs(positions - positions[0]).max() > 1e-6)

    def _spin(self) -> None:
        while not self._closing.is_set():
            self._executor.spin_once(timeout_sec=0.1)

    def _state(self, message) -> None:
        with self._news:
            self.states.append(message)
            self._news.notify_all()

    def _picture(self, name, message) -> None:
        with self._news:
            self.pictures[name] = message
            self._news.notify_all()

    def _event(self, message) -> None:
        with self._news:
            self.events.append(message)
            self._news.notify_all()


@pytest.fixture
def arm(start):
    process = start('-m', 'quantvla_ros', 'tabletop', '--ros-args', '-p', 'seed:=3')
    client = Controlled()
    client.process = process
    client.until(lambda: client.states, 'joint states')
    yield client
    client.close()


def shifted(position, by: float) -> np.ndarray:
    """The same with the base turned, away from everything on the table."""
    result = np.array(position, float)
    result[0] += by if result[0] < 0 else -by
    return result


def test_it_publishes_what_a_real_arm_does(arm):
    arm.until(lambda: len(arm.states) > 20 and len(arm.pictures) == 2, 'states and pictures')
    state = arm.states[-1]
    assert tuple(state.name) == JOINTS and len(state.velocity) == len(JOINTS)
    stamps = [nanoseconds(message.header.stamp) for message in arm.states]
    assert (np.diff(stamps) > 0).all()
    for name, picture in arm.pictures.items():
        assert (picture.encoding, picture.width, picture.height) == ('rgb8', 224, 224)
        assert picture.header.frame_id == f'{name}_optical'
    # The same picture that the simulator draws without ROS: nothing is lost on the way.
    np.testing.assert_array_equal(
        np.array(arm.pictures['wrist'].data, np.uint8).reshape(224, 224, 3),
        Tabletop(3).render()['wrist'],
    )


def test_stamp_zero_means_now_and_the_last_point_is_held(arm):
    goal = shifted(arm.position, 0.3)
    arm.send((0.3, goal))
    arm.until_at(goal)
    seen = len(arm.states)
    arm.until(lambda: len(arm.states) > seen + 30, 'more states')
    np.testing.assert_allclose(arm.position, goal, atol=1e-6)


def test_points_of_the_past_are_passed_over(arm):
    start = arm.position
    over, ahead = shifted(start, 0.5), shifted(start, 0.1)
    arm.send((0.05, over), (1.0, ahead), stamp=arm.now() - 500_000_000)
    arm.until_at(ahead)
    turned = np.array([state.position[0] for state in arm.states])
    assert np.abs(turned - start[0]).max() <= 0.1 + 1e-3


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        ({'stamp': -2_000_000_000}, 'ends in the past'),
        ({'joints': JOINTS[:4]}, 'leaves out a joint'),
        ({'joints': (*JOINTS[:4], 'thumb')}, 'does not have'),
        ({'velocities': [[0.5, 0.0, 0.0, 0.0, 0.0]]}, 'velocity other than zero'),
        ({'time': 0.0, 'again': True}, 'do not strictly increase'),
        ({'nan': True}, 'not finite'),
    ],
)
def test_what_a_controller_refuses_does_not_move_the_arm(arm, change, said):
    goal = shifted(arm.position, 0.3)
    if change.get('nan'):
        goal[2] = np.nan
    stamp = arm.now() + change['stamp'] if 'stamp' in change else 0
    joints = change.get('joints', JOINTS)
    points = [(change.get('time', 0.3), goal[:len(joints)])]
    if change.get('again'):
        points.append(points[0])
    before = arm.send(
        *points, stamp=stamp, joints=joints, velocities=change.get('velocities')
    )
    # Joint states keep coming, so the condition is looked at a hundred times a second.
    arm.until(lambda: said in arm.process.output, f'{said!r} in the log')
    seen = len(arm.states)
    arm.until(lambda: len(arm.states) > seen + 30, 'more states')
    assert not arm.moved_since(before)


def test_a_new_trajectory_replaces_the_old_one(arm):
    start = arm.position
    arm.send((4.0, shifted(start, 0.8)))
    arm.until(lambda: abs(arm.position[0] - start[0]) > 0.05, 'the first motion')
    back = shifted(start, 0.0)
    arm.send((0.5, back))
    arm.until_at(back)
    turned = np.array([state.position[0] for state in arm.states])
    assert np.abs(turned - start[0]).max() < 0.6


def test_velocity_limits_hold_whatever_is_asked(arm):
    start = arm.position
    goal = shifted(start, 1.0)
    before = arm.send((0.01, goal))
    arm.until_at(goal)
    states = arm.states[before:]
    turned = np.array([state.position[0] for state in states])
    stamps = np.array([nanoseconds(state.header.stamp) for state in states]) * 1e-9
    assert np.abs(np.diff(turned) / np.diff(stamps)).max() <= 2.5 * 1.001


def test_reset_puts_another_scene_on_the_table_and_says_so(arm):
    client = arm.node.create_client(Trigger, 'tabletop/reset')
    assert client.wait_for_service(PATIENCE)
    arm.send((0.3, shifted(arm.position, 0.3)))
    arm.until_at(shifted(Tabletop(3).joint_positions, 0.3))
    client.call_async(Trigger.Request())
    arm.until(lambda: sum(event.name == 'reset' for event in arm.events) == 2, 'a second reset')
    assert 'cubes:' in arm.events[-1].message
    arm.until_at(Tabletop(3).joint_positions)


def test_a_command_that_is_no_task_of_the_scene_is_said_to_be_unknown(arm):
    arm.until(lambda: arm.instruction.get_subscription_count() > 0, 'a listener')
    arm.instruction.publish(String(data='make coffee'))
    arm.until(lambda: any(event.name == 'unknown' for event in arm.events), 'the event')


def test_signals_end_it_in_order(arm):
    arm.process.signal(signal.SIGINT)
    assert stop(arm.process, signal.SIGTERM) == 0, arm.process.output
    assert 'Traceback' not in arm.process.output


def test_the_expert_does_a_task_over_the_topics_and_the_simulator_says_so(start):
    start('-m', 'quantvla_ros', 'tabletop', '--ros-args', '-p', 'seed:=3', '-p', 'expert:=true')
    client = Controlled()
    try:
        cube = Tabletop(3).scene.cubes[0].colour
        client.until(lambda: client.states, 'joint states')
        client.until(lambda: client.instruction.get_subscription_count() > 0, 'a listener')
        client.instruction.publish(String(data=f'touch the {cube} cube'))
        client.until(lambda: any(event.name == 'done' for event in client.events), 'success')
    finally:
        client.close()
