# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How a multiprocessor divides its memory between cache and programs, the same for all kernels.

Knows the driver; knows nothing of what a kernel computes. A multiprocessor changes that division
only while it is empty (CUDA programming guide, shared memory of compute capability 9.0), and the
driver chooses it for each kernel by what that needs. So a program of a large tile would wait on
each multiprocessor that has a program of a norm, instead of loading its weights beside it.
"""
from __future__ import annotations

import ctypes
import functools
from typing import Any

from quantvla_ros.errors import BackendError

_CARVEOUT = 9  # CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT
_ALL = 100  # CU_SHAREDMEM_CARVEOUT_MAX_SHARED, in percent

_set: set[int] = set()


def all_for_programs(compiled: Any) -> None:
    """Have a kernel that Triton has started ask for all of a multiprocessor's memory, from now on.

    Raises:
        BackendError: the driver refuses.
    """
    function = compiled.function
    if function in _set:
        return
    status = _driver().cuFuncSetAttribute(ctypes.c_void_p(function), _CARVEOUT, _ALL)
    if status != 0:
        raise BackendError(f'cuFuncSetAttribute: expected 0 (success), found {status}')
    _set.add(function)


@functools.cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL('libcuda.so.1')
