# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Feeds the watchdogs from the node, tells the supervisor of what they find, and reads them out.

What a watchdog judges is in `control.watchdogs`, `observation.frozen` and `observation.buffer`;
what follows is the supervisor's: a frozen camera is an input that cannot be used, a clock that
stands and a controller that is gone forbid motion, a lost GPU latches.
"""
from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from rclpy.duration import Infinite
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import LivelinessPolicy, QoSCompatibility, QoSProfile, qos_check_compatible

from quantvla_ros.contract.types import LANGUAGE_STREAM, Contract
from quantvla_ros.control.watchdogs import (
    JUMP,
    Changes,
    ClockWatch,
    ControllerWatch,
    Level,
    Reading,
    Watchdog,
    whose_clock,
)
from quantvla_ros.nodes.controller_state import ControllerState
from quantvla_ros.nodes.inference import InferenceThread
from quantvla_ros.nodes.inputs import Input, Inputs
from quantvla_ros.nodes.output import COMMAND_QOS
from quantvla_ros.nodes.outputs import Commands
from quantvla_ros.nodes.supervisor import Supervisor
from quantvla_ros.observation.buffer import TIME_JUMP_NS, ObservationBuffer
from quantvla_ros.observation.frozen import FrozenCameras
from quantvla_ros.observation.types import Fault, Reason

_LOOK = 0.1  # s between two looks at what need not be seen at once
_GRAPH = 1.0  # s between two looks at the graph's qualities of service
_S = 1e9
_ABOUT_TIME = frozenset({
    Reason.MISSING, Reason.STALE, Reason.LATE, Reason.CLOCK_SKEW, Reason.ZERO_STAMP,
})


@dataclass(frozen=True)
class Timeouts:
    """Limits that are parameters of the node, s."""

    clock: float = 1.0
    controller: float = 1.0
    inference: float = 5.0


@dataclass(frozen=True)
class Watched:
    """What the watchdogs look at.

    Attributes:
        now: the node's clock, ns.
    """

    contract: Contract
    buffer: ObservationBuffer
    inputs: Inputs
    commands: Commands
    inference: InferenceThread
    supervisor: Supervisor
    now: Callable[[], int]


class Watchdogs:
    """See the module. Used by one thread.

    Args:
        node: for its graph, its logger and whether it follows /clock.
        watched: what to look at.
    """

    def __init__(self, node: LifecycleNode, watched: Watched) -> None:
        self._node, self._at = node, watched
        simulated = bool(node.get_parameter('use_sim_time').value)
        self._frozen = FrozenCameras(watched.contract, watched.buffer)
        self._clock = ClockWatch(Timeouts.clock, simulated)
        self._controller = ControllerWatch(Timeouts.controller)
        self._timeouts = Timeouts()
        self._changes = Changes()
        self._mismatched: dict[str, int] = {}
        self._heard: tuple[str, ...] = ()
        self._next_look = self._next_graph = 0.0
        self._jumped = 0.0
        self._state = ControllerState(node, watched.commands.name)

    def use(self, timeouts: Timeouts) -> None:
        """Other limits from now on, and the clock that the node follows by now."""
        self._timeouts = timeouts
        self._clock.simulated = bool(self._node.get_parameter('use_sim_time').value)
        self._clock.timeout, self._controller.timeout = timeouts.clock, timeouts.controller

    def close(self) -> None:
        """Free everything."""
        self._state.close()

    @property
    def shown(self) -> tuple[Reading, ...]:
        """All readings, for /diagnostics."""
        return self._changes.shown

    def look(self) -> None:
        """Look at everything that moves; to be called many times a second, before the supervisor.

        What has changed is said in the log.
        """
        steady = time.monotonic_ns()
        now = self._at.now()
        jump = self._clock.look(now, steady)
        if jump:
            self._jumped = jump
            self._frozen.forget()
        if jump > 0.0:
            self._at.supervisor.clock_jumped(jump)
        self._frozen.look_at_all()
        seconds = steady / _S
        if seconds < self._next_look:
            return
        self._next_look = seconds + _LOOK
        commands = self._at.commands
        tellers = self._state.look(seconds)
        self._controller.look(commands.controllers(), tellers, seconds, self._state.told)
        self._obstruct()
        # A mismatch is heard as an event, but its end is not.
        events = self._events()
        if seconds >= self._next_graph or events != self._heard:
            self._heard = events
            self._next_graph = seconds + _GRAPH
            self._qualities()
        for reading in self._changes.take(self._readings(now), seconds):
            # rclpy wants one severity per line of code.
            if reading.level in (None, Level.OK):
                self._node.get_logger().info(reading.line)
            else:
                self._node.get_logger().warning(reading.line)
        self._jumped = 0.0

    def _obstruct(self) -> None:
        """Tell the supervisor what forbids motion."""
        if self._clock.stands:
            self._at.supervisor.obstruct(self._clock.sentence, Watchdog.CLOCK.name)
        elif self._controller.lost:
            self._at.supervisor.obstruct(
                self._controller.sentence, Watchdog.CONTROLLER.name, deaf=True
            )
        else:
            self._at.supervisor.obstruct(None)

    def _readings(self, now: int) -> Iterator[Reading]:
        faults = self._at.buffer.judge(now)
        for entry in self._at.inputs.all:
            if entry.stream != LANGUAGE_STREAM:
                yield self._age(entry, faults, now)
        for camera in self._at.contract.cameras:
            yield self._same(camera.name, camera.required)
        yield self._skew(faults)
        yield self._stamps()
        clock = self._clock
        yield Reading(
            Watchdog.CLOCK.of(), clock.still, clock.timeout, 's',
            Level.ERROR if clock.stands else Level.OK, clock.sentence,
        )
        yield Reading(
            Watchdog.JUMP.of(), self._jumped or clock.jump, JUMP, 's',
            Level.WARN if self._jumped else Level.OK,
            f'{clock.jumps} jumps so far' if not self._jumped else
            f'the clock jumped {"forward" if self._jumped > 0.0 else "back"}',
        )
        controller = self._controller
        yield Reading(
            Watchdog.CONTROLLER.of(), controller.away, controller.timeout, 's',
            Level.ERROR if controller.lost else Level.OK if controller.seen else None,
            f'{self._at.commands.name}: {controller.sentence}',
        )
        flight, limit = self._at.inference.in_flight, self._timeouts.inference
        late = flight > limit
        yield Reading(
            Watchdog.INFERENCE.of(), flight, limit, 's', Level.ERROR if late else Level.OK,
            'an inference does not come back; if it never does, start the process again' if late
            else 'inferences come back',
        )
        lost = self._at.inference.lost
        yield Reading(
            Watchdog.DEVICE.of(), float(bool(lost)), 0.0, 'failures',
            Level.ERROR if lost else Level.OK,
            f'{lost}; start the process again' if lost else 'works',
        )
        yield from self._qos()

    def _age(self, entry: Input, faults: Iterable[Fault], now: int) -> Reading:
        stamp, limit = self._at.buffer.newest(entry.stream), self._at.buffer.limit(entry.stream)
        name = Watchdog.AGE.of(entry.stream)
        if stamp is None and entry.count == 0:
            return Reading(name, 0.0, limit, 's', None, Reason.MISSING.value)
        age = 0.0 if stamp is None else (now - stamp) / _S
        for fault in faults:
            if fault.stream == entry.stream and fault.reason in _ABOUT_TIME:
                level = Level.ERROR if entry.required else Level.WARN
                return Reading(name, age, fault.limit or limit, 's', level, fault.reason.value)
        return Reading(name, age, limit, 's', Level.OK, 'fresh')

    def _same(self, camera: str, required: bool) -> Reading:
        limit = self._at.contract.freshness.frozen
        same, moved = self._frozen.same_for(camera), self._frozen.moved(camera)
        fault = self._frozen.fault(camera)
        level, sentence = Level.OK, 'its pictures differ'
        if fault is not None:
            level = Level.ERROR if required else Level.WARN
            sentence = f'{fault.reason.value}: {fault.detail}'
        elif same:
            sentence = f'the same picture, while joints moved by at most {moved:.2f} rad or m'
        return Reading(
            Watchdog.FROZEN.of(camera), same, float('inf') if limit is None else limit, 's',
            None if limit is None else level, sentence,
        )

    def _skew(self, faults: Iterable[Fault]) -> Reading:
        limit = self._at.contract.freshness.skew
        for fault in faults:
            if fault.reason is Reason.OUT_OF_STEP:
                return Reading(
                    Watchdog.SKEW.of(), fault.measured or 0.0, limit, 's', Level.ERROR,
                    f'{fault.stream}: {fault.reason.value}',
                )
        stamps = [
            stamp for entry in self._at.inputs.all
            if entry.required and (stamp := self._at.buffer.newest(entry.stream)) is not None
        ]
        apart = (max(stamps) - min(stamps)) / _S if stamps else 0.0
        return Reading(Watchdog.SKEW.of(), apart, limit, 's', Level.OK, 'in step')

    def _stamps(self) -> Reading:
        """The input whose stamps are farthest from this clock when they arrive."""
        worst, stream = 0, ''
        for entry in self._at.inputs.all:
            latest = self._at.buffer.latest(entry.stream)
            if latest is not None and abs(latest.received - latest.stamp) >= abs(worst):
                worst, stream = latest.received - latest.stamp, entry.stream
        limit = TIME_JUMP_NS / _S
        level, sentence = Level.OK, 'close to this clock'
        if abs(worst) > TIME_JUMP_NS:
            latest = self._at.buffer.latest(stream)
            assert latest is not None
            level = Level.ERROR
            sentence = f'{stream} {whose_clock(latest.stamp, latest.received, time.time_ns())}'
        return Reading(
            Watchdog.STAMPS.of(), worst / _S, limit, 's', level if stream else None, sentence
        )

    def _qos(self) -> Iterator[Reading]:
        for entry in self._at.inputs.all:
            count = self._mismatched.get(entry.stream, 0)
            level, sentence = Level.OK, 'fits'
            if count:
                level = Level.ERROR if entry.required and entry.count == 0 else Level.WARN
                sentence = (
                    f'{entry.topic}: publishers that cannot be heard: expected any that offer '
                    f'{entry.qos.reliability.name}, {entry.qos.durability.name}'
                )
            yield Reading(Watchdog.QOS.of(entry.stream), count, 0.0, 'publishers', level, sentence)
        if self._at.commands.arm.topic_type is None:
            return
        count = self._mismatched.get(_COMMANDS, 0)
        level, sentence = Level.OK, 'fits'
        if count:
            level = Level.WARN if self._controller.seen else Level.ERROR
            sentence = (
                f'{self._at.commands.name}: subscribers that cannot hear the commands: offered are '
                f'{COMMAND_QOS.reliability.name}, {COMMAND_QOS.durability.name}'
            )
        yield Reading(Watchdog.QOS.of(_COMMANDS), count, 0.0, 'subscribers', level, sentence)

    def _qualities(self) -> None:
        """Count the endpoints of our topics whose quality of service does not fit."""
        node = self._node
        for entry in self._at.inputs.all:
            others = node.get_publishers_info_by_topic(node.resolve_topic_name(entry.topic))
            count = sum(not _fits(other.qos_profile, _in_full(entry.qos)) for other in others)
            before = self._mismatched.get(entry.stream, 0)
            self._mismatched[entry.stream] = count
            if before and not count:
                entry.incompatible = ''
        if self._at.commands.arm.topic_type is not None:
            others = node.get_subscriptions_info_by_topic(
                node.resolve_topic_name(self._at.commands.name)
            )
            count = sum(not _fits(_in_full(COMMAND_QOS), other.qos_profile) for other in others)
            if self._mismatched.get(_COMMANDS, 0) and not count:
                self._at.commands.fits()
            self._mismatched[_COMMANDS] = count

    def _events(self) -> tuple[str, ...]:
        """What events of incompatible quality of service have said so far."""
        return (
            *(entry.incompatible for entry in self._at.inputs.all), self._at.commands.incompatible
        )


_COMMANDS = 'commands'


def _fits(offered: QoSProfile, asked: QoSProfile) -> bool:
    compatibility, _ = qos_check_compatible(offered, asked)
    return compatibility != QoSCompatibility.ERROR


def _in_full(qos: QoSProfile) -> QoSProfile:
    """One of our profiles with all that the middleware fills in, as the graph shows others'."""
    return QoSProfile(
        reliability=qos.reliability, durability=qos.durability, history=qos.history,
        depth=qos.depth, liveliness=LivelinessPolicy.AUTOMATIC, deadline=Infinite,
        lifespan=Infinite, liveliness_lease_duration=Infinite,
    )
