# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""INT8 linears against cuBLAS at pi0.5's shapes: right first, then fast.

    python benchmarks/kernels.py --out DIRECTORY/kernels.json [--tune]

On a GPU the calls of one shape go into one CUDA graph and walk through more weights than the L2
holds, as a network's layers do; the time is the median of replays over three interleaved rounds.
On a CPU (--device cpu) single calls are timed. Exits with 1 when a result is wrong.
"""
from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from quantvla_ros import __version__
from quantvla_ros.kernels import reference, triton_int8
from quantvla_ros.kernels.linear import available_backends, int8_linear

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
    triton_int8.Tile(*numbers)
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


class Case:
    """Inputs of one shape: quantized and bf16 weights, more of them than the cache holds."""

    def __init__(self, rows: int, columns: int, outputs: int, device: torch.device) -> None:
        self.rows, self.columns, self.outputs = rows, columns, outputs
        # Twice the L2 of an H100; each format walks through that much on its own.
        copies = max(2, -(-100_000_000 // (columns * outputs))) if device.type == 'cuda' else 1
        self.float_dtype = torch.bfloat16
        generator = torch.Generator(device).manual_seed(0)
        self.x = torch.randn(rows, columns, device=device, generator=generator).bfloat16()
        self.weights_q = [
            torch.randint(
                -127, 128, (outputs, columns), dtype=torch.int8, device=device, generator=generator
            )
            for _ in range(copies)
        ]
        self.scale = torch.rand(outputs, device=device, generator=generator) * 1e-3 + 1e-4
        self.weights = [
            (w.float() * self.scale[:, None]).to(self.float_dtype) for w in self.weights_q
        ]
        self.q, self.row_scale = reference.quantize_rows(self.x)
        self.row_scale = self.row_scale.float()

    def error(self, backend: str) -> float:
        """Relative error (2-norm) against the float64 definition."""
        found = int8_linear(self.x, self.weights_q[0], self.scale, backend=backend).double()
        # In pieces: a whole product in float64 would not leave room for the rest.
        expected = reference.scaled_matmul(
            self.q, self.row_scale, self.weights_q[0], self.scale, None, torch.float64
        )
        if not torch.isfinite(found).all():
            return float('inf')
        return float((found - expected).norm() / expected.norm())

    def systems(self, backend: str) -> dict[str, Callable[[int], Tensor]]:
        """What is compared: name to a call on the i-th weights."""
        calls: dict[str, Callable[[int], Tensor]] = {
            'bf16': lambda i: F.linear(self.x, self.weights[i]),
            'int8_linear': lambda i: int8_linear(
                self.x, self.weights_q[i], self.scale, backend=backend
            ),
        }
        if backend == 'triton':
            calls['int8_matmul'] = lambda i: triton_int8.scaled_matmul(
                self.q, self.row_scale, self.weights_q[i], self.scale, None, torch.bfloat16
            )
        else:
            x, weights = self.x.float(), [w.float() for w in self.weights]
            calls['float32'] = lambda i: F.linear(x, weights[i])
        if backend == 'torch' or self.rows > 16:  # cuBLASLt refuses fewer rows
            calls['torch._int_mm'] = lambda i: torch._int_mm(self.q, self.weights_q[i].t())
        return calls

    def with_tile(self, tile: triton_int8.Tile) -> Callable[[int], Tensor]:
        """The Triton product with a given tile."""
        return lambda i: triton_int8.scaled_matmul(
            self.q, self.row_scale, self.weights_q[i], self.scale, None, torch.bfloat16, tile=tile
        )


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
    parser.add_argument('--tune', action='store_true', help='also time every tile (GPU)')
    args = parser.parse_args()
    device = torch.device(args.device)
    backend = available_backends(device)[0]
    shapes = GPU_SHAPES if device.type == 'cuda' else CPU_SHAPES
    repeats = 15 if device.type == 'cuda' else 5
    results, wrong = [], 0
    for rows, columns, outputs, what in shapes:
        case = Case(rows, columns, outputs, device)
        copies = len(case.weights_q)
        error = case.error(backend)
        wrong += not error < 5e-3  # bf16 results round to 2**-9
        times = median_times(timers(case.systems(backend), copies, device), repeats)
        result = {
            'rows': rows,
            'columns': columns,
            'outputs': outputs,
            'what': what,
            'error': error,
            'microseconds': times,
        }
        if device.type == 'cuda':
            tile = triton_int8._tile_on(rows, outputs, case.x.device)
            result['tile'] = vars(tile)
            if args.tune:
                result['tiles'] = tune(case, copies, device)
        results.append(result)
        print_row(result, header=len(results) == 1)
        del case
    args.out.parent.mkdir(parents=True, exist_ok=True)
    report = {'about': describe(device), 'backend': backend, 'results': results}
    args.out.write_text(json.dumps(report, indent=1) + '\n')
    print(f'{args.out}: {len(results)} shapes, {wrong} wrong, on {report["about"]["device"]}')
    return 1 if wrong else 0


def tune(case: Case, copies: int, device: torch.device) -> list[dict[str, object]]:
    """Every tile that fits, the fastest first."""
    _, shared = triton_int8._gpu(case.x.device)
    fitting = [
        tile
        for tile in TUNE_TILES
        if tile.shared <= shared and tile.rows < 2 * max(case.rows, 64)
    ]
    calls = {json.dumps(vars(tile)): case.with_tile(tile) for tile in fitting}
    times = median_times(timers(calls, copies, device), 5)
    ranked = sorted(times.items(), key=lambda item: item[1])
    return [{'microseconds': value, **json.loads(tile)} for tile, value in ranked]


def print_row(result: dict, header: bool) -> None:
    """One line of the table."""
    times = result['microseconds']
    names = ['bf16', 'float32', 'torch._int_mm', 'int8_matmul', 'int8_linear']
    if header:
        titles = ' '.join(f'{name:>14}' for name in names)
        print(f'{"rows x columns x outputs":>26} {"error":>8} {titles}  (us)')
    shape = f'{result["rows"]} x {result["columns"]} x {result["outputs"]}'
    cells = ' '.join(f'{times[n]:14.1f}' if n in times else f'{"-":>14}' for n in names)
    print(f'{shape:>26} {result["error"]:8.1e} {cells}  {result["what"]}', flush=True)
    for tile in result.get('tiles', [])[:3]:
        size = f'{tile["rows"]}x{tile["outputs"]}x{tile["columns"]}'
        print(f'{"":>36}{tile["microseconds"]:8.1f}us  {size}, {tile["warps"]} warps, '
              f'{tile["stages"]} stages')


if __name__ == '__main__':
    sys.exit(main())
