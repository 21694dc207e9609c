# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a table of measured tiles consists of: GPUs, and the best tile of a product or an attention.

Knows names, sizes and JSON values; knows nothing of files, tensors or kernels. A file may come from
anywhere: what it says is held against what a kernel can have.
"""
from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from quantvla_ros.errors import BackendError
from quantvla_ros.kernels import attention_tiles
from quantvla_ros.kernels.attention_tiles import MOST_SPLITS, Attention, AttentionTile
from quantvla_ros.kernels.gemm_tiles import KINDS, GemmTile, Product

_LARGEST_SIZE = 1 << 24  # of a product's rows, outputs or columns, or of an attention's
_LARGEST_HEAD = 256


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
    """The best tile of one product, or attention, on one GPU, and its time."""

    product: Product | Attention
    tile: GemmTile | AttentionTile
    microseconds: float

    def __post_init__(self) -> None:
        time = self.microseconds
        if isinstance(time, bool) or not isinstance(time, (int, float)) or not 0 < time < 1e9:
            raise BackendError(f'microseconds: expected a positive number, found {time!r}')


def entry_json(entry: Measured) -> dict[str, Any]:
    """An entry as a file has it."""
    return {
        **dataclasses.asdict(entry.product),
        'tile': dataclasses.asdict(entry.tile),
        'microseconds': round(entry.microseconds, 3),
    }


def entry(where: str, value: Any) -> Measured | None:
    """A product's entry of a file; `where` it is, for the message.

    Returns:
        None: the entry is of a kernel that earlier versions had (`measured`).
    Raises:
        BackendError: it is none.
    """
    if isinstance(value, dict) and isinstance(value.get('measured'), bool):
        value = dict(value)
        if value.pop('measured'):
            return None
    return _read(where, value, _product, _tile)


def attention_entry(where: str, value: Any) -> Measured:
    """An attention's entry; `where` and errors as for `entry`."""
    return _read(where, value, _attention, _attention_tile)


def _read(
    where: str, value: Any, product: Callable[[Any], Any], tile: Callable[[Any], Any]
) -> Measured:
    try:
        numbers = dict(as_object('it', value))
        found, time = tile(numbers.pop('tile', None)), numbers.pop('microseconds', None)
        return Measured(product(numbers), found, time)  # type: ignore[arg-type]
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
    _whole('head', numbers['head'], 0, 1024 if numbers['heads'] else 0)
    _whole('group', numbers['group'], 0, _LARGEST_SIZE if numbers['kind'] == 'int4' else 0)
    return Product(**numbers)


def _tile(value: Any) -> GemmTile:
    """A tile whose sizes a kernel can have."""
    numbers = _tile_fields(GemmTile, value)
    for name, number in numbers.items():
        if isinstance(number, bool) and name in ('left', 'bulk'):
            continue
        # One step may hold all columns of a program.
        _whole(f'tile.{name}', number, 1, 4096 if name == 'columns' else 1024)
        # A pipeline may have any depth; all else is a size of blocks.
        if name != 'stages' and number & (number - 1):
            raise BackendError(f'tile.{name}: expected a power of two, found {number}')
    return GemmTile(**numbers)


def _attention(numbers: dict[str, Any]) -> Attention:
    _check_fields('attention', Attention, numbers)
    kind, heads = numbers['kind'], numbers['heads']
    if not isinstance(kind, str) or kind not in attention_tiles.KINDS:
        known = ', '.join(attention_tiles.KINDS)
        raise BackendError(f'kind: expected one of {known}, found {kind!r}')
    for name in ('queries', 'keys', 'heads', 'kv_heads', 'segments'):
        _whole(name, numbers[name], 1, _LARGEST_SIZE)
    _whole('size', numbers['size'], 1, _LARGEST_HEAD)
    if heads % numbers['kv_heads']:
        raise BackendError(f'heads: expected a multiple of kv_heads, found {heads}')
    return Attention(**numbers)


def _attention_tile(value: Any) -> AttentionTile:
    """A tile whose sizes a kernel can have."""
    numbers = _tile_fields(AttentionTile, value)
    for name, least, most in (('rows', 16, 256), ('keys', 16, 256), ('warps', 1, 16)):
        _whole(f'tile.{name}', numbers[name], least, most)
        if numbers[name] & (numbers[name] - 1):
            raise BackendError(f'tile.{name}: expected a power of two, found {numbers[name]}')
    _whole('tile.stages', numbers['stages'], 1, 16)
    _whole('tile.splits', numbers['splits'], 1, MOST_SPLITS)
    return AttentionTile(**numbers)


def _tile_fields(kind: type, value: Any) -> dict[str, Any]:
    """A tile's fields; what it may also have is absent from the files of earlier versions."""
    also = {field.name: field.default for field in dataclasses.fields(kind)}
    also = {name: one for name, one in also.items() if one is not dataclasses.MISSING}
    numbers = {**also, **as_object('tile', value)}
    _check_fields('tile', kind, numbers)
    return numbers


def _check_fields(name: str, kind: type, numbers: Mapping[str, Any]) -> None:
    """All fields of a dataclass are there and no others; what shall be true or false is."""
    fields = {field.name: field.type for field in dataclasses.fields(kind)}
    if set(numbers) != set(fields):
        raise BackendError(f'{name}: expected {", ".join(fields)}, found {", ".join(numbers)}')
    for field, type_ in fields.items():
        if type_ == 'bool' and not isinstance(numbers[field], bool):
            raise BackendError(f'{name}.{field}: expected true or false, found {numbers[field]!r}')


def as_object(name: str, value: Any) -> dict[str, Any]:
    """A JSON object.

    Raises:
        BackendError: it is something else.
    """
    if not isinstance(value, dict):
        raise BackendError(f'{name}: expected an object, found {type(value).__name__}')
    return value


def _whole(name: str, value: Any, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise BackendError(
            f'{name}: expected a whole number in {least}..{most}, found {value!r}'
        )
