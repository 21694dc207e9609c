# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`random-checkpoint`: a complete checkpoint with random weights, in the hub's layout.

For trying the whole chain and for benchmarks where no weights can be had. It moves at random: run
it only in simulation.
"""
from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from quantvla_ros.contract.types import Contract
from quantvla_ros.errors import CalibrationError, CheckpointError

# What an architecture's exporter makes its config of, beside the public sizes. Meanings: pi0.5
# `vlm`, `exp` [width, depth, mlp, heads, kv_heads, head_dim], `vis` [width, depth, heads, mlp];
# GR00T `llm` [width, layers of the whole model, heads, kv_heads, head_dim, mlp], `features`, `dit`
# (heads, head size, blocks); SmolVLA `txt` as `llm`, `vis` with the patch.
TINY: dict[str, dict[str, Any]] = {
    'pi05': {
        'image': 112,
        'chunk': 16,
        'sizes': {
            'vlm': [128, 3, 256, 8, 1, 32],
            'exp': [96, 3, 192, 8, 1, 32],
            'vis': [96, 2, 4, 192],
            'vocab': 1024,
        },
    },
    'gr00t_n1_5': {
        'eagle': {
            'vis': [96, 2, 4, 192],
            'llm': [128, 5, 4, 2, 32, 256],
            'vocab': 1024,
            'image': 112,
            'image_token_index': 1000,
        },
        'layers': 3,
        'features': (4, 32, 2),
        'dit': (4, 24, 4),
        'hidden': 64,
        'future_tokens': 8,
    },
    'smolvla': {
        'chunk': 16,
        'layers': 4,
        'sizes': {
            'vis': [96, 2, 4, 192, 8],
            'txt': [128, 6, 8, 2, 16, 256],
            'img': 128,
            'scale': 4,
            'vocab': 1024,
        },
    },
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        '--model', choices=list(TINY), default='pi05', help='architecture (default pi05)'
    )
    parser.add_argument(
        '--size', choices=['full', 'tiny'], default='tiny',
        help='tiny (default), or full: the public sizes, 3.4, 2.4 or 0.4 billion weights',
    )
    parser.add_argument('--contract', type=Path, required=True, help='the robot (YAML)')
    parser.add_argument('--bag', type=Path, help='bag whose states and commands give statistics')
    parser.add_argument('--out', type=Path, required=True, help='directory to write')
    parser.add_argument('--seed', type=int, default=0, help='of the weights')


def run(args: argparse.Namespace) -> int:
    """Write the checkpoint."""
    from quantvla_ros.contract.load import load_contract
    from quantvla_ros.models import export, groot_export, pi05_export, smolvla_export

    exporters: dict[str, Any] = {
        'pi05': pi05_export, 'gr00t_n1_5': groot_export, 'smolvla': smolvla_export,
    }
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise CheckpointError(f'{args.out}: expected a new or empty directory, found files in it')
    contract = load_contract(args.contract)
    states, actions, words = (
        _from_limits(contract) if args.bag is None else _from_bag(args.bag, contract)
    )
    features = export.Features(
        tuple(camera.slot for camera in contract.cameras),
        states,
        actions,
        contract.action.names,
        contract.state_names,
        contract.control_period,
    )
    exporter, sizes = exporters[args.model], TINY[args.model] if args.size == 'tiny' else {}
    # lerobot's config names cameras and sizes of the data; NVIDIA's knows the network alone.
    described = () if exporter is groot_export else (features,)
    config = exporter.hub_config(*described, **sizes)
    weights = export.random_weights(config, args.seed)
    try:
        exporter.write_checkpoint(args.out, config, weights, features, words)
    except OSError as error:
        raise CheckpointError(
            f'{args.out}: cannot write there ({error.strerror}); name another directory'
        ) from None
    total = sum(file.stat().st_size for file in args.out.rglob('*') if file.is_file())
    print(
        f'{args.out}: {args.model} ({args.size}), random weights (seed {args.seed}), '
        f'{total / 2**20:.1f} MiB; statistics from {args.bag or "the contract limits"}',
        file=sys.stderr,
    )
    return 0


def _from_limits(contract: Contract) -> tuple[dict, dict, set[str]]:
    """Statistics that map the joint limits to [-1, 1]."""
    from quantvla_ros.models.export import statistics

    names = (*contract.state_names, *contract.action.names)
    missing = sorted({name for name in names if name not in contract.limits})
    if missing:
        raise CalibrationError(
            f'{contract.source}: no limits for {", ".join(missing)}, so no statistics without '
            f'data; pass --bag'
        )

    def spread(joints: tuple[str, ...]) -> dict[str, np.ndarray]:
        low = np.array([contract.limits[j].lower for j in joints])
        high = np.array([contract.limits[j].upper for j in joints])
        return statistics(np.linspace(low, high, 1001))

    return spread(contract.state_names), spread(contract.action.names), _words(['pick up'])


def _from_bag(bag: Path, contract: Contract) -> tuple[dict, dict, set[str]]:
    """Statistics of a bag's states and recorded commands."""
    from quantvla_ros.models.export import statistics
    from quantvla_ros.observation.replay import replay

    states, actions, instructions = [], [], set()
    for frame in replay(bag, contract):
        states.append(frame.observation.state)
        instructions.add(frame.observation.instruction)
        if frame.action is not None:
            actions.append(frame.action)
    if len(states) < 2 or len(actions) < 2:
        raise CalibrationError(
            f'{bag}: expected frames with commands, found {len(states)} observations and '
            f'{len(actions)} commands; record the topics the contract names'
        )
    return statistics(np.stack(states)), statistics(np.stack(actions)), _words(instructions)


def _words(texts: Iterable[str]) -> set[str]:
    return {word for text in texts for word in re.findall(r'\w+', text)}
