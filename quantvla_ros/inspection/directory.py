# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint or artifact directory is, and all that it lacks before it can run.

Reads headers and small files, never the weights: a network of full size is built on the meta
device, where it takes no memory. Every part is looked at by itself, so that one fault does not hide
the next. Knows directories; knows nothing of how the facts are shown.
"""
from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from quantvla_ros.contract.match import differences
from quantvla_ros.contract.types import Contract
from quantvla_ros.errors import CheckpointError, QuantVLAError
from quantvla_ros.inspection.stored_weights import (
    Missing,
    StoredWeights,
    compare_keys,
    read_weights,
)
from quantvla_ros.inspection.surroundings import (
    data_facts,
    open_processor,
    probe_faults,
    processor_facts,
)
from quantvla_ros.models.architecture import Architecture
from quantvla_ros.models.architectures import architecture_of, empty_network
from quantvla_ros.models.checkpoint import read_config
from quantvla_ros.quantization.artifact import READABLE
from quantvla_ros.quantization.formats import place_empty_layers
from quantvla_ros.quantization.layout import LAYOUTS
from quantvla_ros.quantization.manifest import MANIFEST, WEIGHTS, Manifest, read_manifest
from quantvla_ros.quantization.memory import memory
from quantvla_ros.quantization.recipe_file import load_recipe
from quantvla_ros.quantization.stored import file_hash

FLOATS = {'float32': 4, 'bfloat16': 2}  # bytes of a number
RECIPES = ('w8a8', 'w4a8', 'paper-w4a8')
TABLES, REST = 'embedding tables', 'norms, convolutions, positions, by embodiment'

T = TypeVar('T')


def inspect_directory(
    directory: str | Path, *, layout: str = 'paper', contract: Contract | None = None
) -> dict[str, Any]:
    """All facts of a directory, as JSON holds them; docs/checkpoints.md names the keys.

    Args:
        layout: name of the layout that says what would be integer; an artifact has its own.
        contract: the robot: gives units, and what does not fit it is missing too.
    Raises:
        CheckpointError: the directory is neither checkpoint nor artifact.
    """
    directory = Path(directory)
    _refuse_other(directory)
    looked = _Inspection(directory, contract)
    manifest = looked.manifest()
    stored = looked.weights()
    config = looked.attempt(lambda: read_config(directory))
    kind = None if config is None else looked.attempt(lambda: architecture_of(config))
    if config is not None and kind is not None:
        looked.facts['architecture'] = {'type': kind.kind, 'title': kind.title}
        network = looked.attempt(lambda: empty_network(config))
        if network is not None:
            looked.network(network, manifest.content['layout']['name'] if manifest else layout)
            looked.facts['memory'] = memory_facts(config)
            if looked.facts['kind'] == 'checkpoint' and stored.tensors:
                looked.keys(stored, kind, network)
        looked.surroundings(config, kind, manifest, sized=network is not None)
    if manifest is not None:
        looked.missing += _artifact_tensors(directory, manifest, stored)
    missing = list(dict.fromkeys(looked.missing))
    return looked.facts | {'missing': [vars(one) for one in missing], 'runnable': not missing}


class _Inspection:
    """What has been found so far: facts by key, and what is missing."""

    def __init__(self, directory: Path, contract: Contract | None) -> None:
        self.directory, self.contract = directory, contract
        self.missing: list[Missing] = []
        self.facts: dict[str, Any] = {
            'directory': str(directory),
            'kind': 'artifact' if (directory / MANIFEST).exists() else 'checkpoint',
            **dict.fromkeys(
                (
                    'architecture', 'sizes', 'cameras', 'state', 'action', 'tokenizer',
                    'control_period', 'execute_steps', 'data_config', 'weights', 'layout', 'memory',
                    'artifact',
                )
            ),
        }

    def attempt(self, read: Callable[[], T]) -> T | None:
        """What `read` gives; a fault goes to what is missing instead."""
        try:
            return read()
        except QuantVLAError as error:
            self.missing.append(Missing.of(error))
        return None

    def manifest(self) -> Manifest | None:
        """An artifact's manifest, and the files that it names."""
        if self.facts['kind'] != 'artifact':
            return None
        manifest = self.attempt(lambda: read_manifest(self.directory))
        if manifest is not None:
            self.missing += _changed_files(self.directory, manifest)
            self.facts['artifact'] = artifact_facts(manifest)
        return manifest

    def weights(self) -> StoredWeights:
        """The files of weights, as far as they are there."""
        stored = read_weights(self.directory)
        self.missing += stored.missing
        self.facts['weights'] = weights_facts(stored)
        if self.facts['kind'] == 'artifact':
            self.facts['weights']['names_of'] = None  # the manifest says it
        return stored

    def network(self, network: Any, layout: str) -> None:
        """Sizes, and what a layout would do."""
        self.facts['sizes'] = size_facts(network)
        if layout in LAYOUTS:
            self.facts['layout'] = layout_facts(network, layout)

    def keys(self, stored: StoredWeights, architecture: Architecture, network: Any) -> None:
        """Names and shapes of a float checkpoint against the network's."""
        wanted = {name: tensor.shape for name, tensor in network.state_dict().items()}
        keys = compare_keys(self.directory, stored, architecture, wanted)
        self.missing += keys.missing
        self.facts['weights'] |= {
            'prefixes': keys.prefixes,
            'unused': len(keys.unused),
            'embedding_stored_as': keys.output_layers,
        }

    def surroundings(
        self,
        config: Mapping[str, Any],
        architecture: Architecture,
        manifest: Manifest | None,
        *,
        sized: bool,
    ) -> None:
        """What is around the network; without its sizes no processor can be made."""
        self.facts['data_config'] = data_facts(self.directory)
        if not sized:
            self.missing += probe_faults(self.directory, config, architecture)
            return
        processor, lacking = open_processor(self.directory, config, architecture)
        self.missing += lacking
        if processor is None:
            return
        self.facts |= processor_facts(processor, self.contract)
        if manifest is not None:  # it records what the checkpoint's own files may not say
            self.facts['state']['names'] = list(manifest.state_names)
            self.facts['action']['names'] = list(manifest.action_names)
            self.facts['control_period'] = manifest.control_period
            self.facts['execute_steps'] = manifest.execute_steps
        if self.contract is not None:
            self.missing += _misfits(processor, self.contract, manifest)


def _refuse_other(directory: Path) -> None:
    if not directory.is_dir():
        found = 'a file' if directory.exists() else 'no such directory'
        raise CheckpointError(
            f'{directory}: expected a checkpoint or artifact directory, found {found}; pass the '
            f'directory that holds config.json'
        )
    names = ('config.json', MANIFEST, 'policy_preprocessor.json')
    if not any((directory / name).exists() for name in names) and not any(
        directory.glob('*.safetensors')
    ):
        inner = sorted(path.parent.name for path in directory.glob('*/config.json'))
        hint = f'did you mean {directory / inner[0]}?' if inner else (
            'pass the directory that holds config.json, or fetch one: '
            'python -m quantvla_ros fetch REPO --out DIR'
        )
        raise CheckpointError(
            f'{directory}: expected a checkpoint or artifact, found neither config.json nor '
            f'weights; {hint}'
        )


def size_facts(network: Any) -> dict[str, Any]:
    """Parameters by part, and the size of what goes in and out."""
    parts = {
        part.role.value: part.float_bytes
        for part in memory(network, float_size=1)
        if part.role is not None
    }
    tables = sum(
        weight.numel()
        for module in network.modules()
        if isinstance(module, nn.Embedding)
        for weight in module.parameters(recurse=False)
    )
    total = sum(weight.numel() for weight in network.parameters())
    chunk, action = network.noise_shape
    return {
        'parameters': total,
        'parts': {**parts, TABLES: tables, REST: total - tables - sum(parts.values())},
        'chunk': chunk,
        'action_width': action,
        'denoising_steps': network.denoising_steps,
    }


def layout_facts(network: Any, name: str) -> dict[str, Any]:
    """What a layout makes integer, by role, and what it leaves float, by reason."""
    layout = LAYOUTS[name]
    chosen = layout.select(network)
    places = network.linear_places()

    def weights(paths: tuple[str, ...]) -> int:
        return sum(
            weight.numel()
            for path in paths
            for weight in network.get_submodule(path).parameters(recurse=False)
        )

    integer = {}
    for role in dict.fromkeys(places[path].role for path in chosen):
        paths = tuple(path for path in chosen if places[path].role == role)
        integer[role.value] = {'layers': len(paths), 'parameters': weights(paths)}
    kept = layout.kept(network)
    return {
        'name': name,
        'integer': integer,
        'float': [
            {'reason': reason, 'modules': len(paths), 'parameters': weights(paths)}
            for reason, paths in kept.items()
        ],
        'layers': {
            'integer': list(chosen),
            'float': {reason: list(paths) for reason, paths in kept.items()},
        },
    }


def memory_facts(config: Mapping[str, Any]) -> dict[str, int]:
    """Bytes of a network's weights in each precision."""
    network = empty_network(config)
    found = {name: _bytes(network, size) for name, size in FLOATS.items()}
    for name in RECIPES:
        network = empty_network(config)
        with torch.device('meta'):
            place_empty_layers(network, load_recipe(name))
        found[name] = _bytes(network, FLOATS['bfloat16'])
    return found


def _bytes(network: Any, float_size: int) -> int:
    return sum(part.bytes for part in memory(network, float_size=float_size))


def weights_facts(stored: StoredWeights) -> dict[str, Any]:
    """Files, and what they hold, as their headers say."""
    dtypes: dict[str, int] = {}
    for tensor in stored.tensors.values():
        dtypes[tensor.type] = dtypes.get(tensor.type, 0) + tensor.count
    return {
        'files': stored.files,
        'bytes': sum(stored.files.values()),
        'tensors': len(stored.tensors),
        'numbers': dtypes,
        'names_of': stored.title,
    }


def artifact_facts(manifest: Manifest) -> dict[str, Any]:
    """What an artifact was made of and how near it comes to its float policy."""
    content = manifest.content
    calibration = content['calibration']
    frames = calibration['coverage']['frames']
    return {
        'id': manifest.artifact_id,
        'created': content['created'],
        'versions': content['versions'],
        'recipe': content['recipe']['name'],
        'precision': manifest.precision,
        'robot': content['contract']['robot'],
        'control_period': manifest.control_period,
        'execute_steps': manifest.execute_steps,
        'state_names': list(manifest.state_names),
        'action_names': list(manifest.action_names),
        'bytes': content['bytes'],
        'calibration': {
            'samples': calibration['samples'],
            'held_out': calibration['held_out'],
            'seed': calibration['seed'],
            'bags': sorted(calibration['bags']),
            'frames': dict(frames),
            'episodes': len({one['episode'] for one in calibration['observations']}),
            'instructions': sorted({one['instruction'] for one in calibration['observations']}),
            'faults': list(calibration['coverage']['faults']),
            'cautions': [one['text'] for one in calibration['coverage']['cautions']],
        },
        'held_out_error': calibration['error'],
    }


def _changed_files(directory: Path, manifest: Manifest) -> list[Missing]:
    """Files that are not as the manifest says, or beside it; they are small, the weights apart."""
    found = []
    for name, entry in manifest.content['files'].items():
        path = directory / name
        if path.is_symlink() or not path.is_file():
            held = 'a link' if path.is_symlink() else 'none'
            found.append(Missing(f'{path}: expected a regular file, found {held}', 'copy it anew'))
        elif file_hash(path) != entry['sha256']:
            found.append(
                Missing(
                    f'{path}: expected the file that the artifact was made with, found another',
                    'copy or make the artifact anew',
                )
            )
    listed = {*manifest.content['files'], WEIGHTS, MANIFEST}
    for path in sorted(directory.iterdir()):
        if path.suffix in READABLE and path.name not in listed:
            found.append(
                Missing(f'{path}: expected only the files of the manifest, found it', 'remove it')
            )
    return found


def _artifact_tensors(
    directory: Path, manifest: Manifest, stored: StoredWeights
) -> list[Missing]:
    """What the header of the weights does not have as the manifest says."""
    entries = manifest.content['tensors']
    other = [
        name
        for name in {**entries, **stored.tensors}
        if name not in entries
        or name not in stored.tensors
        or (stored.tensors[name].type, list(stored.tensors[name].shape))
        != (entries[name]['dtype'], entries[name]['shape'])
    ]
    if not other or not stored.complete:
        return []
    return [
        Missing(
            f'{directory / WEIGHTS}: expected the {len(entries)} tensors of the manifest, found '
            f'{len(other)} others, missing or of other shape ({other[0]})',
            'copy or make the artifact anew',
        )
    ]


def _misfits(processor: Any, contract: Contract, manifest: Manifest | None) -> list[Missing]:
    """Where the policy does not fit the robot."""
    named = processor if manifest is None else manifest
    lines = differences(
        contract,
        slots=processor.slots,
        state_names=named.state_names,
        state_size=processor.state_size,
        action_names=named.action_names,
        action_size=processor.action_size,
        control_period=named.control_period,
    )
    found = []
    for line in lines:
        what, _, remedy = line.partition('; ')
        found.append(Missing(f'{contract.source}: {what}', remedy))
    return found


def as_json(facts: Mapping[str, Any]) -> str:
    """The facts for programs."""
    return json.dumps(facts, indent=1, allow_nan=False) + '\n'
