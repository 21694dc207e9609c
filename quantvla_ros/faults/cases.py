# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""All failure cases, 1 to 54: those that are played, and why the others are not.

A number stands for a failure that systems of this kind are known for (docs/faults.md); one number
may have several cases, as there are several ways to have it. 54 is no failure but the emergency
stop.
"""
from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from quantvla_ros.contract.types import (
    COMPRESSED_IMAGE,
    IMAGE,
    ActionKind,
    Contract,
    OutputKind,
)
from quantvla_ros.faults import cases_inputs, cases_policy, cases_system, cases_tasks
from quantvla_ros.faults.case import Case, Need
from quantvla_ros.faults.setting import Setting

LAST = 54

CASES: tuple[Case, ...] = tuple(sorted(
    (*cases_inputs.CASES, *cases_policy.CASES, *cases_system.CASES, *cases_tasks.CASES),
    key=lambda case: case.number,
))

# Why a number is not played, and where it is looked after instead.
ELSEWHERE: dict[int, str] = {
    26: 'needs a Jetson that gets hot; for the node it is case 25, and its diagnostics have the '
        'percentiles of inference',
    31: 'an artifact holds integers and scales, nothing of an architecture; kernels are compiled '
        'where they run (test/test_artifact.py)',
    45: 'of bags, without a node: test/test_bags_reading.py and test/attacks',
    46: 'of bags, without a node: test/test_bags_reading.py',
    47: 'of bags, without a node: test/test_bags_replay.py',
    48: 'of bags, without a node: test/test_bags_reading.py',
    49: 'of calibration, without a node: test/test_calibration_data.py',
    50: 'of calibration, without a node: test/test_artifact.py',
    51: 'the node loads from directories only and never downloads: test/test_cli_fetch.py',
    53: 'no joint of the simulated arm turns without end: test/test_control_guard.py',
}


def missing(need: Need, contract: Contract, setting: Setting) -> bool:
    """Whether what a case needs is not there."""
    def camera_of(kind: str) -> bool:
        return any(camera.type == kind and camera.required for camera in contract.cameras)

    # Of the simulated arm there are variants that have the rest.
    return {
        Need.ARM: not setting.own_arm,
        Need.JPEG: not (setting.own_arm or camera_of(COMPRESSED_IMAGE)),
        Need.EMERGENCY_STOP: not (setting.own_arm or contract.safety.emergency_stop),
        Need.CONTROL_MSGS: importlib.util.find_spec('control_msgs') is None,
        Need.COMMANDS: contract.output.kind is not OutputKind.TRAJECTORY,
        Need.RAW_PICTURES: not camera_of(IMAGE),
        Need.GRIPPER: not any(part.kind is ActionKind.GRIPPER for part in contract.action.parts),
    }[need]


def choose(
    contract: Contract,
    setting: Setting,
    *,
    quick: bool = False,
    only: Sequence[int] = (),
    dangerous: bool = True,
) -> tuple[list[Case], dict[int, str]]:
    """The cases to play, and why the other numbers are not.

    Args:
        contract, setting: what there is.
        quick: only those of the quick form.
        only: only these numbers; empty for all.
        dangerous: those too that would move an arm if the node failed.
    """
    chosen: list[Case] = []
    left_out = dict(ELSEWHERE)
    for case in CASES:
        needs = [need for need in case.needs if missing(need, contract, setting)]
        if needs:
            left_out[case.number] = f'needs {needs[0].value}'
        elif case.dangerous and not dangerous:
            left_out[case.number] = 'dangerous on an arm that is not simulated: --dangerous'
        elif quick and not case.quick and case.number not in only:
            left_out[case.number] = 'not in the quick form'
        elif only and case.number not in only:
            left_out[case.number] = 'not asked for'
        else:
            chosen.append(case)
    played = {case.number for case in chosen}
    return chosen, {
        number: reason for number, reason in left_out.items() if number not in played
    }


def _page() -> str:
    """The tables of docs/faults.md."""
    lines = ['| # | case | expected | |', '|---|---|---|---|']
    for case in CASES:
        marks = [*(['quick'] if case.quick else []), *(['dangerous'] if case.dangerous else [])]
        lines.append(
            f'| {case.number} | {case.name} | {case.expect.name}: {case.expected} '
            f'| {", ".join(marks)} |'
        )
    lines += ['', '| # | not played, because |', '|---|---|']
    lines += [f'| {number} | {reason} |' for number, reason in sorted(ELSEWHERE.items())]
    return '\n'.join(lines)


if __name__ == '__main__':
    print(_page())
