# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The weights' files of a checkpoint: which they are, what their headers say, and their numbers.

Headers are judged by the safetensors library and read without touching the numbers. Numbers are
read through a window of the file that is mapped, copied to where they belong in the type they get,
and unmapped: host memory holds one window beside the weights, and none of the file's pages. They
are copied in any case, since a file that is replaced while a policy runs would move the arm, and
mapped pages can be driven out of memory and come back late.

Knows safetensors files; knows nothing of networks or of what the names in a file mean.
"""
from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from quantvla_ros.errors import CheckpointError

INDEX = 'model.safetensors.index.json'
SINGLE = 'model.safetensors'
WINDOW = 64 * 1024**2

# Types a network's weights can have, by their names in a file.
FLOATS = {
    'F64': torch.float64,
    'F32': torch.float32,
    'F16': torch.float16,
    'BF16': torch.bfloat16,
}
# Bytes of a number; files may hold others than weights beside them.
_BYTES = {
    'F64': 8, 'F32': 4, 'F16': 2, 'BF16': 2, 'I64': 8, 'I32': 4, 'I16': 2, 'I8': 1, 'U64': 8,
    'U32': 4, 'U16': 2, 'U8': 1, 'BOOL': 1, 'F8_E4M3': 1, 'F8_E5M2': 1, 'F8_E8M0': 1,
    'F8_E4M3FNUZ': 1, 'F8_E5M2FNUZ': 1, 'C64': 8,
}


@dataclass(frozen=True)
class Stored:
    """One tensor in a file.

    Attributes:
        file, name: where it is, and its name there.
        type: of its numbers, as the file names it ('BF16').
        shape: may be empty, for one number.
        start: its first byte in the file.
    """

    file: Path
    name: str
    type: str
    shape: tuple[int, ...]
    start: int

    def __str__(self) -> str:
        return f'{self.file}: {shown(self.name)}'

    @property
    def count(self) -> int:
        """Its numbers."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Its size in the file."""
        return self.count * _BYTES[self.type]


def checkpoint_files(directory: Path) -> list[Path]:
    """The safetensors files of a checkpoint: one, or those its index names.

    Raises:
        CheckpointError: none there, an index that does not fit, or one that leads elsewhere.
    """
    return sorted(_assigned(Path(directory)))


def read_headers(directory: Path) -> list[Stored]:
    """Every tensor of a checkpoint, from the files' headers alone.

    Raises:
        CheckpointError: a file is missing or damaged, shards do not belong together, or a tensor
            is stored twice.
    """
    directory = Path(directory)
    found: dict[str, Stored] = {}
    for file, names in sorted(_assigned(directory).items()):
        held = {stored.name: stored for stored in read_header(file)}
        if names is not None and names != set(held):
            other = sorted(names ^ set(held))
            raise CheckpointError(
                f'{file}: expected the {len(names)} tensors that {INDEX} assigns to it, found '
                f'{len(held)}, and only one of the two has {shown(other[0])}; the shards are of '
                f'different checkpoints, fetch them all again'
            )
        found.update(held)
    return list(found.values())


def read_header(file: Path) -> list[Stored]:
    """The tensors of one file, in the order in which they lie there.

    Raises:
        CheckpointError: it is damaged, cut off, or holds numbers of a type that nothing reads.
    """
    with _opened(file) as opened:
        size = os.fstat(opened.fileno()).st_size
        first = opened.read(64)
    if first.startswith(b'version https://git-lfs'):
        raise CheckpointError(
            f'{file}: expected weights, found a pointer of Git LFS to them; run git lfs pull there'
        )
    start = 8 + int.from_bytes(first[:8], 'little')
    tensors = []
    try:
        with safe_open(file, framework='pt') as held:
            for name in held.offset_keys():
                view = held.get_slice(name)
                kind = view.get_dtype()
                if kind not in _BYTES:
                    raise CheckpointError(
                        f'{file}: {shown(name)}: expected one of the types '
                        f'{", ".join(FLOATS)}, found {kind}; the file is quantized already, '
                        f'pass the checkpoint it was made of'
                    )
                tensors.append(Stored(file, name, kind, tuple(view.get_shape()), start))
                start += tensors[-1].bytes
    except (SafetensorError, OSError, RuntimeError) as error:
        raise CheckpointError(
            f'{file}: expected a whole safetensors file, found {size} bytes that are cut off or '
            f'are none ({_line(error)}); fetch it again'
        ) from None
    return tensors


def read_tensors(
    wanted: Iterable[tuple[Stored, torch.dtype]],
    device: torch.device | str,
    mapped: bool = False,
) -> Iterator[tuple[Stored, Tensor]]:
    """Tensors with their numbers, each in the type it is wanted in, on a device.

    Args:
        wanted: in any order; they come file by file as they lie there.
        mapped: those that the host gets as they are stored are views of the file, which must not
            change for as long as they live.
    Raises:
        CheckpointError: a file can no longer be read.
    """
    opened: BinaryIO | None = None
    file = None
    try:
        for stored, dtype in sorted(wanted, key=lambda one: (one[0].file, one[0].start)):
            if opened is None or stored.file != file:
                if opened is not None:
                    opened.close()
                opened, file = _opened(stored.file), stored.file
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            if mapped and _as_stored(stored, dtype, device):
                yield stored, _mapped_tensor(opened, stored)
            else:
                yield stored, _read_tensor(opened, stored, dtype, device)
    finally:
        if opened is not None:
            opened.close()


def _as_stored(stored: Stored, dtype: torch.dtype, device: torch.device | str) -> bool:
    """A tensor that is wanted just as it lies in the file."""
    kind = FLOATS[stored.type]
    aligned = stored.start % kind.itemsize == 0
    return aligned and stored.count > 0 and dtype == kind and torch.device(device).type == 'cpu'


def _mapped_tensor(opened: BinaryIO, stored: Stored) -> Tensor:
    kind = FLOATS[stored.type]
    raw = _window(opened, stored, stored.start, stored.count * kind.itemsize)
    return raw.view(kind).view(stored.shape)


def _read_tensor(
    opened: BinaryIO, stored: Stored, dtype: torch.dtype, device: torch.device | str
) -> Tensor:
    tensor = torch.empty(stored.shape, dtype=dtype, device=device)
    flat, kind = tensor.view(-1), FLOATS[stored.type]
    step = WINDOW // kind.itemsize
    for first in range(0, stored.count, step):
        count = min(step, stored.count - first)
        start, length = stored.start + first * kind.itemsize, count * kind.itemsize
        flat[first : first + count].copy_(_window(opened, stored, start, length).view(kind))
    return tensor


def _window(opened: BinaryIO, stored: Stored, start: int, length: int) -> Tensor:
    """[length] bytes of a file, mapped for as long as the tensor lives."""
    before = start % mmap.ALLOCATIONGRANULARITY
    try:
        mapped = mmap.mmap(
            opened.fileno(), before + length, access=mmap.ACCESS_COPY, offset=start - before
        )
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f'{stored}: cannot be read any more ({error}); the file was '
            f'changed meanwhile, load it again'
        ) from None
    mapped.madvise(mmap.MADV_SEQUENTIAL)  # the disk reads ahead while we copy
    raw = torch.frombuffer(mapped, dtype=torch.uint8, offset=before, count=length)
    # Some writers do not align the numbers.
    return raw if start % FLOATS[stored.type].itemsize == 0 else raw.clone()


def _opened(file: Path) -> BinaryIO:
    try:
        return file.open('rb')
    except OSError as error:
        raise CheckpointError(
            f'{file}: expected weights, found {error.strerror}; fetch it again'
        ) from None


def _assigned(directory: Path) -> dict[Path, set[str] | None]:
    """The files, each with the names that the index assigns to it; None where there is no index."""
    index, single = directory / INDEX, directory / SINGLE
    if not index.is_file():
        if not single.is_file():
            raise CheckpointError(f'{single}: expected weights, found {_instead(directory)}')
        return {single: None}
    if single.is_file():
        raise CheckpointError(
            f'{directory}: expected {SINGLE} or the shards of {INDEX}, found both; remove the one '
            f'that is not meant'
        )
    assigned: dict[Path, set[str] | None] = {}
    for name, file in _weight_map(index).items():
        names = assigned.setdefault(directory / file, set())
        assert names is not None
        names.add(name)
    for path in assigned:
        if not path.is_file():
            raise CheckpointError(
                f'{path}: expected the weights that {INDEX} names, found '
                f'{"a link to a missing file" if path.is_symlink() else "no such file"}; '
                f'fetch it again'
            )
    return assigned


def _weight_map(index: Path) -> dict[str, str]:
    """Each tensor's file by an index; all lie beside it."""
    try:
        content = json.loads(index.read_text(encoding='utf-8'))
        entries = content['weight_map'].items()
    # ValueError: no JSON, or not UTF-8; RecursionError: nested without end.
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f'{index}: expected an index with a weight_map, found {_line(error)}; fetch it again'
        ) from None
    if not entries:
        raise CheckpointError(f'{index}: weight_map: expected names, found none; fetch it again')
    for name, file in entries:
        inside = isinstance(file, str) and file == Path(file).name and '\0' not in file
        if not inside or not file.endswith('.safetensors'):
            raise CheckpointError(
                f'{index}: {shown(name)}: expected a .safetensors file beside the index, found '
                f'{shown(repr(file))}; fetch it again'
            )
    return dict(entries)


def _instead(directory: Path) -> str:
    """What a directory without weights holds, and what to do."""
    if (directory / SINGLE).is_symlink():
        return 'a link to a missing file; fetch it again'
    names = sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []
    if any(name.startswith('adapter_') for name in names):
        return 'a LoRA adapter alone; merge it into its base model and pass the merged checkpoint'
    pickled = [name for name in names if name.endswith(('.bin', '.pt', '.pth', '.ckpt'))]
    if pickled:
        return (
            f'{pickled[0]}, a pickle, which can run any code and is never opened; convert it to '
            f'safetensors in a sandbox'
        )
    if 'params' in names:
        return (
            'weights of JAX (params); convert them with openpi\'s '
            'examples/convert_jax_model_to_pytorch.py'
        )
    others = [name for name in names if name.endswith('.safetensors')]
    if any('-of-' in name for name in others):
        return f'shards without {INDEX}; fetch that too'
    return 'no such file; fetch the whole repository'


def shown(name: str, limit: int = 200) -> str:
    """A name out of a file as part of one line: it may hold anything."""
    text = name if name.isprintable() else ascii(name)
    return text if len(text) <= limit else text[:limit] + '...'


def _line(error: BaseException, limit: int = 200) -> str:
    """A library's error as part of one line."""
    return shown(' '.join(str(error).split()), limit)
