# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Closed loop in the built-in simulator: success by kind of task, paired between two policies.

Scene, task and the noise of every inference are the same for both policies. The control gives each
scene another command than the one that is judged: a policy that reads the language must now fail.
"""
from __future__ import annotations

import argparse
import functools
import math
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantvla_ros.cli.evaluate_bags import Evaluation, policy_paths
from quantvla_ros.cli.fit import check_policy_fit
from quantvla_ros.cli.progress import ProgressLine
from quantvla_ros.errors import CheckpointError

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
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    batches = [
        Batch(
            policy=path,
            contract=args.contract,
            device=args.device,
            seeds=tuple(seeds[start : start + BATCH]),
            wrong_command=wrong,
            steps=args.steps,
            delay=args.delay,
            noise=args.seed,
            threads=1 if args.jobs > 1 else None,
        )
        for wrong in ((False,) if args.no_control else (False, True))
        for path in paths
        for start in range(0, len(seeds), BATCH)
    ]
    outcomes: dict[tuple[Path, bool], list[Outcome]] = {}
    done, total = 0, sum(len(batch.seeds) for batch in batches)
    with ProgressLine((STAGE,)) as progress:
        for batch, result in _run_all(batches, args.jobs):
            outcomes.setdefault((batch.policy, batch.wrong_command), []).extend(result)
            done += len(result)
            progress(STAGE, done, total)
    for results in outcomes.values():
        results.sort(key=lambda outcome: outcome.seed)
    return _evaluation(args, paths, infos, outcomes)


def _describe(path: Path, args: argparse.Namespace) -> dict[str, Any]:
    """What a policy is; fails early where it does not fit."""
    policy, _ = _load(path, args.contract, args.device)
    info = policy.info
    execute = _execute_steps(policy, args.delay)
    return {
        'path': str(path),
        'artifact_id': info.artifact_id,
        'precision': info.precision,
        'weight_bytes': info.weight_bytes,
        'execute_steps': execute,
    }


@functools.lru_cache(maxsize=2)
def _load(path: Path, contract_path: Path, device: str) -> tuple[Policy, Any]:
    """Policy and contract, once per process."""
    from quantvla_ros.contract.load import load_contract
    from quantvla_ros.control.actions import check_supported
    from quantvla_ros.engine.policy import load_policy

    contract = load_contract(contract_path)
    check_supported(contract.action)
    policy = load_policy(path, device=device)
    check_policy_fit(path, contract, policy.info)
    return policy, contract


def _execute_steps(policy: Policy, delay: int) -> int:
    """Rows run of each chunk: as configured, as far as the rest bridges the next one's delay."""
    steps = min(policy.info.execute_steps, policy.info.chunk_size - delay)
    if steps < max(delay, 1):
        raise CheckpointError(
            f'--delay {delay}: expected chunks of at least {2 * max(delay, 1)} rows, found '
            f'{policy.info.chunk_size}; lower --delay'
        )
    return steps


def _run_all(batches: Sequence[Batch], jobs: int) -> Iterator[tuple[Batch, list[Outcome]]]:
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
    policy, contract = _load(batch.policy, batch.contract, batch.device)
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
        seeds = [(self.batch.noise << 40) + (seed << 12) + self.calls for seed in active]
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
    period = _load(paths[0], args.contract, args.device)[1].control_period
    policies = []
    for path, info in zip(paths, infos, strict=True):
        entry = {**info, 'success': success_table(outcomes[path, False])}
        if (path, True) in outcomes:
            entry['wrong_command'] = success_table(outcomes[path, True])
        entry['episodes'] = [asdict(outcome) for outcome in outcomes[path, False]]
        policies.append(entry)
    content: dict[str, Any] = {
        'tabletop': {
            'scenes': args.seeds,
            'first_seed': args.first_seed,
            'time_limit': args.steps * period,
            'delay': args.delay,
            'policies': policies,
        }
    }
    if len(paths) == 2:
        content['tabletop']['paired'] = paired(*(outcomes[path, False] for path in paths))
    return Evaluation(_text(content['tabletop'], period), content)


def success_table(outcomes: Sequence[Outcome]) -> dict[str, dict[str, float]]:
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


def wilson(done: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson): honest near 0 and 1, unlike the normal one."""
    share = done / total
    centre = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def paired(first: Sequence[Outcome], second: Sequence[Outcome]) -> dict[str, float]:
    """The first policy against the second, scene by scene, with McNemar's exact p.

    'repaired': done by the first where the second failed; 'broken': the other way round.
    """
    pairs = [(a.success, b.success) for a, b in zip(first, second, strict=True)]
    repaired, broken = pairs.count((True, False)), pairs.count((False, True))
    return {
        'both': pairs.count((True, True)),
        'neither': pairs.count((False, False)),
        'repaired': repaired,
        'broken': broken,
        'p': mcnemar(repaired, broken),
    }


def mcnemar(repaired: int, broken: int) -> float:
    """Two-sided exact p that a fair coin parts the discordant pairs so unevenly."""
    total = repaired + broken
    tail = sum(math.comb(total, k) for k in range(min(repaired, broken) + 1))
    return min(1.0, 2.0 * tail / 2**total)


def _text(found: Mapping[str, Any], period: float) -> str:
    lines = [
        f'tabletop: {found["scenes"]} scenes from seed {found["first_seed"]}, at most '
        f'{found["time_limit"]:g} s, chunks {found["delay"] * period:g} s late'
    ]
    for policy in found['policies']:
        size = policy['weight_bytes'] / 2**20
        lines.append(
            f'{policy["path"]}: {policy["precision"]}, {policy["artifact_id"]}, {size:.1f} MiB'
        )
        for kind, row in policy['success'].items():
            share = 100 * row['done'] / row['of']
            lines.append(
                f'  {kind:6} {row["done"]:4d} of {row["of"]:4d}  {share:5.1f} %  (95 %: '
                f'{100 * row["low"]:.1f} to {100 * row["high"]:.1f})  in '
                f'{row["mean_steps"] * period:.1f} s'
            )
        if 'wrong_command' in policy:
            row = policy['wrong_command']['all']
            lines.append(
                f'  control: told another command, it did this one in {row["done"]} of {row["of"]}'
            )
    if 'paired' in found:
        row = found['paired']
        lines.append(
            f'paired, the first against the second: {row["both"]} both, {row["neither"]} neither, '
            f'{row["repaired"]} repaired, {row["broken"]} broken (McNemar exact p '
            f'{row["p"]:.3g})'
        )
    return '\n'.join(lines)
