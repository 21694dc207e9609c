# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Tests on real topics. Each file runs in a process and a ROS domain of its own (scripts/test.sh).

What is waited for is an event, never a time: a wait ends as soon as it has happened and fails when
it has not within a generous bound.
"""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# Alone in a domain also when pytest is called by hand.
os.environ.setdefault('ROS_DOMAIN_ID', str(os.getpid() % 100 + 1))
os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')

rclpy = pytest.importorskip('rclpy', reason='needs ROS 2: . scripts/env.sh')
pytest.importorskip('quantvla_ros.msg', reason='needs the built messages: scripts/setup.sh')

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus  # noqa: E402
from lifecycle_msgs.srv import ChangeState, GetState  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.signals import SignalHandlerOptions  # noqa: E402
from sensor_msgs.msg import Image, JointState  # noqa: E402
from std_msgs.msg import String  # noqa: E402
from trajectory_msgs.msg import JointTrajectory  # noqa: E402

from quantvla_ros.msg import ActionChunk, PolicyStatus  # noqa: E402
from quantvla_ros.nodes.messages import time_message  # noqa: E402
from quantvla_ros.nodes.outputs import STATUS_QOS  # noqa: E402

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CONTRACT = HERE / 'bench_contract.yaml'
JOINTS = ('a', 'b')
PATIENCE = 30.0  # s; a busy machine starts a Python process with ROS in ten
CONFIGURE, CLEANUP, ACTIVATE, DEACTIVATE = 1, 2, 3, 4


class Process:
    """A process under test, its output kept for the message of a failed test."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        self.log = log
        with log.open('wb') as output:
            self._process = subprocess.Popen(
                [sys.executable, *arguments], stdout=output, stderr=subprocess.STDOUT, cwd=ROOT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self.log.read_text(errors='replace')

    def until_says(self, text: str) -> None:
        """Wait until the output holds it."""
        pause = threading.Event()
        for _ in range(round(PATIENCE / 0.02)):
            if text in self.output:
                return
            pause.wait(0.02)
        pytest.fail(f'waited for {text!r}, in vain:\n{self.output}')

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """Exit status; the output on a process that does not end."""
        try:
            return self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f'the process did not end:\n{self.output}')

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def end(self) -> None:
        """As a user would: what is killed leaves the middleware's shared memory in disorder."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.kill()


class World:
    """The other side of the topics: what a robot publishes, and what it is told.

    Cameras and joint states are published by a thread of their own; `camera_on` and `joints_on`
    stop and start them.
    """

    def __init__(self) -> None:
        self.node = Node('world')
        self._news = threading.Condition()
        self.status: PolicyStatus | None = None
        self.states: list[int] = []  # all states that were published, without repetition
        self.chunks: list[ActionChunk] = []
        self.trajectories: list[JointTrajectory] = []
        self.diagnostics: dict[str, DiagnosticStatus] = {}
        self.camera_on = self.joints_on = False
        self.camera_delay = 0.0  # s that pictures are old when they are sent
        self.camera_frozen = False  # the same picture again and again
        self.camera_encoding = 'rgb8'
        self._shade = 0
        self.position = dict.fromkeys(JOINTS, 0.1)
        node = self.node
        self._camera = node.create_publisher(
            Image, 'eye/image_raw', rclpy.qos.qos_profile_sensor_data
        )
        self._joints = node.create_publisher(JointState, 'joint_states', 5)
        self.instruction = node.create_publisher(String, 'instruction', 1)
        node.create_subscription(PolicyStatus, 'policy/status', self._on_status, STATUS_QOS)
        node.create_subscription(
            ActionChunk, 'policy/action_chunk', lambda m: self._note(self.chunks.append, m), 10
        )
        node.create_subscription(
            JointTrajectory, 'commands', lambda m: self._note(self.trajectories.append, m), 10
        )
        node.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(node)
        self._closing = threading.Event()
        self._threads = [
            threading.Thread(target=self._spin), threading.Thread(target=self._publish)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._closing.set()
        for thread in self._threads:
            thread.join()
        self._executor.shutdown()
        self.node.destroy_node()

    def now(self) -> int:
        return self.node.get_clock().now().nanoseconds

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for it."""
        with self._news:
            if not self._news.wait_for(condition, PATIENCE):
                reason = self.status.reason if self.status else 'nothing'
                pytest.fail(f'{what}: in vain; the node says: {reason}')

    def until_state(self, state: int, reason: str = '') -> None:
        self.until(
            lambda: self.status is not None and self.status.state == state
            and reason in self.status.reason,
            f'state {state} {reason}',
        )

    def call(self, service, name: str, request):
        """Answer of a service."""
        client = self.node.create_client(service, name)
        assert client.wait_for_service(PATIENCE), f'no service {name}'
        answered = threading.Event()
        future = client.call_async(request)
        future.add_done_callback(lambda _: answered.set())
        assert answered.wait(PATIENCE), f'no answer of {name}'
        self.node.destroy_client(client)
        return future.result()

    def transition(self, number: int) -> bool:
        request = ChangeState.Request()
        request.transition.id = number
        return self.call(ChangeState, 'policy/change_state', request).success

    def lifecycle(self) -> str:
        return self.call(GetState, 'policy/get_state', GetState.Request()).current_state.label

    def command(self, text: str) -> None:
        """Say it until the node has heard it: discovery may be over on one side only."""
        self.until(
            lambda: self.node.count_subscribers('instruction') > 0, 'a listener of instructions'
        )
        for _ in range(round(PATIENCE)):
            self.instruction.publish(String(data=text))
            with self._news:
                if self._news.wait_for(lambda: self.status.instruction == text, 1.0):
                    return
        pytest.fail(f'the command {text!r}: in vain')

    def send_camera(self) -> None:
        image = Image(width=8, height=8, encoding=self.camera_encoding, step=8 * 3)
        self._shade = (self._shade + (not self.camera_frozen)) % 256
        image.data = array('B', bytes([self._shade]) * (8 * 8 * 3))
        image.header.stamp = time_message(self.now() - round(self.camera_delay * 1e9))
        self._camera.publish(image)

    def send_joints(self) -> None:
        message = JointState(
            name=list(self.position), position=list(self.position.values()),
            velocity=[0.0] * len(self.position),
        )
        message.header.stamp = time_message(self.now())
        self._joints.publish(message)

    def _publish(self) -> None:
        tick = 0
        while not self._closing.wait(0.01):
            tick += 1
            if self.joints_on:
                self.send_joints()
            if self.camera_on and tick % 4 == 0:
                self.send_camera()

    def _spin(self) -> None:
        while not self._closing.is_set():
            self._executor.spin_once(timeout_sec=0.1)

    def made(self, make: Callable):
        """What `make` makes in the thread that spins: rclpy shows an action's client half-made."""
        task, done = self._executor.create_task(make), threading.Event()
        task.add_done_callback(lambda _: done.set())
        assert done.wait(PATIENCE), 'nobody spins'
        return task.result()

    def _note(self, take: Callable, message) -> None:
        with self._news:
            take(message)
            self._news.notify_all()

    def _on_status(self, message: PolicyStatus) -> None:
        with self._news:
            self.status = message
            if not self.states or self.states[-1] != message.state:
                self.states.append(message.state)
            self._news.notify_all()

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        with self._news:
            self.diagnostics = {status.name: status for status in message.status}
            self._news.notify_all()


@pytest.fixture(scope='session', autouse=True)
def ros() -> Iterator[None]:
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    # While one node lives the middleware's participant stays, and need not be found anew each time.
    anchor = Node('anchor')
    yield
    anchor.destroy_node()
    rclpy.shutdown()


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., Process]]:
    """Start processes; those that a failed test leaves behind are ended."""
    processes: list[Process] = []

    def start(*arguments: str) -> Process:
        processes.append(Process(list(arguments), tmp_path / f'{len(processes)}.log'))
        return processes[-1]

    yield start
    for process in processes:
        process.end()
        sys.stdout.write(process.output)  # shown by pytest where the test failed


@pytest.fixture
def policy(start) -> Callable[..., Process]:
    """Start the policy node with a double in place of the network."""

    def policy(contract: Path = CONTRACT, **parameters: object) -> Process:
        given = {'policy': 'double', 'contract': contract, 'recovery_time': 0.2, **parameters}
        arguments = [f'-p{name}:={value}' for name, value in given.items()]
        return start(
            str(HERE / 'policy_double.py'), '--ros-args',
            *[part for argument in arguments for part in ('-p', argument[2:])],
        )

    return policy


@pytest.fixture
def active(world, policy) -> Process:
    """A policy node that runs: inputs come, a command was given, chunks go out."""
    process = policy()
    assert world.transition(CONFIGURE), process.output
    world.camera_on = world.joints_on = True
    assert world.transition(ACTIVATE)
    world.command('stand')
    world.until_state(PolicyStatus.RUNNING)
    world.until(lambda: world.chunks and world.trajectories, 'a chunk')
    return process


def is_hold(message: JointTrajectory) -> bool:
    """Whether it is a hold: that brakes within 0.3 s, a chunk lasts 0.8 s from its stamp."""
    end = message.points[-1].time_from_start
    return end.sec + end.nanosec * 1e-9 < 0.6


def stop(process: Process, number: int = signal.SIGINT) -> int:
    """Exit status after one signal."""
    process.signal(number)
    return process.wait()
