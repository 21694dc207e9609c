# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""/diagnostics of the policy node: its state, each input, the schedule, the controller.

Written out by ourselves rather than with diagnostic_updater, whose own clock ignores use_sim_time
and which cannot be made again after a cleanup.
"""
from __future__ import annotations

import os

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

from quantvla_ros.contract.types import LANGUAGE_STREAM, Contract
from quantvla_ros.control.modes import Mode
from quantvla_ros.control.schedule import Latencies, Schedule
from quantvla_ros.control.watchdogs import Level, Reading
from quantvla_ros.engine.running import Running
from quantvla_ros.nodes.controller_facts import ControllerFacts
from quantvla_ros.nodes.inputs import Input, Inputs, is_raw_image
from quantvla_ros.nodes.messages import diagnostic, time_message
from quantvla_ros.nodes.outputs import Commands
from quantvla_ros.nodes.recording import Recording
from quantvla_ros.nodes.states import Cause, Counts, State, Status
from quantvla_ros.observation.buffer import ObservationBuffer

OK, WARN, ERROR, STALE = (
    DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR, DiagnosticStatus.STALE
)

_LEVELS = {
    State.UNCONFIGURED: OK,
    State.INACTIVE: OK,
    State.WAITING: WARN,
    State.RUNNING: OK,
    State.HOLDING: ERROR,
    State.FAULT: ERROR,
    State.FINALIZED: STALE,
    State.PAUSED: WARN,
}
# Bytes above which an image does not fit Fast DDS's default shared-memory segment (512 KiB).
_LARGE_IMAGE = 500_000
_BROKEN = 5_000_000_000  # ns for which a broken picture is a warning
_PROFILE_VARIABLES = ('FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE')


def state_status(
    name: str,
    hardware_id: str,
    status: Status,
    values: dict[str, object],
    counts: Counts | None,
    latencies: Latencies | None,
    running: Running | None = None,
) -> DiagnosticStatus:
    """The node as a whole. A policy that runs other than asked for is a warning for good."""
    values = {'state': status.state.name, **values}
    if counts is not None and latencies is not None:
        values |= {
            'inferences': counts.inferences,
            'chunks published': counts.published,
            **{f'chunks dropped: {reason.value}': n for reason, n in counts.dropped.items() if n},
            'chunks finished after a hold': counts.superseded,
            'inferences without usable inputs': counts.refused,
            'holds': counts.holds,
            'chunks that ended before the next': counts.ended,
            'inference p50 (s)': f'{latencies.percentile(50.0):.4f}',
            'inference p99 (s)': f'{latencies.percentile(99.0):.4f}',
        }
    level = WARN if status.cause is Cause.CHUNK_ENDED else _LEVELS[status.state]
    message = status.sentence
    if running is not None:
        values |= running.facts()
        if running.fallback is not None:
            level = max(level, WARN)
            message += f'; fallback: {running.fallback}'
    return diagnostic(level, f'{name}: state', hardware_id, message, values)


def input_status(
    name: str,
    contract: Contract,
    buffer: ObservationBuffer,
    inputs: Inputs,
    entry: Input,
    now: int,
) -> DiagnosticStatus:
    """One input topic: does it arrive, how often, how old, what was wrong with it."""
    newest = buffer.newest(entry.stream)
    rate, broken = entry.rate(), buffer.broken(entry.stream)
    publishers = inputs.publishers(entry)
    dropped = {
        reason: count for (stream, reason), count in buffer.dropped().items()
        if stream == entry.stream
    }
    values: dict[str, object] = {
        'topic': entry.topic,
        'type': entry.type,
        'publishers': publishers,
        'messages': entry.count,
        'rate (Hz)': f'{rate:.1f}',
        'lost by the middleware': entry.lost,
        **{f'dropped: {reason.value}': count for reason, count in dropped.items()},
    }
    if newest is not None:
        values['age (s)'] = f'{(now - newest) * 1e-9:.3f}'
    level, message = OK, f'{rate:.1f} Hz'
    if entry.stream == LANGUAGE_STREAM:
        message = f'command: {buffer.instruction!r}' if buffer.instruction else 'no command yet'
        values['command'] = buffer.instruction or ''
    elif entry.count == 0:
        level = ERROR if entry.required else WARN
        message = 'nothing has arrived'
        if entry.incompatible:
            message += f': the {entry.incompatible} of its publisher does not fit'
        elif publishers == 0:
            message += ': nobody publishes it'
        elif is_raw_image(entry):
            message += f': {_transport_hint()}'
    elif is_raw_image(entry) and 2.0 * rate * contract.control_period < 1.0:
        level = WARN
        message = (
            f'{rate:.1f} Hz is far below the {1.0 / contract.control_period:.0f} Hz of the actions'
        )
        if entry.size > _LARGE_IMAGE or entry.lost:
            message += f'; {_transport_hint()}'
    elif broken is not None and now - broken.received < _BROKEN:
        level = WARN
        message += f'; broken pictures, {broken.count} so far, the last: {broken.detail}'
    elif entry.incompatible:
        level = WARN
        message += f'; another publisher cannot be heard, its {entry.incompatible} does not fit'
    return diagnostic(level, f'{name}: input {entry.stream}', contract.robot, message, values)


def command_status(name: str, contract: Contract, commands: Commands) -> DiagnosticStatus:
    """The command topic: does anybody listen, and does anybody else command."""
    controllers, rivals = commands.controllers(), commands.rivals()
    level, message = OK, 'one controller listens'
    if rivals:
        level = WARN
        message = f'{rivals} other publisher(s) command the same controller'
    elif controllers == 0:
        level = WARN
        message = 'nobody listens'
        if commands.incompatible:
            message += f': the {commands.incompatible} of the subscriber does not fit'
    elif controllers > 1:
        message = f'{controllers} subscribers listen'
    if commands.problems:
        level, message = ERROR, '; '.join(commands.problems)
    values = {
        'name': commands.name, 'output': contract.output.kind.value,
        'subscribers': controllers, 'other publishers': rivals, **commands.facts(),
    }
    return diagnostic(level, f'{name}: commands', contract.robot, message, values)


def schedule_status(name: str, contract: Contract, schedule: Schedule) -> DiagnosticStatus:
    """When the policy is asked, by the delay that was measured, and what became of its rows."""
    delays, settings, spent = schedule.delays, schedule.settings, schedule.spent
    mode = settings.mode.name.lower()
    level, message = OK, f'{mode}: no chunk yet'
    if delays.count:
        message = (
            f'{mode}: a chunk takes over {delays.percentile(50.0):.3f} s after its picture (p50 of '
            f'{delays.count})'
        )
    if settings.mode is not Mode.SYNC and schedule.needed > schedule.chunk_size:
        level = WARN
        message += (
            f', which is longer than its {schedule.chunk_size} rows last: the arm stands in '
            'between; a faster device or precision, or schedule sync'
        )
    values = {
        'schedule': mode,
        'delay p50 (s)': f'{delays.percentile(50.0):.4f}',
        'delay that is reckoned with (s)': f'{schedule.delay:.4f}',
        'delays measured': delays.count,
        'periods between two looks': schedule.steps,
        'rows of a chunk': schedule.chunk_size,
        'chunks that took over': spent.over.count,
        'rows over before the last chunk took over': round(spent.over.last),
        'rows over, p50': f'{spent.over.percentile(50.0):g}',
        'rows over, most': round(spent.over.percentile(100.0)),
        'rows run of the last chunk': round(spent.run.last),
        'rows run, p50': f'{spent.run.percentile(50.0):g}',
    }
    return diagnostic(level, f'{name}: schedule', contract.robot, message, values)


def controller_status(
    name: str, contract: Contract, facts: ControllerFacts | None
) -> list[DiagnosticStatus]:
    """How the controller is set up, and what is to be set; nothing where there can be none."""
    if facts is None:
        return []
    level, message = OK, 'set up as it should be'
    if facts.advice:
        level, message = WARN, '; '.join(facts.advice)
    elif not facts.found:
        message = 'tells nothing of its parameters'
    values = {'controller': facts.controller, **facts.found}
    return [diagnostic(level, f'{name}: controller', contract.robot, message, values)]


def recording_status(
    name: str, contract: Contract, recording: Recording | None
) -> list[DiagnosticStatus]:
    """The bag that the node writes, where it writes one."""
    if recording is None:
        return []
    level, message = OK, f'{recording.written} messages'
    if recording.problem:
        level, message = ERROR, recording.problem
    elif recording.lost:
        level = WARN
        message = f'{recording.lost} messages were left out: the disk or the processor is too slow'
    return [
        diagnostic(level, f'{name}: recording', contract.robot, message, recording.facts())
    ]


_WATCHDOG_LEVELS = {None: OK, Level.OK: OK, Level.WARN: WARN, Level.ERROR: ERROR}


def watchdog_status(name: str, contract: Contract, reading: Reading) -> DiagnosticStatus:
    """One watchdog: its number and its limit."""
    values = {
        'number': f'{reading.number:.3f}', 'limit': f'{reading.limit:g}', 'unit': reading.unit,
    }
    return diagnostic(
        _WATCHDOG_LEVELS[reading.level], f'{name}: watchdog {reading.name}', contract.robot,
        reading.sentence, values,
    )


def array(statuses: list[DiagnosticStatus], now: int) -> DiagnosticArray:
    """The message of this instant."""
    message = DiagnosticArray(status=statuses)
    message.header.stamp = time_message(now)
    return message


def _transport_hint() -> str:
    if any(os.environ.get(name) for name in _PROFILE_VARIABLES):
        return (
            'images larger than the middleware\'s buffers are lost: check that the camera\'s '
            'process, too, has the profile that this one has (config/fastdds.xml)'
        )
    return (
        'images larger than Fast DDS\'s default buffers are lost: set '
        'FASTDDS_DEFAULT_PROFILES_FILE to config/fastdds.xml for this node and the camera\'s'
    )
