# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""From the start of a process to a policy that is ready: seconds, memory, and what it makes then.

    python benchmarks/ready.py --model pi05 --views 3 --prompt-tokens 48 --chunk 50
        --precision bf16,w8a8,w4a8 --out FILE.json [--lengths all,one] [--runs 2] [--folder DIR]

A checkpoint with random weights and an artifact for each recipe are written first, in a process of
their own; DIR keeps them for the next time. Then each precision is started in a process of its own,
as the node does it (`load_policy`, `warm_up`), `--runs` times: the last one finds all kernels in
Triton's cache and is the one that counts.

**Seconds** are those between the start of the process and the end of `warm_up`: Python, the
imports, the directory with its checks, the weights from the file (in the page cache: it has just
been written) to the GPU, every graph captured, the self-check, and two inferences. What a node has
besides (rclpy, its topics) is not in it. `--lengths`: `one` prepares the prompt's own length, as
the parameter prompt_lengths does (and the warm-up's, where that is longer), `all` those that the
node prepares without it.

**GPU memory** is what the driver has given to the process: its account of the whole GPU
(nvidia-smi, memory.used) less what that was before, right where nobody else uses the GPU; and its
account of the process, where it can tell it apart. **Host memory**: the largest resident set until
ready, which counts pages of the mapped weight file too, and of it what is the process's own.

**After ready**: the first observation with pictures of a camera makes their buffers
(docs/engine.md); then 20 inferences with other pictures, states, commands and noise are counted:
kernels compiled or fetched from Triton's cache, allocations and segments of torch's GPU allocator,
blocks of pinned memory. Exit status 1 if one of them made anything, or if a module that measures
tiles was loaded. On a CPU what needs a GPU is left out and named.

Knows processes, directories and policies; knows nothing of how memory and what is made are counted
(see `ready_account`).
"""
from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ready_account import Made, gpu_memory, identity, own_memory, whole_gpu

ROOT = Path(__file__).resolve().parents[1]
FLOATS = {'bf16': 'bfloat16', 'float32': 'float32'}
INFERENCES = 20
TUNING = ('quantvla_ros.kernels.tile_search', 'quantvla_ros.kernels.tile_trial')
NEEDS_GPU = ('gpu_bytes', 'compiled', 'allocated', 'pinned')
GIB = 2**30


# In the process that is measured


def start(args: argparse.Namespace) -> dict[str, Any]:
    """Start a policy as the node does; what that took, and what its inferences make."""
    began = args.began
    python = time.monotonic()
    import torch

    from quantvla_ros.bench.machine import host_peak
    from quantvla_ros.engine.policy import load_policy

    imported = time.monotonic()
    device = torch.device(args.device)
    made = Made(device)
    policy = load_policy(
        args.child, device=device, precision=FLOATS.get(args.precision), engine='graph',
        views=[args.views], lengths=[int(word) for word in args.lengths.split(',') if word] or None,
    )
    loaded = time.monotonic()
    policy.warm_up()
    ready = time.monotonic()
    stages = {
        'python': python - began,
        'imports': imported - python,
        **policy.running.seconds,
        'warm-up': ready - loaded,
    }
    stages['rest'] = ready - began - sum(stages.values())
    found: dict[str, Any] = {
        'seconds': ready - began,
        'stages': stages,
        'prepared': policy.running.prepared,
        'tiles': policy.running.tiles,
        'artifact': policy.info.artifact_id,
        'weight_bytes': policy.info.weight_bytes,
        'host_bytes': {'peak': host_peak(), 'own': own_memory()},
    }
    if device.type == 'cuda':
        found['kernels'] = made.kernels()
        found['gpu_bytes'] = gpu_memory(device)
    found |= infer(policy, args, made)
    if device.type == 'cuda':
        found['gpu_bytes_after_inferences'] = gpu_memory(device)
    found['tuned'] = [name for name in TUNING if name in sys.modules]
    return found


def infer(policy: Any, args: argparse.Namespace, made: Made) -> dict[str, Any]:
    """What the first observation and those after it make, and how long they take."""
    from dataclasses import replace

    import numpy as np

    from quantvla_ros.bench.clock import Spread
    from quantvla_ros.bench.workload import Lengths, directory_workload

    lengths = Lengths(args.views, args.prompt_tokens)
    observation = directory_workload(Path(args.child), lengths).observation
    generator = np.random.default_rng(1)
    others = [
        replace(
            observation,
            images={
                slot: generator.integers(0, 256, picture.shape, dtype=np.uint8)
                for slot, picture in observation.images.items()
            },
            state=observation.state + generator.uniform(-0.1, 0.1, observation.state.shape).astype(
                observation.state.dtype
            ),
            instruction=observation.instruction if number % 2 else 'go',
        )
        for number in range(INFERENCES)
    ]
    milliseconds: list[float] = []

    def all_others() -> None:
        for seed, other in enumerate(others):
            begun = time.perf_counter()
            chunk = policy.infer(other, seed=seed)
            milliseconds.append(1e3 * (time.perf_counter() - begun))
            if not np.isfinite(chunk).all():
                raise SystemExit('expected finite actions, found others')

    first = made.during(lambda: policy.infer(observation, seed=0))
    then = made.during(all_others)
    return {
        'first_observation': first,
        'inferences': {'count': INFERENCES, 'made': then},
        'inference_ms': Spread.of(milliseconds).as_json(),
    }


# In the process that writes what is started


def write_policies(args: argparse.Namespace) -> dict[str, Any]:
    """A directory for each precision, those that are there already left as they are.

    Returns:
        What is known of the machine and the workload; the lengths of prompts to prepare as `one`.
    """
    import gc
    from dataclasses import asdict, replace

    import torch

    from quantvla_ros.bench.machine import describe
    from quantvla_ros.bench.networks import check_precision, make_network
    from quantvla_ros.bench.workload import Lengths, directory_workload, write_random
    from quantvla_ros.cli.random_checkpoint import TINY
    from quantvla_ros.contract.load import load_contract
    from quantvla_ros.engine.engines import ENGINES
    from quantvla_ros.models.export import random_weights
    from quantvla_ros.quantization.artifact_writer import write_artifact
    from quantvla_ros.quantization.recipe_file import load_recipe

    folder, device = Path(args.child), torch.device(args.device)
    sizes = dict(TINY[args.model]) if args.size == 'tiny' else {}
    if args.chunk is not None:
        sizes['chunk'] = args.chunk
    checkpoint, note = folder / 'checkpoint', folder / 'of.json'
    lengths = Lengths(args.views, args.prompt_tokens)
    asked = {'model': args.model, 'size': args.size, **asdict(lengths), 'chunk': args.chunk}
    if note.exists() and json.loads(note.read_text()) != asked:
        raise SystemExit(f'{folder}: expected policies of {asked}, found others; name another one')
    note.write_text(json.dumps(asked))
    if not checkpoint.exists():
        part = folder / 'checkpoint.part'
        write_random(
            part, args.model, sizes, lengths, lambda config: random_weights(config, 0, device)
        )
        part.rename(checkpoint)
    workload = directory_workload(checkpoint, lengths)
    for precision in args.precision.split(','):
        out = folder / precision
        if precision in FLOATS or out.exists():
            continue
        check_precision(workload, precision)
        network = make_network(workload, precision, device)
        write_artifact(
            out, network, checkpoint=checkpoint, recipe=load_recipe(precision),
            # Whose robot it is decides about nothing here.
            contract=load_contract(ROOT / 'config' / 'contracts' / 'tabletop.yaml'),
            corrections={'alpha': [], 'beta': [], 'beta_mlp': [], 'interface': {}, 'notes': []},
            calibration={
                'seed': 0, 'samples': 0, 'held_out': 0, 'observations': [], 'bags': {},
                'coverage': {
                    'frames': {'found': 0, 'constant': 0, 'used': 0}, 'groups': [],
                    'messages': 0, 'broken': [], 'instants': 0, 'refused': [],
                    'bags_left_out': {}, 'faults': [], 'cautions': [],
                },
                'error': {},
            },
        )  # fmt: skip
        del network
        gc.collect()
    kind = ENGINES[args.model].of(workload.processor)
    # The warm-up has a command of its own.
    said = (workload.observation, replace(workload.observation, instruction='warm up'))
    own, other = (kind.given(workload.processor.inputs(one)).needs.prompt for one in said)
    return {
        'about': describe(device),
        'workload': {'model': args.model, 'size': args.size, **asdict(workload.lengths)},
        'one': sorted({own, max(own, other)}),
        'gpu': identity(device) if device.type == 'cuda' else None,
    }


# In the process that is called


def child(args: argparse.Namespace, role: str, directory: Path, **changes: Any) -> dict[str, Any]:
    """Run one of the other roles in a process of its own."""
    given = {
        'model': args.model, 'size': args.size, 'device': args.device, 'views': args.views,
        'prompt-tokens': args.prompt_tokens, 'chunk': args.chunk, 'precision': args.precision,
        **changes,
    }  # fmt: skip
    words = [f'--{name}={value}' for name, value in given.items() if value is not None]
    command = [sys.executable, __file__, f'--role={role}', f'--child={directory}', *words]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get('PYTHONPATH'))))
    environment = {**os.environ, 'PYTHONPATH': path}
    command.append(f'--began={time.monotonic()}')
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f'ready: {role} {directory.name}: failed (see above)')
    return json.loads(done.stdout.splitlines()[-1])


def measure(
    args: argparse.Namespace, folder: Path, known: dict[str, Any], precision: str, lengths: str
) -> dict[str, Any]:
    """One precision with the lengths of prompts that are prepared: `--runs` starts."""
    directory = folder / ('checkpoint' if precision in FLOATS else precision)
    prepared = ','.join(map(str, known['one'])) if lengths == 'one' else ''
    runs = []
    for _ in range(args.runs):
        before = {} if known['gpu'] is None else whole_gpu(known['gpu'])
        run = child(args, 'start', directory, precision=precision, lengths=prepared)
        for name in ('gpu_bytes', 'gpu_bytes_after_inferences'):
            if before and 'smi_whole' in run.get(name, {}):
                run[name]['process'] = run[name]['smi_whole'] - before['smi_whole']
        runs.append(run)
    last = runs[-1]
    made = sum(last['inferences']['made'].values())
    return {
        'precision': precision,
        'lengths': lengths,
        'seconds': last['seconds'],
        'seconds_of_each_run': [run['seconds'] for run in runs],
        'makes_nothing': made == 0 and not last['tuned'] if known['gpu'] else None,
        'left_out': [] if known['gpu'] else list(NEEDS_GPU),
        **{name: value for name, value in last.items() if name != 'seconds'},
        'kernels_of_each_run': [run.get('kernels') for run in runs],
    }


def text(row: dict[str, Any]) -> str:
    """A row for people."""
    times = ' then '.join(f'{seconds:.1f}' for seconds in row['seconds_of_each_run'])
    stages = ', '.join(f'{name} {seconds:.1f}' for name, seconds in row['stages'].items())
    host = row['host_bytes']
    parts = [f'ready in {times} s ({stages})']
    gpu = row.get('gpu_bytes')
    if gpu is not None:
        of_process = gpu['process'] if 'process' in gpu else gpu['driver_whole']
        whose = 'the process' if 'process' in gpu else 'the GPU, whoever uses it'
        parts.append(
            f'GPU {of_process / GIB:.2f} GiB of {whose} (torch {gpu["allocated"] / GIB:.2f}, at '
            f'most {gpu["reserved_peak"] / GIB:.2f})'
        )
    parts.append(f'host {host["peak"] / GIB:.2f} GiB at most ({host["own"] / GIB:.2f} its own)')
    if row['left_out']:
        parts.append(f'left out without a GPU: {", ".join(row["left_out"])}')
    else:
        first, then = (
            ', '.join(f'{count} {name}' for name, count in made.items() if count) or 'nothing'
            for made in (row['first_observation'], row['inferences']['made'])
        )
        parts.append(f'first observation makes {first}; {INFERENCES} inferences make {then}')
        if row['tuned']:
            parts.append(f'TUNED: {", ".join(row["tuned"])}')
    parts.append(f'inference {row["inference_ms"]["p50"]:.2f} ms')
    return f'{row["precision"]}, lengths {row["lengths"]}: ' + '; '.join(parts)


def main() -> int:
    """Write the policies, start each, show and store what that took."""
    parser = argparse.ArgumentParser(description='From a process to a policy that is ready.')
    parser.add_argument('--model', choices=['pi05', 'gr00t_n1_5', 'smolvla'], default='pi05')
    parser.add_argument('--size', choices=['full', 'tiny'], default='full')
    parser.add_argument('--views', type=int, default=3)
    parser.add_argument('--prompt-tokens', type=int, default=48)
    parser.add_argument('--chunk', type=int, help="actions of an inference (default: the model's)")
    parser.add_argument('--precision', default='bf16,w8a8,w4a8', help='float32, bf16 and recipes')
    parser.add_argument('--lengths', default='all,one', help='any of all and one')
    parser.add_argument('--runs', type=int, default=2, help='starts of each; the last one counts')
    parser.add_argument('--device', help='cpu, cuda or cuda:N (default: cuda where there is one)')
    parser.add_argument('--folder', type=Path, help='where the policies are kept')
    parser.add_argument('--out', type=Path)
    parser.add_argument('--role', choices=['write', 'start'], help=argparse.SUPPRESS)
    parser.add_argument('--child', help=argparse.SUPPRESS)
    parser.add_argument('--began', type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role is not None:
        print(json.dumps((start if args.role == 'start' else write_policies)(args)))
        return 0
    wanted = args.lengths.split(',')
    if args.out is None or args.runs < 1 or not set(wanted) <= {'all', 'one'}:
        parser.error('expected --out, --runs from 1 and --lengths of all and one')
    if args.chunk is not None and args.model == 'gr00t_n1_5':
        parser.error('--chunk: expected none for GR00T N1.5, whose chunks are of 16 actions')
    if args.device is None:
        import torch

        args.device = 'cuda' if torch.cuda.is_available() else 'cpu'
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        known = child(args, 'write', folder)
        report: dict[str, Any] = {
            'command': 'python benchmarks/ready.py',
            'about': known['about'],
            'workload': known['workload'],
            'runs': args.runs,
            'rows': [],
        }
        for precision in args.precision.split(','):
            for lengths in wanted:
                row = measure(args, folder, known, precision, lengths)
                report['rows'].append(row)
                args.out.write_text(json.dumps(report, indent=1) + '\n')
                print(text(row), flush=True)
    return 1 if any(row['makes_nothing'] is False for row in report['rows']) else 0


if __name__ == '__main__':
    sys.exit(main())
