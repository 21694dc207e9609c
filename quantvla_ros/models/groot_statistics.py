# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Statistics of the data that a GR00T checkpoint was trained on, from any file that holds them.

NVIDIA's directories have `experiment_cfg/metadata.json`, with statistics by embodiment and part;
other files are of whole vectors, `observation.state` and `action` (see `statistics`). Knows what
stands in them; knows nothing of how a part is normalised.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quantvla_ros.errors import CheckpointError
from quantvla_ros.models import statistics
from quantvla_ros.models.data_config import FILE, DataConfig, VectorPart
from quantvla_ros.models.groot_parts import Part, Vector
from quantvla_ros.models.statistics import ACTION, STATE

METADATA = 'metadata.json'
FOLDER = 'experiment_cfg'  # where NVIDIA's directories keep it
_NAMES = ('min', 'max', 'mean', 'std', 'q01', 'q99')
_VECTORS = {'state': STATE, 'action': ACTION}
_PASS = f'name a file that has them in {FILE} (statistics: PATH)'

Table = Mapping[str, Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Statistics:
    """Statistics by part, or of whole vectors.

    Attributes:
        source: where they come from, for messages.
        state, action: by key and name, as state['left_arm']['min'].
        whole: they are of one vector each, under the keys STATE and ACTION.
    """

    source: str
    state: Table
    action: Table
    whole: bool

    def of(self, kind: str, part: VectorPart, *, alone: bool) -> Part:
        """A part with its statistics.

        Args:
            kind: 'state' or 'action'.
            part: what the user says of it.
            alone: it is the only one, so that the whole vector is meant where nothing else is said.
        Raises:
            CheckpointError: there are none for it, or of another size.
        """
        table: Table = self.state if kind == 'state' else self.action
        key = _VECTORS[kind] if self.whole else part.key
        if key not in table:
            raise CheckpointError(
                f'{self.source}: expected statistics of {kind} {key!r}, found those of '
                f'{", ".join(table) or "none"}; correct the key, or {_PASS}'
            )
        values = table[key]
        size = len(next(iter(values.values())))
        if part.dimensions is None and self.whole and not alone:
            raise CheckpointError(
                f'{self.source}: its statistics are of a whole vector of {size} numbers; say which '
                f'of them are {kind} {part.key!r} in {FILE} (dimensions: [first, after the last])'
            )
        if part.dimensions is not None:
            first, after = part.dimensions
            if self.whole and after <= size:
                values, size = {n: v[first:after] for n, v in values.items()}, after - first
            elif self.whole or after - first != size:
                raise CheckpointError(
                    f'{self.source}: {kind} {part.key!r}: dimensions [{first}, {after}] do not fit '
                    f'its {size} numbers; correct them, or {_PASS}'
                )
        names = part.names
        if names is None and part.key not in _VECTORS.values():
            names = tuple(f'{part.key}_{index}' for index in range(size))
        try:
            return Part(part.key, part.mode, size, names, values)
        except CheckpointError as error:
            raise CheckpointError(f'{self.source}: {kind} {error}') from None

    def vector(self, kind: str, parts: tuple[VectorPart, ...], width: int) -> Vector:
        """All parts of a state or an action.

        Args:
            width: of the network's vector.
        Raises:
            CheckpointError: statistics are missing or do not fit, or the parts are too many.
        """
        alone = len(parts) == 1
        return Vector(kind, tuple(self.of(kind, one, alone=alone) for one in parts), width)


def find_statistics_file(directory: Path, data: DataConfig) -> Path:
    """The file that the data config names, or NVIDIA's in the directory.

    Raises:
        CheckpointError: none there.
    """
    if data.statistics is not None:
        path = data.find(data.statistics)
        if not path.is_file():
            raise CheckpointError(
                f'{data.source}: statistics: expected a file, found none at {path}; correct it'
            )
        return path
    # An artifact holds it beside everything else.
    for path in (directory / FOLDER / METADATA, directory / METADATA):
        if path.is_file():
            return path
    raise CheckpointError(
        f'{directory}: expected statistics of the training data in {FOLDER}/{METADATA}, found '
        f'none; fetch the whole repository, or {_PASS}'
    )


def read_statistics(path: Path, tag: str | None) -> Statistics:
    """Statistics of a file, by what it holds.

    Args:
        tag: embodiment to take of NVIDIA's file; None: the only one.
    Raises:
        CheckpointError: not such a file, or no such embodiment.
    """
    content = statistics.read_statistics(path)
    try:
        if STATE in content or ACTION in content:
            state, action = (_whole(content, vector) for vector in (STATE, ACTION))
            return Statistics(str(path), state, action, whole=True)
        if tag is None and len(content) == 1:
            tag = next(iter(content))
        if tag not in content:
            asked = 'one embodiment' if tag is None else f'the embodiment {tag!r}'
            raise CheckpointError(
                f'{path}: expected {asked}, found {", ".join(content) or "none"}; say in {FILE} '
                f'which one it is (embodiment: NAME)'
            )
        held = content[tag]['statistics']
        state, action = (
            {key: _numbers(values) for key, values in held.get(kind, {}).items()}
            for kind in _VECTORS
        )
        return Statistics(f'{path} ({tag})', state, action, whole=False)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f'{path}: expected statistics by embodiment (metadata.json) or of {STATE} and '
            f'{ACTION}, found {error!r}; {_PASS}'
        ) from None


def tensors_statistics(state: Path, action: Path) -> Statistics:
    """Statistics as lerobot stores them, of the state in one file and of the action in another.

    Raises:
        CheckpointError: a file cannot be read.
    """
    tables = []
    for path, vector in ((state, STATE), (action, ACTION)):
        try:
            tables.append(_whole(statistics.read_statistics(path), vector))
        except (ValueError, TypeError) as error:
            raise CheckpointError(f'{path}: {vector}: {error}; fetch it again') from None
    source = str(state) if state == action else f'{state} and {action.name}'
    return Statistics(source, tables[0], tables[1], whole=True)


def _whole(content: statistics.Statistics, vector: str) -> Table:
    return {vector: _numbers(content[vector])} if vector in content else {}


def _numbers(values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Statistics that something is made of, as [N] float32 each.

    Raises:
        ValueError: they differ in size, or there are none.
    """
    found = {
        name: np.asarray(values[name], np.float32).reshape(-1)
        for name in _NAMES
        if values.get(name) is not None
    }
    sizes = {value.size for value in found.values()}
    if len(sizes) != 1:
        raise ValueError(
            f'expected some of {", ".join(_NAMES)} of one size, found '
            f'{({n: v.size for n, v in found.items()}) or "none"}'
        )
    return found
