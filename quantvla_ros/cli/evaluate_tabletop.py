# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Closed loop in the built-in simulator: success by kind of task, paired between policies.

Scene, task and the noise of every inference are the same for all policies. The control gives each
scene another command than the one that is judged: a policy that reads the language must now fail.
`report.paired` defines the statistics.
"""
from __future__ import annotations

import argparse
import functools
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantvla_ros.cli.evaluate_text import closed_loop_text
from quantvla_ros.cli.evaluation import Evaluation, labels, policy_paths
from quantvla_ros.cli.fit import load_fitting
from quantvla_ros.cli.progress import ProgressLine
from quantvla_ros.errors import CheckpointError
from quantvla_ros.models.noise import noise_seed
from quantvla_ros.report.paired import mean_difference, paired, wilson

if TYPE_CHECKING:
    from quantvla_ros.engine.policy import Policy
    from quantvla_ros.sim.tabletop.tasks import Task
    from quantvla_ros.sim.tabletop.world import Tabletop

STAGE = 'episodes'
# Worlds in lockstep. Fixed, since the rounding of a product may depend on how many rows it has: the
# outcome must not change with the number of processes.
BATCH = 20


@dataclass(frozen=True)
class Batch:
    """Episodes to run together.

    Attributes:
        policy, contract: paths.
        seeds: of the worlds.
        wrong_command: give the policy another command than the one that is judged.
        threads: of torch in this process; None leaves them.
    """

    policy: Path
    contract: Path
    device: str
    seeds: tuple[int, ...]
    wrong_command: bool
    steps: int
    delay: int
    noise: int
    threads: int | None
    allow_fallback: bool = False


@dataclass(frozen=True)
class Outcome:
    """One episode: its scene, what was judged and said, and whether it was done in `steps`."""

    seed: int
    kind: str
    instruction: str
    success: bool
    steps: int


def evaluate(args: argparse.Namespace) -> Evaluation:
    """Run all episodes of all policies.

    Raises:
        ContractError: a policy does not fit the contract.
    """
    paths = policy_paths(args)
    infos = [_describe(path, args) for path in paths]
    batches = [
        batch
        for wrong in ((False,) if args.no_control else (False, True))
        for path in paths
        for batch in batches_of(
            path, range(args.first_seed, args.first_seed + args.seeds), args, wrong_command=wrong
        )
    ]
    outcomes: dict[tuple[Path, bool], list[Outcome]] = {}
    done, total = 0, sum(len(batch.seeds) for batch in batches)
    with ProgressLine((STAGE,)) as progress:
        for batch, result in run_all(batches, args.jobs):
            outcomes.setdefault((batch.policy, batch.wrong_command), []).extend(result)
            done += len(result)
            progress(STAGE, done, total)
    for results in outcomes.values():
        results.sort(key=lambda outcome: outcome.seed)
    return _evaluation(args, paths, infos, outcomes)


def batches_of(
    path: Path, seeds: Sequence[int], args: argparse.Namespace, *, wrong_command: bool = False
) -> list[Batch]:
    """The episodes of one policy; `args` are those of `evaluate`."""
    return [
        Batch(
            policy=path,
            contract=args.contract,
            device=args.device,
            seeds=tuple(seeds[start : start + BATCH]),
            wrong_command=wrong_command,
            steps=args.steps,
            delay=args.delay,
            noise=args.seed,
            threads=1 if args.jobs > 1 else None,
            allow_fallback=args.allow_fallback,
        )
        for start in range(0, len(seeds), BATCH)
    ]


def _describe(path: Path, args: argparse.Namespace) -> dict[str, Any]:
    """What a policy is; fails early where it does not fit."""
    policy, _ = _load(path, args.contract, args.device, args.allow_fallback)
    info, running = policy.info, policy.running
    execute = _execute_steps(policy, args.delay)
    return {
        'path': str(path),
        'artifact_id': info.artifact_id,
        'precision': info.precision,
        'engine': running.engine,
        'fallback': running.fallback,
        'weight_bytes': info.weight_bytes,
        'execute_steps': execute,
    }


@functools.lru_cache(maxsize=2)
def _load(
    path: Path, contract_path: Path, device: str, allow_fallback: bool
) -> tuple[Policy, Any]:
    """Policy and contract, once per process."""
    from quantvla_ros.contract.load import load_contract
    from quantvla_ros.control.actions import check_supported

    contract = load_contract(contract_path)
    check_supported(contract.action)
    return load_fitting(path, contract, device, allow_fallback=allow_fallback), contract


def _execute_steps(policy: Policy, delay: int) -> int:
    """Rows run of each chunk: as configured, as far as the rest bridges the next one's delay."""
    steps = min(policy.info.execute_steps, policy.info.chunk_size - delay)
    if steps < max(delay, 1):
        raise CheckpointError(
            f'--delay {delay}: expected chunks of at least {2 * max(delay, 1)} rows, found '
            f'{policy.info.chunk_size}; lower --delay'
        )
    return steps


def run_all(batches: Sequence[Batch], jobs: int) -> Iterator[tuple[Batch, list[Outcome]]]:
    """Run batches, in `jobs` processes; each comes with its batch when it is done."""
    if jobs == 1:
        for batch in batches:
            yield batch, run_batch(batch)
        return
    context = multiprocessing.get_context('spawn')  # a fork of a process with threads can hang
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        futures = {pool.submit(run_batch, batch): batch for batch in batches}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def run_batch(batch: Batch) -> list[Outcome]:
    """Run the episodes of one batch in lockstep."""
    import torch

    from quantvla_ros.sim.tabletop.rollout import rollouts
    from quantvla_ros.sim.tabletop.tasks import other_task
    from quantvla_ros.sim.tabletop.world import Tabletop

    if batch.threads is not None:
        torch.set_num_threads(batch.threads)
    policy, contract = _load(batch.policy, batch.contract, batch.device, batch.allow_fallback)
    worlds = [Tabletop(seed) for seed in batch.seeds]
    tasks = [world.task for world in worlds]
    words = [task.instruction for task in tasks]
    if batch.wrong_command:
        words = [
            other_task(task, world.scene, np.random.default_rng(seed)).instruction
            for task, world, seed in zip(tasks, worlds, batch.seeds, strict=True)
        ]
    act = _Act(policy, contract, worlds, tasks, batch)
    runs = rollouts(
        worlds,
        tasks,
        act,
        steps=batch.steps,
        execute=_execute_steps(policy, batch.delay),
        delay=batch.delay,
        instructions=words,
    )
    return [
        Outcome(seed, task.kind.name.lower(), text, run.success, run.steps)
        for seed, task, text, run in zip(batch.seeds, tasks, words, runs, strict=True)
    ]


class _Act:
    """The policy as the simulator calls it, with noise by world and inference."""

    def __init__(
        self,
        policy: Policy,
        contract: Any,
        worlds: Sequence[Tabletop],
        tasks: Sequence[Task],
        batch: Batch,
    ) -> None:
        self.policy, self.contract, self.batch = policy, contract, batch
        self.worlds, self.tasks = worlds, tasks
        self.slots = {camera.name: camera.slot for camera in contract.cameras}
        self.calls = 0

    def __call__(
        self, images: Mapping[str, np.ndarray], joints: np.ndarray, words: Sequence[str]
    ) -> np.ndarray:
        from quantvla_ros.control.actions import joint_positions
        from quantvla_ros.observation.types import Observation

        # Finished worlds are left out of the call; the order stays.
        active = [
            seed
            for seed, world, task in zip(self.batch.seeds, self.worlds, self.tasks, strict=True)
            if not world.succeeded(task)
        ]
        assert len(active) == len(words)
        seeds = [noise_seed(self.batch.noise, seed, self.calls) for seed in active]
        self.calls += 1
        observations = [
            Observation(
                stamp=0,
                images={self.slots[name]: picture[i] for name, picture in images.items()},
                state=joints[i],
                instruction=words[i],
            )
            for i in range(len(words))
        ]
        chunks = self.policy.infer_many(observations, seeds)
        robot = self.contract
        return np.stack(
            [
                joint_positions(chunk, robot.action, measured, robot.limits, robot.control_period)
                for chunk, measured in zip(chunks, joints, strict=True)
            ]
        )


def _evaluation(
    args: argparse.Namespace,
    paths: Sequence[Path],
    infos: Sequence[dict[str, Any]],
    outcomes: Mapping[tuple[Path, bool], Sequence[Outcome]],
) -> Evaluation:
    period = _load(paths[0], args.contract, args.device, args.allow_fallback)[1].control_period
    names = labels(paths)
    policies = []
    for label, path, info in zip(names, paths, infos, strict=True):
        told = outcomes[path, False]
        entry = {
            'label': label,
            **info,
            'success': success_table(told),
            'failures': [outcome.seed for outcome in told if not outcome.success],
        }
        if (path, True) in outcomes:
            entry['wrong_command'] = success_table(outcomes[path, True])
        policies.append(entry)
    content: dict[str, Any] = {
        'scenes': args.seeds,
        'first_seed': args.first_seed,
        'control_period': period,
        'time_limit': args.steps * period,
        'delay': args.delay,
        'policies': policies,
        'against': names[-1] if args.against is not None else None,
        'comparisons': [],
    }
    if args.against is not None:
        content['comparisons'] = [
            {'policy': label, **compare(outcomes[path, False], outcomes[paths[-1], False])}
            for label, path in zip(names[:-1], paths[:-1], strict=True)
        ]
    return Evaluation(closed_loop_text(content), {'tabletop': content})


def compare(first: Sequence[Outcome], second: Sequence[Outcome]) -> dict[str, Any]:
    """Two policies on the same scenes: `paired`, and how much later the first one is done.

    `later` is in control periods, over the scenes that both did.
    """
    success = ({outcome.seed: outcome.success for outcome in run} for run in (first, second))
    steps = ({o.seed: float(o.steps) for o in run if o.success} for run in (first, second))
    later = mean_difference(*steps)
    return {
        **paired(*success),
        'later': later and later[0],
        'later_95': later and later[1],
    }


def success_table(outcomes: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
    """Successes by kind of task and over all, with the mean control periods of the successes."""
    table = {}
    kinds = sorted({outcome.kind for outcome in outcomes})
    for kind in (*kinds, 'all'):
        chosen = [o for o in outcomes if kind in (o.kind, 'all')]
        steps = [o.steps for o in chosen if o.success]
        low, high = wilson(len(steps), len(chosen))
        table[kind] = {
            'done': len(steps),
            'of': len(chosen),
            'low': low,
            'high': high,
            'mean_steps': float(np.mean(steps)) if steps else 0.0,
        }
    return table
