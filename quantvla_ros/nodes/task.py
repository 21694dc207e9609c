# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The task interface: the action `~/run`, and `~/task_done`, by which somebody says it is done.

A goal is one command with an end, where a command on the language topic has none. `goal` says when
it ends. It takes no thread and no executor of its own: the node's watch looks after it.
"""
from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.lifecycle import LifecycleNode
from std_srvs.srv import Trigger

from quantvla_ros.action import RunPolicy
from quantvla_ros.contract.instruction import clean_instruction
from quantvla_ros.contract.types import LANGUAGE_STREAM, Contract
from quantvla_ros.control.schedule import Schedule
from quantvla_ros.control.sharing import PauseReason
from quantvla_ros.errors import ObservationError
from quantvla_ros.msg import PolicyStatus
from quantvla_ros.nodes.goal import Ended, Goal, Outcome
from quantvla_ros.nodes.messages import diagnostic, duration_message
from quantvla_ros.nodes.sharing import SharedController
from quantvla_ros.nodes.states import State, Status
from quantvla_ros.nodes.supervisor import Supervisor
from quantvla_ros.observation.buffer import ObservationBuffer

_FEEDBACK = 0.2  # s between two feedbacks of an unchanged state
_NS = 1_000_000_000
_ACTIVE = (State.WAITING, State.RUNNING, State.HOLDING, State.PAUSED)


class Loaded(Protocol):
    """What there is of a node between configure and cleanup."""

    contract: Contract
    buffer: ObservationBuffer
    schedule: Schedule
    supervisor: Supervisor
    share: SharedController


class _Server(ActionServer):
    """An action server whose goals are executed by others: their result is asked for at the end.

    rclpy would keep a callback waiting from the start, which takes an executor of several threads,
    or, as a coroutine, is asked again in every cycle.
    """

    def notify_execute(self, goal_handle: ServerGoalHandle, execute_callback: Any) -> None:
        """The state is EXECUTING now; nothing is to be called yet."""

    def finish(self, handle: ServerGoalHandle, result: Callable[[ServerGoalHandle], Any]) -> None:
        """Call `result` in the executor, for the goal's last state and its result."""
        super().notify_execute(handle, result)


@dataclass
class _Running:
    """A goal with its handle.

    Attributes:
        published, dropped: counts at acceptance.
        told: the status of the last feedback, and when it went out.
    """

    goal: Goal
    handle: ServerGoalHandle
    published: int
    dropped: int
    told: tuple[Status | None, float] = (None, 0.0)


class Tasks:
    """See the module.

    Args:
        node: serves.
        loaded: what is loaded; None where nothing is.
        status: of the node.
        now: its clock, ns.
    """

    def __init__(
        self, node: LifecycleNode, loaded: Callable[[], Loaded | None],
        status: Callable[[], Status], now: Callable[[], int],
    ) -> None:
        self._node, self._loaded, self._status, self._now = node, loaded, status, now
        self._lock = threading.RLock()
        self._running: _Running | None = None
        self._resting = False  # since a goal has ended
        self._last_command: int | None = None  # ns; of the command in force at that end
        self._accepted = self._refused = 0
        self._refusal = self._ended = ''
        self._server = _Server(
            node, RunPolicy, '~/run', self._never,
            goal_callback=self._on_goal, handle_accepted_callback=self._on_accepted,
            cancel_callback=self._on_cancel,
        )
        self._done = node.create_service(Trigger, '~/task_done', self._on_done)

    def look(self) -> None:
        """Whether the goal ends, and what to say of it; from the node's watch and when it stops."""
        with self._lock:
            loaded = self._loaded()
            if self._running is None:
                if loaded is not None:
                    self._next_command(loaded)
                return
            status = self._status() if loaded is None else loaded.supervisor.status
            buffer = None if loaded is None else loaded.buffer
            ended = self._running.goal.look(
                self._now(), status.state, status.sentence,
                None if buffer is None else buffer.instruction,
                None if buffer is None else buffer.newest(LANGUAGE_STREAM),
            )
            if ended is not None:
                self._end(ended, loaded)
            elif loaded is not None:
                self._feed_back(status, loaded)

    def diagnose(self, robot: str) -> DiagnosticStatus:
        """For /diagnostics."""
        with self._lock:
            running = self._running
            message = 'no goal' if running is None else f'goal: {running.goal.instruction!r}'
            return diagnostic(
                DiagnosticStatus.OK, f'{self._node.get_name()}: task', robot, message,
                {
                    'goals accepted': self._accepted, 'goals refused': self._refused,
                    'last refusal': self._refusal, 'last end': self._ended,
                },
            )

    def close(self) -> None:
        """Free everything."""
        self._server.destroy()
        self._node.destroy_service(self._done)

    def _on_goal(self, request: RunPolicy.Goal) -> GoalResponse:
        with self._lock:
            reason = self._objection(request)
            if reason is None:
                return GoalResponse.ACCEPT
            self._refused += 1
            self._refusal = reason
        # The protocol has no field for it: it is said here and in /diagnostics.
        self._node.get_logger().warning(f'goal refused: {reason}')
        return GoalResponse.REJECT

    def _objection(self, request: RunPolicy.Goal) -> str | None:
        """Why a goal cannot be taken now."""
        loaded = self._loaded()
        status = self._status() if loaded is None else loaded.supervisor.status
        if loaded is None or status.state not in _ACTIVE:
            return f'the node is {status.state.name}: {status.sentence}'
        if self._running is not None:
            return f'busy with another goal, {self._running.goal.instruction!r}; cancel that first'
        pause = loaded.share.judge(self._now())
        if pause is not None and pause.reason is not PauseReason.TASK_ENDED:
            return f'the node is PAUSED: {pause.sentence}'
        limit = request.time_limit
        if limit.sec < 0:
            return f'time_limit: expected 0 for none, or more, found {limit.sec} s'
        if not request.instruction:
            if loaded.buffer.instruction is None:
                return 'instruction: expected words, found none, and no command is in force'
            return None
        try:
            clean_instruction(request.instruction, loaded.contract.language.max_length)
        except ObservationError as error:
            return str(error)
        return None

    def _on_accepted(self, handle: ServerGoalHandle) -> None:
        with self._lock:
            loaded, now = self._loaded(), self._now()
            assert loaded is not None  # as `_on_goal` found, in the same thread
            request = handle.request
            words = request.instruction or loaded.buffer.instruction or ''
            loaded.buffer.store(LANGUAGE_STREAM, words, now)
            limit = request.time_limit.sec * _NS + request.time_limit.nanosec
            counts = loaded.supervisor.counts
            self._running = _Running(
                Goal(loaded.buffer.instruction or words, limit or None, now, now), handle,
                counts.published, sum(counts.dropped.values()),
            )
            self._accepted += 1
            self._resting = False
            loaded.share.rest('')
            handle.execute()
        self._node.get_logger().info(
            f'goal: {words!r}' + (f', for at most {limit * 1e-9:g} s' if limit else '')
        )

    def _on_cancel(self, handle: ServerGoalHandle) -> CancelResponse:
        with self._lock:
            running = self._running
            if running is None or running.handle != handle:
                return CancelResponse.REJECT  # it has ended, and its end stands
            running.goal.cancelled = True
            loaded = self._loaded()
            if loaded is not None:  # the arm first
                self._rest(Ended(Outcome.CANCELED), loaded)
            return CancelResponse.ACCEPT

    def _on_done(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        with self._lock:
            running = self._running
            response.success = running is not None
            response.message = 'no goal runs' if running is None else 'the goal has succeeded'
            if running is not None:
                running.goal.done = True
                self.look()
        return response

    def _end(self, ended: Ended, loaded: Loaded | None) -> None:
        """Hold where that is due, and give the goal its result."""
        running, self._running = self._running, None
        assert running is not None
        self._ended = ended.sentence
        published = dropped = 0
        if loaded is not None:
            if ended.outcome.rests:
                self._rest(ended, loaded)
            counts = loaded.supervisor.counts
            published = counts.published - running.published
            dropped = sum(counts.dropped.values()) - running.dropped
        result = RunPolicy.Result(
            outcome=getattr(RunPolicy.Result, ended.outcome.name), reason=ended.sentence,
            elapsed=duration_message(running.goal.elapsed * 1e-9),
            published_count=published, dropped_count=dropped,
        )

        def finish(handle: ServerGoalHandle) -> RunPolicy.Result:
            if ended.outcome is Outcome.DONE:
                handle.succeed()
            elif ended.outcome is Outcome.CANCELED and handle.is_cancel_requested:
                handle.canceled()
            else:
                handle.abort()
            return result

        self._server.finish(running.handle, finish)
        self._node.get_logger().info(f'goal ended: {ended.sentence}')

    def _rest(self, ended: Ended, loaded: Loaded) -> None:
        """Hold until the next command."""
        self._resting = True
        self._last_command = loaded.buffer.newest(LANGUAGE_STREAM)
        loaded.share.rest(ended.sentence)
        loaded.supervisor.watch()

    def _next_command(self, loaded: Loaded) -> None:
        """After a goal the next command on the language topic lets the arm go on."""
        if self._resting and loaded.buffer.newest(LANGUAGE_STREAM) != self._last_command:
            self._resting = False
            loaded.share.rest('')

    def _feed_back(self, status: Status, loaded: Loaded) -> None:
        running = self._running
        assert running is not None
        before, at = running.told
        now = time.monotonic()
        if status == before and now - at < _FEEDBACK:
            return
        running.told = status, now
        running.handle.publish_feedback(RunPolicy.Feedback(
            state=getattr(PolicyStatus, status.state.name), reason=status.sentence,
            elapsed=duration_message(running.goal.elapsed * 1e-9),
            progress=running.goal.progress,
            inference_time=duration_message(loaded.schedule.latencies.last),
            delay=duration_message(loaded.schedule.delay),
        ))

    def _never(self, handle: ServerGoalHandle) -> RunPolicy.Result:
        raise AssertionError('a goal is finished by `_end` alone')
