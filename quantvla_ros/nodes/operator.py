# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Whoever gives the commands: a node that starts an arm's episode, speaks to the policy and waits.

For `record` and `demo`. It spins its own executor in a thread, so that a command reads as a plain
sequence: reset, command, wait until the simulator says that it is done.
"""
from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import String
from std_srvs.srv import Trigger

from quantvla_ros.errors import QuantVLAError
from quantvla_ros.msg import ActionChunk, PolicyStatus
from quantvla_ros.nodes.outputs import COMMAND_QOS, STATUS_QOS
from quantvla_ros.nodes.process import Interrupted, StopSignal
from quantvla_ros.nodes.tabletop import EVENT_QOS

_COMMAND = QoSProfile(
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
)
_DISCOVERY = 3.0  # s for other processes to be seen, on a busy machine too
_POLL = 0.05  # s between two looks at the stop signal while waiting
_AGAIN = 1.0  # s without an answer after which a command is given again
_HEARD = 30.0  # s for a command to be answered; a stalled machine may need some of them


@dataclass(frozen=True)
class Event:
    """What the arm's process said: 'reset', 'commanded', 'unknown' or 'done'."""

    name: str
    message: str
    seconds: float  # since the command


class Operator:
    """Commands and waits; a context manager.

    Args:
        stop: ends every wait with `Interrupted`.

    Attributes:
        watched: called while waiting; each raises where a process that is needed has ended.
        status: the policy node's newest status.
        chunks: all chunks, each with the time of its arrival in ns.
    """

    def __init__(self, stop: StopSignal) -> None:
        self._stop = stop
        self.watched: list[Callable[[], None]] = []
        self.node = Node('operator')
        self._events: queue.Queue[Event] = queue.Queue()
        self._answered = threading.Event()  # the newest command, by the simulated arm
        self.status: PolicyStatus | None = None
        self.chunks: list[tuple[int, ActionChunk]] = []
        self._instruction = self.node.create_publisher(String, 'instruction', _COMMAND)
        self.node.create_subscription(
            DiagnosticStatus, 'tabletop/events', self._on_event, EVENT_QOS
        )
        self.node.create_subscription(PolicyStatus, 'policy/status', self._on_status, STATUS_QOS)
        self.node.create_subscription(
            ActionChunk, 'policy/action_chunk', self._on_chunk, COMMAND_QOS
        )
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._spin, name='operator', daemon=True)
        self._thread.start()

    def __enter__(self) -> Operator:
        return self

    def __exit__(self, *exception: object) -> None:
        self._closing.set()
        self._executor.wake()
        self._thread.join()
        self._executor.shutdown()
        self.node.destroy_node()

    def now(self) -> int:
        """Time of the node's clock, ns."""
        return self.node.get_clock().now().nanoseconds

    def reset(self, seed: int) -> str:
        """Start an episode with the scene of a seed; returns what lies on the table."""
        value = ParameterValue(type=ParameterType.PARAMETER_INTEGER, integer_value=seed)
        request = SetParameters.Request(parameters=[Parameter(name='seed', value=value)])
        self.call(SetParameters, 'tabletop/set_parameters', request)
        return self.call(Trigger, 'tabletop/reset', Trigger.Request()).message

    def transition(self, transition_id: int) -> bool:
        """Ask the policy node for a lifecycle transition; whether it succeeded."""
        request = ChangeState.Request()
        request.transition.id = transition_id
        return bool(self.call(ChangeState, 'policy/change_state', request, timeout=600.0).success)

    def refuse_company(self) -> None:
        """Make sure that the arm's topics are free in this ROS domain.

        Raises:
            QuantVLAError: somebody uses them, perhaps a real arm.
        """
        for _ in range(round(_DISCOVERY / _POLL)):
            self._refuse_company_now()
            if self._stop.wait(_POLL):
                return
        self._refuse_company_now()

    def _refuse_company_now(self) -> None:
        for topic in ('arm_controller/joint_trajectory', 'joint_states', 'policy/status'):
            name = self.node.resolve_topic_name(topic)
            if self.node.count_publishers(name) or self.node.count_subscribers(name) > (
                topic == 'policy/status'  # our own
            ):
                raise QuantVLAError(
                    f'{name}: expected a ROS domain without an arm, found one that uses this '
                    'topic; choose a free domain: ROS_DOMAIN_ID=42'
                )

    def command(self, instruction: str) -> None:
        """Say what to do, until the simulated arm answers; earlier events are forgotten.

        Who is known to listen may not hear yet: discovery is over on one side before it is on the
        other. A policy that hears the same command again goes on with it.

        Raises:
            QuantVLAError: there is no answer in time.
            Interrupted: the user asked to stop.
        """
        while not self._events.empty():
            self._events.get_nowait()
        self._answered.clear()
        begun, given = time.monotonic(), 0
        while not self._answered.is_set():
            self._check()
            waited = time.monotonic() - begun
            if waited > _HEARD:
                raise QuantVLAError(
                    f'{instruction!r}: expected the simulated arm to take the command, found no '
                    f'answer in {_HEARD:.0f} s; does it run, in this ROS domain?'
                )
            if waited >= given * _AGAIN:
                self._instruction.publish(String(data=instruction))
                given += 1
            self._answered.wait(_POLL)

    def wait_for(self, name: str, timeout: float) -> Event | None:
        """The next event of that name, None where it does not come in time.

        Raises:
            QuantVLAError: the simulator does not know the command.
            Interrupted: the user asked to stop.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            self._check()
            try:
                event = self._events.get(timeout=_POLL)
            except queue.Empty:
                continue
            if event.name == name:
                return event
            if event.name == 'unknown':
                raise QuantVLAError(f'the simulated arm says: {event.message}')
        return None

    def wait_until(self, condition: Callable[[], bool], what: str, timeout: float) -> None:
        """Wait for something that is about to happen.

        Raises:
            QuantVLAError: it has not happened in time.
            Interrupted: the user asked to stop.
        """
        deadline = time.monotonic() + timeout
        while not condition():
            self._check()
            if time.monotonic() > deadline:
                raise QuantVLAError(f'waited {timeout:.0f} s for {what}, in vain')
            self._stop.wait(_POLL)

    def call(self, service: Any, name: str, request: Any, timeout: float = 30.0) -> Any:
        """Call a service and wait for its answer.

        Raises:
            QuantVLAError: there is no such service, or no answer in time.
        """
        client = self.node.create_client(service, name)
        try:
            self.wait_until(client.service_is_ready, f'the service {name}', timeout)
            future = client.call_async(request)
            self.wait_until(future.done, f'an answer of {name}', timeout)
            return future.result()
        finally:
            self.node.destroy_client(client)

    def _check(self) -> None:
        if self._stop.is_set():
            raise Interrupted
        for check in self.watched:
            check()

    def _spin(self) -> None:
        while not self._closing.is_set():
            self._executor.spin_once(timeout_sec=0.2)

    def _on_event(self, message: DiagnosticStatus) -> None:
        values = {pair.key: pair.value for pair in message.values}
        self._events.put(Event(message.name, message.message, float(values['time (s)'])))
        if message.name in ('commanded', 'unknown'):
            self._answered.set()

    def _on_status(self, message: PolicyStatus) -> None:
        self.status = message

    def _on_chunk(self, message: ActionChunk) -> None:
        self.chunks.append((self.now(), message))
