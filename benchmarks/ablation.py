# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What each correction does: {none, ATM, OHB, both} x recipes, open loop and closed loop.

    python benchmarks/tabletop_bags.py --episodes 48 --first-seed 100000 --out seen
    python benchmarks/tabletop_bags.py --episodes 48 --first-seed 200000 --out held_out
    python benchmarks/ablation.py --checkpoint assets/tabletop_pi05 --bag seen \
        --held-out-bag held_out --seeds 500 --jobs 15 --work ablation --out FILE

Three stages, alone by `--stage`: `calibrate` makes an artifact per cell, from a copy of the recipe
with temperature (ATM) and balance (OHB) switched; `open` compares action chunks with the float
policy's on the held-out bags; `closed` runs the simulator on the same scenes and noise for all. The
float policy with other noise runs as well: what it wins and loses is chance. Every finished piece
lies in `--work` and is not made again, so that an interrupted run goes on where it was and the
stages may run on different machines (`closed` needs no rosbags). A piece is known by recipe,
artifact, bags and settings, not by the version of the code: take a new `--work` after changing it.
"""
from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

# Many processes, one core each: before NumPy and OpenCV read it, here and in the children.
for _name in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'OPENCV_FOR_THREADS_NUM'):
    os.environ.setdefault(_name, '1')

import yaml  # noqa: E402
from ablation_results import markdown, page, results  # noqa: E402
from ablation_work import CORRECTIONS, RECIPES, ROOT, Cell, Work, write  # noqa: E402

from quantvla_ros.cli.progress import ProgressLine  # noqa: E402
from quantvla_ros.errors import QuantVLAError  # noqa: E402
from quantvla_ros.report.evaluation_page import EvaluationData, write_evaluation  # noqa: E402

STAGES = ('calibrate', 'open', 'closed')


# Calibration


def calibrate(work: Work) -> int:
    """Make the artifacts that are not there yet; how many."""
    from quantvla_ros.observation.bag_files import bag_hash

    args = work.args
    bags = sorted(bag_hash(bag) for bag in args.bag)
    wanted = []
    for cell in work.cells:
        recipe = work.recipe(cell.recipe)
        atm, ohb = CORRECTIONS[cell.corrections]
        recipe['temperature']['enabled'], recipe['balance']['enabled'] = atm, ohb
        file = work.folder / 'recipes' / f'{cell.name}.yaml'
        file.write_text(yaml.safe_dump(recipe, sort_keys=False))
        manifest = work.manifest(cell)
        if manifest is not None:
            made_from = yaml.safe_load(manifest['recipe']['text'])
            if made_from == recipe and sorted(manifest['calibration']['bags'].values()) == bags:
                continue
            shutil.rmtree(work.artifact(cell))  # of another recipe or other bags
        wanted.append((cell, file))

    def one(item: tuple[Cell, Path]) -> None:
        cell, file = item
        work.run(
            f'calibrate.{cell.name}', 'calibrate', '--checkpoint', args.checkpoint,
            '--bag', *args.bag, '--contract', args.contract, '--recipe', file,
            '--out', work.artifact(cell), '--device', args.device,
            *(('--samples', args.samples) if args.samples else ()),
        )

    jobs = args.jobs if args.device == 'cpu' else min(args.jobs, 4)  # a GPU's memory is shared
    _all(one, wanted, jobs, 'calibrations')
    return len(wanted)


def _all(one: Any, items: Sequence[Any], jobs: int, what: str) -> None:
    """Do all, several at once, with progress; the first error ends it."""
    with ProgressLine((what,)) as progress, ThreadPoolExecutor(max(jobs, 1)) as pool:
        try:
            for done, _ in enumerate(pool.map(one, items), 1):
                progress(what, done, len(items))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


# Open loop


def open_loop(work: Work) -> int:
    """Compare the chunks of artifacts that have not been, a recipe's four at a time; how many."""
    from quantvla_ros.observation.bag_files import bag_hash

    args = work.args
    settings = {
        'bags': [bag_hash(bag) for bag in args.held_out_bag],
        'frames': args.frames,
        'device': args.device,
    }
    groups = []
    for recipe in args.recipes:
        cells = [c for c in work.distinct() if c.recipe == recipe]
        keys = {c: {**settings, 'artifact': work.artifact_id(c)} for c in cells}
        lacking = [c for c in cells if work.open(c).get('key') != keys[c]]
        if lacking:
            groups.append((recipe, lacking, keys))
    with ProgressLine(('open loop',)) as progress:
        for done, (recipe, lacking, keys) in enumerate(groups, 1):
            out = work.folder / 'open' / f'{recipe}.group.json'
            work.run(
                f'open.{recipe}', 'evaluate', '--policy', *map(work.artifact, lacking),
                '--against', args.checkpoint, '--contract', args.contract,
                '--bag', *args.held_out_bag, '--frames', args.frames, '--jobs', args.jobs,
                '--device', args.device, '--json', out,
            )
            found = json.loads(out.read_text())['open_loop']
            for cell, policy, comparison in zip(
                lacking, found['policies'], found['comparisons'], strict=False
            ):
                piece = {
                    'key': keys[cell],
                    'sample': {
                        k: v for k, v in found.items()
                        if k not in ('policies', 'comparisons', 'against')
                    },
                    'policy': policy,
                    'comparison': comparison,
                    'against': found['policies'][-1],
                }
                write(work.folder / 'open' / f'{cell.name}.json', piece)
            out.unlink()
            progress('open loop', done, len(groups))
    return sum(len(lacking) for _, lacking, _ in groups)


# Closed loop


def closed_loop(work: Work) -> int:
    """Run the scenes that have not been run, in batches, policy by policy; how many."""
    from quantvla_ros.cli.evaluate_tabletop import STAGE, Batch, batches_of, run_all

    args = work.args
    batches: list[Batch] = []
    owner: dict[Batch, str] = {}
    for name, path, noise in work.policies():
        settings = argparse.Namespace(
            contract=args.contract, device=args.device, steps=args.steps, delay=args.delay,
            seed=noise, jobs=args.jobs, allow_fallback=False,
        )
        known = work.outcomes(name)
        for batch in batches_of(path, range(args.seeds), settings):
            if not known.keys() >= set(batch.seeds):
                batches.append(batch)
                owner[batch] = name
    done, total = 0, sum(len(batch.seeds) for batch in batches)
    with ProgressLine((STAGE,)) as progress:
        for batch, outcomes in run_all(batches, args.jobs):
            line = {
                'key': work.closed_key(owner[batch]),
                'outcomes': [[o.seed, o.kind, o.success, o.steps] for o in outcomes],
            }
            with (work.folder / 'closed' / f'{owner[batch]}.jsonl').open('a') as stream:
                # A line before this one may have been cut off.
                stream.write('\n' + json.dumps(line) + '\n')
            done += len(outcomes)
            progress(STAGE, done, total)
    return total


def note(work: Work, stage: str, seconds: float) -> None:
    """Keep where and how long a stage ran."""
    path = work.folder / f'{stage}.json'
    before = json.loads(path.read_text())['seconds'] if path.exists() else 0.0
    write(path, {**machine(work.args), 'seconds': round(before + seconds, 1)})


def machine(args: argparse.Namespace) -> dict[str, Any]:
    """The machine and the versions that figures belong to."""
    import torch

    from quantvla_ros import __version__

    cpu = platform.machine()
    if Path('/proc/cpuinfo').exists():
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        cpu = next((x.split(':')[1].strip() for x in lines if x.startswith('model name')), cpu)
    return {
        'date': date.today().isoformat(),
        'quantvla_ros': __version__,
        'python': platform.python_version(),
        'torch': torch.__version__,
        'device': torch.cuda.get_device_name(args.device) if args.device != 'cpu' else cpu,
        'isa': torch.backends.cpu.get_cpu_capability(),
        'jobs': args.jobs,
    }


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description='What each correction of QuantVLA does')
    parser.add_argument('--checkpoint', type=Path, required=True, help='float checkpoint')
    parser.add_argument('--bag', type=Path, nargs='+', default=[], help='for calibration')
    parser.add_argument('--held-out-bag', type=Path, nargs='+', default=[], help='for open loop')
    parser.add_argument(
        '--contract', type=Path, default=ROOT / 'config' / 'contracts' / 'tabletop.yaml'
    )
    parser.add_argument('--recipes', nargs='+', default=list(RECIPES), metavar='NAME')
    parser.add_argument('--stage', choices=(*STAGES, 'all', 'report'), default='all')
    parser.add_argument('--samples', type=int, help="for calibration, instead of the recipe's")
    parser.add_argument('--frames', type=int, default=256, help='open loop: observations (256)')
    parser.add_argument('--seeds', type=int, default=500, help='closed loop: scenes from 0 (500)')
    parser.add_argument('--steps', type=int, default=200, help='closed loop: time limit, periods')
    parser.add_argument('--delay', type=int, default=2, help='closed loop: until a chunk, periods')
    parser.add_argument('--jobs', type=int, default=1, help='processes (1)')
    parser.add_argument('--device', default='cpu', help='cpu or cuda (cpu)')
    parser.add_argument('--work', type=Path, required=True, help='folder of the pieces')
    parser.add_argument('--out', type=Path, help='JSON file to write')
    parser.add_argument('--report', type=Path, help='HTML page to write')
    args = parser.parse_args(argv)
    for stage, bags in (('calibrate', args.bag), ('open', args.held_out_bag)):
        if args.stage in (stage, 'all') and not bags:
            parser.error(f'--stage {args.stage}: expected bags, --bag and --held-out-bag')
    return args


def main() -> int:
    """Run the stages that are asked for, then print and write what is there."""
    args = parse()
    work = Work(args)
    try:
        for stage, run in zip(STAGES, (calibrate, open_loop, closed_loop), strict=True):
            if args.stage in (stage, 'all'):
                begun = time.monotonic()
                if run(work):
                    note(work, stage, time.monotonic() - begun)
    except QuantVLAError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('interrupted; run the same command again to go on', file=sys.stderr)
        return 130
    about = {
        stage: json.loads((work.folder / f'{stage}.json').read_text())
        for stage in STAGES
        if (work.folder / f'{stage}.json').exists()
    }
    found = {'about': about, 'command': shlex.join(['python', *sys.argv]), **results(work)}
    print(markdown(found))
    if args.report is not None:
        write_evaluation(EvaluationData(page(work, about)), args.report)
    if args.out is not None:
        args.out.write_text(json.dumps(found, indent=1, allow_nan=False) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
