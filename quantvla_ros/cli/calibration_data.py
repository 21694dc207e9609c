# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The observations that a calibration sees: drawn from bags, with an account of them."""
from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantvla_ros.cli.frames import READING, Reading, frames_of
from quantvla_ros.cli.progress import ProgressLine
from quantvla_ros.contract.types import Contract
from quantvla_ros.errors import CalibrationError
from quantvla_ros.observation.messages import NS_PER_S
from quantvla_ros.observation.types import Observation
from quantvla_ros.quantization.coverage import Coverage, covered
from quantvla_ros.quantization.phases import ConstantFrames, Phases
from quantvla_ros.quantization.recipe import Sampling
from quantvla_ros.quantization.sampling import BalancedSample

__all__ = ['READING', 'Frames', 'Origin', 'read_frames']


@dataclass(frozen=True)
class Origin:
    """Where an observation comes from.

    Attributes:
        episode: bag and number.
        time: s since the episode's first frame.
    """

    episode: str
    time: float


@dataclass(frozen=True)
class Frames:
    """What was drawn from the bags.

    Attributes:
        observations, held_out: for the statistics and for the reported error.
        origins: where each held-out observation comes from.
        coverage: what they cover, what was left out and why.
        bags: hash of each bag by name.
    """

    observations: list[Observation]
    held_out: list[Observation]
    origins: list[Origin]
    coverage: Coverage
    bags: dict[str, str]

    @property
    def account(self) -> list[dict[str, Any]]:
        """How many frames of each episode and instruction were found and drawn."""
        return [
            {'episode': episode, 'instruction': instruction, 'found': found, 'used': used}
            for (episode, instruction), (found, _, used) in self.coverage.by(
                'episode', 'instruction'
            ).items()
        ]


def read_frames(
    bags: Sequence[Path],
    contract: Contract,
    wanted: Sampling,
    seed: int,
    progress: ProgressLine,
    *,
    namespace: str = '',
) -> Frames:
    """Draw observations from all bags, evenly over instructions, episodes and phases of motion.

    Reads every bag once and keeps no more pictures than are drawn. Constant frames are left out,
    broken messages counted.

    Raises:
        CalibrationError: fewer than the recipe's minimum, with the counts.
        BagError: a path leads nowhere, or no bag gives an observation.
    """
    size = wanted.samples + wanted.held_out
    sample: BalancedSample[tuple[Observation, Origin]] = BalancedSample(size, seed)
    constant: Counter[tuple[str, str, str]] = Counter()
    reading = Reading()
    phases, is_constant = Phases(contract), ConstantFrames(contract)
    episode, began = '', 0
    for _, frame in frames_of(bags, contract, progress, namespace=namespace, reading=reading):
        observation = frame.observation
        if frame.episode != episode:
            episode, began = frame.episode, observation.stamp
        phase = phases(frame.episode, observation, frame.action)
        group = (observation.instruction, frame.episode, str(phase))
        if is_constant(frame.episode, observation):
            constant[group] += 1
        else:
            origin = Origin(episode, (observation.stamp - began) / NS_PER_S)
            sample.add(group, (observation, origin))
    drawn = sample.draw()
    coverage = covered(
        size,
        {group: count for group, count in sample.found.items() if isinstance(group, tuple)},
        constant,
        [group for group, _ in drawn],
        [str(phase) for phase in phases.expected()],
        reading.account(),
    )
    # With too few for both, four go to the statistics for each one that is held out.
    held_out = min(wanted.held_out, max(len(drawn) - wanted.samples, len(drawn) // 5, 1))
    if len(drawn) - held_out < wanted.minimum:
        raise CalibrationError(_too_few(wanted.minimum, held_out, coverage))
    return Frames(
        observations=[observation for _, (observation, _) in drawn[held_out:]],
        held_out=[observation for _, (observation, _) in drawn[:held_out]],
        origins=[origin for _, (_, origin) in drawn[:held_out]],
        coverage=coverage,
        bags=reading.hashes,
    )


def _too_few(minimum: int, held_out: int, coverage: Coverage) -> str:
    left_out = [f'{bag}: {why}' for bag, why in coverage.readings.bags_left_out.items()]
    return '; '.join((
        f'expected at least {minimum} observations and {held_out} held out, found '
        f'{coverage.found}: {coverage.counts()}',
        *left_out,
        *coverage.losses(),
        'record more or longer episodes, or lower the minimum in the recipe',
    ))
