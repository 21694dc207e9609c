# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Every architecture against its reference implementation, in every spelling of its checkpoints.

    python benchmarks/parity.py --fixtures DIR [--device cuda] --out FILE.json

DIR holds a folder for each model (pi05_tiny, groot_tiny, smolvla_tiny) with a checkpoint of reduced
size and random weights, and `io.safetensors`: what the reference implementation made of it. In
float32 the largest difference of any denoising step's velocity, noisy actions and of the actions;
in bfloat16 the relative error of the first velocity, |v - v_ref| / |v_ref|. Each spelling of keys
and files must load to the same actions, bit for bit. Exits with 1 where an action in float32 is
off by more than 2e-5 or a spelling differs.
"""
from __future__ import annotations

import argparse
import datetime
import json
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from quantvla_ros import __version__
from quantvla_ros.models.architectures import ARCHITECTURES, build_network
from quantvla_ros.models.checkpoint import load_model
from quantvla_ros.quantization.layout import LAYOUTS

BOUND = 2e-5
CASES = {'pi05': 'pi05_tiny', 'gr00t_n1_5': 'groot_tiny', 'smolvla': 'smolvla_tiny'}
Tensors = dict[str, Tensor]


def arguments(reference: Mapping[str, Tensor], device: torch.device) -> dict[str, Any]:
    """What `sample_actions` takes, by name."""
    found: dict[str, Any] = {}
    for name, tensor in sorted(reference.items()):
        if not name.startswith('in.'):
            continue
        key, value = name.removeprefix('in.'), tensor.to(device)
        for numbered, several in (('image_mask', 'image_masks'), ('image', 'images')):
            if key.startswith(numbered) and key[len(numbered) :].isdigit():
                found.setdefault(several, []).append(value)
                break
        else:
            found[key] = value
    return found


def run(model: Any, given: Mapping[str, Any]) -> dict[str, Tensor]:
    """Actions, and noisy actions and velocity of every step."""
    steps: list[tuple[Tensor, Tensor]] = []
    actions = model.sample_actions(**given, on_step=lambda step, x, v: steps.append((x, v)))
    return {
        'actions': actions.float().cpu(),
        'x_t': torch.stack([x for x, _ in steps]).float().cpu(),
        'v_t': torch.stack([v for _, v in steps]).float().cpu(),
    }


# Spellings


def _renamed(change: Callable[[str], str]) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {change(name): tensor for name, tensor in tensors.items()}


def _tied(kind: str, *, head: bool, words: bool) -> Callable[[Tensors], Tensors]:
    """The embedding under the name of the output layer, under its own, or under both."""
    architecture = ARCHITECTURES[kind]
    (lm_head, embedding), = architecture.tied.items()

    def change(tensors: Tensors) -> Tensors:
        rest, table = {}, None
        for name, tensor in tensors.items():
            if architecture.canonical_key(name) in (lm_head, embedding):
                table = tensor
            else:
                rest[name] = tensor
        assert table is not None
        if words:
            rest[architecture.hub_key(embedding).replace(lm_head, embedding)] = table
        if head:
            prefix = '' if kind == 'gr00t_n1_5' else 'model.'
            # Beside the embedding, the output layer is another matrix in re-saved files.
            rest[prefix + lm_head] = table * 0 if words else table.clone()
        return rest

    return change


SPELLINGS: dict[str, dict[str, Callable[[Tensors], Tensors]]] = {
    'pi05': {
        'without the leading model.': _renamed(lambda name: name.removeprefix('model.')),
        'embed_tokens alone': _tied('pi05', head=False, words=True),
        'lm_head and embed_tokens': _tied('pi05', head=True, words=True),
        'time_mlp as action_time_mlp': _renamed(
            lambda name: name.replace('time_mlp_', 'action_time_mlp_')
        ),
        'flattened vision tower': _renamed(
            lambda name: name.replace('vision_tower.vision_model.', 'vision_tower.')
        ),
    },
    'gr00t_n1_5': {
        "lerobot's _groot_model. prefix": _renamed(lambda name: '_groot_model.' + name),
        'lm_head alone': _tied('gr00t_n1_5', head=True, words=False),
        'lm_head and embed_tokens': _tied('gr00t_n1_5', head=True, words=True),
        'flattened vision tower': _renamed(
            lambda name: name.replace('vision_model.vision_model.', 'vision_model.')
        ),
    },
    'smolvla': {
        'without the leading model.': _renamed(lambda name: name.removeprefix('model.')),
        "a compiled model's _orig_mod.": _renamed(
            lambda name: name.replace('model.', 'model._orig_mod.', 1)
        ),
        'lm_head and embed_tokens': _tied('smolvla', head=True, words=True),
    },
}


def write_spelling(source: Path, target: Path, tensors: Tensors, shards: int = 1) -> None:
    """A checkpoint directory with these tensors."""
    target.mkdir()
    shutil.copyfile(source / 'config.json', target / 'config.json')
    if shards == 1:
        save_file(tensors, target / 'model.safetensors')
        return
    names, placed = list(tensors), {}
    for index in range(shards):
        file = f'model-{index + 1:05d}-of-{shards:05d}.safetensors'
        chosen = names[index::shards]
        save_file({name: tensors[name] for name in chosen}, target / file)
        placed.update(dict.fromkeys(chosen, file))
    (target / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': placed}))


def spellings(kind: str, tensors: Tensors) -> Iterator[tuple[str, Tensors, int]]:
    """Name, tensors and number of files of each spelling."""
    yield 'three shards', tensors, 3
    for name, change in SPELLINGS[kind].items():
        changed = {key: tensor.contiguous() for key, tensor in change(tensors).items()}
        yield name, changed, 1


def measure(kind: str, fixture: Path, device: torch.device) -> dict[str, Any]:
    """One architecture."""
    reference = load_file(fixture / 'io.safetensors')
    given = arguments(reference, device)
    plain = run(load_model(fixture, device), given)
    off = {
        name: float((values - reference[f'out.{name}'].float()).abs().max())
        for name, values in plain.items()
    }
    half = run(load_model(fixture, device, torch.bfloat16), given)
    first, expected = half['v_t'][0], reference['out.v_t'][0].float()
    loaded: dict[str, bool] = {}
    tensors = load_file(fixture / 'model.safetensors')
    with tempfile.TemporaryDirectory() as folder:
        for index, (name, changed, shards) in enumerate(spellings(kind, tensors)):
            directory = Path(folder) / str(index)
            write_spelling(fixture, directory, changed, shards)
            again = run(load_model(directory, device), given)
            loaded[name] = torch.equal(again['actions'], plain['actions'])
    with torch.device('meta'):
        full = build_network({'type': kind})
    return {
        'model': kind,
        'float32_largest_difference': off,
        'bfloat16_first_velocity_relative_error': float(
            (first - expected).norm() / expected.norm()
        ),
        'spellings_equal': loaded,
        'full_size': {
            'tensors': len(full.state_dict()),
            'parameters': sum(p.numel() for p in full.parameters()),
            'linear_layers': len(full.linear_places()),
            'integer_layers': {
                name: len(layout.select(full)) for name, layout in LAYOUTS.items()
            },
        },
    }


def markdown(results: list[dict[str, Any]]) -> str:
    """The tables for people."""
    lines = [
        '| model | float32: actions, velocities, noisy actions | bfloat16: first velocity | '
        'spellings that load alike |',
        '|---|---|---|---|',
    ]
    for one in results:
        off = one['float32_largest_difference']
        equal = one['spellings_equal']
        lines.append(
            f'| {ARCHITECTURES[one["model"]].title} | {off["actions"]:.1e}, {off["v_t"]:.1e}, '
            f'{off["x_t"]:.1e} | {100 * one["bfloat16_first_velocity_relative_error"]:.2f} % | '
            f'{sum(equal.values())} of {len(equal)}: {", ".join(equal)} |'
        )
    names = list(results[0]['full_size']['integer_layers'])
    lines += [
        '',
        f'| model, full size | tensors | parameters | linear layers | {" | ".join(names)} |',
        '|---|---|---|---|' + '---|' * len(names),
    ]
    for one in results:
        full = one['full_size']
        counts = ' | '.join(str(full['integer_layers'][name]) for name in names)
        lines.append(
            f'| {ARCHITECTURES[one["model"]].title} | {full["tensors"]} | '
            f'{full["parameters"] / 1e9:.3f} B | {full["linear_layers"]} | {counts} |'
        )
    return '\n'.join(lines)


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--fixtures', type=Path, required=True)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--out', type=Path, required=True)
    args = parser.parse_args()
    device = torch.device(args.device)
    results = [
        measure(kind, args.fixtures / folder, device)
        for kind, folder in CASES.items()
        if kind in ARCHITECTURES
    ]
    print(markdown(results))
    report = {
        'date': datetime.date.today().isoformat(),
        'quantvla_ros': __version__,
        'torch': torch.__version__,
        'device': torch.cuda.get_device_name(device)
        if device.type == 'cuda'
        else platform.machine(),
        'results': results,
    }
    args.out.write_text(json.dumps(report, indent=1) + '\n')
    good = all(
        one['float32_largest_difference']['actions'] <= BOUND
        and all(one['spellings_equal'].values())
        for one in results
    )
    return 0 if good else 1


if __name__ == '__main__':
    sys.exit(main())
