# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a process takes and makes: memory by each account there is, kernels, allocations.

Knows torch, Triton, the driver and Linux; knows nothing of policies or of what is started. torch
and Triton are imported only where one of them is asked: the start of a process is timed.
"""
from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Made:
    """What has been compiled and allocated in this process since it was made."""

    def __init__(self, device: Any) -> None:
        """On a GPU this imports Triton, as a policy's first kernel would."""
        self._device = device
        self._compiled = self._cached = 0
        if device.type == 'cuda':
            from triton import knobs

            knobs.compilation.listener = self._note

    def _note(self, *, cache_hit: bool, **_: Any) -> None:
        if cache_hit:
            self._cached += 1
        else:
            self._compiled += 1

    def kernels(self) -> dict[str, int]:
        """Compiled, and fetched from Triton's cache."""
        return {'compiled': self._compiled, 'from_cache': self._cached}

    def now(self) -> dict[str, int]:
        """All counts; none on a CPU."""
        if self._device.type != 'cuda':
            return {}
        import torch

        stats = torch.cuda.memory_stats(self._device)
        found = {
            **self.kernels(),
            'allocations': stats['allocation.all.allocated'],
            'segments': stats['segment.all.allocated'],
        }
        pinned = torch.cuda.host_memory_stats().get('num_host_alloc')
        if pinned is not None:
            found['pinned_blocks'] = pinned
        return found

    def during(self, call: Callable[[], object]) -> dict[str, int]:
        """What a call makes."""
        before = self.now()
        call()
        return {name: count - before[name] for name, count in self.now().items()}


def own_memory() -> int:
    """Bytes of this process that are no file's (Linux)."""
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith('RssAnon'):
            return int(line.split()[1]) * 1024
    return 0


def gpu_memory(device: Any) -> dict[str, int]:
    """Bytes in use: by torch's account, the driver's of the GPU and, where it tells, of this."""
    import torch

    free, total = torch.cuda.mem_get_info(device)
    found = {
        'allocated': torch.cuda.memory_allocated(device),
        'reserved': torch.cuda.memory_reserved(device),
        'reserved_peak': torch.cuda.max_memory_reserved(device),
        'driver_whole': total - free,
    }
    found |= whole_gpu(identity(device))
    for line in nvidia_smi('--query-compute-apps=pid,used_memory', identity(device)):
        pid, _, used = (word.strip() for word in line.partition(','))
        if pid == str(os.getpid()) and used.isdigit():
            found['smi_process'] = int(used) * 2**20
    return found


def identity(device: Any) -> str:
    """The GPU's, as nvidia-smi knows it."""
    import torch

    uuid = getattr(torch.cuda.get_device_properties(device), 'uuid', None)
    return f'GPU-{uuid}' if uuid is not None else str(device.index or 0)


def whole_gpu(name: str) -> dict[str, int]:
    """What the driver has given away on a GPU; nothing where it does not say."""
    for line in nvidia_smi('--query-gpu=memory.used', name):
        if line.strip().isdigit():
            return {'smi_whole': int(line) * 2**20}
    return {}


def nvidia_smi(query: str, name: str) -> list[str]:
    """Lines of an answer; none where there is no such program."""
    command = ['nvidia-smi', query, '--format=csv,noheader,nounits', '-i', name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []
