# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""INT8 and packed 4-bit linears against cuBLAS at pi0.5's shapes: right first, then fast.

    python benchmarks/kernels.py --out DIRECTORY/kernels.json [--tune]

On a GPU the calls of one shape go into one CUDA graph and walk through more weights than the L2
holds, as a network's layers do; the time is the median of replays over three interleaved rounds.
On a CPU (--device cpu) single calls are timed. Exits with 1 when a result is wrong.

Names: int4 has packed weights with one scale per channel, int4_g128 a small integer per 128 columns
besides; _h64 rotates the rows by Hadamard blocks of 64 before it quantizes them, _r64 by another
block for each 64 columns; _matmul is the product alone, quantize what comes before it.
"""
from __future__ import annotations

import argparse
import datetime
import functools
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from quantvla_ros import __version__
from quantvla_ros.kernels import reference, triton_int8
from quantvla_ros.kernels.linear import Rows, available_backends, int4_linear, int8_linear
from quantvla_ros.kernels.packing import expand, pack_int4
from quantvla_ros.kernels.tiles import Tile

# rows x columns -> outputs, and what it is in pi0.5
GPU_SHAPES = [
    (816, 2048, 32768, 'backbone gate+up, 3 views'),
    (816, 16384, 2048, 'backbone down, 3 views'),
    (816, 2048, 2560, 'backbone q+k+v, 3 views'),
    (560, 2048, 32768, 'backbone gate+up, 2 views'),
    (560, 16384, 2048, 'backbone down, 2 views'),
    (768, 1152, 3456, 'vision q+k+v, 3 views'),
    (50, 1024, 8192, 'expert gate+up'),
    (50, 4096, 1024, 'expert down'),
    (50, 1024, 2560, 'expert q+k+v'),
    (50, 2048, 1024, 'expert o'),
    (10, 1024, 8192, 'expert gate+up, chunk 10'),
]
CPU_SHAPES = [
    (544, 2048, 2048, 'backbone o, 2 views'),
    (50, 1024, 8192, 'expert gate+up'),
    (50, 4096, 1024, 'expert down'),
    (50, 1024, 2560, 'expert q+k+v'),
    (1, 1024, 4096, 'one row'),
]
TUNE_TILES = [
    Tile(*numbers)
    for numbers in (
        (16, 32, 256, 4, 4),
        (16, 64, 256, 4, 4),
        (64, 16, 256, 4, 4),
        (64, 32, 128, 4, 5),
        (64, 32, 256, 4, 4),
        (64, 64, 128, 4, 4),
        (64, 64, 256, 4, 3),
        (64, 128, 128, 4, 4),
        (128, 64, 128, 4, 4),
        (128, 128, 128, 8, 3),
        (128, 128, 128, 4, 4),
        (128, 256, 128, 8, 3),
        (256, 128, 128, 8, 3),
    )
]
TUNE_PACKED_TILES = [
    Tile(*numbers)
    for numbers in (
        (16, 32, 256, 4, 4),
        (16, 32, 512, 4, 4),
        (16, 64, 256, 4, 4),
        (16, 64, 512, 4, 3),
        (32, 32, 256, 4, 4),
        (32, 64, 256, 4, 4),
        (64, 32, 256, 4, 4),
        (64, 64, 256, 4, 4),
        (64, 64, 128, 4, 5),
        (64, 128, 128, 8, 4),
        (128, 64, 128, 4, 4),
        (128, 64, 256, 4, 3),
        (128, 128, 128, 8, 4),
        (128, 128, 128, 4, 4),
        (256, 64, 128, 4, 3),
        (256, 64, 128, 8, 3),
        (256, 128, 128, 8, 3),
    )
]
GROUP = 128


class Case:
    """Inputs of one shape: integer and bf16 weights, more of them than the cache holds."""

    def __init__(self, rows: int, columns: int, outputs: int, device: torch.device) -> None:
        self.rows, self.columns, self.outputs = rows, columns, outputs
        # Twice the L2 of an H100 in 4 bits; each format walks through its own.
        self.copies = max(2, -(-200_000_000 // (columns * outputs)))
        if device.type != 'cuda':
            self.copies = 1
        generator = torch.Generator(device).manual_seed(0)

        def integers(low: int, high: int, *shape: int) -> Tensor:
            return torch.randint(low, high, shape, device=device, generator=generator)

        def rotation(*shape: int) -> Tensor:
            found = torch.randn(*shape, device=device, generator=generator)
            return torch.linalg.qr(found)[0].half()

        self.x = torch.randn(rows, columns, device=device, generator=generator).bfloat16()
        self.scale = torch.rand(outputs, device=device, generator=generator) * 1e-3 + 1e-4
        copies = range(self.copies)
        self.weights_q = [integers(-127, 128, outputs, columns).to(torch.int8) for _ in copies]
        self.weights = [(w.float() * self.scale[:, None]).bfloat16() for w in self.weights_q]
        self.packed = [pack_int4(integers(-8, 8, outputs, columns).to(torch.int8)) for _ in copies]
        self.groups = [
            integers(1, 16, outputs, -(-columns // GROUP)).to(torch.uint8) for _ in copies
        ]
        self._quantized: dict[str, tuple[Tensor, Tensor]] = {}
        self.row_kinds = {
            '': Rows(),
            '_h64': Rows(rotation=hadamard(64, device)),
            '_r64': Rows(rotation=rotation(columns // 64, 64, 64)),
        }

    def systems(self, backend: str) -> dict[str, Callable[[int], Tensor]]:
        """What is compared: name to a call on the i-th weights."""
        calls: dict[str, Callable[[int], Tensor]] = {
            'bf16': lambda i: F.linear(self.x, self.weights[i])
        }
        if backend != 'triton':
            x, weights = self.x.float(), [w.float() for w in self.weights]
            calls['float32'] = lambda i: F.linear(x, weights[i])
        plain, _ = reference.quantize_rows(self.x)
        if backend == 'torch' or self.rows > 16:  # cuBLASLt refuses fewer rows
            calls['torch._int_mm'] = lambda i: torch._int_mm(plain, self.weights_q[i].t())
        for kind, rows in self.row_kinds.items():
            calls[f'int8{kind}'] = functools.partial(self._int8, rows, backend)
            if backend != 'triton':
                continue  # a CPU keeps the weights expanded and calls int8_linear
            calls[f'int4{kind}'] = functools.partial(self._int4, rows, 0)
            calls[f'int4_g128{kind}'] = functools.partial(self._int4, rows, GROUP)
            calls[f'quantize{kind}'] = functools.partial(self._quantize, rows)
        if backend == 'triton':
            calls |= {f'{name}_matmul': call for name, call in self.products().items()}
        return calls

    def _int8(self, rows: Rows, backend: str, i: int) -> Tensor:
        return int8_linear(self.x, self.weights_q[i], self.scale, rows=rows, backend=backend)

    def _int4(self, rows: Rows, group: int, i: int) -> Tensor:
        groups = self.groups[i] if group else None
        return int4_linear(self.x, self.packed[i], groups, group, self.scale, rows=rows)

    def _quantize(self, rows: Rows, i: int) -> Tensor:
        return triton_int8.quantize_rows(self.x, rows)[0]

    def products(self, tile: Tile | None = None) -> dict[str, Callable[[int], Tensor]]:
        """The Triton products alone, with the chosen tile or a given one."""
        q, scale = triton_int8.quantize_rows(self.x)
        split, _ = triton_int8.quantize_rows(self.x, split=True)
        bf16 = torch.bfloat16
        return {
            'int8': lambda i: triton_int8.scaled_matmul(
                q, scale, self.weights_q[i], self.scale, None, bf16, tile=tile
            ),
            'int4': lambda i: triton_int8.packed_matmul(
                split, scale, self.packed[i], None, 0, self.scale, None, bf16, tile=tile
            ),
            'int4_g128': lambda i: triton_int8.packed_matmul(
                split, scale, self.packed[i], self.groups[i], GROUP, self.scale, None, bf16,
                tile=tile,
            ),
        }

    def errors(self, calls: dict[str, Callable[[int], Tensor]]) -> dict[str, float]:
        """Relative error (2-norm) of each of our calls against the float64 definition."""
        found = {}
        for name, call in calls.items():
            if not name.startswith('int'):
                continue
            kind = next((k for k in self.row_kinds if k and name.endswith(k)), '')
            q, scale = self.quantized(kind)
            expected = reference.scaled_matmul(
                q, scale, self.weight_q(name), self.scale, None, torch.float64
            )
            y = call(0).double()
            error = float((y - expected).norm() / expected.norm())
            found[name] = error if torch.isfinite(y).all() else float('inf')
            del expected, y
        return found

    def quantized(self, kind: str) -> tuple[Tensor, Tensor]:
        """The rows' integers as the definition has them, and the scales."""
        if kind not in self._quantized:
            self._quantized[kind] = reference.quantize_rows(self.x, self.row_kinds[kind])
        return self._quantized[kind]

    def weight_q(self, name: str) -> Tensor:
        """The int8 weights of a call on the first weights."""
        if name.startswith('int4_g128'):
            return expand(self.packed[0], self.groups[0], GROUP)
        return expand(self.packed[0]) if name.startswith('int4') else self.weights_q[0]


def hadamard(size: int, device: torch.device) -> Tensor:
    """The Hadamard matrix of a power of two, over its root: [size, size] float16."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), matrix)
    return (matrix / size**0.5).half().to(device)


def timers(
    calls: dict[str, Callable[[int], Tensor]], copies: int, device: torch.device
) -> dict[str, Callable[[], float]]:
    """For each system a function that gives microseconds per call, once."""
    if device.type == 'cpu':
        return {name: _cpu_timer(call) for name, call in calls.items()}
    return {name: _graph_timer(call, copies) for name, call in calls.items()}


def _cpu_timer(call: Callable[[int], Tensor]) -> Callable[[], float]:
    call(0)

    def once() -> float:
        start = time.perf_counter()
        call(0)
        return (time.perf_counter() - start) * 1e6

    return once


def _graph_timer(call: Callable[[int], Tensor], copies: int) -> Callable[[], float]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for index in range(2):
            call(index)  # compiles, picks algorithms
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for index in range(copies):
            call(index)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def once() -> float:
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e3 / copies

    once()
    return once


def median_times(timers: dict[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """Median microseconds of each system; three rounds, interleaved against drifting clocks."""
    samples: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(3):
        for name, once in timers.items():
            samples[name] += [once() for _ in range(repeats)]
    return {name: statistics.median(values) for name, values in samples.items()}


def describe(device: torch.device) -> dict[str, object]:
    """The machine and the versions that a figure belongs to."""
    about: dict[str, object] = {
        'date': datetime.date.today().isoformat(),
        'quantvla_ros': __version__,
        'python': platform.python_version(),
        'torch': torch.__version__,
        'device': platform.processor() or platform.machine(),
    }
    if device.type == 'cuda':
        import triton

        about |= {
            'device': torch.cuda.get_device_name(device),
            'cuda': torch.version.cuda,
            'triton': triton.__version__,
        }
    else:
        about['threads'] = torch.get_num_threads()
        about['isa'] = torch.backends.cpu.get_cpu_capability()
    return about


def main() -> int:
    """Run the comparison; 0 when every result was right."""
    parser = argparse.ArgumentParser(description='INT8 linears against cuBLAS')
    parser.add_argument('--out', type=Path, required=True, help='JSON file to write')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--rows', type=int, help='only the shapes of so many rows')
    parser.add_argument('--tune', action='store_true', help='also time every tile (GPU)')
    args = parser.parse_args()
    device = torch.device(args.device)
    backend = available_backends(device)[0]
    shapes = GPU_SHAPES if device.type == 'cuda' else CPU_SHAPES
    shapes = [shape for shape in shapes if args.rows in (None, shape[0])]
    repeats = 15 if device.type == 'cuda' else 5
    results: list[dict[str, Any]] = []
    wrong = 0
    for rows, columns, outputs, what in shapes:
        case = Case(rows, columns, outputs, device)
        systems = case.systems(backend)
        errors = case.errors(systems)
        bad = [name for name, error in errors.items() if not error < 5e-3]  # bf16 rounds to 2**-9
        wrong += bool(bad)
        result: dict[str, Any] = {
            'rows': rows,
            'columns': columns,
            'outputs': outputs,
            'what': what,
            'errors': errors,
            'microseconds': median_times(timers(systems, case.copies, device), repeats),
        }
        if device.type == 'cuda':
            result['tile'] = vars(triton_int8._tile_on(rows, outputs, case.x.device))
            for group in (0, GROUP):
                tile = triton_int8._tile_on(rows, outputs, case.x.device, True, group)
                result[f'packed_tile_{group}'] = vars(tile)
            if args.tune:
                wrong += tune(case, result, device)
        results.append(result)
        print_row(result)
        for name in bad:
            print(f'    WRONG: {name}, relative error {errors[name]:.1e}', flush=True)
        del case, systems
    args.out.parent.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {'about': describe(device), 'backend': backend, 'results': results}
    args.out.write_text(json.dumps(report, indent=1) + '\n')
    print(f'{args.out}: {len(results)} shapes, {wrong} wrong, on {report["about"]["device"]}')
    return 1 if wrong else 0


def tune(case: Case, result: dict[str, Any], device: torch.device) -> int:
    """Add every tile that fits, the fastest first, to the result; how many gave a wrong product."""
    _, shared = triton_int8._gpu(case.x.device)
    wrong = 0
    tables = {'int8': TUNE_TILES, 'int4': TUNE_PACKED_TILES, 'int4_g128': TUNE_PACKED_TILES}
    for name, tiles in tables.items():
        calls = {}
        for tile in tiles:
            needed = tile.shared if name == 'int8' else tile.packed_shared
            if needed > shared or tile.rows >= 2 * max(case.rows, 64):
                continue
            call = case.products(tile)[name]
            if case.errors({name: call})[name] < 5e-3:
                calls[json.dumps(vars(tile))] = call
            else:
                print(f'    WRONG: {name} with {tile}', flush=True)
                wrong += 1
        times = median_times(timers(calls, case.copies, device), 3)
        ranked = sorted(times.items(), key=lambda item: item[1])
        result[f'{name}_tiles'] = [
            {'microseconds': value, **json.loads(tile)} for tile, value in ranked
        ]
    return wrong


def print_row(result: dict[str, Any]) -> None:
    """The figures of one shape."""
    size = f'{result["rows"]} x {result["columns"]} x {result["outputs"]}'
    print(f'{size}, {result["what"]}: largest error {max(result["errors"].values()):.1e}; us:')
    times = [f'{name} {value:.1f}' for name, value in result['microseconds'].items()]
    for start in range(0, len(times), 6):
        print('    ' + ', '.join(times[start : start + 6]), flush=True)
    for name in ('int8', 'int4', 'int4_g128'):
        for tile in result.get(f'{name}_tiles', [])[:3]:
            shape = f'{tile["rows"]}x{tile["outputs"]}x{tile["columns"]}'
            print(f'    {name} tile {shape}, {tile["warps"]} warps, {tile["stages"]} stages: '
                  f'{tile["microseconds"]:.1f}')


if __name__ == '__main__':
    sys.exit(main())
