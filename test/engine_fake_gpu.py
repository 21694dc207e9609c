# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A GPU that is not there: tensors without numbers, and kernels that only look at what they get.

Whatever asks for a number, as a host that waits for the device does, is an error on such tensors;
`captured` refuses what a graph cannot hold.
"""
import contextlib
import dataclasses
from collections import Counter

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from quantvla_ros.kernels import (
    fused,
    triton_attention,
    triton_gemm,
    triton_gemm_launch,
    triton_gemm_reduce,
    triton_int8,
    triton_norms,
    triton_rows,
)
from quantvla_ros.kernels.counters import own_counters

GPU = torch.device('meta')
PROCESSORS, SHARED = 132, 227 * 1024
KERNELS = (
    (triton_gemm, 'gemm_kernel'),
    (triton_gemm_reduce, 'reduce_kernel'),
    (triton_norms, 'norm_kernel'),
    (triton_norms, 'norm_blocks_kernel'),
    (triton_attention, 'attention_kernel'),
    (triton_attention, 'join_kernel'),
    (triton_rows, 'quantize_rows_kernel'),
    (triton_rows, 'rotate_rows_kernel'),
    (triton_rows, 'rotate_blocks_kernel'),
)


class FakeGpu:
    """Stands in for a GPU while a test lasts.

    Attributes:
        launches: how often each kernel was.
    """

    def __init__(self, monkeypatch) -> None:
        self.launches: Counter = Counter()
        self._moved: dict[int, tuple[object, object]] = {}
        monkeypatch.setattr(fused, 'unavailable', lambda device: None)
        # It asks the device once for each setting, in a run before the capture.
        monkeypatch.setattr(triton_norms, '_rotation', lambda rows, dtype: (rows.rotation, 'tf32'))
        for module in (triton_int8, triton_attention):
            numbers = (PROCESSORS, SHARED)
            monkeypatch.setattr(module, '_gpu', lambda device, n=numbers: n, raising=False)
        for module, name in KERNELS:
            kernel = getattr(module, name)
            monkeypatch.setattr(module, name, _Kernel(name, kernel.arg_names, self.launches))
        self._caches = fused._implementation, triton_gemm_launch._chosen

    @contextlib.contextmanager
    def __call__(self):
        """Within, the launchers serve it."""
        for cache in self._caches:
            cache.cache_clear()
        try:
            with own_counters(), torch.no_grad():
                yield
        finally:
            for cache in self._caches:
                cache.cache_clear()

    def moved(self, thing):
        """An object with all tensors in it on the GPU; modules stay where they are."""
        if isinstance(thing, (tuple, list)):
            return type(thing)(self.moved(one) for one in thing)
        if isinstance(thing, torch.nn.Module) or not hasattr(thing, '__dict__'):
            return thing
        if id(thing) not in self._moved:
            if isinstance(thing, torch.Tensor):
                made = thing.to(GPU)
            elif dataclasses.is_dataclass(thing):
                fields = {f.name: getattr(thing, f.name) for f in dataclasses.fields(thing)}
                made = dataclasses.replace(thing, **{n: self.moved(v) for n, v in fields.items()})
            else:
                made = object.__new__(type(thing))
                vars(made).update({n: self.moved(v) for n, v in vars(thing).items()})
                made.device = GPU
            self._moved[id(thing)] = (made, thing)
        return self._moved[id(thing)][0]


@contextlib.contextmanager
def captured():
    """Within, no operation takes or gives a tensor of the host."""
    with _NoConstants(), _NoHost():
        yield


class _NoHost(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        result = function(*arguments, **(named or {}))
        for thing in tree_leaves((arguments, named, result)):
            on_host = isinstance(thing, torch.Tensor) and thing.device != GPU
            assert not on_host, f'{function}: a tensor of the host, {list(thing.shape)}'
        return result


class _NoConstants(TorchFunctionMode):
    """Numbers reach a device by way of the host."""

    def __torch_function__(self, function, types, arguments=(), named=None):
        assert function not in (torch.tensor, torch.as_tensor), f'{function}: a constant'
        return function(*arguments, **(named or {}))


class _Kernel:
    """Looks at its arguments, as a launch that would fail on them."""

    def __init__(self, name, arguments, launches) -> None:
        self._name, self._arguments, self._launches = name, arguments, launches

    def __getitem__(self, grid):
        def launch(*values, **named):
            given = dict(zip(self._arguments, values, strict=False)) | named
            for name, value in given.items():
                if isinstance(value, torch.Tensor):
                    assert value.device == GPU, f'{self._name}: {name} is on {value.device}'
            assert all(isinstance(size, int) and size > 0 for size in grid), f'{self._name}: {grid}'
            self._launches[self._name] += 1

        return launch
