# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What surrounds a network in its directory: the facts of it, and everything that it lacks.

A processor stops at its first fault. Here each of its sources (data config, steps, statistics,
tokenizer) is read by itself first, by the same functions, so that all faults are found.
"""
from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from quantvla_ros.contract.types import Contract
from quantvla_ros.errors import CheckpointError
from quantvla_ros.inspection.stored_weights import Missing
from quantvla_ros.models import groot_processor, groot_statistics
from quantvla_ros.models.architecture import Architecture, Processor
from quantvla_ros.models.architectures import load_processor
from quantvla_ros.models.data_config import FILE, DataConfig, find_data_config
from quantvla_ros.models.groot_lerobot import read_setup
from quantvla_ros.models.groot_parts import NEEDED, Vector
from quantvla_ros.models.lerobot_steps import NORMALIZE, POSTPROCESSOR, PREPROCESSOR, RESTORE
from quantvla_ros.models.normalization import Mode, Normalizer
from quantvla_ros.models.openpi_files import is_openpi, read_openpi_files
from quantvla_ros.models.smolvla_processor import VLM
from quantvla_ros.models.statistics import ACTION, STATE, read_statistics, statistics_of
from quantvla_ros.models.tokenizer import (
    PALIGEMMA,
    PALIGEMMA_FILES,
    QWEN_FILES,
    SMOLVLM_FILES,
    find_tokenizer,
    load_tokenizer,
)

DATA_UNIT = "the training data's own"  # no checkpoint records a unit

# Files, hub repository and what to know of an architecture's tokenizer. A new architecture without
# an entry here or in _PROBES is inspected too, only that its faults come one by one.
TOKENIZERS = {
    'pi05': (PALIGEMMA_FILES, PALIGEMMA, 'accept its terms there first'),
    'gr00t_n1_5': (QWEN_FILES, groot_processor.REPOSITORY, ''),
    'smolvla': (SMOLVLM_FILES, VLM, ''),
}
_REPOSITORY = re.compile(r'[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*')
# What a normaliser's two numbers are, by its mode: the offset, and the offset plus the span.
_RANGES = {
    Mode.QUANTILES: ('q01', 'q99'),
    Mode.QUANTILE10: ('q10', 'q90'),
    Mode.MIN_MAX: ('min', 'max'),
}


def processor_facts(processor: Processor, contract: Contract | None) -> dict[str, Any]:
    """Cameras, state, action and tokenizer.

    Args:
        contract: of the robot, for units.
    """
    units = (None, None) if contract is None else contract_units(contract)
    state, action = (
        {
            'size': size,
            'names': None if names is None else list(names),
            'units': unit if unit is not None and len(unit) == size else [DATA_UNIT] * size,
            'parts': vector_facts(vector),
        }
        for size, names, unit, vector in (
            (processor.state_size, processor.state_names, units[0], _held(processor, 'state')),
            (processor.action_size, processor.action_names, units[1], _held(processor, 'action')),
        )
    )
    tokenizer = load_tokenizer(processor.tokenizer_file)
    return {
        'cameras': {'slots': list(processor.slots), 'pixels': processor.image},
        'state': state,
        'action': action,
        'tokenizer': {
            'file': str(processor.tokenizer_file),
            'kind': _kind(processor.tokenizer_file),
            'tokens': tokenizer.size,
        },
        'control_period': processor.control_period,
        'execute_steps': processor.execute_steps,
    }


def _held(processor: Processor, name: str) -> Normalizer | Vector | None:
    """A processor's own normalisation, which the protocol leaves to each architecture."""
    for owner in (processor, getattr(processor, 'steps', None)):
        found = getattr(owner, name, None)
        if isinstance(found, (Normalizer, Vector)):
            return found
    return None


def _kind(path: Path) -> str:
    if path.name == 'vocab.json':
        return "Qwen2's vocabulary and merges"
    return 'tokenizer.json' if path.suffix == '.json' else 'sentencepiece'


def vector_facts(vector: Normalizer | Vector | None) -> list[dict[str, Any]]:
    """The parts of a state or action: how each is normalised, and by which statistics."""
    if isinstance(vector, Vector):
        return [
            {
                'key': part.key,
                'size': part.size,
                'normalization': part.mode,
                'used': list(NEEDED[part.mode]),
                'statistics': {name: _numbers(v) for name, v in part.statistics.items()},
            }
            for part in vector.parts
        ]
    if vector is None:
        return []
    if vector.mode in _RANGES:
        low, high = _RANGES[vector.mode]
        statistics = {low: vector.offset, high: vector.offset + vector.span}
    else:
        statistics = {'mean': vector.offset, 'std': vector.span}
    return [
        {
            'key': None,  # the whole vector
            'size': vector.size,
            'normalization': vector.mode.value.lower(),
            'used': list(statistics),
            'statistics': {name: _numbers(values) for name, values in statistics.items()},
        }
    ]


def _numbers(values: np.ndarray) -> list[float]:
    return [float(f'{value:.6g}') for value in np.asarray(values, np.float64)]


def contract_units(contract: Contract) -> tuple[list[str], list[str]]:
    """Units of the state's and of the action's numbers, as the contract has them."""
    action = [part.unit for part in contract.action.parts for _ in part.names]
    limits = contract.limits  # of the joints that the action moves; SI units throughout
    state = [limits[j].unit if j in limits else 'rad or m' for j in contract.joint_states.joints]
    return state + [part.unit for part in contract.state for _ in part.fields], action


def data_facts(directory: Path) -> dict[str, Any] | None:
    """The data config as it stands in its file; None: there is none that can be read."""
    try:
        data = find_data_config(directory)
    except CheckpointError:
        return None
    if data is None:
        return None
    return {'file': str(data.source), 'content': yaml.safe_load(data.source.read_text('utf-8'))}


def open_processor(
    directory: Path, config: Mapping[str, Any], architecture: Architecture
) -> tuple[Processor | None, list[Missing]]:
    """The processor, or everything that keeps it from being read.

    Args:
        config: one that the architecture can build a network of.
    """
    try:
        return load_processor(directory, config), []
    except CheckpointError as error:
        last = Missing.of(error)
    found = probe_faults(directory, config, architecture)
    # What a probe found in a file is what stopped the processor there.
    if not any(_place(one, directory) == _place(last, directory) for one in found):
        found.append(last)
    return None, found


def probe_faults(
    directory: Path, config: Mapping[str, Any], architecture: Architecture
) -> list[Missing]:
    """What each source of the processor lacks, read by itself."""
    found: list[Missing] = []
    data = None
    try:
        data = find_data_config(directory)
    except CheckpointError as error:
        found.append(Missing.of(error))
    for probe in (*_PROBES.get(architecture.kind, ()), _tokenizer_probe(architecture.kind)):
        for check in probe(directory, config, data):
            try:
                check()
            except CheckpointError as error:
                found.append(Missing.of(error))
    return list(dict.fromkeys(found))


def _place(missing: Missing, directory: Path) -> str:
    """The file that a fault is about; of the directory as a whole, what is expected there too."""
    place = missing.what.partition(': ')[0]
    return missing.what.partition(', found')[0] if place == str(directory) else place


Check = Callable[[], Any]
Probe = Callable[[Path, Mapping[str, Any], DataConfig | None], Iterator[Check]]


def tokenizer_repository(directory: Path, config: Mapping[str, Any], kind: str) -> str | None:
    """Where a checkpoint's tokenizer is on the hub: as its files name it, or as all of its kind."""
    named = [config.get('tokenizer_assets_repo')]  # lerobot's GR00T
    try:
        steps = json.loads((directory / PREPROCESSOR).read_text(encoding='utf-8'))['steps']
        named += [step.get('config', {}).get('tokenizer_name') for step in steps]
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError):
        pass  # the steps' own reader says what is wrong with them
    for name in named:
        if isinstance(name, str) and _REPOSITORY.fullmatch(name):
            return name
    return TOKENIZERS[kind][1] if kind in TOKENIZERS else None


def _tokenizer_probe(kind: str) -> Probe:
    def probe(
        directory: Path, config: Mapping[str, Any], data: DataConfig | None
    ) -> Iterator[Check]:
        if kind not in TOKENIZERS:
            return
        files, usual, hint = TOKENIZERS[kind]
        repository = tokenizer_repository(directory, config, kind) or usual
        yield lambda: load_tokenizer(find_tokenizer(directory, data, files, repository, hint))

    return probe


def _lerobot_probe(
    directory: Path, config: Mapping[str, Any], data: DataConfig | None
) -> Iterator[Check]:
    """The two processor files and their statistics, or openpi's, or those that the user names."""
    if is_openpi(config):
        yield lambda: read_openpi_files(directory, config, data)
        yield lambda: _check_openpi_switch(directory, data)
        return
    given = None if data is None or data.statistics is None else data.find(data.statistics)
    if given is not None:
        yield lambda: read_statistics(given)
    names = (PREPROCESSOR, POSTPROCESSOR)
    for name, step, feature in zip(names, (NORMALIZE, RESTORE), (STATE, ACTION), strict=True):
        yield partial(_check_steps, directory / name, step, feature, given)


def _check_openpi_switch(directory: Path, data: DataConfig | None) -> None:
    if data is None or data.prompt_state is None:
        raise CheckpointError(
            f'{directory}: expected {FILE} with prompt_state, found none; say whether the state '
            f'stands in the prompt (docs/checkpoints.md), config/data holds some to copy'
        )


def _check_steps(path: Path, step: str, feature: str, given: Path | None) -> None:
    """A processor file is there, and so are the statistics that its step names.

    Raises:
        CheckpointError: one of them is not.
    """
    try:
        steps = json.loads(path.read_text(encoding='utf-8'))['steps']
        states = [one.get('state_file') for one in steps if one.get('registry_name') == step]
    except FileNotFoundError:
        raise CheckpointError(
            f'{path}: expected the processor file of the checkpoint, found none; fetch the whole '
            f'repository, not only the weights'
        ) from None
    # ValueError: no JSON, or not UTF-8; RecursionError: nested without end.
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f'{path}: not a processor file ({error}); fetch it again') from None
    if given is not None or not states:
        return
    if not states[0]:
        raise CheckpointError(
            f'{path}: {feature}: expected statistics, found none (no state_file), as in base '
            f'checkpoints; name those of your data in {FILE} (statistics: PATH, as '
            f'meta/stats.json of the data set), or pass a checkpoint fine-tuned on it'
        )
    file = path.with_name(Path(str(states[0])).name)
    statistics_of(file, read_statistics(file), feature)


def _groot_probe(
    directory: Path, config: Mapping[str, Any], data: DataConfig | None
) -> Iterator[Check]:
    """Files of lerobot, or the data config that NVIDIA's directories need, and the statistics."""
    if (directory / PREPROCESSOR).is_file() or (directory / POSTPROCESSOR).is_file():
        yield lambda: read_setup(directory)
        return
    if data is None and not (directory / FILE).exists():
        yield lambda: _no_data_config(directory)
    said = data or DataConfig(directory / FILE, 'gr00t_n1_5')
    # Without a data config nothing says whose statistics are meant, only that the file is there.
    yield lambda: groot_statistics.find_statistics_file(directory, said)
    if data is not None:
        yield lambda: groot_statistics.read_statistics(
            groot_statistics.find_statistics_file(directory, said), said.embodiment
        )


def _no_data_config(directory: Path) -> None:
    raise CheckpointError(
        f'{directory}: expected to be told the cameras that it was trained on, found nothing that '
        f'says so, nor of its state and action; copy a file of config/data there as {FILE} and '
        f'edit it (docs/checkpoints.md)'
    )


_PROBES: dict[str, tuple[Probe, ...]] = {
    'pi05': (_lerobot_probe,),
    'smolvla': (_lerobot_probe,),
    'gr00t_n1_5': (_groot_probe,),
}
