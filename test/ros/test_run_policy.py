# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The action `~/run` of the node as a process: refusals, ends, and what the arm does then."""
from __future__ import annotations

import signal
import threading

import pytest
from action_msgs.msg import GoalStatus
from conftest import ACTIVATE, CONFIGURE, DEACTIVATE, PATIENCE, is_hold, stop
from rclpy.action import ActionClient
from std_srvs.srv import Trigger

from quantvla_ros.action import RunPolicy
from quantvla_ros.msg import PolicyStatus

SUCCEEDED, CANCELED, ABORTED = (
    GoalStatus.STATUS_SUCCEEDED, GoalStatus.STATUS_CANCELED, GoalStatus.STATUS_ABORTED,
)


class Client:
    """Sends goals; every wait is bounded."""

    def __init__(self, world) -> None:
        self._world = world
        self._client = world.made(lambda: ActionClient(world.node, RunPolicy, 'policy/run'))
        self.feedback: list[RunPolicy.Feedback] = []
        assert self._client.wait_for_server(PATIENCE)

    def send(self, instruction: str = '', limit: float = 0.0):
        goal = RunPolicy.Goal(instruction=instruction)
        goal.time_limit.sec = int(limit)
        goal.time_limit.nanosec = round(limit % 1.0 * 1e9)
        return self._wait(self._client.send_goal_async(goal, feedback_callback=self._on_feedback))

    def result(self, handle):
        """(status, result)."""
        answer = self._wait(handle.get_result_async())
        return answer.status, answer.result

    def cancel(self, handle) -> bool:
        return len(self._wait(handle.cancel_goal_async()).goals_canceling) == 1

    def close(self) -> None:
        self._client.destroy()

    def _on_feedback(self, message) -> None:
        self._world._note(self.feedback.append, message.feedback)

    def _wait(self, future):
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        assert done.wait(PATIENCE), 'no answer of the action'
        return future.result()


@pytest.fixture
def client(world):
    made: list[Client] = []

    def client() -> Client:
        made.append(Client(world))
        return made[-1]

    yield client
    for one in made:
        one.close()


def task(world) -> dict[str, str]:
    status = world.diagnostics.get('policy: task')
    return {} if status is None else {pair.key: pair.value for pair in status.values}


def until_held(world, process) -> None:
    """The arm was told to hold, and nothing else since."""
    world.until_state(PolicyStatus.PAUSED, 'the last goal has ended')
    world.until(lambda: is_hold(world.trajectories[-1]), 'a hold')
    assert list(world.trajectories[-1].points[-1].velocities) == [0.0, 0.0], process.output


def test_a_goal_is_refused_with_its_reason_until_the_node_is_active(world, policy, client):
    process = policy()
    run = client()
    assert not run.send('stand').accepted
    process.until_says('goal refused: the node is UNCONFIGURED: no policy is loaded')
    assert world.transition(CONFIGURE), process.output
    assert not run.send('stand').accepted
    process.until_says('goal refused: the node is INACTIVE')
    world.camera_on = world.joints_on = True
    assert world.transition(ACTIVATE)
    assert not run.send('').accepted
    process.until_says('no command is in force')
    assert not run.send('x' * 61).accepted
    process.until_says('expected at most 60 characters')
    assert not world.trajectories
    first = run.send('move')
    assert first.accepted
    world.until_state(PolicyStatus.RUNNING)
    assert world.status.instruction == 'move'
    assert not run.send('stand').accepted
    process.until_says("goal refused: busy with another goal, 'move'")
    world.until(lambda: task(world).get('goals refused') == '5', 'refusals in /diagnostics')
    assert "busy with another goal, 'move'" in task(world)['last refusal']
    world.until(lambda: any(f.state == PolicyStatus.RUNNING for f in run.feedback), 'feedback')
    assert run.feedback[-1].progress == -1.0  # without a limit nothing is known of it
    assert world.status.instruction == 'move'  # what was refused changed nothing
    # A process that stops says so to who waits for the result.
    process.signal(signal.SIGINT)
    status, result = run.result(first)
    assert status == ABORTED and result.outcome == RunPolicy.Result.STOPPED
    assert process.wait() == 0, process.output


def test_it_succeeds_when_somebody_says_so_and_the_next_command_goes_on(world, active, client):
    run = client()
    goal = run.send('move', 600.0)
    world.until(lambda: world.chunks[-1].instruction == 'move', 'a chunk of the goal')
    world.until(lambda: run.feedback and 0.0 < run.feedback[-1].progress < 0.5, 'progress')
    assert world.call(Trigger, 'policy/task_done', Trigger.Request()).success
    status, result = run.result(goal)
    assert status == SUCCEEDED and result.outcome == RunPolicy.Result.DONE
    assert result.published_count > 0
    until_held(world, active)
    assert not world.call(Trigger, 'policy/task_done', Trigger.Request()).success
    count = len(world.chunks)
    world.command('move')  # the very same words, on the topic
    world.until_state(PolicyStatus.RUNNING)
    world.until(lambda: len(world.chunks) > count, 'a chunk after it')


def test_a_time_limit_is_no_success(world, active, client):
    run = client()
    status, result = run.result(run.send('stand', 0.5))
    assert status == ABORTED and result.outcome == RunPolicy.Result.TIME_LIMIT
    assert result.elapsed.sec + result.elapsed.nanosec * 1e-9 == pytest.approx(0.5, abs=0.4)
    until_held(world, active)
    # A node that was off in between does not take the ended task up again.
    count = len(world.chunks)
    assert world.transition(DEACTIVATE) and world.transition(ACTIVATE)
    world.until_state(PolicyStatus.PAUSED, 'the last goal has ended')
    assert len(world.chunks) == count
    again = run.send('')  # the command in force
    assert again.accepted
    world.until_state(PolicyStatus.RUNNING)
    assert world.status.instruction == 'stand'


def test_cancel_holds_and_what_has_ended_is_not_cancelled(world, active, client):
    run = client()
    goal = run.send('move')
    world.until(lambda: world.chunks[-1].instruction == 'move', 'a chunk of the goal')
    assert run.cancel(goal)
    status, result = run.result(goal)
    assert status == CANCELED and result.outcome == RunPolicy.Result.CANCELED
    until_held(world, active)
    following = run.send('stand')
    assert following.accepted
    world.until_state(PolicyStatus.RUNNING)
    assert not run.cancel(goal)  # a late cancel does not kill the next goal
    assert world.transition(DEACTIVATE)
    status, result = run.result(following)
    assert status == ABORTED and result.outcome == RunPolicy.Result.STOPPED
    assert stop(active) == 0, active.output


def test_another_command_on_the_topic_replaces_it_and_the_arm_goes_on(world, active, client):
    run = client()
    goal = run.send('move')
    world.until(lambda: world.chunks[-1].instruction == 'move', 'a chunk of the goal')
    world.command('stand')
    status, result = run.result(goal)
    assert status == ABORTED and result.outcome == RunPolicy.Result.REPLACED
    assert "'stand'" in result.reason
    world.until(lambda: world.chunks[-1].instruction == 'stand', 'a chunk of the other command')
    assert PolicyStatus.PAUSED not in world.states


def test_a_policy_that_fails_aborts_it_with_the_reason(world, active, client):
    run = client()
    status, result = run.result(run.send('raise'))
    assert status == ABORTED and result.outcome == RunPolicy.Result.FAULT
    assert 'the double raises' in result.reason
