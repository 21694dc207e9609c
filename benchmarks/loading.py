# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Loading a checkpoint: time against the disk's own speed, and peak host memory against its size.

    python -m quantvla_ros random-checkpoint --size full --contract CONTRACT --bag BAG --out DIR
    python benchmarks/loading.py --checkpoint DIR --dtype bfloat16 float32 --out FILE.json

Each load runs in a process of its own, since a peak is a process's: VmHWM of /proc/self/status,
which counts anonymous memory (the weights) and pages of mapped files alike. "Cold": the files were
dropped from the page cache just before (posix_fadvise), "warm": they were read just before. The
disk's speed is a plain read of the same files through one small buffer, cold and warm too, in turns
with the loads. Exits with 1 where a load that keeps the stored type peaks at 1.2 times the
checkpoint or more. Needs Linux.
"""
from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from quantvla_ros import __version__
from quantvla_ros.models.architectures import architecture_of
from quantvla_ros.models.checkpoint import (
    checkpoint_files,
    load_model,
    network_weights,
    read_config,
)

MIB, GIB = 2**20, 2**30
DTYPES = {'bfloat16': torch.bfloat16, 'float32': torch.float32, 'float16': torch.float16}
BOUND = 1.2


def drop_from_cache(files: list[Path]) -> None:
    """Make the next read come from the disk."""
    for file in files:
        with file.open('rb') as opened:
            os.fsync(opened.fileno())  # only what is on the disk can be dropped
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_all(files: list[Path]) -> float:
    """Seconds to read the files through one buffer of 8 MiB."""
    buffer = bytearray(8 * MIB)
    began = time.perf_counter()
    for file in files:
        with file.open('rb', buffering=0) as opened:
            while opened.readinto(buffer):
                pass
    return time.perf_counter() - began


def memory() -> dict[str, int]:
    """Bytes of this process, by the kernel's account: the peak, and what it holds now."""
    names = {'VmHWM': 'peak', 'RssAnon': 'anonymous', 'RssFile': 'mapped_files'}
    lines = Path('/proc/self/status').read_text().splitlines()
    fields = dict(line.split(':', 1) for line in lines)
    return {ours: int(fields[name].split()[0]) * 1024 for name, ours in names.items()}


def load_once(checkpoint: Path, device: torch.device, dtype: str) -> dict[str, Any]:
    """Load in this process, which does nothing else."""
    if device.type == 'cuda':
        torch.zeros(1, device=device)  # the driver's start is not part of loading
        torch.cuda.synchronize(device)
    before = memory()
    began = time.perf_counter()
    model = load_model(checkpoint, device, DTYPES[dtype])
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - began
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    return {'seconds': seconds, 'weights': weights, 'before': before, 'after': memory()}


def load_in_child(args: argparse.Namespace, dtype: str) -> dict[str, Any]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, '--checkpoint', str(args.checkpoint), '--child', dtype,
               '--device', args.device]
    environment = {**os.environ, 'PYTHONPATH': str(Path(__file__).resolve().parents[1])}
    run = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(run.stdout)


def measure(args: argparse.Namespace, dtype: str) -> dict[str, Any]:
    """Some rounds of: the disk cold, the load cold, the disk warm, the load warm."""
    files = checkpoint_files(args.checkpoint)
    size = sum(file.stat().st_size for file in files)
    busy = os.getloadavg()
    times: dict[str, list[float]] = {}
    loads = []
    for number in range(args.rounds):
        for state in ('cold', 'warm'):
            if state == 'cold':
                drop_from_cache(files)
            times.setdefault(f'read_{state}', []).append(read_all(files))
            if state == 'cold':
                drop_from_cache(files)
            loads.append(load_in_child(args, dtype))
            times.setdefault(f'load_{state}', []).append(loads[-1]['seconds'])
        latest = ', '.join(f'{name} {values[-1]:.1f} s' for name, values in times.items())
        print(f'{dtype}, round {number + 1}: {latest}', flush=True)
    worst = max(loads, key=lambda one: one['after']['peak'])
    peak, before = worst['after']['peak'], worst['before']['peak']
    middle = {name: statistics.median(values) for name, values in times.items()}
    return {
        'dtype': dtype,
        'load_average_before': busy,
        'checkpoint_bytes': size,
        'weights_bytes': worst['weights'],
        'peak_host_bytes': peak,
        'peak_of_checkpoint': peak / size,
        'peak_of_weights': peak / worst['weights'],
        'peak_before_loading_bytes': before,
        'peak_of_checkpoint_beyond_the_process': (peak - before) / size,
        'after_loading_bytes': worst['after'],
        'seconds': times,
        'median_seconds': middle,
        'read_mib_per_s': {s: size / MIB / middle[f'read_{s}'] for s in ('cold', 'warm')},
        'load_mib_per_s': {s: size / MIB / middle[f'load_{s}'] for s in ('cold', 'warm')},
        'load_over_read_cold': middle['load_cold'] / middle['read_cold'],
    }


def processor() -> str:
    """Name of the CPU (Linux)."""
    lines = Path('/proc/cpuinfo').read_text().splitlines()
    names = [line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.machine()


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--checkpoint', type=Path, required=True)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--dtype', nargs='+', default=['bfloat16'], choices=DTYPES)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--child', choices=DTYPES, help=argparse.SUPPRESS)
    parser.add_argument('--out', type=Path)
    args = parser.parse_args()
    device = torch.device(args.device)
    if args.child:
        print(json.dumps(load_once(args.checkpoint, device, args.child)))
        return 0
    if args.out is None:
        parser.error('--out is required')
    architecture = architecture_of(read_config(args.checkpoint))
    stored = network_weights(args.checkpoint, architecture).weights.values()
    report: dict[str, Any] = {
        'date': datetime.date.today().isoformat(),
        'quantvla_ros': __version__,
        'torch': torch.__version__,
        'python': platform.python_version(),
        'device': torch.cuda.get_device_name(device) if device.type == 'cuda' else processor(),
        'cpus': os.cpu_count(),
        'threads': torch.get_num_threads(),
        'host_memory_gib': os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / GIB,
        'model': architecture.kind,
        'stored_types': sorted({one.type for one in stored}),
        'files': {f.name: f.stat().st_size for f in checkpoint_files(args.checkpoint)},
        'results': [],
    }
    kept = {'BF16': 'bfloat16', 'F32': 'float32', 'F16': 'float16'}
    too_much = False
    for dtype in args.dtype:
        result = measure(args, dtype)
        report['results'].append(result)
        args.out.write_text(json.dumps(report, indent=1) + '\n')
        middle, speed = result['median_seconds'], result['read_mib_per_s']
        print(
            f'{architecture.kind}, {result["checkpoint_bytes"] / GIB:.2f} GiB of '
            f'{" and ".join(report["stored_types"])} as {dtype} on {device}: peak host memory '
            f'{result["peak_host_bytes"] / GIB:.2f} GiB, {result["peak_of_checkpoint"]:.2f} of the '
            f'checkpoint and {result["peak_of_weights"]:.2f} of the weights; cold '
            f'{middle["load_cold"]:.1f} s (the disk {middle["read_cold"]:.1f} s, '
            f'{speed["cold"]:.0f} MiB/s), warm {middle["load_warm"]:.1f} s'
        )
        if report['stored_types'] == [next(k for k, v in kept.items() if v == dtype)]:
            too_much |= result['peak_of_checkpoint'] >= BOUND
    return 1 if too_much else 0


if __name__ == '__main__':
    sys.exit(main())
