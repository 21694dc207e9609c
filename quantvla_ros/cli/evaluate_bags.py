# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Open loop: predicted chunks against the actions that were recorded, joint by joint.

A small error here is necessary for a good policy and not sufficient; it shows whether the whole
chain (bag, contract, normalisation, quantization) is right, and how far two policies are apart.
"""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantvla_ros.cli.fit import check_policy_fit
from quantvla_ros.cli.progress import ProgressLine
from quantvla_ros.contract.types import ActionKind, ActionPart, Contract
from quantvla_ros.errors import BagError
from quantvla_ros.observation.types import Observation

if TYPE_CHECKING:
    from quantvla_ros.engine.policy import Policy

RUNNING, RUNNING_AGAINST = 'policy', 'policy to compare'


@dataclass(frozen=True)
class Evaluation:
    """What was found, for people and for programs."""

    text: str
    content: dict[str, Any]


@dataclass(frozen=True)
class Sample:
    """One observation, and the actions [n, action] that were recorded from it on."""

    observation: Observation
    recorded: np.ndarray


def evaluate(args: argparse.Namespace) -> Evaluation:
    """Run the policies on a sample of the bags.

    Raises:
        BagError: no recorded action in the bags.
        ContractError: a policy does not fit the contract.
    """
    from quantvla_ros.cli.frames import READING
    from quantvla_ros.contract.load import load_contract
    from quantvla_ros.engine.policy import load_policy

    contract = load_contract(args.contract)
    paths = policy_paths(args)
    chunks: list[list[np.ndarray]] = []
    infos: list[dict[str, Any]] = []
    samples: list[Sample] = []
    with ProgressLine((READING, RUNNING, RUNNING_AGAINST)) as progress:
        for path, stage in zip(paths, (RUNNING, RUNNING_AGAINST), strict=False):
            policy = load_policy(path, device=args.device)
            check_policy_fit(path, contract, policy.info)
            infos.append(
                {
                    'path': str(path),
                    'artifact_id': policy.info.artifact_id,
                    'precision': policy.info.precision,
                }
            )
            if not samples:
                samples = read_samples(args, contract, policy.info.chunk_size, progress)
            chunks.append(_run(policy, samples, args.seed, stage, progress))
            del policy  # two large policies at once may not fit
    return _evaluation(contract, infos, samples, chunks)


def read_samples(
    args: argparse.Namespace, contract: Contract, steps: int, progress: ProgressLine
) -> list[Sample]:
    """Observations with recorded actions, drawn evenly over episodes and commands."""
    from quantvla_ros.cli.frames import frames_of
    from quantvla_ros.quantization.sampling import BalancedSample

    sample: BalancedSample[Sample] = BalancedSample(args.frames, args.seed)
    found = 0
    for frames, frame in frames_of(
        args.bag, contract, progress, namespace=args.namespace, need_actions=True
    ):
        found += 1
        recorded = frames.recorded_chunk(frame, steps)
        if recorded is not None:
            group = (frame.episode, frame.observation.instruction)
            sample.add(group, Sample(frame.observation, recorded))
    drawn = [item for _, item in sample.draw()]
    if not drawn:
        raise BagError(
            f'{", ".join(map(str, args.bag))}: expected recorded actions beside the observations, '
            f'found none in {found} frames; check action.recorded_topic in the contract'
        )
    return drawn


def _run(
    policy: Policy, samples: Sequence[Sample], seed: int, stage: str, progress: ProgressLine
) -> list[np.ndarray]:
    """Chunks [chunk, action], each with noise of its own that is the same for every policy."""
    chunks = []
    for index, sample in enumerate(samples):
        chunks.append(policy.infer(sample.observation, seed=seed * 1_000_000 + index))
        progress(stage, index + 1, len(samples))
    return chunks


def _evaluation(
    contract: Contract,
    infos: Sequence[dict[str, Any]],
    samples: Sequence[Sample],
    chunks: Sequence[Sequence[np.ndarray]],
) -> Evaluation:
    names = contract.action.names
    units = [part.unit for part in contract.action.parts for _ in part.names]
    errors = [_differences(policy_chunks, samples) for policy_chunks in chunks]
    hold = [np.tile(hold_row(contract, s.observation.state), (len(s.recorded), 1)) for s in samples]
    columns = {
        infos[0]['precision']: _rms(errors[0]),
        **({f'{infos[1]["precision"]} (against)': _rms(errors[1])} if len(chunks) == 2 else {}),
        'holding still': _rms(_differences(hold, samples)),
    }
    content: dict[str, Any] = {
        'open_loop': {
            'policies': list(infos),
            'observations': len(samples),
            'actions': int(sum(len(s.recorded) for s in samples)),
            'names': list(names),
            'units': units,
            'rms_error': {name: column.tolist() for name, column in columns.items()},
        }
    }
    if len(chunks) == 2:
        apart = np.concatenate(
            [a.astype(np.float64) - b for a, b in zip(chunks[0], chunks[1], strict=True)]
        )
        columns['between the two'] = _rms(apart)
        size = np.concatenate([chunk.astype(np.float64) for chunk in chunks[1]])
        content['open_loop']['between'] = {
            'rms': _rms(apart).tolist(),
            'largest': np.abs(apart).max(axis=0).tolist(),
            # against how much the second policy's actions vary: 0 is equal
            'relative': float(
                np.linalg.norm(apart) / max(float(np.linalg.norm(size - size.mean(axis=0))), 1e-12)
            ),
        }
    return Evaluation(_table(names, units, columns, samples, content['open_loop']), content)


def _differences(
    chunks: Sequence[np.ndarray], samples: Sequence[Sample]
) -> np.ndarray:
    """[actions of all samples, action] predicted minus recorded, over the rows that both have."""
    rows = []
    for chunk, sample in zip(chunks, samples, strict=True):
        steps = min(len(chunk), len(sample.recorded))
        rows.append(chunk[:steps].astype(np.float64) - sample.recorded[:steps])
    return np.concatenate(rows)


def _rms(differences: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(differences).mean(axis=0))


def hold_row(contract: Contract, state: np.ndarray) -> np.ndarray:
    """[action] the numbers with which a policy would hold the measured joints."""
    measured = dict(zip(contract.state_names, state.tolist(), strict=True))
    return np.concatenate([_HOLD[part.kind](part, measured) for part in contract.action.parts])


def _hold_position(part: ActionPart, measured: dict[str, float]) -> np.ndarray:
    return np.array([measured[name] for name in part.names])


def _hold_nothing(part: ActionPart, measured: dict[str, float]) -> np.ndarray:
    return np.zeros(len(part.names))


def _hold_gripper(part: ActionPart, measured: dict[str, float]) -> np.ndarray:
    assert part.model_range is not None and part.joint_range is not None  # checked when loaded
    closed, opened = part.joint_range
    share = (_hold_position(part, measured) - closed) / (opened - closed)
    return part.model_range[0] + share * (part.model_range[1] - part.model_range[0])


_HOLD = {
    ActionKind.JOINT_POSITION: _hold_position,
    ActionKind.JOINT_DELTA: _hold_nothing,
    ActionKind.TWIST: _hold_nothing,
    ActionKind.GRIPPER: _hold_gripper,
}


def _table(
    names: Sequence[str],
    units: Sequence[str],
    columns: dict[str, np.ndarray],
    samples: Sequence[Sample],
    found: dict[str, Any],
) -> str:
    lines = [
        f'open loop: {found["observations"]} observations, {found["actions"]} recorded actions; '
        f'root mean square error per joint',
    ]
    width = max(len(name) for name in (*names, 'all'))
    title = ' '.join(f'{name:>17}' for name in columns)
    lines.append(f'{"":{width}} {title}')
    for index, name in enumerate(names):
        cells = ' '.join(f'{column[index]:17.4g}' for column in columns.values())
        lines.append(f'{name:{width}} {cells}  {units[index]}')
    if len(set(units)) == 1:
        cells = ' '.join(f'{np.sqrt(np.square(c).mean()):17.4g}' for c in columns.values())
        lines.append(f'{"all":{width}} {cells}  {units[0]}')
    if 'between' in found:
        lines.append(
            f'difference between the two, relative to the variation of the second: '
            f'{100 * found["between"]["relative"]:.2f} %'
        )
    return '\n'.join(lines)


def policy_paths(args: argparse.Namespace) -> list[Path]:
    """The policies of a call, `--policy` first."""
    return [args.policy] if args.against is None else [args.policy, args.against]
