# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The pieces of an ablation and where they lie: recipes, artifacts, errors, outcomes.

Knows files and names; knows nothing of how a piece is made or what it says.
"""
from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from quantvla_ros.cli.evaluate_tabletop import Outcome
from quantvla_ros.errors import QuantVLAError

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ('paper-w4a8', 'paper-w4a4', 'w8a8', 'w4a8')
# by name: temperature, balance
CORRECTIONS = {
    'none': (False, False),
    'ATM': (True, False),
    'OHB': (False, True),
    'both': (True, True),
}
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

    def open(self, cell: Cell) -> dict[str, Any]:
        """What `evaluate` found on bags for a cell's artifact; empty: not run."""
        twin = self.twin(cell)
        path = self.folder / 'open' / f'{twin.name}.json'
        piece = json.loads(path.read_text()) if path.exists() else {}
        # That of an artifact which is no more says nothing.
        return piece if piece and piece['key']['artifact'] == self.artifact_id(twin) else {}

    def policies(self) -> Iterator[tuple[str, Path, int]]:
        """Name, path and seed of the noise of every policy that can run."""
        yield FLOAT, self.args.checkpoint, 0
        yield CHANCE, self.args.checkpoint, 1
        for cell in self.distinct():
            yield cell.name, self.artifact(cell), 0

    def closed_key(self, name: str) -> dict[str, Any]:
        """What outcomes belong to."""
        args = self.args
        cell = next((cell for cell in self.cells if cell.name == name), None)
        policy = self.artifact_id(cell) if cell else args.checkpoint.resolve().name
        return {'policy': policy, 'steps': args.steps, 'delay': args.delay, 'device': args.device}

    def outcomes(self, name: str) -> dict[int, Outcome]:
        """By seed, as far as the scenes have been run."""
        path = self.folder / 'closed' / f'{name}.jsonl'
        key = self.closed_key(name)
        found: dict[int, Outcome] = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                piece = json.loads(line)
            except ValueError:  # empty, or cut off when the run was
                continue
            if piece['key'] == key:
                for seed, kind, success, steps in piece['outcomes']:
                    found[seed] = Outcome(seed, kind, '', success, steps)
        return {seed: found[seed] for seed in sorted(found) if seed < self.args.seeds}


def write(path: Path, content: Any) -> None:
    """JSON, whole or not at all."""
    part = path.with_name(f'.{path.name}')
    part.write_text(json.dumps(content))
    part.replace(path)
