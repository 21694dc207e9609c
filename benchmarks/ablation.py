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
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

# Many processes, one core each: before NumPy and OpenCV read it, here and in the children.
for _name in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'OPENCV_FOR_THREADS_NUM'):
    os.environ.setdefault(_name, '1')

import yaml  # noqa: E402
from ablation_results import Outcomes, markdown, row_of, success_row  # noqa: E402

from quantvla_ros.cli.progress import ProgressLine  # noqa: E402
from quantvla_ros.errors import QuantVLAError  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ('paper-w4a8', 'paper-w4a4', 'w8a8', 'w4a8')
# by name: temperature, balance
CORRECTIONS = {
    'none': (False, False),
    'ATM': (True, False),
    'OHB': (False, True),
    'both': (True, True),
}
STAGES = ('calibrate', 'open', 'closed')
FLOAT, CHANCE = 'float', 'float, other noise'


@dataclass(frozen=True)
class Cell:
    """One recipe with one choice of corrections."""

    recipe: str
    corrections: str

    @property
    def name(self) -> str:
        """For files and reports."""
        return f'{self.recipe}-{self.corrections.lower()}'


class Work:
    """The pieces of an ablation and where they lie.

    Args:
        args: of the call.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.folder: Path = args.work
        self.cells = [Cell(recipe, kind) for recipe in args.recipes for kind in CORRECTIONS]
        for name in ('recipes', 'artifacts', 'log', 'open', 'closed'):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    def artifact(self, cell: Cell) -> Path:
        """Where a cell's artifact lies."""
        return self.folder / 'artifacts' / cell.name

    def manifest(self, cell: Cell) -> dict[str, Any] | None:
        """A cell's manifest; None before it is calibrated."""
        path = self.artifact(cell) / 'manifest.json'
        return json.loads(path.read_text()) if path.exists() else None

    def artifact_id(self, cell: Cell) -> str | None:
        """The id of a cell's artifact; None before it is calibrated."""
        manifest = self.manifest(cell)
        return manifest['artifact_id'] if manifest else None

    def twin(self, cell: Cell) -> Cell:
        """The first cell of the recipe with the very same tensors: where corrections change
        nothing, the policy is the same and is run once.
        """
        own = self.manifest(cell)
        if own is None:
            return cell
        for other in self.cells:
            manifest = self.manifest(other) if other.recipe == cell.recipe else None
            if manifest is not None and manifest['tensors'] == own['tensors']:
                return other
        return cell

    def distinct(self) -> list[Cell]:
        """The calibrated cells, those left out that are another one's twin."""
        return [c for c in self.cells if self.manifest(c) is not None and self.twin(c) == c]

    def recipe(self, name: str) -> dict[str, Any]:
        """A recipe of the package."""
        return yaml.safe_load((ROOT / 'config' / 'recipes' / f'{name}.yaml').read_text())

    def run(self, what: str, *arguments: object) -> None:
        """Run a command of the package; its output goes to a log.

        Raises:
            QuantVLAError: it failed.
        """
        command = [sys.executable, '-m', 'quantvla_ros', *map(str, arguments)]
        log = self.folder / 'log' / f'{what}.txt'
        with log.open('w') as stream:
            stream.write(shlex.join(command) + '\n')
            stream.flush()
            status = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT).returncode
        if status:
            last = log.read_text().strip().splitlines()[-1]
            raise QuantVLAError(f'{what}: expected status 0, found {status}; {log} says: {last}')

    def note(self, stage: str, seconds: float) -> None:
        """Keep where and how long a stage ran."""
        path = self.folder / f'{stage}.json'
        before = json.loads(path.read_text())['seconds'] if path.exists() else 0.0
        path.write_text(json.dumps({**machine(self.args), 'seconds': round(before + seconds, 1)}))


# Calibration


def calibrate(work: Work) -> None:
    """Make the artifacts that are not there yet."""
    from quantvla_ros.observation.bags import bag_hash

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


def open_loop(work: Work) -> None:
    """Compare the chunks of artifacts that have not been, a recipe's four at a time."""
    from quantvla_ros.observation.bags import bag_hash

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
        lacking = [c for c in cells if _open(work, c).get('key') != keys[c]]
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
                    'key': keys[cell], 'observations': found['observations'],
                    'episodes': found['episodes'], 'policy': policy, 'comparison': comparison,
                }
                _write(work.folder / 'open' / f'{cell.name}.json', piece)
            out.unlink()
            progress('open loop', done, len(groups))


def _open(work: Work, cell: Cell) -> dict[str, Any]:
    path = work.folder / 'open' / f'{work.twin(cell).name}.json'
    return json.loads(path.read_text()) if path.exists() else {}


def _write(path: Path, content: Any) -> None:
    """Whole or not at all."""
    part = path.with_name(f'.{path.name}')
    part.write_text(json.dumps(content))
    part.replace(path)


# Closed loop


def closed_loop(work: Work) -> None:
    """Run the scenes that have not been run, in batches, the policies one after the other."""
    from quantvla_ros.cli.evaluate_tabletop import STAGE, Batch, batches_of, run_all

    args = work.args
    batches: list[Batch] = []
    owner: dict[Batch, str] = {}
    for name, path, noise in _policies(work):
        settings = argparse.Namespace(
            contract=args.contract, device=args.device, steps=args.steps, delay=args.delay,
            seed=noise, jobs=args.jobs,
        )
        known = _outcomes(work, name)
        for batch in batches_of(path, range(args.seeds), settings):
            if not known.keys() >= set(batch.seeds):
                batches.append(batch)
                owner[batch] = name
    done, total = 0, sum(len(batch.seeds) for batch in batches)
    with ProgressLine((STAGE,)) as progress:
        for batch, outcomes in run_all(batches, args.jobs):
            line = {
                'key': _closed_key(work, owner[batch]),
                'outcomes': [[o.seed, o.kind, o.success, o.steps] for o in outcomes],
            }
            with (work.folder / 'closed' / f'{owner[batch]}.jsonl').open('a') as stream:
                # A line before this one may have been cut off.
                stream.write('\n' + json.dumps(line) + '\n')
            done += len(outcomes)
            progress(STAGE, done, total)


def _policies(work: Work) -> Iterator[tuple[str, Path, int]]:
    """Name, path and seed of the noise of every policy that can run."""
    yield FLOAT, work.args.checkpoint, 0
    yield CHANCE, work.args.checkpoint, 1
    for cell in work.distinct():
        yield cell.name, work.artifact(cell), 0


def _closed_key(work: Work, name: str) -> dict[str, Any]:
    """What outcomes belong to."""
    args = work.args
    cell = next((cell for cell in work.cells if cell.name == name), None)
    policy = work.artifact_id(cell) if cell else args.checkpoint.resolve().name
    return {'policy': policy, 'steps': args.steps, 'delay': args.delay, 'device': args.device}


def _outcomes(work: Work, name: str) -> Outcomes:
    """Success by seed, as far as the scenes have been run."""
    path = work.folder / 'closed' / f'{name}.jsonl'
    key = _closed_key(work, name)
    found: dict[int, bool] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            piece = json.loads(line)
        except ValueError:  # empty, or cut off when the run was
            continue
        if piece['key'] == key:
            found |= {seed: success for seed, _, success, _ in piece['outcomes']}
    return {seed: found[seed] for seed in sorted(found) if seed < work.args.seeds}


# Results


def results(work: Work) -> dict[str, Any]:
    """Everything that is there, by cell; None for what is not."""
    teacher = _outcomes(work, FLOAT)
    rows = []
    for cell in work.cells:
        plain = Cell(cell.recipe, 'none')
        rows.append(
            {
                'recipe': cell.recipe,
                'corrections': cell.corrections,
                'as_shipped': _shipped(work, cell),
                'same_as': work.twin(cell).corrections,
                **row_of(
                    work.manifest(cell), _open(work, cell), _open(work, plain),
                    _outcomes(work, work.twin(cell).name), _outcomes(work, work.twin(plain).name),
                    teacher,
                ),
            }
        )
    return {
        'about': {
            stage: json.loads((work.folder / f'{stage}.json').read_text())
            for stage in STAGES
            if (work.folder / f'{stage}.json').exists()
        },
        'command': shlex.join(['python', *sys.argv]),
        'seeds': work.args.seeds,
        'float': success_row(teacher, None),
        'chance': success_row(_outcomes(work, CHANCE), teacher),
        'cells': rows,
    }


def _shipped(work: Work, cell: Cell) -> bool:
    recipe = work.recipe(cell.recipe)
    enabled = (recipe['temperature']['enabled'], recipe['balance']['enabled'])
    return enabled == CORRECTIONS[cell.corrections]


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
                run(work)
                work.note(stage, time.monotonic() - begun)
    except QuantVLAError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('interrupted; run the same command again to go on', file=sys.stderr)
        return 130
    found = results(work)
    print(markdown(found))
    if args.out is not None:
        args.out.write_text(json.dumps(found, indent=1, allow_nan=False) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
