# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`replay`: the inferences of a recording once more, and whether the same numbers come out.

The same artifact on the same device with the same seed gives the same bits; what is not the same
here as where it was recorded is said, and so is the first number that differs.
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantvla_ros.control.rtc import Guidance
from quantvla_ros.errors import CheckpointError, ObservationError
from quantvla_ros.observation.recording import Conditions, Inference, RecordedPolicy

if TYPE_CHECKING:
    from quantvla_ros.contract.types import Contract

# What a chunk's bits depend on, in words.
_MATTERS = {
    'artifact_id': 'artifact', 'precision': 'precision', 'engine': 'engine', 'device': 'device',
    'device_name': 'kind of device', 'torch': 'torch', 'threads': 'threads',
}


@dataclass(frozen=True)
class Difference:
    """Where two chunks of one inference differ first, and the most.

    Attributes:
        inference: index in the bag.
        row, column: of the first number that differs.
        recorded, again: that number.
        largest: the largest difference of one number; NaN where only one of the two is a number.
        shapes: of both, where they have different ones; else None.
    """

    inference: int
    row: int
    column: int
    recorded: float
    again: float
    largest: float
    shapes: tuple[tuple[int, ...], tuple[int, ...]] | None = None


def difference(index: int, recorded: np.ndarray, again: np.ndarray) -> Difference | None:
    """How a chunk differs from the recorded one; None where they have the same bits.

    Args:
        recorded, again: [rows, action] float32.
    """
    again = np.ascontiguousarray(again, np.float32)
    if again.shape != recorded.shape:
        shapes = (recorded.shape, again.shape)
        return Difference(index, 0, 0, np.nan, np.nan, np.nan, shapes)
    bits = [np.ascontiguousarray(chunk).view(np.uint32) for chunk in (recorded, again)]
    unequal = np.argwhere(bits[0] != bits[1])
    if len(unequal) == 0:
        return None
    row, column = map(int, unequal[0])
    apart = np.abs(again.astype(np.float64) - recorded.astype(np.float64))
    return Difference(
        index, row, column, float(recorded[row, column]), float(again[row, column]),
        float(apart[tuple(unequal.T)].max()),
    )


@dataclass(frozen=True)
class Outcome:
    """What came of a replay.

    Attributes:
        identical: inferences with the same bits.
        differences: the others that could be done again.
        lacking: (index, why) of those that could not.
    """

    identical: int
    differences: tuple[Difference, ...]
    lacking: tuple[tuple[int, str], ...]

    @property
    def same(self) -> bool:
        """Whether every recorded inference was done again, with the same bits."""
        return self.identical > 0 and not self.differences and not self.lacking


def again(
    inferences: Iterable[Inference], infer: Callable[..., np.ndarray],
    each: Callable[[int], None] = lambda done: None,
) -> Outcome:
    """Do recorded inferences again.

    Args:
        inferences: of a recording.
        infer: as `Policy.infer`.
        each: told how many are done.
    """
    identical, differences, lacking = 0, [], []
    for inference in inferences:
        if inference.observation is None:
            lacking.append((inference.index, inference.lacking))
            continue
        given = {} if inference.guidance is None else {'guidance': Guidance(*inference.guidance)}
        try:
            chunk = infer(inference.observation, seed=inference.seed, **given)
        except ObservationError as error:
            lacking.append((inference.index, str(error)))
            continue
        found = difference(inference.index, inference.chunk, chunk)
        if found is None:
            identical += 1
        else:
            differences.append(found)
        each(identical + len(differences))
    return Outcome(identical, tuple(differences), tuple(lacking))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        'bag', type=Path, metavar='BAG', help='that a policy node wrote (parameter record_to)'
    )
    parser.add_argument(
        '--policy', type=Path, metavar='DIR', help='default: the one that was recorded'
    )
    parser.add_argument('--device', help='cpu, cuda or cuda:N; default: as recorded')
    parser.add_argument('--engine', help='graph or plain; default: as recorded')
    parser.add_argument(
        '--limit', type=int, metavar='N', help='only the first N inferences'
    )
    parser.epilog = (
        'Exit status: 0 every chunk has the same bits, 1 one differs or cannot be done again, '
        '2 no recording or no such policy. docs/replay.md says what to expect.'
    )


def run(args: argparse.Namespace) -> int:
    """Load, infer, compare, say."""
    from itertools import islice

    from quantvla_ros.cli.steps import Steps

    with RecordedPolicy(args.bag) as recorded:
        conditions = recorded.conditions
        count = recorded.count if args.limit is None else min(args.limit, recorded.count)
        steps = Steps('replay')
        steps.show('loading the policy')
        policy, here = _load(args, conditions, recorded.contract)
        outcome = again(
            islice(recorded.inferences(), count), policy.infer,
            lambda done: steps.show(f'inference {done} of {count}'),
        )
        steps.close()
        health = recorded.health
    lines = [f'{args.bag}: {count} inferences', *_conditions_text(conditions, here)]
    if not health.whole:
        lines.append(f'the bag: {health}')
    lines += outcome_text(outcome, recorded.contract)
    sys.stdout.write('\n'.join(lines) + '\n')
    return 0 if outcome.same else 1


def _load(
    args: argparse.Namespace, conditions: Conditions, contract: Contract
) -> tuple[Any, Conditions]:
    """The policy, and what it runs with here.

    Raises:
        QuantVLAError: it is not there, or does not run here.
    """
    import torch

    from quantvla_ros.contract.match import camera_counts
    from quantvla_ros.engine.policy import load_policy
    from quantvla_ros.engine.shapes import read_lengths
    from quantvla_ros.nodes.recording import conditions_of

    path = args.policy or Path(conditions.policy)
    if not path.is_dir():
        raise CheckpointError(
            f'{path}: expected the policy that was recorded ({conditions.artifact_id}), found no '
            'folder; give it with --policy'
        )
    if conditions.threads:
        torch.set_num_threads(conditions.threads)  # sums on a CPU are cut in so many parts
    policy = load_policy(
        path, device=args.device or conditions.device, engine=args.engine or conditions.engine,
        precision=None if args.policy else _float_precision(conditions.precision),
        views=camera_counts(contract),
        lengths=read_lengths(conditions.prompt_lengths),
    )
    policy.warm_up()
    here = conditions_of(
        policy, path=str(path), contract_path=conditions.contract_path,
        prompt_lengths=conditions.prompt_lengths,
    )
    return policy, here


def _float_precision(precision: str) -> str | None:
    """The precision to ask for: an artifact has its own."""
    from quantvla_ros.engine.policy import PRECISIONS

    return precision if precision in PRECISIONS else None


def _conditions_text(recorded: Conditions, here: Conditions) -> list[str]:
    """What ran there and here, and in what they differ."""
    def line(what: Conditions) -> str:
        threads = f', {what.threads} threads' if what.device == 'cpu' else ''
        return (
            f'{what.artifact_id} ({what.precision}), engine {what.engine} on {what.device} '
            f'({what.device_name}{threads}), torch {what.torch}'
        )

    lines = [f'recorded: {line(recorded)}', f'here:     {line(here)}']
    matters = dict(_MATTERS)
    if recorded.device != 'cpu' and here.device != 'cpu':
        del matters['threads']
    other = [
        f'{word} {getattr(here, name)} instead of {getattr(recorded, name)}'
        for name, word in matters.items() if getattr(here, name) != getattr(recorded, name)
    ]
    if other:
        lines.append(f'not the same here: {", ".join(other)}; other bits are to be expected')
    return lines


def outcome_text(outcome: Outcome, contract: Contract) -> list[str]:
    """What to say of it, line by line."""
    done = outcome.identical + len(outcome.differences)
    lines = []
    if outcome.differences:
        lines.append(f'first difference: {_difference_text(outcome.differences[0], contract)}')
        largest = max(
            outcome.differences, key=lambda d: np.inf if np.isnan(d.largest) else d.largest
        )
        lines.append(
            f'{len(outcome.differences)} of {done} chunks differ; the largest difference of one '
            f'number is {largest.largest:.3g}, in inference {largest.inference}'
        )
    if outcome.identical:
        lines.append(f'{outcome.identical} of {done} chunks have the same bits')
    if outcome.lacking:
        index, why = outcome.lacking[0]
        lines.append(
            f'{len(outcome.lacking)} cannot be done again, the first is inference {index}: {why}'
        )
    return lines or ['no inference was recorded']


def _difference_text(found: Difference, contract: Contract) -> str:
    where = f'inference {found.inference}'
    if found.shapes is not None:
        return f'{where}: recorded a chunk of {found.shapes[0]}, now one of {found.shapes[1]}'
    names = [(name, part.unit) for part in contract.action.parts for name in part.names]
    name, unit = names[found.column]
    return (
        f'{where}, row {found.row}, {name}: recorded {found.recorded:.9g}, now {found.again:.9g}, '
        f'by {abs(found.again - found.recorded):.3g} {unit}'
    )
