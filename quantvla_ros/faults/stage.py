# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The stage that faults are played on: an arm, the policy node between relays, and what they do.

Processes are started by whoever makes the stage; everything that the arm and the node say is
recorded with the time at which it was heard. Knows nothing of single cases.
"""
from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue, SetParametersResult
from rcl_interfaces.srv import SetParameters
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, String
from trajectory_msgs.msg import JointTrajectory

from quantvla_ros.contract.load import load_contract
from quantvla_ros.contract.types import Contract, OutputKind
from quantvla_ros.faults import variants
from quantvla_ros.faults.case import FaultsError
from quantvla_ros.faults.clock import SimulatedClock
from quantvla_ros.faults.follow import FollowController
from quantvla_ros.faults.record import LATCHED, Record
from quantvla_ros.faults.relay import BEST_EFFORT, PREFIX, RELIABLE, CompressedRelay, Relay
from quantvla_ros.faults.setting import Process, Setting, Start
from quantvla_ros.faults.spoiled import LOAD, NODE, SPOIL
from quantvla_ros.nodes.messages import message_class
from quantvla_ros.nodes.operator import Operator
from quantvla_ros.nodes.process import Interrupted, StopSignal
from quantvla_ros.nodes.states import State

CONFIGURE, CLEANUP, ACTIVATE, DEACTIVATE = 1, 2, 3, 4
PATIENCE = 30.0  # s for what has to happen; a busy machine takes ten to start a node
MOVING = 0.15  # rad/s or m/s, of the fastest joint of an arm that is on its way
_DISCOVERY = 10.0  # s
_POLL = 0.01  # s between two looks


class Stage:
    """See the module; a context manager.

    Args:
        setting: what is on it.
        start: starts a process.
        stop: ends every wait with `Interrupted`.
        scratch: an empty folder for files of cases.

    Attributes:
        contract: of the robot, with an emergency stop where the arm is ours.
        variant: of the contract that the policy node has now (`variants`).
        cameras: relay by name in the contract.
        compressed: relay that makes JPEG of a raw camera, in the variant that has it.
        joints, commands: the other relays; `commands` is None where the arm is not commanded by a
            trajectory topic.
        emergency: relay of the emergency stop; None where the contract names none.
        controller: server of the action, in the variant that commands by it.
        record: all that was heard.
        policy, arm: processes; `arm` is None where it is not ours, or was killed.
        rivals: publishers of a case, besides the node's.
        tasks: client of the action ~/run, once a case has made it.
        goals: handles of the goals of a case.
        may_end: whether the policy's process may end by itself now.
    """

    def __init__(
        self, setting: Setting, start: Start, stop: StopSignal, scratch: Path
    ) -> None:
        self.setting, self.scratch = setting, scratch
        # Nothing is changed of somebody's own contract.
        self._contracts = {'': setting.contract.resolve()}
        if setting.own_arm:
            self._contracts = variants.write(setting.contract, scratch)
        self.contract: Contract = load_contract(self._contracts[''])
        self.variant = ''
        self._start, self._stop = start, stop
        self.operator = Operator(stop)
        self.node: Any = self.operator.node
        self.clock = SimulatedClock(self.node)
        self._next, self.may_end = 0, True  # none runs yet
        self._policy: Process | None = None
        self.arm: Process | None = None
        try:
            self._set_up()
        except BaseException:
            self.close()
            raise

    def _set_up(self) -> None:
        setting, contract = self.setting, self.contract
        node = self.node
        if setting.own_arm:
            self.operator.refuse_company()
        else:
            self._find_arm()
        self.record = Record(node, contract.action.names, self.now)
        self.cameras = {
            camera.name: Relay(
                node, camera.topic, PREFIX + camera.topic, message_class(camera.type),
                BEST_EFFORT, BEST_EFFORT,
            )
            for camera in contract.cameras
        }
        self.joints = Relay(
            node, contract.joint_states.topic, PREFIX + contract.joint_states.topic, JointState,
            BEST_EFFORT, RELIABLE, self.record.on_joints,
        )
        self._remapped = [
            contract.joint_states.topic, *(camera.topic for camera in contract.cameras)
        ]
        self.compressed: CompressedRelay | None = None
        self.controller: FollowController | None = None
        self.emergency: Relay | None = None
        if (stop := contract.safety.emergency_stop) is not None:
            self.emergency = Relay(node, stop, PREFIX + stop, Bool, BEST_EFFORT, RELIABLE)
            self._remapped.append(stop)
        self.commands: Relay | None = None
        if contract.output.kind is OutputKind.TRAJECTORY:
            self.commands = Relay(
                node, PREFIX + contract.action.topic, contract.action.topic, JointTrajectory,
                RELIABLE, RELIABLE, self.record.on_trajectory,
            )
            self._remapped.append(contract.action.topic)
        # Latched, as the operator's is.
        self._instruction = node.create_publisher(String, contract.language.topic, LATCHED)
        self.rivals: list[Any] = []
        self.tasks: Any = None
        self.goals: list[Any] = []
        if setting.own_arm:
            self.start_arm()
        self.start_policy()

    def _find_arm(self) -> None:
        """Make sure that somebody's arm is there, and no policy node beside ours.

        Raises:
            FaultsError: not so.
        """
        node, topic = self.node, self.contract.joint_states.topic
        name = node.resolve_topic_name(topic)
        if not self.until(lambda: node.count_publishers(name) > 0, _DISCOVERY):
            raise FaultsError(f'{name}: expected an arm that publishes it, found none')
        if node.count_publishers(node.resolve_topic_name('policy/status')):
            raise FaultsError('expected no policy node in this namespace, found one; stop it first')

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End everything."""
        self.clock.close()
        if self.tasks is not None:
            self.tasks.destroy()
        # The policy first: it ends with a hold, which an arm must be there to hear.
        for process in (self._policy, self.arm):
            if process is not None:
                process.end()
        self.operator.__exit__()

    # Processes and transitions.

    def start_arm(self) -> None:
        """The simulated arm."""
        self.arm = self._start('tabletop', {'seed': self.setting.seed}, {})

    def kill_arm(self) -> None:
        """As a crash would: cameras, joint states and controller, all at once."""
        arm, self.arm = self.arm, None
        if arm is not None:
            arm.kill()

    def start_policy(self) -> None:
        """The policy node, with a policy that can be spoiled, at the far end of the relays."""
        # A call to a process that crashed a moment ago, whose services the graph still has, would
        # never be answered.
        status = self.node.resolve_topic_name('policy/status')
        self.until(lambda: self.node.count_publishers(status) == 0, PATIENCE)
        names = list(self._remapped)
        if self.compressed is not None:
            names.append(self.compressed.topic)
        self._policy = self._start(
            'policy',
            {
                'policy': self.setting.policy.resolve(),
                'contract': self._contracts[self.variant],
                'device': self.setting.device,
            },
            {name: PREFIX + name for name in names},
        )
        self.may_end = False
        self.operator.watched[:] = [self.check]

    def use(self, variant: str) -> None:
        """A policy node with that variant of the contract; a new process where it has another."""
        if variant == self.variant:
            return
        self.may_end = True
        self.policy.end()
        self._leave_variant()
        self.variant = variant
        if variant == variants.COMPRESSED:
            changed = load_contract(self._contracts[variant])
            raw, camera = next(
                (old.topic, new) for old, new in zip(
                    self.contract.cameras, changed.cameras, strict=True
                ) if old != new
            )
            self.compressed = CompressedRelay(self.node, raw, camera.topic)
        elif variant == variants.FOLLOW:
            assert self.commands is not None  # the simulated arm's
            commands = self.commands
            self.controller = self.made(
                lambda: FollowController(self.node, variants.ACTION, commands.take)
            )
        self.start_policy()
        self.begin()

    def _leave_variant(self) -> None:
        if self.compressed is not None:
            self.compressed.close()
        if self.controller is not None:
            self.made(self.controller.close)
        self.compressed = self.controller = None

    def made(self, make: Callable[[], Any]) -> Any:
        """What `make` makes in the thread that spins: elsewhere rclpy shows an action half-made."""
        task = self.node.executor.create_task(make)
        if not self.until(task.done, PATIENCE):
            raise FaultsError('the executor of the stage does not run')
        return task.result()

    @property
    def policy(self) -> Process:
        """The policy node."""
        assert self._policy is not None  # started by whoever made the stage
        return self._policy

    def check(self) -> None:
        """Raise where a process has ended by itself."""
        if not self.may_end:
            self.policy.check()
        if self.arm is not None:
            self.arm.check()

    def transition(self, number: int) -> bool:
        """Ask the node for a lifecycle transition; whether it was made."""
        return self.operator.transition(number)

    def begin(self) -> None:
        """Configure, activate, and have the policy run."""
        for number, name in ((CONFIGURE, 'configure'), (ACTIVATE, 'activate')):
            if not self.transition(number):
                raise FaultsError(f'the policy node refused to {name}:\n{self.policy.output}')
        self.until(lambda: self.heard_by_policy(self.contract.language.topic), PATIENCE)
        self.say(self.setting.instructions[0])
        self.expect_running(PATIENCE)

    def expect_running(self, timeout: float) -> None:
        """Wait for chunks.

        Raises:
            FaultsError: none come.
        """
        if not self.until(lambda: self.state == State.RUNNING.name, timeout):
            raise FaultsError(f'the policy does not run: {self.state}: {self.reason}')

    # What is done to the node.

    def say(self, instruction: str) -> None:
        """Give a command."""
        self._instruction.publish(String(data=instruction))

    def say_another(self) -> None:
        """Give the command after the last one that was given here."""
        self._next = (self._next + 1) % len(self.setting.instructions)
        self.say(self.setting.instructions[self._next])

    def move(self) -> None:
        """Have the arm on its way with a command, and with a chunk that was inferred for it.

        Raises:
            FaultsError: it does not move.
        """
        self.expect_running(PATIENCE)
        for _ in range(4):
            self.say_another()
            if self.until(self._moves, 4.0):
                return
        raise FaultsError('the arm does not move, whatever it is told')

    def _moves(self) -> bool:
        """Whether the arm moves, and the newest chunk is for the newest command."""
        words, chunks = self.setting.instructions[self._next], self.record.chunks
        told = bool(chunks) and chunks[-1][1].instruction == words
        return told and self.record.speed() > MOVING

    def mend_relays(self) -> None:
        """Let everything through again as it is."""
        for relay in (*self.cameras.values(), self.joints):
            relay.fault = None
        if self.commands is not None:
            self.commands.fault = None
            self.commands.open()
        if self.compressed is not None:
            self.compressed.fault = None
        if self.controller is not None:
            self.controller.refuses = 0.0
            self.controller.gives_up = ''
        if self.emergency is not None:
            self.emergency.publish(Bool(data=False))
        self.goals.clear()
        while self.rivals:
            self.node.destroy_publisher(self.rivals.pop())

    def spoil(self, what: str) -> None:
        """Spoil the policy's chunks from now on; '' for no longer."""
        self.set_parameter(NODE, SPOIL, what)

    def load_instead(self, what: str) -> None:
        """What is loaded at the next configure in place of the policy; '' for the policy."""
        self.set_parameter(NODE, LOAD, what)

    def set_parameter(self, node: str, name: str, value: object) -> SetParametersResult:
        """Set a parameter of a node; its answer."""
        kinds: dict[type, tuple[int, str]] = {
            str: (ParameterType.PARAMETER_STRING, 'string_value'),
            float: (ParameterType.PARAMETER_DOUBLE, 'double_value'),
            bool: (ParameterType.PARAMETER_BOOL, 'bool_value'),
        }
        kind, slot = kinds[type(value)]
        message = ParameterValue(type=kind)
        setattr(message, slot, value)
        request = SetParameters.Request(parameters=[Parameter(name=name, value=message)])
        return self.operator.call(SetParameters, f'{node}/set_parameters', request).results[0]

    def simulated_time(self, on: bool) -> None:
        """Have arm and node on simulated time, or on the machine's again; inactive meanwhile.

        The operator's node, whose stamps nobody judges, stays on the machine's.
        """
        if on:
            self.clock.start()
        for name in ('policy', 'tabletop'):
            self.set_parameter(name, 'use_sim_time', on)
        if not on:
            self.clock.close()

    # What the arm and the node do.

    @property
    def state(self) -> str:
        """The node's state by name, '' before the first status."""
        return self.record.said[-1].state if self.record.said else ''

    @property
    def reason(self) -> str:
        """Why, in the node's words."""
        return self.record.said[-1].reason if self.record.said else ''

    @property
    def published(self) -> int:
        """Chunks that were heard so far."""
        return len(self.record.chunks)

    def heard_by_policy(self, topic: str) -> bool:
        """Whether anybody subscribes to a topic."""
        return self.node.count_subscribers(self.node.resolve_topic_name(topic)) > 0

    def until(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Wait for something; whether it happened in time.

        Raises:
            Interrupted: the user asked to stop.
            QuantVLAError: a process ended.
        """
        deadline = time.monotonic() + timeout
        while not condition():
            if self._stop.is_set():
                raise Interrupted
            self.check()
            if time.monotonic() > deadline:
                return False
            self._stop.wait(_POLL)
        return True

    def watch(self, seconds: float) -> None:
        """Let time pass while everything is recorded."""
        self.until(lambda: False, seconds)

    def now(self) -> int:
        """Time of the clock that arm and node are on, ns."""
        return self.clock.now if self.clock.running else self.operator.now()
