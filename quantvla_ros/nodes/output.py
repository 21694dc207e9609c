# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What every way to an arm offers the node, and what it may ask of the node.

The ways are in `output_trajectory`, `output_follow`, `output_servo` and, for grippers that are
commanded apart, `output_gripper`; `outputs` chooses by the contract.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy

from quantvla_ros.control.measured import Measured
from quantvla_ros.control.trajectory import Trajectory

COMMAND_QOS = QoSProfile(
    reliability=ReliabilityPolicy.RELIABLE, history=HistoryPolicy.KEEP_LAST, depth=1
)
ACKNOWLEDGED = 0.5  # s to wait at most until a last message has arrived before the node goes


def _nothing(sentence: str) -> None:
    """Nobody wants to know."""


def _not_measured() -> Measured | None:
    return None


@dataclass(frozen=True)
class Surroundings:
    """What an output is told of the node, and tells it.

    Attributes:
        measured: the newest joints, in the order of the action's names.
        refused: called with the other side's reason where it refuses or gives up a command.
        accepted: called where it took one, and followed it where that can be known.
        not_followed: called with the reason where the arm does not do what it was told last.
        sent_goal: called with the id of each goal of an arm's action, before it goes out.
    """

    measured: Callable[[], Measured | None] = _not_measured
    refused: Callable[[str], None] = _nothing
    accepted: Callable[[], None] = field(default=lambda: None)
    sent_goal: Callable[[bytes], None] = field(default=lambda goal: None)
    not_followed: Callable[[str], None] = _nothing


class Output(Protocol):
    """A way to an arm or a gripper. `send` and `hold` are called from any thread.

    Attributes:
        name: of the topic, action or node that commands go to.
        topic_type: class of the messages of the topic `name`; None where it is no topic.
        problem: what is wrong with it in words, '' where nothing is.
    """

    name: str
    topic_type: Any
    problem: str

    def send(self, points: Trajectory) -> None:
        """Follow this motion from now on."""

    def hold(self, points: Trajectory) -> None:
        """Come to rest by this motion, and stay."""

    def listeners(self) -> int:
        """How many take the commands."""

    def rivals(self) -> int:
        """How many others send such commands."""

    def facts(self) -> dict[str, object]:
        """Further numbers for /diagnostics."""

    def others_until(self, message: Any, now: int) -> int | None:
        """Until when, ns, a message of the command topic moves the arm; None for one of ours."""

    def wait_until_received(self) -> None:
        """Give the last command time to arrive, before the output goes."""

    def close(self) -> None:
        """Free everything."""
