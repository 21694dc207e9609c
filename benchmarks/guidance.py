# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Three ways to draw a chunk to the one before it, on the built-in robot's float policy.

    python benchmarks/guidance.py --out benchmarks/results/guidance_cpu.json

With A the flow's estimate of where it ends, P the chunk before, w the soft mask of real-time
chunking, tau from 0 (noise) to 1 (actions) and g = min(5, (tau^2 + (1 - tau)^2) / (tau (1 - tau))):

- none: the flow as it is;
- jacobian: v + g J^T (w (P - A)), J of A with respect to the noisy actions, by autograd: the
  published form (Black, Galliker and Levine, arXiv 2506.07339, equations 2 to 4, beta = 5);
- plain: v + g w (P - A), the same without the Jacobian;
- mixture: v + w (P - A) / (1 - tau), what `models.guidance` does.

A scene is played by the expert to somewhere in the middle; the policy's chunk is followed for eight
periods; then it is asked again, with the rows of the first chunk that would run meanwhile frozen.
Compared are the arm's joints (the gripper apart), in rad, and the time of the flow.
"""
from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

for _name in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS'):
    os.environ.setdefault(_name, '1')

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from quantvla_ros import __version__, load_policy  # noqa: E402
from quantvla_ros.control.rtc import soft_mask  # noqa: E402
from quantvla_ros.models.guidance import Guide  # noqa: E402
from quantvla_ros.observation.types import Observation  # noqa: E402
from quantvla_ros.sim.tabletop import Tabletop  # noqa: E402
from quantvla_ros.sim.tabletop.expert import expert_action  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
FORMS = ('none', 'jacobian', 'plain', 'mixture')
BETA = 5.0
EXECUTED = 8
FROZEN = (1, 2, 6)
ARM = slice(0, 4)


def integrate(flow: Any, noise: Tensor, guide: Guide, form: str) -> Tensor:
    """[1, chunk, action_dim] actions by one of FORMS."""
    x, steps = noise.clone(), flow.steps
    for step in range(steps):
        tau = step / steps
        with torch.set_grad_enabled(form == 'jacobian'):
            x = x.detach().requires_grad_(form == 'jacobian')
            after = flow.advance(x, flow.velocity(step, x))
            ends = x + (steps - step) * (after - x)
            pull = ((guide.previous - ends) * guide.weights).detach()
            if form == 'jacobian':
                (pull,) = torch.autograd.grad(ends, x, pull)
        after = after.detach()
        if form == 'mixture':
            x = guide.applied(step, steps, x, after)
        elif form == 'none':
            x = after
        else:
            gain = BETA
            if tau > 0.0:
                gain = min(BETA, (tau**2 + (1.0 - tau) ** 2) / (tau * (1.0 - tau)))
            x = after + gain / steps * pull
    return x.detach()


def compare(policy: Any, seeds: range) -> list[dict[str, Any]]:
    """One row per form and number of frozen rows."""
    network, processor = policy.runner.network, policy.processor
    chunk = policy.info.chunk_size
    found: dict[tuple[str, int], list[tuple[float, ...]]] = {}
    for seed in seeds:
        world = Tabletop(seed)
        for _ in range(10 + seed % 20):
            world.step(expert_action(world, world.task))
        generator = torch.Generator().manual_seed(seed)
        noises = torch.randn(2, 1, *network.noise_shape, generator=generator)
        guide = Guide(network.noise_shape)
        observation, flow = _look(world, policy)
        before = processor.actions(integrate(flow, noises[0], guide, 'none'), observation.state)
        for row in before[:EXECUTED]:
            world.step(row)
        observation, flow = _look(world, policy)
        alone = processor.actions(integrate(flow, noises[1], guide, 'none'), observation.state)
        overlap = chunk - EXECUTED
        rows = np.concatenate([before[EXECUTED:], np.repeat(before[-1:], EXECUTED, axis=0)])
        previous = torch.from_numpy(processor.normalized(rows, observation.state))
        for frozen in FROZEN:
            weights = torch.from_numpy(soft_mask(chunk, frozen, overlap).astype(np.float32))
            guide.set(previous, weights[:, None].expand_as(previous))
            for form in FORMS:
                begun = time.perf_counter()
                raw = integrate(flow, noises[1], guide, form)
                seconds = time.perf_counter() - begun
                actions = processor.actions(raw, observation.state)[:, ARM]
                old = rows[:, ARM]
                moved = np.abs(actions - alone[:, ARM])
                step = (actions[frozen] - old[frozen - 1]) - (
                    old[frozen - 1] - (old[frozen - 2] if frozen > 1 else before[EXECUTED - 1, ARM])
                )
                found.setdefault((form, frozen), []).append((
                    float(np.abs(actions[:frozen] - old[:frozen]).max()),
                    float(np.abs(actions[frozen] - old[frozen]).max()),
                    float(np.abs(step).max() / world.control_period),
                    float(np.abs(np.diff(actions, 2, axis=0)).max()),
                    float(moved[overlap:].max()),
                    seconds,
                ))
    names = ('frozen_rows_off', 'next_row_off', 'velocity_step', 'roughness', 'free_rows_moved',
             'seconds')
    return [
        {
            'form': form,
            'frozen': frozen,
            **{
                name: {'mean': float(np.mean(values)), 'largest': float(np.max(values))}
                for name, values in zip(names, zip(*runs, strict=True), strict=True)
            },
        }
        for (form, frozen), runs in sorted(found.items(), key=lambda item: item[0][1])
    ]


@torch.no_grad()
def _look(world: Tabletop, policy: Any) -> tuple[Observation, Any]:
    """What is seen now, and the flow on it."""
    pictures = {f'observation.images.{name}': p for name, p in world.render().items()}
    state = world.joint_positions.astype(np.float32)
    observation = Observation(0, pictures, state, world.task.instruction)
    network = policy.runner.network
    inputs = policy.processor.inputs(observation, 'cpu')
    stack = network.backbone
    reached = stack.start(*network.embed(inputs))
    for index in range(len(stack.layers)):
        reached = stack.step(index, reached)
    return observation, network.flow(stack.finish(reached), inputs)


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--policy', type=Path, default=ROOT / 'assets' / 'tabletop_pi05')
    parser.add_argument('--seeds', type=int, default=40)
    parser.add_argument('--out', type=Path, required=True)
    args = parser.parse_args()
    policy = load_policy(args.policy)
    results = {
        'command': ' '.join(['python', 'benchmarks/guidance.py', *sys.argv[1:]]),
        'date': datetime.date.today().isoformat(),
        'version': __version__,
        'torch': torch.__version__,
        'python': platform.python_version(),
        'policy': policy.info.artifact_id,
        'seeds': args.seeds,
        'rows': compare(policy, range(args.seeds)),
    }
    args.out.write_text(json.dumps(results, indent=1, allow_nan=False) + '\n', encoding='utf-8')
    return 0


if __name__ == '__main__':
    sys.exit(main())
