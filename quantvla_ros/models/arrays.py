# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What processors make for networks on the host: arrays as tensors, ids of commands that are kept.

An arm waits for this work at every inference, and 10 ms or more after the last one the caches have
forgotten its code: it is paid by the number of calls, and torch's cost more than numpy's. So
vectors are arrays until they are done. Knows arrays and ids; knows nothing of what they mean.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

# Commands whose ids are kept: one stays for many inferences.
_KEPT = 8


def as_tensor(array: np.ndarray, device: torch.device | str = 'cpu') -> Tensor:
    """An array as a tensor: on the host the same memory, elsewhere a copy."""
    tensor = torch.from_numpy(array)
    return tensor if device == 'cpu' else tensor.to(device)


def id_row(ids: Sequence[int]) -> np.ndarray:
    """[1, T] int64."""
    return np.array([ids], np.int64)


def kept_rows(tokens: Callable[[str], Sequence[int]]) -> Callable[[str], np.ndarray]:
    """Command to [1, T] int64 ids, of those asked for last without `tokens`.

    A tokenizer keeps the ids of texts; this spares what is around it, from a command's checks and
    its prompt to an array of 500 numbers.

    Every caller gets a row of its own, which it may change. What `tokens` raises is not kept.
    """
    kept = lru_cache(maxsize=_KEPT)(lambda command: id_row(tokens(command)))
    return lambda command: kept(command).copy()
