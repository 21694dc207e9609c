# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What is put on the stage, and what a process on it can be asked for.

Knows names and signatures; knows nothing of ROS or of how a process is started.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Process(Protocol):
    """A process that the stage was given."""

    @property
    def output(self) -> str:
        """All of its output so far."""

    @property
    def written(self) -> int:
        """Bytes of its output so far."""

    def output_after(self, written: int) -> str:
        """Its output after so many bytes."""

    def check(self) -> None:
        """Raise where it has ended by itself."""

    def signal(self, number: int) -> None:
        """Send it a signal."""

    def status(self) -> int | None:
        """Exit status; None while it runs."""

    def memory(self) -> int:
        """Resident memory in bytes; 0 where that is not known."""

    def kill(self) -> None:
        """End it at once."""

    def end(self) -> int:
        """End it in order; its exit status."""


# (name, ROS parameters, remappings) -> the process; names are 'tabletop' and 'policy'.
Start = Callable[[str, dict[str, object], dict[str, str]], Process]


@dataclass(frozen=True)
class Setting:
    """What is on the stage.

    Attributes:
        policy: directory of an artifact or checkpoint.
        contract: file.
        instructions: two commands that make the arm move, one after the other.
        own_arm: whether the simulated arm is started; else somebody's bring-up is there.
        seed: of the simulated arm's scene.
        device: of the policy.
    """

    policy: Path
    contract: Path
    instructions: tuple[str, ...]
    own_arm: bool = True
    seed: int = 0
    device: str = 'cpu'
