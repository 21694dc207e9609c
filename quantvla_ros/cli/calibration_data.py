# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The observations that a calibration sees: drawn from bags, with an account of them."""
from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from quantvla_ros.cli.frames import frames_of
from quantvla_ros.cli.progress import ProgressLine
from quantvla_ros.contract.types import Contract
from quantvla_ros.errors import CalibrationError
from quantvla_ros.observation.bags import bag_hash
from quantvla_ros.observation.types import Observation
from quantvla_ros.quantization.recipe import Sampling
from quantvla_ros.quantization.sampling import BalancedSample


@dataclasses.dataclass(frozen=True)
class Frames:
    """What was drawn from the bags.

    Attributes:
        observations, held_out: for the statistics and for the reported error.
        account: how many frames of each episode and command were found and drawn.
        bags: hash of each bag by name.
    """

    observations: list[Observation]
    held_out: list[Observation]
    account: list[dict[str, Any]]
    bags: dict[str, str]


def read_frames(
    bags: Sequence[Path],
    contract: Contract,
    wanted: Sampling,
    seed: int,
    progress: ProgressLine,
    *,
    namespace: str = '',
) -> Frames:
    """Draw observations from all bags, evenly over episodes and commands.

    Raises:
        CalibrationError: fewer than the recipe's minimum, with the counts.
        BagError: a bag cannot be read.
    """
    sample: BalancedSample[Observation] = BalancedSample(wanted.samples + wanted.held_out, seed)
    for _, frame in frames_of(bags, contract, progress, namespace=namespace):
        observation = frame.observation
        sample.add((frame.episode, observation.instruction), observation)
    hashes: dict[str, str] = {}
    for bag in bags:
        hashes[_unique(bag.resolve().name, hashes)] = bag_hash(bag)
    drawn = sample.draw()
    # With too few for both, four go to the statistics for each one that is held out.
    held_out = min(wanted.held_out, max(len(drawn) - wanted.samples, len(drawn) // 5, 1))
    if len(drawn) - held_out < wanted.minimum:
        raise CalibrationError(_too_few(wanted.minimum, held_out, sample.found))
    used: dict[Hashable, int] = {}
    for group, _ in drawn:
        used[group] = used.get(group, 0) + 1
    return Frames(
        observations=[observation for _, observation in drawn[held_out:]],
        held_out=[observation for _, observation in drawn[:held_out]],
        account=[
            {
                'episode': group[0],
                'instruction': group[1],
                'found': count,
                'used': used.get(group, 0),
            }
            for group, count in sample.found.items()
            if isinstance(group, tuple)
        ],
        bags=hashes,
    )


def _unique(name: str, taken: Mapping[str, str]) -> str:
    """A name for a bag that no other bag has."""
    number, unique = 2, name
    while unique in taken:
        unique, number = f'{name} ({number})', number + 1
    return unique


def _too_few(minimum: int, held_out: int, found: Mapping[Hashable, int]) -> str:
    listed = '; '.join(
        f'{count} of episode {group[0]} ({group[1]!r})'
        for group, count in found.items()
        if isinstance(group, tuple)
    )
    return (
        f'expected at least {minimum} observations and {held_out} held out, found '
        f'{sum(found.values())}: {listed}; record more or longer episodes, or lower the minimum '
        f'in the recipe'
    )
