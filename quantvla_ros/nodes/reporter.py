# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Looks after a policy node many times a second, and says what it does: log, status, diagnostics.

In a thread of its own: it goes on while the executor loads a policy, and without /clock.
"""
from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode

from quantvla_ros.msg import PolicyStatus
from quantvla_ros.nodes import diagnostics
from quantvla_ros.nodes.assembly import Assembly, clock_of
from quantvla_ros.nodes.outputs import ACKNOWLEDGED, COMMAND_QOS, STATUS_QOS, status_message
from quantvla_ros.nodes.states import State, Status
from quantvla_ros.nodes.task import Tasks

_WATCH = 0.02  # s between two looks at the inputs
_REPORT = 1.0  # s between two diagnostics


class Reporter:
    """See the module.

    Args:
        node: publishes.
        loaded: what is loaded; None where nothing is.
        tasks: looked after, too.
        crashed: told of a fault of ours that ends the thread.

    Attributes:
        looking: held during a look; what is loaded must not go in the middle of one.
    """

    def __init__(
        self, node: LifecycleNode, loaded: Callable[[], Assembly | None], tasks: Tasks,
        crashed: Callable[[Exception], None],
    ) -> None:
        self._node, self._loaded, self._tasks, self._crashed = node, loaded, tasks, crashed
        self._now = clock_of(node)
        self._status = Status()
        self._status_publisher = node.create_publisher(PolicyStatus, '~/status', STATUS_QOS)
        self._diagnostics_publisher = node.create_publisher(
            DiagnosticArray, '/diagnostics', COMMAND_QOS
        )
        self.looking = threading.Lock()
        self._changes: collections.deque[Status] = collections.deque()
        self._news = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name='watch', daemon=True)

    def start(self) -> None:
        """Say what the node is by now, and look after it from now on."""
        self._publish_status()
        self._thread.start()

    def stop(self) -> None:
        """Say what there is still to say, and end."""
        self._closing = True
        self._thread.join()

    def wait_until_received(self) -> None:
        """Give the last word time to arrive, before its publisher goes."""
        if self._status_publisher.get_subscription_count():
            self._status_publisher.wait_for_all_acked(Duration(seconds=ACKNOWLEDGED))

    def changed(self, status: Status) -> None:
        """A new state or reason. Said by the thread, so that no command waits for a log."""
        self._changes.append(status)
        self._news.set()

    def current(self) -> Status:
        """The status with its newest numbers."""
        loaded = self._loaded()
        if loaded is None or self._status != loaded.supervisor.status:
            return self._status
        return loaded.supervisor.status

    def _run(self) -> None:
        """Look after the inputs many times a second, say what changed, report once a second."""
        next_report = time.monotonic()
        try:
            while not self._closing:
                self._news.wait(_WATCH)
                self._news.clear()
                with self.looking:
                    self._look()
                    self._tasks.look()
                    self._say_changes()
                    if time.monotonic() >= next_report:
                        next_report = time.monotonic() + _REPORT
                        self._report()
            self._say_changes()
        except Exception as error:  # an arm that nobody watches must not move: stop the process
            self._crashed(error)

    def _look(self) -> None:
        loaded = self._loaded()  # in no variable of the thread's own: it would outlive a cleanup
        if loaded is not None:
            loaded.watchdogs.look()
            loaded.supervisor.watch()

    def _say_changes(self) -> None:
        """Each new state or reason once, in the log and on ~/status."""
        logger = self._node.get_logger()
        while self._changes:
            status = self._status = self._changes.popleft()
            line = f'{status.state.name}: {status.sentence}'
            if status.state in (State.HOLDING, State.FAULT):
                logger.warning(line)
            else:
                logger.info(line)
            self._publish_status()

    def _publish_status(self) -> None:
        loaded, status, now = self._loaded(), self.current(), self._now()
        if loaded is None:
            message = status_message(status, now)
        else:
            info = loaded.policy.info
            message = status_message(
                status,
                now,
                instruction=loaded.buffer.instruction or '',
                artifact_id=info.artifact_id,
                precision=info.precision,
                counts=loaded.supervisor.counts,
                latencies=loaded.schedule.latencies,
                refused_messages=sum(loaded.buffer.dropped().values()),
                observation_age=loaded.supervisor.observation_age,
            )
        self._status_publisher.publish(message)

    def _report(self) -> None:
        """1 Hz: diagnostics and the status once more."""
        loaded, now, name = self._loaded(), self._now(), self._node.get_name()
        self._publish_status()
        status = self.current()
        if loaded is None:
            statuses = [diagnostics.state_status(name, '', status, {}, None, None)]
        else:
            loaded.inputs.hear_latched()
            loaded.share.look()
            contract, info = loaded.contract, loaded.policy.info
            statuses = [
                diagnostics.state_status(
                    name, contract.robot, status,
                    {'artifact': info.artifact_id, 'precision': info.precision},
                    loaded.supervisor.counts, loaded.schedule.latencies, loaded.policy.running,
                ),
                *(
                    diagnostics.input_status(
                        name, contract, loaded.buffer, loaded.inputs, entry, now
                    )
                    for entry in loaded.inputs.all
                ),
                diagnostics.schedule_status(name, contract, loaded.schedule),
                diagnostics.command_status(name, contract, loaded.commands),
                *diagnostics.controller_status(name, contract, loaded.share.facts),
                *(
                    diagnostics.watchdog_status(name, contract, reading)
                    for reading in loaded.watchdogs.shown
                ),
                self._tasks.diagnose(contract.robot),
                *diagnostics.recording_status(name, contract, loaded.recording),
                *([loaded.shadow.diagnose()] if loaded.shadow is not None else []),
            ]
        self._diagnostics_publisher.publish(diagnostics.array(statuses, now))
