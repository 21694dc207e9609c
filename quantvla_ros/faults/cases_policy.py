# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Faults of the policy: its numbers, its pace, its files, its device."""
from __future__ import annotations

import shutil

from quantvla_ros.faults.case import Case, Expect, Need, Script
from quantvla_ros.faults.stage import Stage
from quantvla_ros.observation.messages import nanoseconds

_HOLD = 'drop the chunk, hold, count; go on with the next good one'


def _spoil(what: str) -> Script:
    return lambda stage: stage.spoil(what)


def _slow_and_told(stage: Stage) -> None:
    """The inference for another command is slow, and what runs meanwhile is for the one before."""
    stage.say_another()
    stage.spoil('slow:2.5')


def _load(what: str) -> Script:
    return lambda stage: stage.load_instead(what)


def _cut_off_weights(stage: Stage) -> None:
    """A copy of the policy whose weights end too early, as after a copy that was broken off."""
    copy = stage.scratch / 'cut_off'
    if not copy.exists():
        shutil.copytree(stage.setting.policy, copy)
        weights = max(copy.glob('*.safetensors'), key=lambda path: path.stat().st_size)
        with weights.open('r+b') as file:
            file.truncate(weights.stat().st_size * 2 // 3)
    stage.load_instead(str(copy))


def _pickled(stage: Stage) -> None:
    """A copy of the policy with a pickle in place of its weights."""
    copy = stage.scratch / 'pickled'
    if not copy.exists():
        shutil.copytree(
            stage.setting.policy, copy, ignore=shutil.ignore_patterns('model*.safetensors')
        )
        (copy / 'pytorch_model.bin').write_bytes(b'\x80\x04cos\nsystem\n(S"true"\ntR.')
    stage.load_instead(str(copy))


def _nothing_past(stage: Stage) -> str:
    """Trajectories of the last seconds have not ended when they are heard."""
    for _, heard, message in stage.record.trajectories[-10:]:
        last = message.points[-1].time_from_start
        end = nanoseconds(message.header.stamp) + last.sec * 1_000_000_000 + last.nanosec
        if end < heard:
            return f'a trajectory ended {(heard - end) * 1e-9:.3f} s before it was heard'
    return ''


def _all_joints(stage: Stage) -> str:
    """Every trajectory names every joint."""
    apart = {gripper.joint for gripper in stage.contract.output.grippers}
    wanted = [name for name in stage.contract.action.names if name not in apart]
    for _, _, message in stage.record.trajectories:
        if sorted(message.joint_names) != sorted(wanted):
            return f'expected all of {wanted}, found {list(message.joint_names)}'
    return '' if stage.record.trajectories else 'no trajectory was heard'


def _warm_up_is_not_counted(stage: Stage) -> str:
    """Inference times without the first."""
    status = stage.record.status
    p99 = nanoseconds(status.inference_time_p99) * 1e-9 if status else 0.0
    return '' if p99 < 2.0 else f'the 99th percentile of inference is {p99:.1f} s'


def _reload_slowly(stage: Stage) -> None:
    from quantvla_ros.faults.stage import CLEANUP, DEACTIVATE

    stage.load_instead('slow:3.0')
    stage.transition(DEACTIVATE)
    stage.transition(CLEANUP)
    stage.begin()


_COMMANDS = frozenset({Need.COMMANDS})

CASES: tuple[Case, ...] = (
    Case(
        5, 'NaN in every chunk', 'drop, hold, latch after some in a row; ~/reset opens it',
        Expect.STOPS, _spoil('nan'), _spoil(''), ('several times in a row',), within=5.0,
        dangerous=True, quick=True,
    ),
    Case(
        5, 'infinity in every chunk', 'drop, hold, latch after some in a row; ~/reset opens it',
        Expect.STOPS, _spoil('infinite'), _spoil(''), ('several times in a row',), within=5.0,
        dangerous=True,
    ),
    Case(
        6, 'chunks that lead out of a position limit', _HOLD, Expect.HOLDS,
        _spoil('beyond:9.0'), _spoil(''), ('position limits of a joint',), dangerous=True,
    ),
    Case(
        6, 'chunks that are far too fast', _HOLD, Expect.HOLDS, _spoil('fast:0.6'), _spoil(''),
        ('faster than its velocity limit',), dangerous=True,
    ),
    Case(
        7, 'chunks that begin 0.8 rad away', _HOLD, Expect.HOLDS, _spoil('jump:0.8'), _spoil(''),
        ('starts too far',), dangerous=True, quick=True,
    ),
    Case(
        8, 'chunks 0.04 rad apart at every seam', 'mixed in without a jump', Expect.GOES_ON,
        _spoil('seam:0.02'), _spoil(''), dangerous=True,
    ),
    Case(
        23, 'the device is out of memory at load', 'configuring fails; free; can be repeated',
        Expect.REFUSES, _load('memory'), _load(''), ('out of memory',), within=5.0,
    ),
    Case(
        24, 'an error of CUDA in flight', 'stop, hold, latch; ask for a new process',
        Expect.STOPS, _spoil('device'), _spoil(''), ('CUDA error',), restarts=True,
    ),
    Case(
        24, 'out of memory in flight', 'stop, hold, latch', Expect.STOPS, _spoil('memory'),
        _spoil(''), ('out of memory',), restarts=True,
    ),
    Case(
        24, 'the policy raises', 'stop, hold; activating it again helps', Expect.STOPS,
        _spoil('raise'), _spoil(''), ('asked for',),
    ),
    Case(
        25, 'inference slower than a chunk lasts', 'decelerate, hold, say how slow', Expect.HOLDS,
        _spoil('slow:2.5'), _spoil(''), ('slower than a chunk lasts',), level='WARN',
        within=5.0, quick=True,
    ),
    Case(
        25, 'another command during a slow inference',
        'decelerate, hold; a chunk that begins elsewhere by then is dropped, the next is from rest',
        Expect.HOLDS, _slow_and_told, _spoil(''), ('slower than a chunk lasts',), level='WARN',
        within=5.0,
    ),
    Case(
        27, 'the first inference is slow', 'warmed up in configure; no part of the latency',
        Expect.GOES_ON, _reload_slowly, _load(''), check=_warm_up_is_not_counted, within=6.0,
    ),
    Case(
        30, 'weights that end too early', 'configuring fails; the file is named', Expect.REFUSES,
        _cut_off_weights, _load(''), ('.safetensors',), within=5.0,
    ),
    Case(
        32, 'a policy of another robot', 'configuring fails with a diff',
        Expect.REFUSES, _load('robot'), _load(''), ('does not fit the contract',), within=5.0,
    ),
    Case(
        33, 'a pickle in place of the weights', 'configuring fails; it is never opened',
        Expect.REFUSES, _pickled, _load(''), ('safetensors',), within=5.0,
    ),
    Case(
        37, 'the joints in the commands', 'all of them, always', Expect.GOES_ON,
        _spoil(''), check=_all_joints, needs=_COMMANDS,
    ),
    Case(
        38, 'inference takes half of a chunk', 'what has gone by is not sent', Expect.GOES_ON,
        _spoil('slow:0.35'), _spoil(''), check=_nothing_past, within=4.0, needs=_COMMANDS,
    ),
    Case(
        52, 'a gripper that knows only open and shut, beyond its ends',
        'mapped onto the joint; other joints mind nothing', Expect.GOES_ON, _spoil('binary:2.0'),
        _spoil(''), needs=frozenset({Need.GRIPPER}), dangerous=True,
    ),
)
