# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`bench`: how long a policy takes here, from its pictures to its chunk, in every precision.

Exit status 0: all was run and right; 1: something could not be run or came out wrong, and the table
says so; 2: the call is at fault.
"""
from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

from quantvla_ros.cli.random_checkpoint import TINY
from quantvla_ros.errors import BackendError

ALIASES = {'groot_n15': 'gr00t_n1_5'}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        '--model', default='pi05', metavar='MODEL',
        help=f'{", ".join(TINY)} (random weights), or a checkpoint or artifact directory '
        f'(default pi05)',
    )
    parser.add_argument(
        '--size', choices=['full', 'tiny'], default='full',
        help='of random weights: the public sizes (default), or tiny, to see that it runs',
    )
    parser.add_argument('--views', type=int, help='cameras (default: 3; GR00T 2; a directory: all)')
    parser.add_argument(
        '--prompt-tokens', type=int, metavar='N',
        help='of the whole prompt, without pictures (default: 48; GR00T 40; a directory: a word)',
    )
    parser.add_argument('--chunk', type=int, help="actions of one inference (default: the model's)")
    parser.add_argument('--steps', type=int, help="denoising steps (default: the model's)")
    parser.add_argument(
        '--precision', metavar='LIST',
        help='any of float32, bf16 and recipes by name or path, with commas between them (default: '
        'bf16,w8a8,w4a8 on a GPU, float32,w8a8,w4a8 on a CPU, an artifact its own)',
    )
    parser.add_argument(
        '--baselines', metavar='LIST',
        help='any of eager, cudagraph, compile (default: eager,cudagraph on a GPU, eager on a CPU)',
    )
    parser.add_argument(
        '--baseline-precision', metavar='LIST',
        help='precisions that the baselines run in (default: all of --precision)',
    )
    parser.add_argument('--device', help='cpu, cuda or cuda:N (default: cuda where there is one)')
    parser.add_argument('--runs', type=int, default=200, help='of each figure (default 200)')
    parser.add_argument(
        '--baseline-runs', type=int, metavar='RUNS',
        help='of each figure of a baseline (default: as --runs)',
    )
    parser.add_argument(
        '--warm-up', type=float, default=3.0, metavar='SECONDS',
        help='before each figure, for the clocks to rise (default 3)',
    )
    parser.add_argument(
        '--out', type=Path, metavar='FILE',
        help='write all as JSON, and a plot of the latencies beside it (.svg)',
    )
    parser.epilog = (
        'Exit status: 0 all was run and right, 1 something was not, 2 wrong call. docs/bench.md '
        'says what is measured; docs/jetson.md how to do it on a Jetson.'
    )


def run(args: argparse.Namespace) -> int:
    """Measure, show, write."""
    from quantvla_ros.bench.measure import Settings, bench
    from quantvla_ros.bench.networks import check_precision, own_precision
    from quantvla_ros.bench.systems import BASELINES, SYSTEMS
    from quantvla_ros.bench.workload import Lengths, directory_workload, random_workload
    from quantvla_ros.cli.bench_text import bench_text
    from quantvla_ros.engine.policy import check_device

    device = _device(args.device, check_device)
    gpu = device.type == 'cuda'
    settings = Settings(args.runs, args.warm_up, args.baseline_runs)
    asked = _words('baselines', args.baselines, 'eager,cudagraph' if gpu else 'eager')
    unknown = [name for name in asked if name not in BASELINES]
    if unknown:
        raise BackendError(
            f'baselines: expected any of {", ".join(BASELINES)}, found {", ".join(unknown)}'
        )
    if 'cudagraph' in asked and not gpu:
        raise BackendError('baselines: expected a GPU for cudagraph, found none; leave it out')
    if args.out is not None and not args.out.parent.is_dir():
        raise BackendError(f'{args.out}: expected an existing folder, found none; make it first')
    wanted = Lengths(args.views, args.prompt_tokens, args.chunk, args.steps)
    kind = ALIASES.get(args.model, args.model)
    if kind in TINY:
        sizes: dict[str, Any] = TINY[kind] if args.size == 'tiny' else {}
        workload = random_workload(kind, sizes, wanted)
    else:
        workload = directory_workload(Path(args.model), wanted)
    usual = 'bf16,w8a8,w4a8' if gpu else 'float32,w8a8,w4a8'
    if workload.artifact:
        usual = own_precision(workload)
    precisions = _words('precision', args.precision, usual)
    for precision in precisions:
        check_precision(workload, precision)
    compared = _words('baseline-precision', args.baseline_precision, ','.join(precisions))
    strange = [name for name in compared if name not in precisions]
    if strange:
        raise BackendError(
            f'baseline-precision: expected any of {", ".join(precisions)}, found '
            f'{", ".join(strange)}'
        )
    systems = {
        precision: [
            system
            for name, system in SYSTEMS.items()
            if name not in BASELINES or (name in asked and precision in compared)
        ]
        for precision in precisions
    }

    started = time.monotonic()

    def progress(what: str) -> None:
        seconds = time.monotonic() - started
        print(f'bench: {seconds:5.0f} s  {what}', file=sys.stderr, flush=True)

    for found in bench(workload, systems, device, settings, progress):
        if args.out is not None:  # a run that is stopped leaves what it has
            _write(args.out, found)
    print(bench_text(found))
    if args.out is not None:
        print(f'{args.out}, {args.out.with_suffix(".svg")}', file=sys.stderr)
    good = all('left_out' in row or row.get('right') for row in found['rows'])
    return 0 if good else 1


def _device(name: str | None, check: Any) -> Any:
    import torch

    return check(name or ('cuda' if torch.cuda.is_available() else 'cpu'))


def _words(option: str, text: str | None, usual: str) -> list[str]:
    found = [word.strip() for word in (usual if text is None else text).split(',')]
    if not all(found):
        raise BackendError(f'{option}: expected names with commas between them, found {text!r}')
    return list(dict.fromkeys(found))


def _finite(value: Any) -> Any:
    """The same with null for what is not a number: JSON has no other word for it."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write(path: Path, found: dict[str, Any]) -> None:
    from quantvla_ros.cli.bench_text import headline, latencies
    from quantvla_ros.report.latency_plot import latency_plot

    plot = path.with_suffix('.svg')
    text = json.dumps(_finite(found), indent=1, allow_nan=False)
    try:
        path.write_text(text + '\n', encoding='utf-8')
        title, subtitle = headline(found)
        plot.write_text(latency_plot(latencies(found), title, subtitle), encoding='utf-8')
    except OSError as error:
        raise BackendError(
            f'{path}: cannot write there ({error.strerror}); name another file'
        ) from None
