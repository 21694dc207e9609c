# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The outputs of the contract against controllers of the real names and fields.

Where control_msgs and moveit_msgs are not installed, interfaces of the same names and fields are
built from test/ros/interfaces.
"""
from __future__ import annotations

import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from action_msgs.msg import GoalStatusArray
from conftest import PATIENCE
from rclpy.action import ActionClient, ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.executors import MultiThreadedExecutor
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import SetBool
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

pytest.importorskip('control_msgs', reason='needs control_msgs: scripts/setup.sh --test')
pytest.importorskip('moveit_msgs', reason='needs moveit_msgs: scripts/setup.sh --test')

from control_msgs.action import FollowJointTrajectory, GripperCommand
from control_msgs.msg import JointJog
from geometry_msgs.msg import TwistStamped
from moveit_msgs.srv import ServoCommandType

from quantvla_ros.contract.load import parse_contract
from quantvla_ros.control.measured import Measured
from quantvla_ros.control.sharing import PauseReason
from quantvla_ros.control.trajectory import Trajectory
from quantvla_ros.errors import ContractError
from quantvla_ros.nodes import output_messages
from quantvla_ros.nodes.output import Surroundings
from quantvla_ros.nodes.outputs import Commands
from quantvla_ros.nodes.sharing import SharedController

CONTRACT = """\
contract: 1
robot: bench
control_period: 0.05
cameras:
  eye: {{topic: eye, type: sensor_msgs/msg/Image, slot: eye}}
joint_states: {{topic: joint_states, joints: [a, b, finger]}}
language: {{topic: instruction}}
action:
  topic: arm/joint_trajectory
  frame_id: base_link
  start_tolerance: 0.3
  parts: {parts}
limits:
  a: {{lower: -1.0, upper: 1.0, velocity: 2.0}}
  b: {{lower: -1.0, upper: 1.0, velocity: 2.0}}
  finger: {{lower: 0.0, upper: 0.05, velocity: 0.2, unit: m}}
  vx: {{velocity: 0.3}}
  vy: {{velocity: 0.3}}
  vz: {{velocity: 0.3}}
  wx: {{velocity: 1.0}}
  wy: {{velocity: 1.0}}
  wz: {{velocity: 1.0}}
output: {output}
"""
ARM = '[{kind: joint_position, names: [a, b], unit: rad}]'
FINGER = '{kind: gripper, names: [finger], unit: m, model_range: [0, 1], joint_range: [0, 0.05]}'
HAND = ARM.replace('}]', '}, ' + FINGER + ']')
TWIST = '[{kind: twist}, ' + FINGER + ']'
FOLLOW = '{kind: follow_joint_trajectory, action: arm/follow_joint_trajectory, '
FOLLOW += 'path_tolerance: 0.2, goal_tolerance: 0.05, goal_time: 0.5}'
AXES = ('vx', 'vy', 'vz', 'wx', 'wy', 'wz')


class Bench:
    """A node with an output, and the other side in the same process; callbacks by threads."""

    def __init__(self) -> None:
        self.node = LifecycleNode('output')
        self.node.crashed = self.crashed
        self.faults: list[Exception] = []
        self.refused: list[str] = []
        self.not_followed: list[str] = []  # of the arm alone
        self.accepted = 0
        self.measured: Measured | None = None
        self.commands: Commands | None = None
        self.sent_goal = lambda goal: None
        self.group = ReentrantCallbackGroup()
        self._news = threading.Condition()
        self._executor = MultiThreadedExecutor(4)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._closers: list = []
        self.node.trigger_configure()
        self.node.trigger_activate()

    def output(self, parts: str, output: str) -> Commands:
        contract = parse_contract(CONTRACT.format(parts=parts, output=output))
        self.commands = Commands(
            self.node, contract, 'none', lambda status: None,
            Surroundings(
                lambda: self.measured, self._refuse, self._accept,
                lambda goal: self.sent_goal(goal), self.not_followed.append,
            ),
        )
        for entity in vars(self.commands).values():
            for part in entity if isinstance(entity, list) else [entity]:
                for publisher in [part, getattr(part, '_publisher', None)]:
                    if hasattr(publisher, 'on_activate'):
                        publisher.on_activate(None)
        return self.commands

    def start(self) -> None:
        self._thread.start()

    def follow_server(self, name: str, execute, accept: bool = True) -> list:
        """An action server that keeps the goals it got."""
        goals: list = []

        def on_goal(goal):
            self.note(goals, goal)
            return GoalResponse.ACCEPT if accept else GoalResponse.REJECT

        server = ActionServer(
            self.node, FollowJointTrajectory if 'follow' in name else GripperCommand, name,
            execute_callback=execute, goal_callback=on_goal,
            cancel_callback=lambda handle: CancelResponse.ACCEPT, callback_group=self.group,
        )
        self._closers.append(server.destroy)
        return goals

    def note(self, where: list, what) -> None:
        with self._news:
            where.append(what)
            self._news.notify_all()

    def heard(self, kind, topic: str) -> list:
        messages: list = []
        self.node.create_subscription(
            kind, topic, lambda message: self.note(messages, message), 50,
            # One thread at a time: two of them may note two messages in the wrong order.
            callback_group=MutuallyExclusiveCallbackGroup(),
        )
        return messages

    def until(self, condition, what: str) -> None:
        with self._news:
            for _ in range(round(PATIENCE / 0.02)):
                if condition():
                    return
                self._news.wait(0.02)
        pytest.fail(f'{what}: in vain; refused: {self.refused}, faults: {self.faults}')

    def now(self) -> int:
        return self.node.get_clock().now().nanoseconds

    def motion(self, joints, seconds=1.0, rate=None) -> Trajectory:
        """All joints at an even rate, from now on, to a stop."""
        times = np.arange(0.05, seconds, 0.05)
        rate = 0.1 if rate is None else rate
        positions = np.repeat((times * rate)[:, None], len(joints), axis=1)
        velocities = np.full_like(positions, rate)
        velocities[-1] = 0.0
        return Trajectory(self.now(), tuple(joints), times, positions, velocities)

    def send(self, points: Trajectory) -> None:
        work = SimpleNamespace(
            sequence=0, age=0.0, observation=SimpleNamespace(instruction='')
        )
        chunk = SimpleNamespace(
            joints=points.joints, stamp=points.stamp, period=0.05, positions=points.positions
        )
        self.commands.chunk(
            SimpleNamespace(points=points, work=work, chunk=chunk, inference_time=0.0)
        )

    def crashed(self, error: Exception) -> None:
        self.faults.append(error)

    def close(self) -> None:
        if self.commands is not None:
            self.commands.close()
        for closer in self._closers:
            closer()
        self._executor.shutdown()
        if self._thread.is_alive():
            self._thread.join()
        self.node.destroy_node()
        assert not self.faults

    def _refuse(self, sentence: str) -> None:
        self.note(self.refused, sentence)

    def _accept(self) -> None:
        with self._news:
            self.accepted += 1
            self._news.notify_all()


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.close()


def succeed(handle):
    handle.succeed()
    return FollowJointTrajectory.Result(error_code=0)


# FollowJointTrajectory.

def test_a_chunk_is_a_goal_with_velocities_tolerances_and_the_observations_stamp(bench):
    goals = bench.follow_server('arm/follow_joint_trajectory', succeed)
    commands = bench.output(ARM, FOLLOW)
    bench.start()
    bench.until(commands.controllers, 'the action')
    points = bench.motion(('a', 'b'))
    bench.send(points)
    bench.until(lambda: commands.facts()['goals done'] == 1, 'a result')
    goal = goals[0]
    trajectory = goal.trajectory
    assert list(trajectory.joint_names) == ['a', 'b']
    assert trajectory.header.stamp.sec == points.stamp // 10**9
    assert trajectory.header.frame_id == 'base_link'
    assert list(trajectory.points[0].velocities) == pytest.approx([0.1, 0.1])
    assert list(trajectory.points[-1].velocities) == [0.0, 0.0]
    assert [(t.name, t.position) for t in goal.path_tolerance] == [('a', 0.2), ('b', 0.2)]
    assert [(t.name, t.position) for t in goal.goal_tolerance] == [('a', 0.05), ('b', 0.05)]
    assert goal.goal_time_tolerance.nanosec == 500_000_000
    assert not bench.refused and bench.accepted == 1 and not commands.problems


def test_points_that_are_over_are_dropped_just_before_the_goal_is_sent(bench):
    goals = bench.follow_server('arm/follow_joint_trajectory', succeed)
    commands = bench.output(ARM, FOLLOW)
    bench.start()
    bench.until(commands.controllers, 'the action')
    points = bench.motion(('a', 'b'), seconds=100.0)
    old = Trajectory(
        points.stamp - 50 * 10**9, points.joints, points.times, points.positions, points.velocities
    )
    bench.send(old)
    bench.until(lambda: goals, 'a goal')
    first = goals[0].trajectory.points[0].time_from_start
    assert 49.9 < first.sec + first.nanosec * 1e-9 < 51.0 + PATIENCE


def test_a_goal_that_the_controller_refuses_is_told(bench):
    bench.follow_server('arm/follow_joint_trajectory', succeed, accept=False)
    commands = bench.output(ARM, FOLLOW)
    bench.start()
    bench.until(commands.controllers, 'the action')
    bench.send(bench.motion(('a', 'b')))
    bench.until(lambda: bench.refused, 'a refusal')
    assert 'refused' in commands.problems[0]
    assert bench.accepted == 0
    bench.until(lambda: bench.not_followed == bench.refused, 'that the arm does not follow it')


def test_a_failure_is_told_with_the_name_of_its_code_and_the_controllers_words(bench):
    def fail(handle):
        handle.abort()
        return FollowJointTrajectory.Result(
            error_code=FollowJointTrajectory.Result.PATH_TOLERANCE_VIOLATED,
            error_string='joint b is 0.31 off',
        )

    bench.follow_server('arm/follow_joint_trajectory', fail)
    commands = bench.output(ARM, FOLLOW)
    bench.start()
    bench.until(commands.controllers, 'the action')
    bench.send(bench.motion(('a', 'b')))
    bench.until(lambda: bench.refused, 'a failure')
    assert bench.refused == ['goal aborted: PATH_TOLERANCE_VIOLATED (joint b is 0.31 off)']
    # Taken, and not followed: that is no success, or goals that are given up would never add up.
    assert commands.facts()['goals accepted'] == 1 and bench.accepted == 0


def test_a_success_with_an_error_code_is_no_success(bench):
    def lie(handle):
        handle.succeed()
        return FollowJointTrajectory.Result(error_code=-5)

    bench.follow_server('arm/follow_joint_trajectory', lie)
    commands = bench.output(ARM, FOLLOW)
    bench.start()
    bench.until(commands.controllers, 'the action')
    bench.send(bench.motion(('a', 'b')))
    bench.until(lambda: bench.refused, 'a failure')
    assert 'GOAL_TOLERANCE_VIOLATED' in bench.refused[0]
    assert commands.facts()['goals done'] == 0


def test_a_goal_replaced_by_the_next_chunk_is_no_fault_and_feedback_is_heard(bench):
    next_one = threading.Event()

    def first_then_rest(handle):
        """As joint_trajectory_controller: a new goal ends the running one."""
        feedback = FollowJointTrajectory.Feedback()
        feedback.error.positions = [0.01, -0.03]
        handle.publish_feedback(feedback)
        if len(goals) == 1:
            assert next_one.wait(PATIENCE)
            handle.abort()
            return FollowJointTrajectory.Result(
                error_code=-1, error_string='Current goal cancelled due to new incoming action.'
            )
        return succeed(handle)

    goals = bench.follow_server('arm/follow_joint_trajectory', first_then_rest)
    commands = bench.output(ARM, FOLLOW)
    bench.start()
    bench.until(commands.controllers, 'the action')
    bench.send(bench.motion(('a', 'b')))
    bench.until(lambda: commands.facts()['goals accepted'] == 1, 'the first goal')
    bench.send(bench.motion(('a', 'b')))
    bench.until(lambda: commands.facts()['goals accepted'] == 2, 'the second goal')
    next_one.set()
    bench.until(lambda: commands.facts()['goals replaced by the next'] == 1, 'the end of the first')
    assert not bench.refused
    bench.until(
        lambda: commands.facts()['largest distance from the desired position'] == '0.0300',
        'feedback',
    )


def test_a_running_goal_can_be_cancelled(bench):
    cancelled = threading.Event()

    def until_cancelled(handle):
        while not handle.is_cancel_requested:
            cancelled.wait(0.01)
        handle.canceled()
        cancelled.set()
        return FollowJointTrajectory.Result()

    bench.follow_server('arm/follow_joint_trajectory', until_cancelled)
    commands = bench.output(ARM, FOLLOW)
    bench.start()
    bench.until(commands.controllers, 'the action')
    bench.send(bench.motion(('a', 'b')))
    bench.until(lambda: commands.facts()['goals accepted'], 'the goal')
    commands._arm.cancel()
    assert cancelled.wait(PATIENCE)
    bench.until(lambda: bench.refused, 'its end')
    assert bench.refused[0].startswith('goal canceled')


def test_without_a_controller_nothing_is_sent_and_it_is_told(bench):
    commands = bench.output(ARM, FOLLOW)
    bench.start()
    bench.send(bench.motion(('a', 'b')))
    assert bench.refused == ['no action server at arm/follow_joint_trajectory']
    assert commands.facts()['goals sent'] == 0


# MoveIt Servo.

def servo(bench, success=True) -> list:
    """A Servo that is asked for a type of command."""
    asked: list = []

    def on_switch(request, response):
        bench.note(asked, request.command_type)
        response.success = success
        return response

    bench.node.create_service(
        ServoCommandType, 'servo_node/switch_command_type', on_switch, callback_group=bench.group
    )
    return asked


def test_joint_speeds_are_streamed_with_fresh_stamps_and_end_with_rest(bench):
    asked = servo(bench)
    heard = bench.heard(JointJog, 'servo_node/delta_joint_cmds')
    bench.output(ARM, '{kind: servo_joint_jog, servo: servo_node, rate: 100.0}')
    bench.start()
    bench.until(lambda: bench.accepted and bench.commands.controllers(), 'Servo')
    points = bench.motion(('b', 'a'), seconds=2.0)
    bench.send(points)
    bench.until(
        lambda: any(max(m.velocities) > 0.0 for m in heard) and max(heard[-1].velocities) == 0.0,
        'motion and its end',
    )
    assert asked[0] == 0  # JOINT_JOG
    assert list(heard[0].joint_names) == ['a', 'b']
    stamps = [m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for m in heard]
    assert stamps == sorted(stamps) and stamps[0] >= points.stamp
    # The last cubic comes to rest from 0.1 rad/s, over a way that takes it up to 4/3 of that.
    assert 0.0999 < max(max(m.velocities) for m in heard) < 0.1334
    assert heard[0].header.frame_id == 'base_link'


def test_the_end_of_a_motion_is_told_once_where_the_machine_missed_it(bench):
    servo(bench)
    heard = bench.heard(JointJog, 'servo_node/delta_joint_cmds')
    bench.output(ARM, '{kind: servo_joint_jog, servo: servo_node, rate: 100.0}')
    bench.start()
    bench.until(lambda: bench.accepted and bench.commands.controllers(), 'Servo')
    points = bench.motion(('a', 'b'))
    bench.send(replace(points, stamp=points.stamp - round(1.5e9)))  # over half a second ago
    bench.until(lambda: heard, 'rest')
    points = bench.motion(('a', 'b'), seconds=30.0)
    bench.send(replace(points, stamp=points.stamp - round(0.1e9)))  # it is moving by now
    bench.until(lambda: max(heard[-1].velocities) > 0.0, 'the next motion')
    assert [list(m.velocities) for m in heard if max(m.velocities) == 0.0] == [[0.0, 0.0]]


def test_joint_speeds_bring_an_arm_back_to_its_plan(bench):
    servo(bench)
    heard = bench.heard(JointJog, 'servo_node/delta_joint_cmds')
    bench.output(ARM, '{kind: servo_joint_jog, servo: servo_node}')
    bench.start()
    points = bench.motion(('a', 'b'), seconds=30.0, rate=0.0)
    bench.measured = Measured(points.stamp, np.array([-0.1, 0.1]), np.zeros(2))
    bench.send(points)
    bench.until(lambda: heard, 'speeds')
    assert heard[0].velocities[0] > 0.0 > heard[0].velocities[1]


def test_twists_are_streamed_in_the_contracts_frame_and_the_gripper_goes_apart(bench):
    asked = servo(bench)
    heard = bench.heard(TwistStamped, 'servo_node/delta_twist_cmds')
    fingers = bench.heard(Float64MultiArray, 'finger/commands')
    bench.output(
        TWIST,
        '{kind: servo_twist, servo: servo_node, grippers: '
        '[{joint: finger, kind: position, topic: finger/commands}]}',
    )
    bench.start()
    points = bench.motion((*AXES, 'finger'), seconds=30.0, rate=0.001)
    points.positions[:] = 0.001 * points.times[:, None]
    bench.send(points)
    bench.until(lambda: heard and heard[-1].twist.linear.x > 0.0 and fingers, 'twists')
    assert asked[0] == 1  # TWIST
    twist = heard[-1].twist
    for value in (twist.linear.x, twist.linear.z, twist.angular.x, twist.angular.z):
        assert value == pytest.approx(0.001, rel=0.01)
    assert heard[-1].header.frame_id == 'base_link'
    assert 0.0 < fingers[-1].data[0] <= 0.03


def test_an_inactive_node_asks_nothing_of_servo(bench):
    asked = servo(bench)
    commands = bench.output(ARM, '{kind: servo_joint_jog, servo: servo_node, rate: 100.0}')
    commands._arm._publisher.on_deactivate(None)
    bench.start()
    bench.until(commands._arm._switch.service_is_ready, 'Servo')
    already = len(asked)
    bench.send(bench.motion(('a', 'b'), seconds=0.3))
    end = bench.now() + 300_000_000
    bench.until(lambda: bench.now() > end, 'the end of the motion')
    assert len(asked) == already and commands.facts()['commands streamed'] == 0


def test_nothing_is_streamed_before_servo_confirmed_the_type_of_command(bench):
    asked = servo(bench, success=False)
    heard = bench.heard(JointJog, 'servo_node/delta_joint_cmds')
    commands = bench.output(ARM, '{kind: servo_joint_jog, servo: servo_node, rate: 100.0}')
    bench.start()
    bench.send(bench.motion(('a', 'b'), seconds=30.0))
    bench.until(lambda: len(asked) >= 2, 'a second request')  # it goes on asking
    assert not heard
    assert 'refused to switch' in commands.problems[0]
    assert len(bench.refused) == 1  # told once


# Grippers.

def test_a_gripper_that_is_commanded_apart_is_left_out_of_the_arm(bench):
    arm = bench.heard(JointTrajectory, 'arm/joint_trajectory')
    fingers = bench.heard(JointTrajectory, 'finger/joint_trajectory')
    commands = bench.output(
        HAND, '{grippers: [{joint: finger, kind: trajectory, topic: finger/joint_trajectory}]}'
    )
    bench.start()
    bench.until(lambda: commands.controllers() and commands._grippers[0].listeners(), 'listeners')
    points = bench.motion(('a', 'b', 'finger'), rate=0.01)
    bench.send(points)
    bench.until(lambda: arm and fingers, 'both')
    assert list(arm[0].joint_names) == ['a', 'b']
    assert len(arm[0].points[0].positions) == 2
    assert list(fingers[0].joint_names) == ['finger']
    commands.hold(points)
    bench.until(lambda: len(arm) == 2, 'the hold')
    assert len(fingers) == 1  # it may hold something


def test_a_gripper_action_is_told_its_end_once_and_a_stall_is_no_fault(bench):
    def grasp(handle):
        handle.succeed()
        return GripperCommand.Result(stalled=True, position=0.01)

    goals = bench.follow_server('hand/gripper_cmd', grasp)
    commands = bench.output(
        HAND,
        '{grippers: [{joint: finger, kind: gripper_command, action: hand/gripper_cmd, '
        'max_effort: 12.0, tolerance: 0.002}]}',
    )
    bench.start()
    bench.until(commands._grippers[0].listeners, 'the action')
    # Closes from 0.05 to 0 within half a second, then stays.
    points = bench.motion(('a', 'b', 'finger'), seconds=2.0, rate=0.0)
    points.positions[:, 2] = np.clip(0.05 - 0.1 * points.times, 0.0, 0.05)
    bench.send(points)
    bench.until(lambda: bench.now() > points.end, 'the end of the motion')
    assert [goal.command.position for goal in goals] == [0.0]
    assert goals[0].command.max_effort == 12.0
    assert not bench.refused and not commands.problems


def test_a_missing_package_is_named_with_the_debian_package_that_holds_it(monkeypatch):
    monkeypatch.setenv('ROS_DISTRO', 'jazzy')
    with pytest.raises(ContractError, match='apt-get install ros-jazzy-absent-msgs'):
        output_messages.interface('absent_msgs/action/Follow', 'output.kind: x')


# Others on the same controller.

def shared(bench, parts: str, output: str):
    """An output whose controller others use too."""
    bench.sent_goal = lambda goal: share.sent_goal(goal)
    commands = bench.output(parts, output)
    contract = parse_contract(CONTRACT.format(parts=parts, output=output))
    share = SharedController(bench.node, contract, commands)
    bench._closers.append(share.close)
    return share


def reason_of(bench, share):
    pause = share.judge(bench.now())
    return None if pause is None else pause.reason


def test_our_own_goal_is_no_reason_to_pause_and_another_clients_is(bench):
    release = threading.Event()

    def run(handle):
        assert release.wait(PATIENCE)
        return succeed(handle)

    goals = bench.follow_server('arm/follow_joint_trajectory', run)
    share = shared(bench, ARM, FOLLOW)
    others = ActionClient(bench.node, FollowJointTrajectory, 'arm/follow_joint_trajectory')
    bench._closers.append(others.destroy)
    statuses = bench.heard(GoalStatusArray, 'arm/follow_joint_trajectory/_action/status')
    bench.start()
    bench.until(bench.commands.controllers, 'the action')
    bench.send(bench.motion(('a', 'b')))
    bench.until(lambda: statuses and statuses[-1].status_list, 'our goal in the status')
    assert reason_of(bench, share) is None
    assert others.wait_for_server(PATIENCE)
    others.send_goal_async(FollowJointTrajectory.Goal())
    bench.until(lambda: reason_of(bench, share) is PauseReason.OTHER_GOAL, 'a pause')
    assert len(goals) == 2
    release.set()
    bench.until(lambda: reason_of(bench, share) is None, 'the end of the pause')


def test_a_trajectory_that_we_did_not_send_pauses_and_ours_does_not(bench):
    share = shared(bench, ARM, '{kind: trajectory}')
    heard = bench.heard(JointTrajectory, 'arm/joint_trajectory')
    bench.start()
    bench.until(lambda: bench.commands.controllers() == 1, 'a listener')
    rival = bench.node.create_publisher(JointTrajectory, 'arm/joint_trajectory', 10)
    bench.until(bench.commands.rivals, 'a rival')
    share.look()
    bench.until(lambda: bench.commands.controllers() == 2, 'our own ear')
    bench.send(bench.motion(('a', 'b'), seconds=20.0))
    bench.until(lambda: heard, 'our command')
    assert reason_of(bench, share) is None
    other = JointTrajectory(joint_names=['a', 'b'])
    other.points = [JointTrajectoryPoint(positions=[0.0, 0.0], velocities=[0.0, 0.0])]
    other.points[0].time_from_start.sec = 1
    bench.until(lambda: rival.get_subscription_count() == 2, 'all ears')
    rival.publish(other)
    bench.until(lambda: reason_of(bench, share) is PauseReason.OTHER_COMMAND, 'a pause')
    bench.until(lambda: reason_of(bench, share) is None, 'the end of the pause')
    bench.node.destroy_publisher(rival)
    bench.until(lambda: not bench.commands.rivals(), 'no rival')
    share.look()
    bench.until(lambda: bench.commands.controllers() == 1, 'that we listen no more')


def test_pause_is_a_service_of_the_node(bench):
    share = shared(bench, ARM, '{kind: trajectory}')
    bench.start()
    client = bench.node.create_client(SetBool, 'output/pause', callback_group=bench.group)
    assert client.wait_for_service(PATIENCE)
    answers: list = []
    for asked, reason in ((True, PauseReason.ASKED), (False, None)):
        future = client.call_async(SetBool.Request(data=asked))
        future.add_done_callback(lambda answer: bench.note(answers, answer.result()))
        bench.until(
            lambda reason=reason: answers and reason_of(bench, share) is reason, str(reason)
        )
    assert all(answer.success for answer in answers)


def test_a_controller_is_asked_how_it_is_set_up_when_it_appears(bench):
    share = shared(bench, ARM, '{kind: trajectory}')
    bench.start()
    share.look()
    assert share.facts.found == {}  # nobody is there
    controller = Node('arm')
    controller.declare_parameter('joints', ['a', 'b', 'c'])
    controller.declare_parameter('interpolate_from_desired_state', False)
    controller.declare_parameter('allow_partial_joints_goal', False)
    bench._executor.add_node(controller)
    bench._closers.append(controller.destroy_node)

    def asked():
        share.look()
        return share.facts.advice

    bench.until(asked, 'advice')
    assert share.facts.found['joints'] == ['a', 'b', 'c']
    assert 'we send no c' in share.facts.advice[0]
    assert 'step back' in share.facts.advice[1]
