# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Calibration at full size: time, peak memory, and what the packed weights take.

    python benchmarks/calibration.py --model pi05 gr00t_n1_5 --recipe w4a8 paper-w4a8 w8a8 \
        --device cuda --work DIR --out FILE.json

Random weights, stored in bfloat16 and calibrated in float32 as `calibrate` does, and random
pictures, states and prompts of the public checkpoints' sizes (3 cameras and 48 tokens for pi0.5, 2
and 40 for GR00T N1.5): memory and time do not depend on what a network has learned, errors do. The
packed weights are written, read into an empty network and must give the same actions to the bit;
exits with 1 where they do not.
"""
from __future__ import annotations

import argparse
import contextlib
import datetime
import gc
import json
import os
import platform
import sys
import time
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from quantvla_ros import __version__
from quantvla_ros.models.architectures import build_network
from quantvla_ros.models.export import random_weights
from quantvla_ros.models.groot_n15 import GrootInputs
from quantvla_ros.models.network import act
from quantvla_ros.models.pi05 import ModelInputs
from quantvla_ros.quantization.calibrate import calibrate
from quantvla_ros.quantization.formats import place_empty_layers
from quantvla_ros.quantization.linear import QuantizedLinear
from quantvla_ros.quantization.memory import memory, quantized_parts
from quantvla_ros.quantization.recipe import Recipe
from quantvla_ros.quantization.recipe_file import load_recipe

GIB = 2**30


class RandomInputs:
    """Stands in for a processor: number `n` gives the n-th random observation."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def inputs(self, observation: Any, device: torch.device | str = 'cpu') -> Any:
        """Inputs of one observation, which is a number here."""
        generator = torch.Generator().manual_seed(observation)
        cameras, words = {'pi05': (3, 48), 'gr00t_n1_5': (2, 40)}[self.kind]
        pictures = torch.rand(cameras, 3, 224, 224, generator=generator) * 2 - 1
        tokens = torch.randint(5, 150_000, (1, words), generator=generator)
        if self.kind == 'pi05':
            inputs: Any = ModelInputs(
                images=[picture[None].to(device) for picture in pictures],
                image_masks=[torch.ones(1, dtype=torch.bool, device=device)] * cameras,
                tokens=tokens.to(device),
                token_mask=torch.ones_like(tokens, dtype=torch.bool).to(device),
            )
            return inputs
        ids = torch.cat((torch.full((1, cameras * 256), 151_669), tokens), dim=1)
        return GrootInputs(
            pixel_values=pictures.to(device),
            input_ids=ids.to(device),
            attention_mask=torch.ones_like(ids, dtype=torch.bool).to(device),
            state=(torch.rand(1, 1, 64, generator=generator) * 2 - 1).to(device),
            embodiment_id=torch.tensor([24], device=device),
        )


def random_network(kind: str, device: torch.device, seed: int) -> Any:
    """A full-size network in float32, of weights that bfloat16 can hold."""
    with torch.device('meta'):
        model = build_network({'type': kind})
    weights = random_weights({'type': kind}, seed, device=device)
    state = {name: tensor.to(torch.bfloat16).float() for name, tensor in weights}
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False)


def measure(kind: str, recipe: Recipe, args: argparse.Namespace) -> dict[str, Any]:
    """Calibrate once."""
    device = torch.device(args.device)
    began = time.perf_counter()
    model = random_network(kind, device, args.seed)
    made = time.perf_counter() - began
    processor = RandomInputs(kind)
    dtypes = {name: torch.bfloat16 for name, _ in model.named_parameters()}
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats()
    reset_host_peak()
    stages: dict[str, float] = {}
    last = time.perf_counter()

    def progress(stage: str, done: int, total: int) -> None:
        nonlocal last
        now = time.perf_counter()
        stages[stage] = stages.get(stage, 0.0) + now - last
        last = now
        if done == total:
            print(f'{kind} {recipe.name}: {stage} {stages[stage]:.0f} s', flush=True)

    began = time.perf_counter()
    found = calibrate(
        model,
        processor,
        recipe,
        range(args.samples),  # type: ignore[arg-type]
        range(10**6, 10**6 + min(args.samples, 4)),  # type: ignore[arg-type]
        action_size=model.noise_shape[1],
        device=device,
        dtypes=dtypes,
        seed=args.seed,
        progress=progress,
    )
    seconds = time.perf_counter() - began
    peak = torch.cuda.max_memory_allocated() if device.type == 'cuda' else None
    file = args.work / f'{kind}_{recipe.name}.safetensors'
    host = host_peak()
    parts = memory(model)
    same = packed_and_back(
        model, found.float32_tensors, kind, recipe, file, processor, device
    )
    before, after = quantized_parts(parts)
    result = {
        'model': kind,
        'recipe': recipe.name,
        'samples': args.samples,
        'layers': len(found.layers),
        'seconds': seconds,
        'seconds_by_stage': stages,
        'seconds_to_make_weights': made,
        'gpu_peak_gib': None if peak is None else peak / GIB,
        'host_peak_gib': host / GIB,
        'quantized_parts_float_gib': before / GIB,
        'quantized_parts_gib': after / GIB,
        'smaller': 1 - after / before,
        'file_gib': file.stat().st_size / GIB,
        'read_back_equal': same,
        'parts': [
            {**asdict(part), 'role': part.role.value if part.role else 'the rest'} for part in parts
        ],
        'chunk_error': asdict(found.corrected),
        'chunk_error_uncorrected': asdict(found.uncorrected),
        'alpha': [min(map(min, found.corrections.alpha)), max(map(max, found.corrections.alpha))],
        'beta': [min(found.corrections.beta), max(found.corrections.beta)],
    }
    file.unlink()
    return result


def reset_host_peak() -> None:
    """Begin a new measurement of the process's peak memory (Linux)."""
    gc.collect()
    with contextlib.suppress(OSError):  # then the peak is the whole process's: more, never less
        Path('/proc/self/clear_refs').write_text('5')


def host_peak() -> int:
    """Bytes of the largest resident set since `reset_host_peak`."""
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith('VmHWM'):
            return int(line.split()[1]) * 1024
    raise RuntimeError('/proc/self/status: expected VmHWM')


@torch.no_grad()
def packed_and_back(
    model: Any,
    wide: Collection[str],
    kind: str,
    recipe: Recipe,
    file: Path,
    processor: RandomInputs,
    device: torch.device,
) -> bool:
    """Write the weights as an artifact holds them, bfloat16 but for the integers and `wide`; read
    them into an empty network, and compare actions bit for bit. The network is given up.
    """
    fixed = {
        f'{path}.{name}'
        for path, layer in model.named_modules()
        if isinstance(layer, QuantizedLinear)
        for name, _ in layer.named_buffers()
        if name != 'bias'
    }
    kept = {*fixed, *wide}
    state = {
        name: (tensor if name in kept else tensor.to(torch.bfloat16)).cpu().contiguous()
        for name, tensor in model.state_dict().items()
    }
    save_file(state, file)
    del state
    inputs = processor.inputs(7, device)
    shape = (1, *model.noise_shape)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(device)
    before = act(model, inputs, noise)
    model.to('meta')  # there may be no room for both
    with torch.device('meta'):
        other = build_network({'type': kind})
        place_empty_layers(other, recipe)
    loaded = {
        name: tensor if name in fixed else tensor.float()
        for name, tensor in load_file(file, device=str(device)).items()
    }
    other.load_state_dict(loaded, assign=True)
    other.eval().requires_grad_(False)
    return torch.equal(before, act(other, inputs, noise))


def processor() -> str:
    """The name of the CPU."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.machine()


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--model', nargs='+', default=['pi05'], choices=['pi05', 'gr00t_n1_5'])
    parser.add_argument('--recipe', nargs='+', default=['w4a8'])
    parser.add_argument('--samples', type=int, default=128)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--threads', type=int, default=0, help="of a CPU; 0: torch's own choice")
    parser.add_argument('--work', type=Path, required=True, help='directory for packed weights')
    parser.add_argument('--out', type=Path, required=True)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    device = torch.device(args.device)
    report: dict[str, Any] = {
        'date': datetime.date.today().isoformat(),
        'quantvla_ros': __version__,
        'torch': torch.__version__,
        'device': torch.cuda.get_device_name(device) if device.type == 'cuda' else processor(),
        'threads': torch.get_num_threads(),
        'host_memory_gib': os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / GIB,
        'results': [],
    }
    for kind in args.model:
        for name in args.recipe:
            result = measure(kind, load_recipe(name), args)
            report['results'].append(result)
            args.out.write_text(json.dumps(report, indent=1) + '\n')
            print(
                f'{kind} {name}: {result["layers"]} layers in {result["seconds"]:.0f} s, GPU peak '
                f'{result["gpu_peak_gib"] or 0:.1f} GiB, host {result["host_peak_gib"]:.1f} GiB; '
                f'backbone and head {result["quantized_parts_float_gib"]:.3f} -> '
                f'{result["quantized_parts_gib"]:.3f} GiB ({100 * result["smaller"]:.1f} % '
                f'smaller); chunks within {100 * result["chunk_error"]["relative"]:.2f} %; read '
                f'back {"equal" if result["read_back_equal"] else "DIFFERENT"}',
                flush=True,
            )
    return 0 if all(result['read_back_equal'] for result in report['results']) else 1


if __name__ == '__main__':
    sys.exit(main())
