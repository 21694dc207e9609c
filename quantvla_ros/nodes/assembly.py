# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""All that a policy node has between configure and cleanup: put together, and taken apart again.

Knows which part needs which; knows nothing of transitions, or of what is said of the parts.
"""
from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rclpy.lifecycle import LifecycleNode

from quantvla_ros.contract.types import Contract
from quantvla_ros.control.actions import twist_columns
from quantvla_ros.control.limits import narrowed
from quantvla_ros.control.measured import MeasuredJoints
from quantvla_ros.control.modes import Mode, Scheduling
from quantvla_ros.control.schedule import Schedule
from quantvla_ros.control.told import ToldJoints
from quantvla_ros.nodes.inference import InferenceThread
from quantvla_ros.nodes.inputs import Inputs
from quantvla_ros.nodes.loading import Loader, Settings, load, memory_named
from quantvla_ros.nodes.output import Surroundings
from quantvla_ros.nodes.outputs import Commands
from quantvla_ros.nodes.parameters import Value
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
from quantvla_ros.nodes.states import Status
from quantvla_ros.nodes.supervisor import Supervisor, Tuning
from quantvla_ros.nodes.watch import Timeouts, Watchdogs, Watched
from quantvla_ros.observation.buffer import ObservationBuffer

_LAST_INFERENCE = 5.0  # s to wait for an inference that is under way when the node stops


@dataclass
class Assembly:
    """The parts. Made by `assemble`."""

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
    shadow: ShadowReport | None = None

    def use(self, given: Mapping[str, Value]) -> None:
        """Take the parameters that may differ from one activation to the next."""
        self.schedule.execute_steps = int(
            given['execute_steps'] or self.policy.info.execute_steps
        )
        self.schedule.settings = _scheduling(given)
        self.supervisor.tuning = Tuning(float(given['hold_time']), float(given['recovery_time']))
        self.watchdogs.use(_timeouts(given))
        self.supervisor.limit(narrowed(self.contract.limits, float(given['limit_share'])))

    def close(self, warn: Callable[[str], None]) -> None:
        """Free everything but the memory, which `free_memory` does once nobody has this any more.

        Args:
            warn: told of what could not be ended in time.
        """
        self.inputs.close()
        self.safety.close()
        self.watchdogs.close()
        self.share.close()
        if not self.inference.stop(_LAST_INFERENCE):
            warn('the last inference is still running; its result is void')
        self.commands.close()
        if self.shadow is not None:
            self.shadow.close(_LAST_INFERENCE)
        if self.recording is not None:
            self.recording.close()


def assemble(
    node: LifecycleNode,
    given: Mapping[str, Value],
    load_policy: Loader | None,
    changed: Callable[[Status], None],
    crashed: Callable[[Exception], None],
) -> Assembly:
    """Load, compare, warm up, subscribe.

    Args:
        node: subscribes and publishes.
        given: its parameters.
        load_policy: what loads a policy; the engine's by default.
        changed: told of each new state.
        crashed: told of a thread's fault that is ours.
    Raises:
        QuantVLAError: something is missing or does not fit. Nothing is left then.
    """
    mode = Mode.named(str(given['schedule']))
    settings = Settings.of(given)
    contract, policy = load(settings, load_policy)
    if mode is Mode.RTC:
        with memory_named(settings.device):
            policy.prepare_guided()
    with contextlib.ExitStack() as undo:
        recording = _record(node, given, contract, policy)
        if recording is not None:
            undo.callback(recording.close)
        inference = InferenceThread(policy, node.get_logger(), crashed)
        undo.callback(inference.stop, _LAST_INFERENCE)
        with memory_named(settings.device):
            inference.warm_up()
        assembly = _wire(
            node, contract, policy, inference, _scheduling(given), recording, changed
        )
        undo.pop_all()
    if given['shadow_artifact']:
        beside = replace(settings, policy=str(given['shadow_artifact']), precision='')
        _add_shadow(node, assembly, beside, mode, load_policy)
    _settle()
    return assembly


def clock_of(node: LifecycleNode) -> Callable[[], int]:
    """Its clock, ns."""
    return lambda: int(node.get_clock().now().nanoseconds)


def free_memory(warn: Callable[[str], None]) -> None:
    """Give back what a policy took that nobody has any more, the GPU's memory, too."""
    gc.unfreeze()
    gc.collect()
    torch = sys.modules.get('torch')
    if torch is not None and torch.cuda.is_initialized():
        try:
            torch.cuda.empty_cache()
        except RuntimeError as error:  # a device that was lost frees nothing any more
            warn(f'the memory of the GPU was not freed: {error}')


def _settle() -> None:
    """Leave what is there to stay out of garbage collection.

    torch, Triton and a policy are some 200,000 objects: to look through them takes 0.1 to 0.2 s, in
    which no thread of the process runs.
    """
    gc.collect()
    gc.freeze()


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


def _wire(
    node: LifecycleNode, contract: Contract, policy: Any, inference: InferenceThread,
    scheduling: Scheduling, recording: Recording | None, changed: Callable[[Status], None],
) -> Assembly:
    """The parts, connected."""
    info, now = policy.info, clock_of(node)
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
        not_followed=lambda sentence: supervisor.not_followed(sentence),
    )
    commands = Commands(node, contract, info.artifact_id, changed, around)
    share = SharedController(node, contract, commands)
    inputs = Inputs(
        node, contract, buffer, joints, now, inference.wake,
        None if recording is None else recording.heard,
    )
    supervisor = Supervisor(
        contract, buffer, joints, schedule, Tuning(0.3, 0.5),
        RecordedSink(commands, recording) if recording else commands, now, share,
    )
    if recording is not None:
        inference.listeners.append(recording)
    watchdogs = Watchdogs(node, Watched(
        contract, buffer, inputs, commands, inference, supervisor, now
    ))
    return Assembly(
        contract, policy, buffer, joints, schedule, inputs, commands, supervisor, inference,
        share, Safety(node, contract, supervisor), watchdogs, recording,
    )


def _add_shadow(
    node: LifecycleNode, assembly: Assembly, settings: Settings, mode: Mode,
    load_policy: Loader | None,
) -> None:
    """Load the policy that runs beside the commanding one."""

    def load_shadow() -> Any:
        _, policy = load(settings, load_policy)
        if mode is Mode.RTC:
            policy.prepare_guided()
        return policy

    assembly.shadow = ShadowReport(
        node, assembly.contract, assembly.policy.info, assembly.schedule, clock_of(node),
        load_shadow,
    )
    assembly.inference.listeners.append(assembly.shadow)


def _record(
    node: LifecycleNode, given: Mapping[str, Value], contract: Contract, policy: Any
) -> Recording | None:
    """Begin a bag, where there is to be one."""
    if not given['record_to']:
        return None
    contract_path = Path(str(given['contract']))
    recording = Recording(
        new_bag(str(given['record_to']), node.get_name()),
        node.get_fully_qualified_name(),
        streams_of(contract, node.resolve_topic_name),
        conditions_of(
            policy, path=str(Path(str(given['policy'])).absolute()),
            contract_path=str(contract_path.absolute()),
            prompt_lengths=str(given['prompt_lengths']),
        ),
        contract_path.read_text(encoding='utf-8-sig'),
        frame_id=contract.action.frame_id, now=clock_of(node), logger=node.get_logger(),
    )
    node.get_logger().info(f'records to {recording.path}')
    return recording
