# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One fault as data: what is done to the node, and what it is expected to do.

Knows words and functions; knows nothing of ROS, processes or how a case is judged.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from quantvla_ros.errors import QuantVLAError

if TYPE_CHECKING:
    from quantvla_ros.faults.stage import Stage

Script = Callable[['Stage'], None]
# Looks at a stage after the fault; returns what is wrong, '' for nothing.
Check = Callable[['Stage'], str]


class FaultsError(QuantVLAError):
    """A fault could not be played at all, which says nothing of the node."""


class Expect(Enum):
    """What the node is expected to do, one sentence each."""

    HOLDS = 'the arm is brought to rest, the reason is named, and it goes on once that is mended'
    STOPS = 'the arm is brought to rest, and stays so until a person does something'
    LEAVES = 'the arm is left to others, and taken up again once they are quiet'
    SAYS = 'the arm comes to rest as it runs out of commands, and the node says why'
    GOES_ON = 'the policy goes on, inside the limits of every joint'
    WAITS = 'the node, when activated, waits or refuses and says for what; nothing moves'
    REFUSES = 'configuring fails with the reason; the process lives and can be configured again'
    ENDS = 'the process holds the arm and ends with status 0'


class Need(Enum):
    """What a case needs beyond the policy node, in words for the list of those not run."""

    ARM = 'the simulated arm, whose process and clock it may handle'
    COMMANDS = 'an arm that is commanded by a JointTrajectory topic'
    RAW_PICTURES = 'a camera with raw pictures'
    JPEG = 'a camera with compressed pictures'
    EMERGENCY_STOP = 'an emergency stop in the contract'
    CONTROL_MSGS = 'the package control_msgs'
    GRIPPER = 'an action with a gripper'


def nothing(stage: Stage) -> None:
    """What is mended where there is nothing to mend."""


@dataclass(frozen=True)
class Case:
    """A fault that is played.

    Attributes:
        number: of the failure case (docs/faults.md).
        name: a few words.
        expected: what the best systems do, one sentence.
        expect: how that is judged.
        inject: brings the fault about; for REFUSES and WAITS, before the transition.
        mend: takes it back.
        prepare: done before; where the arm is to move, has it on its way. None where that is all.
        says: at least one of them must be in the node's words: its status, /diagnostics or log.
        state: that the status must show; '' for the one that follows from `expect`.
        check: looks closer.
        level: of the node's entry in /diagnostics; '' for the one that follows from `expect`.
        within: s; from the fault to the state.
        dangerous: an arm might move in a way it should not if the node failed here.
        quick: in the quick form.
        needs: what it does not run without.
        passes: whether the fault is over at once, so that the node goes on before it is mended.
        restarts: whether the policy's process must be started again afterwards.
        catches_up: whether the arm's own controller moves it in a way that nobody commands.
        variant: of the simulated arm's contract (`variants`); '' for the plain one.
        quiet: whether the arm says nothing while the fault lasts, so that rest cannot be seen.
    """

    number: int
    name: str
    expected: str
    expect: Expect
    inject: Script
    mend: Script = nothing
    says: tuple[str, ...] = ()
    prepare: Script | None = None
    state: str = ''
    level: str = ''
    check: Check | None = None
    within: float = 2.0
    dangerous: bool = False
    quick: bool = False
    needs: frozenset[Need] = field(default_factory=frozenset)
    passes: bool = False
    restarts: bool = False
    quiet: bool = False
    catches_up: bool = False
    variant: str = ''
