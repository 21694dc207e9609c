# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What it means that a GPU has run out of memory, in a sentence with its numbers and a remedy.

Knows torch's exceptions and counters; knows nothing of what was being loaded.
"""
from __future__ import annotations

import re

import torch

_ASKED = re.compile(r'[Tt]ried to allocate ([\d.]+ [KMGT]?i?B)')
_FREE = re.compile(r'total capacity of ([\d.]+ [KMGT]?i?B) of which ([\d.]+ [KMGT]?i?B) is free')
_GIB = 2.0**30


def shortage(error: BaseException, device: str | torch.device) -> str | None:
    """What a GPU lacked and what to do about it; None where an error is about something else.

    Args:
        error: what was raised, by torch's allocator or by CUDA itself.
        device: that it was for.
    """
    text = str(error)
    if not isinstance(error, torch.OutOfMemoryError) and not (
        isinstance(error, RuntimeError) and 'CUDA error: out of memory' in text
    ):
        return None
    asked = _ASKED.search(text)
    numbers = [f'{asked[1]} more were needed'] if asked else []
    numbers += _room(text, torch.device(device))
    found = ': ' + ', '.join(numbers) if numbers else ''
    return (
        f'{device} is out of memory{found}; end other processes on it (nvidia-smi lists them), or '
        'take a smaller precision (a W4A8 artifact is the smallest), fewer prompt_lengths, no '
        'shadow_artifact, or another device'
    )


def _room(text: str, device: torch.device) -> list[str]:
    """How much there is, by the error's own words, else by the device's counters."""
    told = _FREE.search(text)
    if told:
        room = [f'{told[2]} of {told[1]} were free']
    elif device.type == 'cuda' and torch.cuda.is_initialized():
        try:
            free, total = torch.cuda.mem_get_info(device)
        except RuntimeError:  # a device that says nothing any more
            return []
        room = [f'{free / _GIB:.2f} GiB of {total / _GIB:.2f} GiB are free']
    else:
        return []
    if device.type == 'cuda' and torch.cuda.is_initialized():
        own = torch.cuda.memory_reserved(device)
        room.append(f'this process had {own / _GIB:.2f} GiB of it')
    return room
