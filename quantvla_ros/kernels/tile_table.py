# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Measured tiles: files of them, one for each GPU, and the lookup of the best one for a product.

Knows names, sizes and files; knows nothing of tensors, kernels, or how a tile is measured. What was
measured on another GPU is a proposal: `best_tile` holds it against the memory of this one. What is
said of products holds for attentions (`best_attention_tile`): both are in one file.

There are two places. The package brings tables of the GPUs that were measured (`tile_tables/`), the
command `tune` writes those of the user's own GPU (`user_directory`). A product is looked up in this
order: the user's table, the package's, then the nearest product of either. A GPU without a table in
the package takes the one of its sibling, of the same compute capability and with the number of
multiprocessors nearest to its own. A file that cannot be read is left out with a warning: tiles are
about time only, never about the result.
"""
from __future__ import annotations

import dataclasses
import functools
import json
import logging
import math
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantvla_ros.errors import BackendError
from quantvla_ros.kernels import attention_tiles
from quantvla_ros.kernels.attention_tiles import (
    Attention,
    AttentionTile,
    choose_attention_tile,
)
from quantvla_ros.kernels.gemm_tiles import GemmTile, Product, choose_gemm_tile, fitted
from quantvla_ros.kernels.tile_entries import (
    Gpu,
    Measured,
    as_object,
    attention_entry,
    entry,
    entry_json,
)

__all__ = ['Gpu', 'Measured']  # of `tile_entries`, for those who read and write tables

FORMAT = 2  # written; 1, which has no attentions, is read too
SHIPPED = Path(__file__).resolve().parent / 'tile_tables'

_log = logging.getLogger(__name__)
_LARGEST_FILE = 4 << 20  # bytes; a table of every product we know has less than a tenth
_REACH = 1.5  # octaves, summed over the sizes, up to which another product's tile is taken
# What may differ between two alike, and for how much the nearest is looked up.
_SIZES: dict[type, tuple[str, ...]] = {
    Product: ('rows', 'outputs', 'columns'),
    Attention: ('queries', 'keys', 'segments'),
}


Entries = Mapping[Product | Attention, Measured]


@dataclass(frozen=True)
class TileTable:
    """The tiles to take on one GPU.

    Attributes:
        gpu: the GPU.
        own: measured on this very GPU by the user.
        shipped: of the package, of this GPU or its sibling.
    """

    gpu: Gpu
    own: Entries = dataclasses.field(default_factory=dict)
    shipped: Entries = dataclasses.field(default_factory=dict)

    def find(self, product: Product | Attention) -> Any:
        """The measured tile of a product or of the nearest one; None: nothing near was measured."""
        for table in (self.own, self.shipped):
            if product in table:
                return table[product].tile
        best, least = None, _REACH
        for table in (self.own, self.shipped):
            for known, one in table.items():
                distance = _distance(product, known)
                if distance < least or (best is None and distance == least):
                    best, least = one.tile, distance
        return best

    def untuned(
        self, products: Iterable[Product | Attention]
    ) -> list[Product | Attention]:
        """Those of `products` that have no entry of their own, each once, in their order."""
        unique = dict.fromkeys(products)
        return [p for p in unique if p not in self.own and p not in self.shipped]


@functools.lru_cache(maxsize=4096)
def best_tile(product: Product, gpu: Gpu) -> GemmTile:
    """The tile to take: the measured one of this product or a near one, else the rule's."""
    measured = _table_of(gpu).find(product)
    limits: dict[str, Any] = {'shared': gpu.shared, 'capability': gpu.capability}
    tile = None if measured is None else fitted(measured, product, **limits)
    if tile is None:
        return choose_gemm_tile(product, processors=gpu.processors, **limits)
    return tile


@functools.lru_cache(maxsize=1024)
def best_attention_tile(shape: Attention, gpu: Gpu) -> AttentionTile:
    """As `best_tile`, of an attention."""
    measured = _table_of(gpu).find(shape)
    limits: dict[str, Any] = {'shared': gpu.shared, 'capability': gpu.capability}
    tile = None if measured is None else attention_tiles.fitted(measured, shape, **limits)
    if tile is None:
        return choose_attention_tile(
            shape.rows, shape.keys, shape.groups, shape.size, attention_tiles.KINDS[shape.kind],
            processors=gpu.processors, shared=gpu.shared,
        )  # fmt: skip
    return tile


def user_directory(environment: Mapping[str, str] | None = None) -> Path | None:
    """Where the user's tables are; None: the environment names no home."""
    variables = os.environ if environment is None else environment
    for name, below in (('XDG_CACHE_HOME', ()), ('HOME', ('.cache',))):
        path = Path(variables.get(name, ''))
        if path.is_absolute():  # the XDG specification: a relative one is to be ignored
            return path.joinpath(*below, 'quantvla_ros', 'tiles')
    return None


@functools.cache
def _table_of(gpu: Gpu) -> TileTable:
    """Its files, read once: what `tune` writes serves from the next start on."""
    return load_table(gpu)


def table_path(directory: Path, gpu: Gpu) -> Path:
    """The file of a GPU's tiles."""
    return directory / f'{gpu.slug}.json'


def load_table(
    gpu: Gpu, *, user: Path | None = None, shipped: Path | None = None
) -> TileTable:
    """The tiles for a GPU; files that are damaged or another GPU's are left out with a warning.

    Args:
        user, shipped: other directories than `user_directory()` and the package's.
    """
    user = user_directory() if user is None else user
    own = {} if user is None else _readable(table_path(user, gpu), gpu)
    return TileTable(gpu, own, _of_nearest(gpu, SHIPPED if shipped is None else shipped))


def save_table(
    directory: Path, gpu: Gpu, entries: Sequence[Measured], made_with: Mapping[str, str]
) -> Path:
    """Add entries to the table of a GPU, replacing those of the same products, in one step.

    Args:
        made_with: names and versions of what it was measured with, for people.
    Returns:
        The file. A reader sees either the old one or the new one.
    Raises:
        BackendError: it cannot be written.
    """
    path = table_path(directory, gpu)
    merged = {**_readable(path, gpu), **{one.product: one for one in entries}}
    head = {
        'format': FORMAT,
        'gpu': gpu.name,
        'capability': list(gpu.capability),
        'processors': gpu.processors,
        'shared': gpu.shared,
        'made_with': dict(made_with),
    }
    text = json.dumps(head, indent=1)[:-2]
    for name, kind in (('entries', Product), ('attentions', Attention)):
        some = [one for one in merged.values() if isinstance(one.product, kind)]
        some.sort(key=lambda one: dataclasses.astuple(one.product))
        lines = [json.dumps(entry_json(one)) for one in some]
        text += f',\n "{name}": [' + ','.join(f'\n  {line}' for line in lines) + '\n ]'
    text += '\n}\n'
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _replace(path, text)
    except OSError as error:
        raise BackendError(
            f'{path}: cannot write there ({error.strerror}); name another directory'
        ) from None
    return path


def _replace(path: Path, text: str) -> None:
    """Write a file so that it is whole or not there, also after a power cut."""
    handle, name = tempfile.mkstemp(prefix=f'.{path.name}.', dir=path.parent)
    try:
        with os.fdopen(handle, 'w', encoding='utf-8') as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp's 0600 would hide it from a node of another user
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read_table(path: Path) -> tuple[Gpu, dict[Product | Attention, Measured]]:
    """A table's GPU and entries.

    Raises:
        BackendError: the file is no table, or one of its values is out of range.
        OSError: it cannot be read.
    """
    with path.open('rb') as file:
        data = file.read(_LARGEST_FILE + 1)
    if len(data) > _LARGEST_FILE:
        raise BackendError(f'expected at most {_LARGEST_FILE} bytes, found more')
    try:
        content = json.loads(data)
    # RecursionError: brackets by the thousand; ValueError: no JSON, or no UTF-8.
    except (ValueError, RecursionError) as error:
        raise BackendError(f'expected JSON, found {error}') from None
    content = as_object('the file', content)
    version = content.get('format')
    if isinstance(version, bool) or version not in (1, FORMAT):
        raise BackendError(f'format: expected 1 or {FORMAT}, found {version!r}')
    if version == 1:
        content = {**content, 'attentions': []}
    capability = content.get('capability')
    entries, attentions = content.get('entries'), content.get('attentions')
    if not all(isinstance(one, list) for one in (capability, entries, attentions)):
        raise BackendError('capability, entries, attentions: expected lists, found something else')
    gpu = Gpu(
        content.get('gpu'),  # type: ignore[arg-type]
        tuple(capability),  # type: ignore[arg-type]
        content.get('processors'),  # type: ignore[arg-type]
        content.get('shared'),  # type: ignore[arg-type]
    )
    found = [entry(f'entries[{index}]', one) for index, one in enumerate(entries)]
    found += [attention_entry(f'attentions[{i}]', one) for i, one in enumerate(attentions)]
    return gpu, {one.product: one for one in found if one is not None}


def _distance(one: Product | Attention, other: Product | Attention) -> float:
    """How unlike two products are, in octaves of their sizes; infinite: not comparable."""
    if type(one) is not type(other):
        return math.inf
    sizes = _SIZES[type(one)]
    if any(
        getattr(one, field.name) != getattr(other, field.name)
        for field in dataclasses.fields(one)
        if field.name not in sizes
    ):
        return math.inf
    return sum(abs(math.log2(getattr(one, size) / getattr(other, size))) for size in sizes)


def _readable(path: Path, gpu: Gpu | None) -> dict[Product | Attention, Measured]:
    """The entries of a file of ours; none where it is absent, damaged or another GPU's."""
    found = _table(path)
    if found is None:
        return {}
    theirs, entries = found
    if gpu is not None and theirs != gpu:
        _warn(path, f'expected a table of {gpu}, found one of {theirs}')
        return {}
    return entries


def _table(path: Path) -> tuple[Gpu, dict[Product | Attention, Measured]] | None:
    try:
        return read_table(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        _warn(path, error.strerror or str(error))
    except BackendError as error:
        _warn(path, str(error))
    return None


def _warn(path: Path, reason: str) -> None:
    _log.warning('%s: left out (%s); `quantvla_ros tune` writes it anew', path, reason)


def _of_nearest(gpu: Gpu, directory: Path) -> dict[Product | Attention, Measured]:
    """The entries of the GPU's own file in the directory, else of its sibling's."""
    own = _table(table_path(directory, gpu))
    if own is not None and own[0] == gpu:
        return own[1]
    siblings = []
    for path in sorted(directory.glob('*.json')):
        found = _table(path)
        if found is not None and found[0].capability == gpu.capability:
            # A tile that fills the memory of a larger GPU is of no use to a smaller one.
            fits = found[0].shared <= gpu.shared
            apart = abs(math.log2(found[0].processors / gpu.processors))
            siblings.append((not fits, apart, path.name, found[1]))
    return min(siblings, key=lambda one: one[:3])[3] if siblings else {}
