# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Measured tiles: files of them, one for each GPU, and the lookup of the best one for a product.

Knows names, sizes and files; knows nothing of tensors, kernels, or how a tile is measured. What was
measured on another GPU is a proposal: `best_tile` holds it against the memory of this one.

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
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantvla_ros.errors import BackendError
from quantvla_ros.kernels.gemm_tiles import (
    KINDS,
    GemmTile,
    Product,
    choose_gemm_tile,
    fitted,
)

FORMAT = 1
SHIPPED = Path(__file__).resolve().parent / 'tile_tables'

_log = logging.getLogger(__name__)
_LARGEST_FILE = 4 << 20  # bytes; a table of every product we know has less than a tenth
_REACH = 1.5  # octaves, summed over the sizes, up to which another product's tile is taken
_LARGEST_SIZE = 1 << 24  # of a product's rows, outputs or columns


@dataclass(frozen=True)
class Gpu:
    """What tells GPUs apart as far as tiles go.

    Attributes:
        name: as the driver gives it.
        capability: major and minor.
        processors: multiprocessors. shared: bytes of shared memory that one program may use.
    Raises:
        BackendError: a value out of range.
    """

    name: str
    capability: tuple[int, int]
    processors: int
    shared: int

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.slug:
            raise BackendError(f'gpu: expected the name of a GPU, found {self.name!r}')
        if not isinstance(self.capability, tuple) or len(self.capability) != 2:
            raise BackendError(f'capability: expected (major, minor), found {self.capability!r}')
        for part in self.capability:
            _whole('capability', part, 0, 99)
        _whole('processors', self.processors, 1, 4096)
        _whole('shared', self.shared, 1024, 1 << 24)

    @property
    def slug(self) -> str:
        """The name as part of a file's name."""
        return re.sub(r'[^a-z0-9]+', '_', self.name.lower()).strip('_')[:100]


@dataclass(frozen=True)
class Measured:
    """The best tile of one product on one GPU, and its time."""

    product: Product
    tile: GemmTile
    microseconds: float

    def __post_init__(self) -> None:
        time = self.microseconds
        if isinstance(time, bool) or not isinstance(time, (int, float)) or not 0 < time < 1e9:
            raise BackendError(f'microseconds: expected a positive number, found {time!r}')


@dataclass(frozen=True)
class TileTable:
    """The tiles to take on one GPU.

    Attributes:
        gpu: the GPU.
        own: measured on this very GPU by the user.
        shipped: of the package, of this GPU or its sibling.
    """

    gpu: Gpu
    own: Mapping[Product, Measured] = dataclasses.field(default_factory=dict)
    shipped: Mapping[Product, Measured] = dataclasses.field(default_factory=dict)

    def find(self, product: Product) -> GemmTile | None:
        """The measured tile of a product or of the nearest one; None: nothing near was measured."""
        for table in (self.own, self.shipped):
            if product in table:
                return table[product].tile
        best, least = None, _REACH
        for table in (self.own, self.shipped):
            for known, entry in table.items():
                distance = _distance(product, known)
                if distance < least or (best is None and distance == least):
                    best, least = entry.tile, distance
        return best

    def untuned(self, products: Iterable[Product]) -> list[Product]:
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
    merged = {**_readable(path, gpu), **{entry.product: entry for entry in entries}}
    ordered = sorted(merged.values(), key=lambda entry: dataclasses.astuple(entry.product))
    lines = ',\n  '.join(json.dumps(_entry_json(entry)) for entry in ordered)
    head = {
        'format': FORMAT,
        'gpu': gpu.name,
        'capability': list(gpu.capability),
        'processors': gpu.processors,
        'shared': gpu.shared,
        'made_with': dict(made_with),
    }
    text = json.dumps(head, indent=1)[:-2] + f',\n "entries": [\n  {lines}\n ]\n}}\n'
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


def read_table(path: Path) -> tuple[Gpu, dict[Product, Measured]]:
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
    content = _object('the file', content)
    if content.get('format') != FORMAT:
        raise BackendError(f'format: expected {FORMAT}, found {content.get("format")!r}')
    capability, entries = content.get('capability'), content.get('entries')
    if not isinstance(capability, list) or not isinstance(entries, list):
        raise BackendError('capability, entries: expected lists, found something else')
    gpu = Gpu(
        content.get('gpu'),  # type: ignore[arg-type]
        tuple(capability),  # type: ignore[arg-type]
        content.get('processors'),  # type: ignore[arg-type]
        content.get('shared'),  # type: ignore[arg-type]
    )
    found = [_entry(f'entries[{index}]', entry) for index, entry in enumerate(entries)]
    return gpu, {entry.product: entry for entry in found}


def _entry_json(entry: Measured) -> dict[str, Any]:
    return {
        **dataclasses.asdict(entry.product),
        'tile': dataclasses.asdict(entry.tile),
        'microseconds': round(entry.microseconds, 3),
    }


def _entry(where: str, value: Any) -> Measured:
    try:
        entry = dict(_object('it', value))
        tile, time = _tile(entry.pop('tile', None)), entry.pop('microseconds', None)
        return Measured(_product(entry), tile, time)  # type: ignore[arg-type]
    except BackendError as error:
        raise BackendError(f'{where}: {error}') from None


def _product(numbers: dict[str, Any]) -> Product:
    _check_fields('product', Product, numbers)
    if numbers['kind'] not in KINDS:
        raise BackendError(f'kind: expected one of {", ".join(KINDS)}, found {numbers["kind"]!r}')
    for name in ('rows', 'outputs', 'columns'):
        _whole(name, numbers[name], 1, _LARGEST_SIZE)
    if numbers['heads'] and not numbers['pairs']:
        raise BackendError('heads: expected pairs with them, found none')
    if numbers['measured'] and numbers['kind'] != 'int8':
        raise BackendError(f'measured: expected with kind int8, found with {numbers["kind"]}')
    _whole('head', numbers['head'], 0, 1024 if numbers['heads'] else 0)
    _whole('group', numbers['group'], 0, _LARGEST_SIZE if numbers['kind'] == 'int4' else 0)
    return Product(**numbers)


def _tile(value: Any) -> GemmTile:
    """A tile whose sizes a kernel can have."""
    numbers = _object('tile', value)
    _check_fields('tile', GemmTile, numbers)
    for name, number in numbers.items():
        if name == 'left':
            continue
        _whole(f'tile.{name}', number, 1, 1024)
        # A pipeline may have any depth; all else is a size of blocks.
        if name != 'stages' and number & (number - 1):
            raise BackendError(f'tile.{name}: expected a power of two, found {number}')
    return GemmTile(**numbers)


def _check_fields(name: str, kind: type, numbers: Mapping[str, Any]) -> None:
    """All fields of a dataclass are there and no others; what shall be true or false is."""
    fields = {field.name: field.type for field in dataclasses.fields(kind)}
    if set(numbers) != set(fields):
        raise BackendError(f'{name}: expected {", ".join(fields)}, found {", ".join(numbers)}')
    for field, type_ in fields.items():
        if type_ == 'bool' and not isinstance(numbers[field], bool):
            raise BackendError(f'{name}.{field}: expected true or false, found {numbers[field]!r}')


def _distance(one: Product, other: Product) -> float:
    """How unlike two products are, in octaves of their sizes; infinite: not comparable."""
    sizes = ('rows', 'outputs', 'columns')
    if any(
        getattr(one, field.name) != getattr(other, field.name)
        for field in dataclasses.fields(Product)
        if field.name not in sizes
    ):
        return math.inf
    return sum(abs(math.log2(getattr(one, size) / getattr(other, size))) for size in sizes)


def _object(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BackendError(f'{name}: expected an object, found {type(value).__name__}')
    return value


def _whole(name: str, value: Any, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise BackendError(
            f'{name}: expected a whole number in {least}..{most}, found {value!r}'
        )


def _readable(path: Path, gpu: Gpu | None) -> dict[Product, Measured]:
    """The entries of a file of ours; none where it is absent, damaged or another GPU's."""
    found = _table(path)
    if found is None:
        return {}
    theirs, entries = found
    if gpu is not None and theirs != gpu:
        _warn(path, f'expected a table of {gpu}, found one of {theirs}')
        return {}
    return entries


def _table(path: Path) -> tuple[Gpu, dict[Product, Measured]] | None:
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


def _of_nearest(gpu: Gpu, directory: Path) -> dict[Product, Measured]:
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
