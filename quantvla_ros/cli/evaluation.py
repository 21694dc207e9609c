# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the two kinds of evaluation share: the policies of a call, their names, the outcome."""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantvla_ros.report.calibration_data import Chunks


@dataclass(frozen=True)
class Evaluation:
    """What was found, for people and for programs.

    Attributes:
        chunks: the frames in which `policy` differs most from the one it is held against.
    """

    text: str
    content: dict[str, Any]
    chunks: Chunks | None = None
    policy: str = ''


def policy_paths(args: argparse.Namespace) -> list[Path]:
    """The policies of a call, each once; the one they are held against comes last."""
    paths = [path for path in args.policy if path != args.against]
    return list(dict.fromkeys(paths)) + ([args.against] if args.against is not None else [])


def labels(paths: Sequence[Path]) -> list[str]:
    """A name for each policy: as much of the end of its path as it takes to be the only one."""
    parts = [path.resolve().parts for path in paths]
    names = []
    for own in parts:
        count = 1
        while count < len(own) and sum(other[-count:] == own[-count:] for other in parts) > 1:
            count += 1
        names.append('/'.join(own[-count:]))
    return names



def percent(share: float | None, digits: int = 2) -> str:
    """A share for a table; '-' where there is none."""
    return '-' if share is None else f'{100 * share:.{digits}f} %'
