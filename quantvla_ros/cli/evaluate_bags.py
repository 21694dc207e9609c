# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Open loop: predicted chunks against the actions that were recorded, and against another policy's.

A small error here is necessary for a good policy and not sufficient; it shows whether the whole
chain (bag, contract, normalisation, quantization) is right, and how far two policies are apart.
Every policy sees the same observations with the same noise. `report.compare` defines the numbers.
"""
from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantvla_ros.cli.evaluate_report import worst_frames
from quantvla_ros.cli.evaluate_text import open_loop_text
from quantvla_ros.cli.evaluation import Evaluation, labels, policy_paths
from quantvla_ros.cli.fit import load_fitting
from quantvla_ros.cli.progress import ProgressLine
from quantvla_ros.contract.types import ActionKind, ActionPart, Contract
from quantvla_ros.errors import BagError, CheckpointError, QuantVLAError
from quantvla_ros.models.noise import noise_seed
from quantvla_ros.observation.types import Observation
from quantvla_ros.report.compare import Chunks, Moment, compare

if TYPE_CHECKING:
    from quantvla_ros.engine.policy import Policy

RUNNING = 'running policies'
PART = 16  # observations that a process runs before another policy may have its turn


@dataclass(frozen=True)
class Sample:
    """One observation, where it is from, and the actions [n, action] recorded from it on."""

    observation: Observation
    recorded: np.ndarray
    moment: Moment


@dataclass(frozen=True)
class Part:
    """Some observations for one policy, by number."""

    path: Path
    first: int
    count: int


@dataclass(frozen=True)
class Result:
    """What a policy made of a part, and what it is."""

    info: dict[str, Any]
    chunks: Chunks


def evaluate(args: argparse.Namespace) -> Evaluation:
    """Run the policies on a sample of the bags.

    Raises:
        BagError: no recorded action in the bags, or bags that a policy was calibrated on.
        ContractError: a policy does not fit the contract.
    """
    from quantvla_ros.cli.frames import READING
    from quantvla_ros.contract.load import load_contract
    from quantvla_ros.observation.bag_files import bag_hash
    from quantvla_ros.observation.bags import Bag

    contract = load_contract(args.contract)
    paths = policy_paths(args)
    for bag in args.bag:
        Bag(bag).close()  # says what is wrong with it
    with ProgressLine((READING, RUNNING)) as progress:
        hashes = [bag_hash(bag) for bag in args.bag]
        seen = [seen_bags(path, args.bag, hashes) for path in paths]
        _refuse_seen(paths, seen, args.allow_seen, progress)
        runner = Runner(contract, args.device, args.seed, allow_fallback=args.allow_fallback)
        runner.load(paths[0])
        samples = read_samples(args, contract, runner.chunk_size, progress)
        runner.samples = samples
        results = _run_all(runner, paths, args.jobs, progress)
    names = labels(paths)
    policies = [
        {
            'label': label, 'path': str(path), **result.info, 'calibrated_on': spoiled,
            'rms_error': _rms(_differences(result.chunks.actions, samples)).tolist(),
        }
        for label, path, result, spoiled in zip(names, paths, results, seen, strict=True)
    ]
    hold = [np.tile(hold_row(contract, s.observation.state), (len(s.recorded), 1)) for s in samples]
    content: dict[str, Any] = {
        'observations': len(samples),
        'episodes': len({sample.moment.episode for sample in samples}),
        'actions': int(sum(len(s.recorded) for s in samples)),
        'names': list(contract.action.names),
        'units': [part.unit for part in contract.action.parts for _ in part.names],
        'bags': [
            {'path': str(bag), 'sha256': sha256}
            for bag, sha256 in zip(args.bag, hashes, strict=True)
        ],
        'holding_still': {'rms_error': _rms(_differences(hold, samples)).tolist()},
        'policies': policies,
        'against': names[-1] if args.against is not None else None,
        'comparisons': [],
    }
    if args.against is not None:
        moments = [sample.moment for sample in samples]
        content['comparisons'] = [
            {
                'policy': label,
                **compare(
                    result.chunks, results[-1].chunks, moments, content['names'],
                    content['units'], thresholds(contract),
                ),
            }
            for label, result in zip(names[:-1], results[:-1], strict=True)
        ]
    farthest = max(content['comparisons'], key=lambda c: c['relative'] or 0.0, default=None)
    return Evaluation(
        open_loop_text(content),
        {'open_loop': content},
        worst_frames(
            farthest, contract, samples, results[names.index(farthest['policy'])].chunks.actions,
            results[-1].chunks.actions,
        )
        if farthest
        else None,
        farthest['policy'] if farthest else '',
    )


def seen_bags(path: Path, bags: Sequence[Path], hashes: Sequence[str]) -> list[str]:
    """Those of the bags that an artifact was calibrated on, by the hashes in its manifest."""
    from quantvla_ros.quantization.manifest import MANIFEST, read_manifest

    if not (path / MANIFEST).exists():
        return []
    used = set(read_manifest(path).content['calibration']['bags'].values())
    return [str(bag) for bag, sha256 in zip(bags, hashes, strict=True) if sha256 in used]


def _refuse_seen(
    paths: Sequence[Path], seen: Sequence[Sequence[str]], allowed: bool, progress: ProgressLine
) -> None:
    spoiled = [
        f'{", ".join(bags)}: {path} was calibrated on it'
        for path, bags in zip(paths, seen, strict=True)
        if bags
    ]
    if not spoiled:
        return
    if not allowed:
        raise BagError(
            f'{"; ".join(spoiled)}; expected bags that no policy has seen, since an error on seen '
            f'ones says little; pass others, or --allow-seen to look nevertheless'
        )
    progress.note(f'WARNING: {"; ".join(spoiled)}. The error on other data may be larger.')


def read_samples(
    args: argparse.Namespace, contract: Contract, steps: int, progress: ProgressLine
) -> list[Sample]:
    """Observations with recorded actions, drawn evenly over episodes and commands."""
    from quantvla_ros.cli.frames import frames_of
    from quantvla_ros.quantization.sampling import BalancedSample

    sample: BalancedSample[Sample] = BalancedSample(args.frames, args.seed)
    found = 0
    begins: dict[str, int] = {}
    for frames, frame in frames_of(
        args.bag, contract, progress, namespace=args.namespace, need_actions=True
    ):
        found += 1
        begin = begins.setdefault(frame.episode, frame.time)
        recorded = frames.recorded_chunk(frame, steps)
        if recorded is not None:
            words = frame.observation.instruction
            moment = Moment(frame.episode, frame.time, (frame.time - begin) * 1e-9, words)
            sample.add((frame.episode, words), Sample(frame.observation, recorded, moment))
    drawn = [item for _, item in sample.draw()]
    if not drawn:
        raise BagError(
            f'{", ".join(map(str, args.bag))}: expected recorded actions beside the observations, '
            f'found none in {found} frames; check action.recorded_topic in the contract'
        )
    return drawn


class Runner:
    """Runs policies on the samples, with one policy in memory at a time.

    Args:
        contract: every policy must fit it.
        seed: of the noise; each observation has its own, the same for every policy.
        threads: of torch in this process; None leaves them.

    Attributes:
        samples: what they run on.
    """

    def __init__(
        self,
        contract: Contract,
        device: str,
        seed: int,
        threads: int | None = None,
        *,
        allow_fallback: bool = False,
    ) -> None:
        self.samples: list[Sample] = []
        self.threads, self._allow_fallback = threads, allow_fallback
        self._contract, self._device, self._seed = contract, device, seed
        self._path: Path | None = None
        self._policy: Policy | None = None

    @property
    def chunk_size(self) -> int:
        """Rows of the loaded policy's chunks."""
        assert self._policy is not None
        return self._policy.info.chunk_size

    def load(self, path: Path) -> Policy:
        """Load a policy in the place of the one before.

        Raises:
            ContractError: it does not fit.
        """
        if self._policy is None or self._path != path:
            self.unload()  # two large policies at once may not fit
            self._policy = load_fitting(
                path, self._contract, self._device, allow_fallback=self._allow_fallback
            )
            self._path = path
        return self._policy

    def unload(self) -> None:
        """Free the memory of the policy."""
        self._path = self._policy = None

    def __call__(self, part: Part) -> Result:
        """Run a part.

        Raises:
            QuantVLAError: a chunk is not finite.
        """
        from quantvla_ros.engine.trace import trace

        policy = self.load(part.path)
        traces = []
        for index in range(part.first, part.first + part.count):
            sample = self.samples[index]
            made = trace(policy, sample.observation, seed=noise_seed(self._seed, index))
            if not np.isfinite(made.states).all():
                raise QuantVLAError(
                    f'{part.path}: expected numbers, found a chunk with NaN or infinity on '
                    f'{sample.moment.episode} after {sample.moment.seconds:.2f} s; the policy is '
                    f'damaged'
                )
            traces.append(made)
        info = {
            name: getattr(policy.info, name)
            for name in ('artifact_id', 'precision', 'weight_bytes', 'float_bytes')
        }
        info |= {'engine': policy.running.engine, 'fallback': policy.running.fallback}
        actions, states = (
            np.stack([getattr(made, name) for made in traces]) for name in ('actions', 'states')
        )
        return Result(info, Chunks(actions, states))


_worker: Runner | None = None  # of a process of the pool


def _begin(runner: Runner) -> None:
    import torch

    global _worker
    _worker = runner
    if runner.threads is not None:
        torch.set_num_threads(runner.threads)


def _work(part: Part) -> Result:
    assert _worker is not None
    return _worker(part)


def _run_all(
    runner: Runner, paths: Sequence[Path], jobs: int, progress: ProgressLine
) -> list[Result]:
    """One result per policy."""
    total = len(runner.samples)
    parts = [
        Part(path, first, min(PART, total - first))
        for path in paths
        for first in range(0, total, PART)
    ]
    done: dict[Part, Result] = {}
    count = 0
    for part, result in _results(runner, parts, jobs):
        done[part] = result
        count += part.count
        progress(RUNNING, count, total * len(paths))
    shapes = {path: done[Part(path, 0, min(PART, total))].chunks.states.shape[1:] for path in paths}
    if len(set(shapes.values())) > 1:
        found = ', '.join(f'{list(shape)} of {path}' for path, shape in shapes.items())
        raise CheckpointError(
            f'expected policies with equal [states, chunk, action], found {found}; compare '
            f'policies made from one checkpoint'
        )
    return [_joined([done[part] for part in parts if part.path == path]) for path in paths]


def _results(
    runner: Runner, parts: Sequence[Part], jobs: int
) -> Iterator[tuple[Part, Result]]:
    if jobs == 1:
        for part in parts:
            yield part, runner(part)
        runner.unload()
        return
    runner.unload()  # before it is sent to the processes
    runner.threads = 1
    context = multiprocessing.get_context('spawn')  # a fork of a process with threads can hang
    with ProcessPoolExecutor(
        jobs, mp_context=context, initializer=_begin, initargs=(runner,)
    ) as pool:
        futures = {pool.submit(_work, part): part for part in parts}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _joined(results: Sequence[Result]) -> Result:
    actions, states = (
        np.concatenate([getattr(result.chunks, name) for result in results])
        for name in ('actions', 'states')
    )
    return Result(results[0].info, Chunks(actions, states))


def _differences(
    chunks: Sequence[np.ndarray] | np.ndarray, samples: Sequence[Sample]
) -> np.ndarray:
    """[actions of all samples, action] predicted minus recorded, over the rows that both have."""
    rows = []
    for chunk, sample in zip(chunks, samples, strict=True):
        steps = min(len(chunk), len(sample.recorded))
        rows.append(chunk[:steps].astype(np.float64) - sample.recorded[:steps])
    return np.concatenate(rows)


def _rms(differences: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(differences).mean(axis=0))


def thresholds(contract: Contract) -> dict[str, float]:
    """The middle between closed and open of each gripper, in the policy's numbers."""
    return {
        part.names[0]: float(np.mean(part.model_range))
        for part in contract.action.parts
        if part.kind is ActionKind.GRIPPER and part.model_range is not None
    }


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
