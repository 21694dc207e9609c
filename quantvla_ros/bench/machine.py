# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The machine that a figure belongs to: names, versions, a Jetson's power mode, memory in use.

Reads what is there and leaves out what is not. Nothing of it names a person, a host or a path.
"""
from __future__ import annotations

import contextlib
import datetime
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from quantvla_ros import __version__
from quantvla_ros.kernels.gpu import gpu_of
from quantvla_ros.kernels.tile_table import load_table


def describe(device: torch.device) -> dict[str, Any]:
    """Names and versions."""
    about: dict[str, Any] = {
        'date': datetime.date.today().isoformat(),
        'quantvla_ros': __version__,
        'python': platform.python_version(),
        'torch': torch.__version__,
        'machine': platform.machine(),
        'cpu': _cpu(),
        'cpus': os.cpu_count(),
        'threads': torch.get_num_threads(),
        'memory_gib': round(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30, 1),
        'device': 'cpu',
    }
    if device.type == 'cuda':
        found = torch.cuda.get_device_properties(device)
        about |= {
            'device': found.name,
            'compute_capability': f'{found.major}.{found.minor}',
            'multiprocessors': found.multi_processor_count,
            'gpu_memory_gib': round(found.total_memory / 2**30, 1),
            'cuda': torch.version.cuda,
            'triton': _triton(),
            'tiles': _tiles(device),
            'driver': _run('nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader'),
            'clocks_power': _run(
                'nvidia-smi', '--format=csv,noheader',
                '--query-gpu=clocks.max.sm,clocks.sm,clocks.max.mem,power.limit,temperature.gpu',
            ),
        }
    about |= {
        'board': _read('/proc/device-tree/model'),
        'jetpack': _read('/etc/nv_tegra_release'),
        'power_mode': _run('nvpmodel', '-q'),
    }
    return {name: value for name, value in about.items() if value is not None}


def memory(device: torch.device) -> dict[str, int]:
    """Bytes in use, and the most since `reset_memory`.

    `gpu_whole` is what the driver has given away on that GPU, other processes included: on a GPU
    of one's own it is the whole process's, with the context and the kernels.
    """
    found = {'host_peak': host_peak()}
    if device.type == 'cuda':
        free, total = torch.cuda.mem_get_info(device)
        found |= {
            'gpu_allocated_peak': torch.cuda.max_memory_allocated(device),
            'gpu_reserved_peak': torch.cuda.max_memory_reserved(device),
            'gpu_whole': total - free,
        }
    return found


def reset_memory(device: torch.device) -> None:
    """Give back what is not used, and begin the peaks anew."""
    with contextlib.suppress(OSError):  # then the host's peak is the whole process's: more
        Path('/proc/self/clear_refs').write_text('5')
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def host_peak() -> int:
    """Bytes of the largest resident set (Linux)."""
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith('VmHWM'):
            return int(line.split()[1]) * 1024
    return 0


def _cpu() -> str:
    lines = Path('/proc/cpuinfo').read_text().splitlines()
    names = [line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.machine()


def _tiles(device: torch.device) -> dict[str, int]:
    """How many products' tiles were measured on this GPU, and on one like it by us."""
    table = load_table(gpu_of(device))
    return {'own': len(table.own), 'shipped': len(table.shipped)}


def _triton() -> str | None:
    try:
        import triton
    except ImportError:
        return None
    return triton.__version__


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(errors='replace').strip('\0\n ')[:500]
    except OSError:
        return None


def _run(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ' '.join(done.stdout.split())[:500] if done.returncode == 0 else None
