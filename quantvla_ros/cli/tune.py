# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`tune`: find the fastest tile of every product and attention of a network, and keep it.

Exit status 0: all have one; 1: some tile gave a wrong result or some product has none, as listed;
2: there is no GPU to measure, or the call is at fault.
"""
from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quantvla_ros.errors import BackendError

# For the list of a machine without a GPU: an H100's.
_ASSUMED: dict[str, Any] = {'processors': 132, 'shared': 227 * 1024, 'capability': (9, 0)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        '--model', default='pi05', metavar='MODEL',
        help='pi05 (default), gr00t_n1_5 or smolvla (the public sizes), or a checkpoint or '
        'artifact directory',
    )
    parser.add_argument('--views', default='2,3', metavar='LIST', help='cameras (default 2,3)')
    parser.add_argument(
        '--prompt-tokens', default='48', metavar='LIST', help='of the whole prompt (default 48)'
    )
    parser.add_argument(
        '--chunk', metavar='LIST', help="actions of one inference (default: the model's)"
    )
    parser.add_argument(
        '--precision', default='bf16,w8a8,w4a8', metavar='LIST',
        help='any of bf16, w8a8, w4a8, paper-w4a8 (default bf16,w8a8,w4a8)',
    )
    parser.add_argument(
        '--only', metavar='LIST',
        help='parts of names, as --list shows them: expert,gate+up,attention vision',
    )
    parser.add_argument('--device', default='cuda', help='cuda (default) or cuda:N')
    parser.add_argument(
        '--again', action='store_true', help='measure also what is in the table already'
    )
    parser.add_argument(
        '--jobs', type=int, default=max(1, (os.cpu_count() or 2) - 2), metavar='N',
        help='processes that compile (default: the processors, less two)',
    )
    parser.add_argument(
        '--list', action='store_true', help='show what would be measured; needs no GPU'
    )
    parser.add_argument(
        '--out', type=Path, metavar='DIR',
        help="where the table goes (default: the user's cache, where the engine looks)",
    )
    parser.epilog = (
        'Lists are numbers or names with commas between them; every combination is measured. The '
        'table grows with every product: stopped and started again, the command goes on. Nothing '
        'else should use the GPU meanwhile. Tiles change the time, never the result.'
    )


def run(args: argparse.Namespace) -> int:
    """List or measure."""
    from quantvla_ros.kernels.tile_table import load_table, user_directory

    work = _products(args)
    if args.list:
        sys.stdout.write(_listing(work))
        return 0
    device, gpu = _gpu(args.device)
    work = _products(args, gpu.capability)
    directory = args.out or user_directory()
    if directory is None:
        raise BackendError(
            'expected XDG_CACHE_HOME or HOME in the environment, found neither; name a directory '
            'with --out'
        )
    if not args.again:
        known = load_table(gpu, user=directory).own
        left = {product: names for product, names in work.items() if product not in known}
        if len(left) < len(work):
            print(f'{len(work) - len(left)} products are in the table; --again measures them too')
        work = left
    limits = {
        'processors': gpu.processors, 'shared': gpu.shared, 'capability': gpu.capability,
    }
    tiles = {product: _tiles(product, **limits) for product in work}
    _compile(tiles, str(device), args.jobs)
    return _measure(work, tiles, device, gpu, directory)


def _compile(tiles: Mapping[Any, Sequence[Any]], device: str, jobs: int) -> None:
    """Fill the compiler's cache by many processes, so that measuring waits for nothing."""
    from quantvla_ros.kernels.tile_compile import compile_tiles, pieces

    total = sum(map(len, tiles.values()))
    if jobs < 2 or total == 0:
        return
    print(f'compiling {total} tiles in {jobs} processes', flush=True)
    shown = 0
    for done in compile_tiles(pieces(tiles.items()), device, jobs):
        if done * 10 // total > shown:
            shown = done * 10 // total
            print(f'  {done} of {total}', flush=True)


def _products(
    args: argparse.Namespace, capability: tuple[int, int] = (8, 0)
) -> dict[Any, list[str]]:
    """What is measured on a GPU, each product once, with the places it has in the network."""
    from quantvla_ros.engine.attentions import attentions
    from quantvla_ros.engine.products import PRECISIONS, Workload, products

    precisions = args.precision.split(',')
    for name in precisions:
        if name not in PRECISIONS:
            raise BackendError(
                f'--precision: expected any of {", ".join(PRECISIONS)}, found {name!r}'
            )
    config = _config(args.model)
    chunks = [None] if args.chunk is None else _numbers('--chunk', args.chunk)
    workloads = [
        Workload(views, tokens, chunk)
        for views in _numbers('--views', args.views)
        for tokens in _numbers('--prompt-tokens', args.prompt_tokens)
        for chunk in chunks
    ]
    named: list[tuple[Any, str]] = [
        (one.of(precision, capability), one.name)
        for precision in precisions for workload in workloads
        for one in products(config, workload)
    ]  # fmt: skip
    named += [
        (each.attention, each.name)
        for workload in workloads for each in attentions(config, workload)
    ]  # fmt: skip
    found: dict[Any, list[str]] = {}
    for product, name in named:
        names = found.setdefault(product, [])
        if name not in names:
            names.append(name)
    if args.only is None:
        return found
    wanted = args.only.split(',')
    found = {
        product: names for product, names in found.items()
        if any(part in name for name in names for part in wanted)
    }  # fmt: skip
    if not found:
        raise BackendError(f'--only: expected parts of names that --list shows, found {args.only}')
    return found


def _config(model: str) -> Any:
    """The sizes of a network, by name or of a directory."""
    from quantvla_ros.engine.products import PUBLIC
    from quantvla_ros.models.architectures import empty_network
    from quantvla_ros.models.checkpoint import read_config

    if model in PUBLIC and not Path(model).exists():
        return PUBLIC[model]()
    return empty_network(read_config(Path(model))).config


def _numbers(option: str, text: str) -> Sequence[int]:
    try:
        return [int(part) for part in text.split(',')]
    except ValueError:
        raise BackendError(
            f'{option}: expected whole numbers with commas between them, found {text!r}'
        ) from None


def _listing(work: dict[Any, list[str]]) -> str:
    """Every product, the tiles that would be tried for it, and where it is."""
    lines, total = [], 0
    for product, names in work.items():
        count = len(_tiles(product, **_ASSUMED))
        total += count
        lines.append(f'{_title(product):50} {count:3} tiles  {", ".join(names)}\n')
    lines.append(f'{len(work)} products, {total} tiles\n')
    return ''.join(lines)


def _tiles(product: Any, *, processors: int, shared: int, capability: tuple[int, int]) -> list[Any]:
    """What is tried for a product or an attention."""
    from quantvla_ros.kernels import attention_tiles
    from quantvla_ros.kernels.gemm_tiles import candidates
    from quantvla_ros.kernels.tile_search import promising

    limits: dict[str, Any] = {'shared': shared, 'capability': capability}
    if isinstance(product, attention_tiles.Attention):
        return attention_tiles.candidates(product, processors=processors, **limits)
    tiles = candidates(product, **limits)
    return list(promising(tiles, product, processors=processors))


def _title(product: Any) -> str:
    from quantvla_ros.kernels.attention_tiles import Attention

    if isinstance(product, Attention):
        many = f'{product.segments} x ' if product.segments > 1 else ''
        sizes = f'{many}{product.queries} x {product.keys}' + ' causal' * product.causal
        heads = f'{product.heads} heads'
        if product.kv_heads != product.heads:
            heads += f' on {product.kv_heads}'
        return f'{product.kind} {sizes}, {heads} of {product.size}'
    operands = f'{product.kind} (groups of {product.group})' if product.group else product.kind
    pairs = ' heads' if product.heads else ' pairs' if product.pairs else ''
    sizes = f'{product.rows} x {product.columns} -> {product.outputs}'
    return f'{operands} {sizes}{pairs}'


def _gpu(name: str) -> tuple[Any, Any]:
    """The device to measure, and what it is.

    Raises:
        BackendError: it is no GPU, or one that the kernels do not run on.
    """
    import torch

    from quantvla_ros.kernels.gpu import gpu_of
    from quantvla_ros.kernels.triton_int8 import unavailable

    try:
        device = torch.device(name)
    except RuntimeError:
        raise BackendError(f'--device: expected cuda or cuda:N, found {name!r}') from None
    if device.type != 'cuda':
        raise BackendError(f'--device: expected cuda or cuda:N, found {name}; a CPU has no tiles')
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (device.index or 0) >= count:
        raise BackendError(
            f'expected an NVIDIA GPU to measure on ({name}), found {count or "none"}; --list shows '
            f'what would be measured'
        )
    reason = unavailable(device)
    if reason is not None:
        raise BackendError(f'{device}: {reason}')
    return device, gpu_of(device)


def _measure(
    work: dict[Any, list[str]], tiles: Mapping[Any, Sequence[Any]], device: Any, gpu: Any,
    directory: Path,
) -> int:
    """Search every product's tiles, keeping each result as it comes."""
    from quantvla_ros.kernels.tile_search import search
    from quantvla_ros.kernels.tile_table import Measured, save_table, table_path
    from quantvla_ros.kernels.tile_trial import trial_of

    failed, made_with = 0, _made_with()
    for number, product in enumerate(work, 1):
        found = search(tiles[product], trial_of(product, device))
        title = f'[{number}/{len(work)}] {_title(product)}'
        # A tile that does not fit is no fault; one that gives something else is.
        wrong = [(tile, reason) for tile, reason in found.refused if reason.startswith('wrong')]
        failed += bool(wrong) or found.tile is None
        for tile, reason in wrong:
            print(f'{title}: {tile} is {reason}; please report it', file=sys.stderr)
        if found.tile is None:
            print(f'{title}: no tile runs here ({found.refused[0][1]})', file=sys.stderr)
            continue
        save_table(
            directory, gpu, [Measured(product, found.tile, found.microseconds)], made_with
        )
        us = found.microseconds
        print(f'{title}: {us:.1f} us, {found.tile} ({found.tried} tried)', flush=True)
    print(f'{table_path(directory, gpu)}: {len(work) - failed} of {len(work)} products measured')
    return 1 if failed else 0


def _made_with() -> dict[str, str]:
    import torch
    import triton

    from quantvla_ros import __version__

    return {'quantvla_ros': __version__, 'torch': torch.__version__, 'triton': triton.__version__}
