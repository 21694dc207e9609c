# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`calibrate`: a float checkpoint and recorded bags to a quantized artifact. Needs no ROS."""
from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from quantvla_ros.cli.fit import check_fit
from quantvla_ros.cli.progress import ProgressLine
from quantvla_ros.errors import CalibrationError

if TYPE_CHECKING:
    from quantvla_ros.quantization.calibrate import Calibration
    from quantvla_ros.quantization.manifest import Manifest
    from quantvla_ros.quantization.recipe import Recipe


REPORT = 'report.html'  # beside the artifact's own files; nothing reads it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('--checkpoint', type=Path, required=True, help='float checkpoint directory')
    parser.add_argument(
        '--bag', type=Path, required=True, nargs='+', help='recorded bags (folders or files)'
    )
    parser.add_argument('--contract', type=Path, required=True, help='the robot (YAML)')
    parser.add_argument(
        '--recipe', default='w8a8', help='name in config/recipes or a YAML file (w8a8)'
    )
    parser.add_argument('--out', type=Path, required=True, help='directory to write; must be new')
    parser.add_argument('--samples', type=int, help="observations, instead of the recipe's")
    parser.add_argument('--seed', type=int, default=0, help='of the sample and the noise (0)')
    parser.add_argument('--device', default='cpu', help='cpu, cuda or cuda:N (cpu)')
    parser.add_argument('--namespace', default='', help='of relative topics in the bags')


def run(args: argparse.Namespace) -> int:
    """Calibrate and write the artifact; interrupted, it leaves nothing."""
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _run(args)
    except KeyboardInterrupt:
        print('quantvla_ros calibrate: interrupted; nothing was written', file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, previous)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run(args: argparse.Namespace) -> int:
    from quantvla_ros.cli.calibration_data import read_frames
    from quantvla_ros.cli.frames import READING
    from quantvla_ros.contract.load import load_contract
    from quantvla_ros.engine.policy import check_device
    from quantvla_ros.models.architectures import load_processor
    from quantvla_ros.models.checkpoint import load_model, read_config
    from quantvla_ros.quantization.artifact import write_artifact
    from quantvla_ros.quantization.artifact_writer import refuse_existing
    from quantvla_ros.quantization.calibrate import STAGES, calibrate
    from quantvla_ros.quantization.recipe_file import load_recipe
    from quantvla_ros.quantization.stored import stored_dtypes
    from quantvla_ros.report.findings import findings
    from quantvla_ros.report.page import write_page

    # Everything that can be wrong with the call is found before the hours of work.
    refuse_existing(args.out)
    if not 0 <= args.seed < 2**31:
        raise CalibrationError(f'--seed: expected 0 to {2**31 - 1}, found {args.seed}')
    device = check_device(args.device)
    recipe = _with_samples(load_recipe(args.recipe), args.samples)
    contract = load_contract(args.contract)
    config = read_config(args.checkpoint)
    processor = load_processor(args.checkpoint, config)
    check_fit(
        args.checkpoint,
        contract,
        slots=processor.slots,
        state_names=processor.state_names,
        state_size=processor.state_size,
        action_names=processor.action_names,
        action_size=processor.action_size,
        control_period=processor.control_period,
    )
    with ProgressLine((READING, *STAGES)) as progress:
        data = read_frames(
            args.bag,
            contract,
            recipe.sampling,
            args.seed,
            progress,
            namespace=args.namespace,
        )
        dtypes = stored_dtypes(args.checkpoint)
        model = load_model(args.checkpoint, device)
        calibration = calibrate(
            model,
            processor,
            recipe,
            data.observations,
            data.held_out,
            action_size=processor.action_size,
            device=device,
            dtypes=dtypes,
            seed=args.seed,
            progress=progress,
        )

    def report(directory: Path, manifest: Manifest) -> None:
        found = findings(
            calibration,
            manifest,
            model=model,
            recipe=recipe,
            contract=contract,
            account=data.coverage,
            bags=data.bags,
            held_out=data.held_out,
            restore=processor.actions,
            dtypes=dtypes,
            moments=[(origin.episode, origin.time) for origin in data.origins],
        )
        write_page(found, directory / REPORT)

    manifest = write_artifact(
        args.out,
        model,
        checkpoint=args.checkpoint,
        recipe=recipe,
        contract=contract,
        corrections=_corrections(calibration),
        float32_tensors=calibration.float32_tensors,
        calibration={
            'seed': args.seed,
            'samples': len(data.observations),
            'held_out': len(data.held_out),
            'observations': data.account,
            'bags': data.bags,
            'coverage': data.coverage.content(),
            'error': calibration.errors(),
        },
        beside=report,
    )
    print('\n'.join((*summary(args.out, manifest, calibration), *data.coverage.summary())))
    return 0


def _corrections(calibration: Calibration) -> dict[str, Any]:
    """The manifest's account of what was folded into the weights."""
    found = calibration.corrections
    return {
        'alpha': [list(row) for row in found.alpha],
        'beta': list(found.beta),
        'beta_mlp': list(found.beta_mlp or ()),
        'interface': dict(calibration.interface),
        'notes': list(calibration.notes),
    }


def _with_samples(recipe: Recipe, samples: int | None) -> Recipe:
    if samples is None:
        return recipe
    minimum = recipe.sampling.minimum
    if samples < minimum:
        raise CalibrationError(
            f'--samples: expected at least {minimum} (recipe {recipe.name}), found {samples}'
        )
    return dataclasses.replace(
        recipe, sampling=dataclasses.replace(recipe.sampling, samples=samples)
    )


def summary(out: Path, manifest: Manifest, calibration: Calibration) -> list[str]:
    """What was made, in a few lines."""
    alphas = [value for row in calibration.corrections.alpha for value in row]
    before, after = manifest.float_bytes, manifest.quantized_bytes
    error, uncorrected = calibration.corrected, calibration.uncorrected
    content = manifest.content
    return [
        f'{out}: artifact {manifest.artifact_id}, recipe {content["recipe"]["name"]} '
        f'({manifest.precision}), layout {content["layout"]["name"]}, '
        f'{len(calibration.layers)} layers',
        f'weights {_size(before)} -> {_size(after)} ({100 * after / before:.0f} % of it)',
        f'alpha {_range(alphas)}; beta {_range(calibration.corrections.beta)}',
        f'action error against float on {content["calibration"]["held_out"]} held-out observations '
        f'(normalised units): rms {error.rms:.2e}, largest {error.largest:.2e}, relative '
        f'{100 * error.relative:.2f} % (without alpha and beta '
        f'{100 * uncorrected.relative:.2f} %)',
        f'more in {out / REPORT}, a page for any browser',
    ]


def _range(values: Sequence[float]) -> str:
    corrected = sum(value != 1.0 for value in values)
    return f'{min(values):.3f} to {max(values):.3f} ({corrected} of {len(values)} corrected)'


def _size(count: int) -> str:
    return f'{count / 2**30:.2f} GiB' if count >= 2**30 else f'{count / 2**20:.2f} MiB'
