# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The lifecycle node `policy`: cameras, joints and a command in, chunks of joint positions out.

Transitions and wiring only: what is decided when is in `supervisor`, what is heard in `inputs`,
what is said in `outputs` and `diagnostics`.
"""
from __future__ import annotations

import collections
import contextlib
import functools
import gc
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.duration import Duration
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter as RosParameter

from quantvla_ros.contract.types import Contract
from quantvla_ros.control.actions import twist_columns
from quantvla_ros.control.limits import narrowed
from quantvla_ros.control.measured import MeasuredJoints
from quantvla_ros.control.modes import Mode, Scheduling
from quantvla_ros.control.schedule import Schedule
from quantvla_ros.control.told import ToldJoints
from quantvla_ros.errors import QuantVLAError
from quantvla_ros.msg import PolicyStatus
from quantvla_ros.nodes import diagnostics
from quantvla_ros.nodes.inference import InferenceThread
from quantvla_ros.nodes.inputs import Inputs
from quantvla_ros.nodes.loading import Loader, Settings, load
from quantvla_ros.nodes.output import Surroundings
from quantvla_ros.nodes.outputs import (
    ACKNOWLEDGED,
    COMMAND_QOS,
    STATUS_QOS,
    Commands,
    status_message,
)
from quantvla_ros.nodes.parameters import POLICY_PARAMETERS, Value, declare, values
from quantvla_ros.nodes.recording import (
    RecordedSink,
    Recording,
    conditions_of,
    new_bag,
    streams_of,
)
from quantvla_ros.nodes.safety import Safety
from quantvla_ros.nodes.shadow import ShadowReport
from quantvla_ros.nodes.sharing import SharedController
from quantvla_ros.nodes.states import Cause, State, Status
from quantvla_ros.nodes.supervisor import Supervisor, Tuning
from quantvla_ros.nodes.task import Tasks
from quantvla_ros.nodes.watch import Timeouts, Watchdogs, Watched
from quantvla_ros.observation.buffer import ObservationBuffer

_WATCH = 0.02  # s between two looks at the inputs
_REPORT = 1.0  # s between two diagnostics
_PATIENCE = 3.0  # s to wait for a transition that is under way when the process is to stop
_LAST_INFERENCE = 5.0  # s to wait for an inference that is under way when the node stops

_Transition = Callable[['PolicyNode', LifecycleState], TransitionCallbackReturn]


def _named_fault(transition: _Transition) -> _Transition:
    """Say what went wrong: rclpy takes an exception in a transition for an error without a word."""

    @functools.wraps(transition)
    def wrapped(node: PolicyNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            with node.transition:
                return transition(node, state)
        except Exception:
            node.get_logger().fatal(f'{transition.__name__} failed:\n{traceback.format_exc()}')
            return TransitionCallbackReturn.ERROR

    return wrapped


def _scheduling(given: Mapping[str, Value]) -> Scheduling:
    """The schedule of the parameters."""
    return Scheduling(
        mode=Mode.named(str(given['schedule'])),
        percentile=float(given['latency_percentile']),
        margin=float(given['latency_margin']),
        ensemble_decay=float(given['ensemble_decay']),
        ensemble_chunks=int(given['ensemble_chunks']),
    )


def _timeouts(given: Mapping[str, Value]) -> Timeouts:
    """Limits of the watchdogs that are parameters."""
    return Timeouts(*(
        float(given[f'{name}_timeout']) for name in ('clock', 'controller', 'inference')
    ))


def _not_run(error: Exception) -> None:
    """What a thread's fault leads to where no `process.run` runs the node."""
    raise error


def _settle() -> None:
    """Leave what is there to stay out of garbage collection.

    torch, Triton and a policy are some 200,000 objects: to look through them takes 0.1 to 0.2 s, in
    which no thread of the process runs.
    """
    gc.collect()
    gc.freeze()


@dataclass
class _Loaded:
    """All that exists between configure and cleanup."""

    contract: Contract
    policy: Any
    buffer: ObservationBuffer
    joints: MeasuredJoints
    schedule: Schedule
    inputs: Inputs
    commands: Commands
    supervisor: Supervisor
    inference: InferenceThread
    share: SharedController
    safety: Safety
    watchdogs: Watchdogs
    recording: Recording | None
    shadow: ShadowReport | None


class PolicyNode(LifecycleNode):
    """See the module.

    Args:
        load_policy: what loads a policy; the engine's by default.
    """

    def __init__(self, load_policy: Loader | None = None) -> None:
        super().__init__('policy')
        self._load_policy = load_policy
        self._loaded: _Loaded | None = None
        self.transition = threading.RLock()  # held while one is under way
        self.crashed: Callable[[Exception], None] = _not_run
        declare(self, POLICY_PARAMETERS)
        self.add_on_set_parameters_callback(self._on_parameters)
        self._status = Status()
        self._status_publisher = self.create_publisher(PolicyStatus, '~/status', STATUS_QOS)
        self._diagnostics_publisher = self.create_publisher(
            DiagnosticArray, '/diagnostics', COMMAND_QOS
        )
        self._tasks = Tasks(self, lambda: self._loaded, self._current, self.now)
        self._publish_status()
        # A thread of its own: it goes on while the executor loads a policy, and without /clock.
        self._reporting = threading.Lock()  # against a cleanup in the middle of a report
        self._changes: collections.deque[Status] = collections.deque()
        self._news = threading.Event()
        self._closing = False
        self._watcher = threading.Thread(target=self._watch, name='watch', daemon=True)
        self._watcher.start()

    def now(self) -> int:
        """Time of the node's clock, ns."""
        return self.get_clock().now().nanoseconds

    def _on_parameters(self, parameters: list[RosParameter]) -> SetParametersResult:
        """Take a smaller share of the limits at once; refuse a larger one while active."""
        loaded = self._loaded
        for parameter in parameters:
            if parameter.name == 'limit_share' and loaded is not None:
                wanted = narrowed(loaded.contract.limits, parameter.value)
                if lines := loaded.supervisor.limit(wanted):
                    return SetParametersResult(
                        successful=False,
                        reason=f'limits may only be narrowed while the node is active: {lines[0]}',
                    )
        return SetParametersResult(successful=True)

    @_named_fault
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load, compare, warm up, subscribe."""
        given = values(self, POLICY_PARAMETERS)
        settings = Settings(
            policy=str(given['policy']),
            contract=str(given['contract']),
            device=str(given['device']),
            precision=str(given['precision']),
            threads=int(given['threads']),
            engine=str(given['engine']),
            prompt_lengths=str(given['prompt_lengths']),
            allow_fallback=bool(given['allow_fallback']),
            robot_description=str(given['robot_description']),
            joint_limits=str(given['joint_limits']),
        )
        begun = time.monotonic()
        try:
            mode = Mode.named(str(given['schedule']))
            contract, policy = load(settings, self._load_policy)
            if mode is Mode.RTC:
                policy.prepare_guided()
            with contextlib.ExitStack() as undo:
                recording = self._record(contract, policy)
                if recording is not None:
                    undo.callback(recording.close)
                inference = InferenceThread(policy, self.get_logger(), self.crashed)
                inference.warm_up()
                self._loaded = self._wire(
                    contract, policy, inference, _scheduling(given), recording
                )
                undo.pop_all()
            self._add_shadow(self._loaded, replace(settings, precision=''), mode)
            _settle()
        except QuantVLAError as error:
            self.get_logger().error(f'configure: {error}')
            self._changed(Status(State.UNCONFIGURED, Cause.NO_POLICY, str(error), str(error)))
            return TransitionCallbackReturn.FAILURE
        info, running = policy.info, policy.running
        if running.fallback is not None:
            self.get_logger().warning(f'fallback: {running.fallback}')
        self.get_logger().info(running.ready(time.monotonic() - begun))
        self.get_logger().info(
            f'{info.artifact_id}: {info.precision} on {running.device}, engine {running.engine}, '
            f'{info.weight_bytes / 2**20:.1f} MiB of weights, chunks of {info.chunk_size} actions '
            f'at {1.0 / contract.control_period:g} Hz, for {contract.robot}'
        )
        self._changed(Status(State.INACTIVE, Cause.NOT_ACTIVE))
        return super().on_configure(state)

    @_named_fault
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Allow output; the first chunk comes once the inputs are fresh."""
        loaded = self._loaded
        assert loaded is not None
        result = super().on_activate(state)
        given = values(self, POLICY_PARAMETERS)
        steps = given['execute_steps'] or loaded.policy.info.execute_steps
        loaded.schedule.execute_steps = int(steps)
        loaded.schedule.settings = _scheduling(given)
        loaded.supervisor.tuning = Tuning(float(given['hold_time']), float(given['recovery_time']))
        loaded.watchdogs.use(_timeouts(given))
        loaded.supervisor.limit(
            narrowed(loaded.contract.limits, float(given['limit_share']))
        )
        loaded.supervisor.activate()
        loaded.inference.serve(loaded.supervisor, int(given['seed']))
        return result

    @_named_fault
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Hold, and send nothing more; the policy stays loaded."""
        assert self._loaded is not None
        self._loaded.supervisor.stop(Cause.NOT_ACTIVE)
        self._loaded.commands.wait_until_received()
        return super().on_deactivate(state)

    @_named_fault
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the policy."""
        self._unload()
        self._changed(Status(State.UNCONFIGURED, Cause.NO_POLICY))
        return super().on_cleanup(state)

    @_named_fault
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Hold where the node was active, then free everything."""
        self._hold()
        self._unload()
        self._changed(Status(State.FINALIZED, Cause.STOPPED))
        return super().on_shutdown(state)

    @_named_fault
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """After a transition failed: hold, free everything; the node can be configured again."""
        self._hold()
        self._unload()
        self._changed(Status(State.UNCONFIGURED, Cause.NO_POLICY, 'a transition failed, see log'))
        return TransitionCallbackReturn.SUCCESS

    def begin_stop(self) -> bool:
        """Hold now; False where a transition is under way that does not end within seconds."""
        self._hold()
        self._tasks.look()  # a goal that ran has ended
        if self.transition.acquire(timeout=_PATIENCE):
            self.transition.release()
            return True
        self.get_logger().warning('stopped while a policy was being loaded; leaving without it')
        return False

    def end_stop(self) -> None:
        """Drive the lifecycle to its end, from whatever state it is in."""
        try:
            self.trigger_shutdown()
        except rclpy_implementation.RCLError:
            self.get_logger().info('the lifecycle had ended already')
        self._closing = True
        self._watcher.join()
        self._tasks.close()
        # The last word must be on its way before its publisher goes.
        if self._status_publisher.get_subscription_count():
            self._status_publisher.wait_for_all_acked(Duration(seconds=ACKNOWLEDGED))

    def _hold(self) -> None:
        """Send a hold where the arm was commanded, and nothing after it. From any thread."""
        loaded = self._loaded
        if loaded is not None:
            loaded.supervisor.stop(Cause.STOPPED)
            loaded.commands.wait_until_received()

    def _wire(
        self, contract: Contract, policy: Any, inference: InferenceThread, scheduling: Scheduling,
        recording: Recording | None,
    ) -> _Loaded:
        info = policy.info
        buffer = ObservationBuffer(contract)
        joints = MeasuredJoints(contract.action.names)
        if (twists := twist_columns(contract.action)).any():
            joints = ToldJoints(
                contract.action.names, twists, lambda stamp: supervisor.commanded(stamp)
            )
        schedule = Schedule(
            contract.control_period, info.execute_steps, info.chunk_size, scheduling
        )
        # First what may refuse: a package that an output needs is not installed.
        around = Surroundings(
            measured=lambda: joints.latest,
            refused=lambda sentence: supervisor.refused(sentence),
            accepted=lambda: supervisor.accepted(),
            sent_goal=lambda goal: share.sent_goal(goal),
        )
        commands = Commands(self, contract, info.artifact_id, self._changed, around)
        share = SharedController(self, contract, commands)
        inputs = Inputs(
            self, contract, buffer, joints, self.now, inference.wake,
            None if recording is None else recording.heard,
        )
        supervisor = Supervisor(
            contract, buffer, joints, schedule, Tuning(0.3, 0.5),
            RecordedSink(commands, recording) if recording else commands, self.now, share,
        )
        if recording is not None:
            inference.listeners.append(recording)
        watchdogs = Watchdogs(self, Watched(
            contract, buffer, inputs, commands, inference, supervisor, self.now
        ))
        return _Loaded(
            contract, policy, buffer, joints, schedule, inputs, commands, supervisor, inference,
            share, Safety(self, contract, supervisor), watchdogs, recording, None,
        )

    def _add_shadow(self, loaded: _Loaded, settings: Settings, mode: Mode) -> None:
        """Load the policy that runs beside the commanding one, where there is to be one."""
        path = str(self.get_parameter('shadow_artifact').value)
        if not path:
            return

        def load_shadow() -> Any:
            _, policy = load(replace(settings, policy=path), self._load_policy)
            if mode is Mode.RTC:
                policy.prepare_guided()
            return policy

        loaded.shadow = ShadowReport(
            self, loaded.contract, loaded.policy.info, loaded.schedule, self.now, load_shadow
        )
        loaded.inference.listeners.append(loaded.shadow)

    def _record(self, contract: Contract, policy: Any) -> Recording | None:
        """Begin a bag, where there is to be one."""
        given = {
            name: str(self.get_parameter(name).value)
            for name in ('policy', 'contract', 'prompt_lengths', 'record_to')
        }
        if not given['record_to']:
            return None
        recording = Recording(
            new_bag(given['record_to'], self.get_name()),
            self.get_fully_qualified_name(),
            streams_of(contract, self.resolve_topic_name),
            conditions_of(
                policy, path=str(Path(given['policy']).absolute()),
                contract_path=str(Path(given['contract']).absolute()),
                prompt_lengths=given['prompt_lengths'],
            ),
            Path(given['contract']).read_text(encoding='utf-8-sig'),
            frame_id=contract.action.frame_id, now=self.now, logger=self.get_logger(),
        )
        self.get_logger().info(f'records to {recording.path}')
        return recording

    def _unload(self) -> None:
        with self._reporting:
            loaded, self._loaded = self._loaded, None
        if loaded is None:
            return
        loaded.inputs.close()
        loaded.safety.close()
        loaded.watchdogs.close()
        loaded.share.close()
        if not loaded.inference.stop(_LAST_INFERENCE):
            self.get_logger().warning('the last inference is still running; its result is void')
        loaded.commands.close()
        if loaded.shadow is not None:
            loaded.shadow.close(_LAST_INFERENCE)
        if loaded.recording is not None:
            loaded.recording.close()
        del loaded
        gc.unfreeze()
        gc.collect()
        torch = sys.modules.get('torch')
        if torch is not None and torch.cuda.is_initialized():
            try:
                torch.cuda.empty_cache()
            except RuntimeError as error:  # a device that was lost frees nothing any more
                self.get_logger().warning(f'the memory of the GPU was not freed: {error}')

    def _watch(self) -> None:
        """Look after the inputs many times a second, say what changed, report once a second."""
        next_report = time.monotonic()
        try:
            while not self._closing:
                self._news.wait(_WATCH)
                self._news.clear()
                with self._reporting:
                    if self._loaded is not None:
                        self._loaded.watchdogs.look()
                        self._loaded.supervisor.watch()
                    self._tasks.look()
                    self._say_changes()
                    if time.monotonic() >= next_report:
                        next_report = time.monotonic() + _REPORT
                        self._report()
            self._say_changes()
        except Exception as error:  # an arm that nobody watches must not move: stop the process
            self.crashed(error)

    def _changed(self, status: Status) -> None:
        """A new state or reason. Said by the watch, so that no command waits for a log."""
        self._changes.append(status)
        self._news.set()

    def _say_changes(self) -> None:
        """Each new state or reason once, in the log and on ~/status."""
        logger = self.get_logger()
        while self._changes:
            status = self._status = self._changes.popleft()
            line = f'{status.state.name}: {status.sentence}'
            if status.state in (State.HOLDING, State.FAULT):
                logger.warning(line)
            else:
                logger.info(line)
            self._publish_status()

    def _publish_status(self) -> None:
        loaded, status, now = self._loaded, self._current(), self.now()
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

    def _current(self) -> Status:
        """The status with its newest numbers."""
        loaded = self._loaded
        if loaded is None or self._status != loaded.supervisor.status:
            return self._status
        return loaded.supervisor.status

    def _report(self) -> None:
        """1 Hz: diagnostics and the status once more."""
        loaded, now, name = self._loaded, self.now(), self.get_name()
        self._publish_status()
        status = self._current()
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
                diagnostics.command_status(name, contract, loaded.commands),
                *(
                    diagnostics.watchdog_status(name, contract, reading)
                    for reading in loaded.watchdogs.shown
                ),
                self._tasks.diagnose(contract.robot),
                *diagnostics.recording_status(name, contract, loaded.recording),
                *([loaded.shadow.diagnose()] if loaded.shadow is not None else []),
            ]
        self._diagnostics_publisher.publish(diagnostics.array(statuses, now))
