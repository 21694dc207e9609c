# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What lies in a directory's safetensors files, from their headers alone; no weight is read.

Unlike `models.checkpoint`, which stops at the first fault, this lists all of them: whoever fetches
gigabytes wants to know everything at once. Knows files and names; knows nothing of what surrounds
a network.
"""
from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from quantvla_ros.errors import CheckpointError
from quantvla_ros.models.architecture import Architecture
from quantvla_ros.models.foreign import name_of_keys
from quantvla_ros.models.weight_files import (
    INDEX,
    SINGLE,
    Stored,
    checkpoint_files,
    read_header,
    read_headers,
)


@dataclass(frozen=True)
class Missing:
    """Something that a directory lacks before it can run."""

    what: str
    remedy: str

    @classmethod
    def of(cls, error: Exception) -> Missing:
        """From an error's one line: expected and found, then what to do."""
        what, _, remedy = str(error).partition('; ')
        return cls(what, remedy)


@dataclass
class StoredWeights:
    """The weights of a directory, as far as they are there.

    Attributes:
        files: name to bytes, of those that are whole.
        tensors: by their names in the files.
        missing: what is wrong with the files.
    """

    files: dict[str, int] = field(default_factory=dict)
    tensors: dict[str, Stored] = field(default_factory=dict)
    missing: list[Missing] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every file is there and whole, so that names can be held against a network's."""
        return bool(self.tensors) and not self.missing

    @property
    def title(self) -> str | None:
        """What model the names are of; None: no one knows."""
        return name_of_keys(self.tensors)


def read_weights(directory: Path) -> StoredWeights:
    """Headers of the directory's weights: one file, or the shards that its index names."""
    found = StoredWeights()
    shards = _shards(directory)
    for path in shards:
        if not path.is_file():
            found.missing.append(
                Missing(
                    f'{path}: expected the weights that {INDEX} names, found '
                    f'{"a link to a missing file" if path.is_symlink() else "no such file"}',
                    'fetch it again',
                )
            )
    if not found.missing:
        try:
            checkpoint_files(directory)
        except CheckpointError as error:
            found.missing.append(Missing.of(error))
    single = directory / SINGLE
    loose = [single] if single.is_file() else sorted(directory.glob('model-*.safetensors'))
    for path in filter(Path.is_file, shards or loose):
        try:
            held = read_header(path)
        except CheckpointError as error:
            found.missing.append(Missing.of(error))
            continue
        found.files[path.name] = path.stat().st_size
        found.tensors.update((tensor.name, tensor) for tensor in held)
    if found.complete:
        try:  # what the files say of each other
            read_headers(directory)
        except CheckpointError as error:
            found.missing.append(Missing.of(error))
    return found


def _shards(directory: Path) -> list[Path]:
    """The files that an index names; none where it cannot be read."""
    try:
        names = json.loads((directory / INDEX).read_text(encoding='utf-8'))['weight_map'].values()
        return [directory / name for name in sorted({Path(name).name for name in names})]
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return []


@dataclass(frozen=True)
class Keys:
    """How stored names relate to a network's.

    Attributes:
        prefixes: what stands before our names, with how many have it.
        unused: stored, but nothing reads them.
        output_layers: 'embedding', 'output layer' or 'both': which of a tied pair is stored.
        missing: what does not fit, as lists of everything.
    """

    prefixes: Mapping[str, int]
    unused: tuple[str, ...]
    output_layers: str
    missing: tuple[Missing, ...]


def compare_keys(
    directory: Path,
    stored: StoredWeights,
    architecture: Architecture,
    wanted: Mapping[str, Sequence[int]],
) -> Keys:
    """Hold the stored names and shapes against those of a network.

    Args:
        wanted: shape by name in our module tree.
    """
    prefixes: Counter[str] = Counter()
    unused, extra, wrong = [], [], []
    found: set[str] = set()
    tied: set[str] = set()
    for name, tensor in stored.tensors.items():
        key = architecture.canonical_key(name)
        if key is None:
            unused.append(name)
            continue
        if key in architecture.tied:
            tied.add('output layer')
            key = architecture.tied[key]
        elif key in architecture.tied.values():
            tied.add('embedding')
        if key not in wanted:
            extra.append(name)
            continue
        if name.endswith(key):
            prefixes[name.removesuffix(key)] += 1
        found.add(key)
        if tuple(wanted[key]) != tensor.shape:
            wrong.append(f'{name} {list(tensor.shape)} in place of {list(wanted[key])}')
    absent = sorted(set(wanted) - found)
    missing = []
    title = stored.title
    other = f'the names are those of {title}' if title else 'they are of no model that is known'
    if title is not None and title.startswith(architecture.title):
        other += ', incomplete or changed: fetch it again'
    if absent and stored.complete:
        missing.append(
            Missing(
                f'{directory}: expected {len(wanted)} tensors of {architecture.title}, found '
                f'{len(absent)} missing: {some(absent)}', other
            )
        )
    if extra:
        missing.append(
            Missing(
                f'{directory}: expected tensors of {architecture.title} alone, found {len(extra)} '
                f'unknown: {some(extra)}', other
            )
        )
    if wrong:
        missing.append(
            Missing(
                f'{directory}: expected the shapes of config.json, found {len(wrong)} others: '
                f'{some(wrong)}', 'weights and config.json must be of one checkpoint'
            )
        )
    both = 'both' if len(tied) == 2 else ''.join(tied)
    return Keys(dict(prefixes.most_common()), tuple(unused), both, tuple(missing))


def some(names: Sequence[str], limit: int = 4) -> str:
    """The first few, and how many more there are."""
    more = f' and {len(names) - limit} more' if len(names) > limit else ''
    return ', '.join(names[:limit]) + more
