# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Faults of what the node hears: cameras, joint states, commands in words."""
from __future__ import annotations

import itertools

from quantvla_ros.contract.types import COMPRESSED_IMAGE, IMAGE
from quantvla_ros.faults import relay, variants
from quantvla_ros.faults.case import Case, Expect, FaultsError, Need, Script
from quantvla_ros.faults.stage import Stage

_HOLD = 'hold with the reason; go on once it is mended'
_RAW = frozenset({Need.RAW_PICTURES})
_JPEG = frozenset({Need.JPEG})


def _camera(fault: relay.Fault | None, *, raw: bool = False) -> Script:
    """A fault of the last camera, which on many arms is the one at the wrist."""

    def script(stage: Stage) -> None:
        cameras = [
            camera for camera in stage.contract.cameras
            if camera.required and (camera.type == IMAGE or not raw)
        ]
        if not cameras:
            raise FaultsError('the contract has no required camera of that kind')
        stage.cameras[cameras[-1].name].fault = fault

    return script


def _jpeg(fault: relay.Fault | None) -> Script:
    """A fault of a camera with compressed pictures."""

    def script(stage: Stage) -> None:
        if stage.compressed is not None:
            stage.compressed.fault = fault
            return
        names = [one.name for one in stage.contract.cameras if one.type == COMPRESSED_IMAGE]
        stage.cameras[names[-1]].fault = fault

    return script


def _some_jpeg(stage: Stage) -> None:
    _jpeg(relay.cut_off_now_and_then())(stage)


def _refuses_some(stage: Stage) -> str:
    """What was dropped has been counted."""
    status = stage.record.status
    return '' if status and status.refused_message_count else 'no message was counted as refused'


def _freeze(stage: Stage) -> None:
    _camera(relay.frozen())(stage)


def _every_camera(fault: relay.Fault | None) -> Script:
    def script(stage: Stage) -> None:
        for one in stage.cameras.values():
            one.fault = fault

    return script


def _joints(fault: relay.Fault | None) -> Script:
    def script(stage: Stage) -> None:
        stage.joints.fault = fault

    return script


def _say(words: str) -> Script:
    return lambda stage: stage.say(words)


def _say_it_oddly(stage: Stage) -> None:
    # What is left of it after normalisation is a command that the policy knows.
    stage.say(f'\ufeff \t{stage.setting.instructions[0]}\u202e\x07\r\n')


def _is_normal(stage: Stage) -> str:
    wanted = stage.setting.instructions[0]
    status = stage.record.status
    if stage.until(lambda: bool(status) and stage.record.chunks[-1][1].instruction == wanted, 2.0):
        return ''
    return f'expected chunks for {wanted!r}, found {stage.record.chunks[-1][1].instruction!r}'


def _kept_the_command(stage: Stage) -> str:
    known = stage.setting.instructions
    said = stage.record.chunks[-1][1].instruction
    return '' if said in known else f'expected the command before it, found {said!r}'


def _other_command(stage: Stage) -> None:
    said = stage.record.chunks[-1][1].instruction
    stage.say(next(words for words in stage.setting.instructions if words != said))


def _says_the_other(stage: Stage) -> str:
    """Chunks say what they were inferred for, in the order in which it was said."""
    labels = [chunk.instruction for _, chunk in stage.record.chunks[-3:]]
    changes = sum(one != other for one, other in itertools.pairwise(labels))
    known = set(labels) <= set(stage.setting.instructions)
    return '' if changes <= 1 and known else f'expected one change of the command, found {labels}'


CASES: tuple[Case, ...] = (
    Case(
        1, 'a camera dies', f'{_HOLD}; the camera and its age are named', Expect.HOLDS,
        _camera(relay.dropped), _camera(None), ('nothing new has arrived', 'longer ago'),
        quick=True,
    ),
    Case(
        1, 'all cameras die', f'{_HOLD}; the cameras are named', Expect.HOLDS,
        _every_camera(relay.dropped), _every_camera(None),
        ('nothing new has arrived', 'longer ago'),
    ),
    Case(
        2, 'a camera freezes: fresh stamps, one picture', f'{_HOLD}; the camera is named',
        Expect.HOLDS, _freeze, _camera(None), ('same picture', 'frozen', 'froze'),
        within=4.0, quick=True,
    ),
    Case(
        3, 'stamps of another clock, 30 s behind', 'hold; said to be clocks, not age',
        Expect.HOLDS, _camera(relay.stamped(-30.0)), _camera(None), ('this clock differ',),
    ),
    Case(
        3, 'stamps of another clock, 30 s ahead', 'hold; said to be clocks, not age',
        Expect.HOLDS, _camera(relay.stamped(30.0)), _camera(None), ('this clock differ',),
    ),
    Case(
        3, 'stamps left at zero', 'hold; said to be zero', Expect.HOLDS,
        _camera(relay.unstamped), _camera(None), ('at zero', 'nothing new has arrived'),
    ),
    Case(
        4, 'cameras out of step by 0.24 s', f'{_HOLD}; both are named', Expect.HOLDS,
        _camera(relay.stamped(-0.24)), _camera(None), ('farther apart', 'longer ago'),
    ),
    Case(
        9, 'joint states stop', f'{_HOLD}; the stream is named', Expect.HOLDS,
        _joints(relay.dropped), _joints(None), ('joint_states: nothing new', 'longer ago'),
        quick=True,
    ),
    Case(
        9, 'a joint is missing from the joint states', f'{_HOLD}; the joint is named',
        Expect.HOLDS, _joints(relay.lacking), _joints(None), ('expected joint',),
    ),
    Case(
        9, 'a joint is missing when the node is activated', 'wait; the joint is named',
        Expect.WAITS, _joints(relay.lacking), _joints(None), ('expected joint',), within=5.0,
    ),
    Case(
        10, 'joints in another order, and one more', 'taken by name; nothing is noticed',
        Expect.GOES_ON, _joints(relay.disordered), _joints(None), dangerous=True,
    ),
    Case(
        11, 'a joint position is no number', f'{_HOLD}; the joint is named', Expect.HOLDS,
        _joints(relay.not_a_number), _joints(None), ('finite position',), dangerous=True,
    ),
    Case(
        11, 'joint states without velocities', 'velocities are optional', Expect.GOES_ON,
        _joints(relay.without_velocities), _joints(None),
    ),
    Case(
        12, 'the command is cleared', 'refused with the reason; the last one stays in force',
        Expect.GOES_ON, _say(' \t\n'), says=('expected words',), check=_kept_the_command,
        quick=True,
    ),
    Case(
        13, 'a command of 100,000 characters', 'refused with the reason, or cut with a warning',
        Expect.GOES_ON, _say('move ' * 20_000), says=('expected at most',),
        check=_kept_the_command,
    ),
    Case(
        14, 'a command with control characters', 'taken in its normal form', Expect.GOES_ON,
        _say_it_oddly, check=_is_normal,
    ),
    Case(
        14, 'a command of words nobody has taught', 'taken, or refused; the node lives on',
        Expect.GOES_ON, _say('ça va? 把方块放进托盘 🤖'),
        lambda stage: stage.say(stage.setting.instructions[0]),
    ),
    Case(
        15, 'another command while the arm moves', 'from the next inference on; chunks say which',
        Expect.GOES_ON, _other_command, check=_says_the_other,
    ),
    Case(
        16, 'an encoding that is no picture', f'{_HOLD}; what is supported is named',
        Expect.HOLDS, _camera(relay.encoded('16UC1'), raw=True), _camera(None, raw=True),
        ('16UC1',), needs=_RAW, quick=True,
    ),
    Case(
        16, 'an encoding that nobody knows', f'{_HOLD}; what is supported is named',
        Expect.HOLDS, _camera(relay.encoded('rgb565x'), raw=True), _camera(None, raw=True),
        ('rgb565x',), needs=_RAW,
    ),
    Case(
        16, 'pictures that are cut off', f'{_HOLD}; both sizes are named', Expect.HOLDS,
        _camera(relay.cut_off, raw=True), _camera(None, raw=True), ('cut off',), needs=_RAW,
    ),
    Case(
        16, 'pictures without pixels', f'{_HOLD}; the size is named', Expect.HOLDS,
        _camera(relay.without_pixels, raw=True), _camera(None, raw=True), ('0x0 pixels',),
        needs=_RAW,
    ),
    Case(
        17, 'pictures of half the size', 'fitted like any other size', Expect.GOES_ON,
        _camera(relay.halved, raw=True), _camera(None, raw=True), needs=_RAW,
    ),
    Case(
        18, 'JPEG pictures that are cut off', f'{_HOLD}; said to be cut off', Expect.HOLDS,
        _jpeg(relay.cut_off), _jpeg(None), ('without its end',), needs=_JPEG,
        variant=variants.COMPRESSED,
    ),
    Case(
        18, 'JPEG pictures of bytes that are none', f'{_HOLD}; what is expected is named',
        Expect.HOLDS, _jpeg(relay.scrambled), _jpeg(None), ('expected JPEG or PNG',), needs=_JPEG,
        variant=variants.COMPRESSED,
    ),
    Case(
        18, 'every second JPEG picture is cut off',
        'go on with the others while they are fresh; said and counted', Expect.GOES_ON,
        _some_jpeg, _jpeg(None), ('without its end',), check=_refuses_some,
        needs=_JPEG, variant=variants.COMPRESSED,
    ),
    Case(
        28, 'every picture twenty times', 'the newest wins; the others are counted',
        Expect.GOES_ON, _camera(relay.repeated(20)), _camera(None),
    ),
)
