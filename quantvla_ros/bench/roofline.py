# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The least time that a device needs for a network, from what the device was seen to do at best.

For each part the longer of two: its products at the rate of a large product of the same kind, and
its weights at the rate of a large copy or read; the parts added. Left out, so that it stays a bound
from below: norms, activations, rotations, everything between layers, keys and values, and starting
kernels. A weight is read each time it is used: in a network of full size no cache holds a step's.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from quantvla_ros.bench.clock import Spread, device_times, warm
from quantvla_ros.kernels import triton_int8
from quantvla_ros.quantization.linear import QuantizedLinear

INT8 = 'int8'
KINDS = ('float32', 'bfloat16', INT8)  # types of factors


@dataclass
class Work:
    """What a part does.

    Attributes:
        operations: multiplications and additions of its products, by the type of their factors.
        weight_bytes: of weights, each time they are read.
    """

    operations: dict[str, float] = field(default_factory=dict)
    weight_bytes: float = 0.0

    def add(self, kind: str, operations: float, weight_bytes: float) -> None:
        """One product more."""
        self.operations[kind] = self.operations.get(kind, 0.0) + operations
        self.weight_bytes += weight_bytes


@dataclass(frozen=True)
class Ceilings:
    """What a device was seen to do.

    Attributes:
        operations: a second, by type of the factors.
        bandwidth: bytes a second, of the best of reading and copying.
        seen: every measurement, by name, in the units above.
    """

    operations: Mapping[str, float]
    bandwidth: float
    seen: Mapping[str, float]

    def milliseconds(self, work: Work) -> float:
        """The least time for a part."""
        products = sum(count / self.operations[kind] for kind, count in work.operations.items())
        return 1e3 * max(products, work.weight_bytes / self.bandwidth)


class _Counter(TorchFunctionMode):
    """Counts products as they are called."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.work, self.depth = work, 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.depth == 0 and isinstance(result, Tensor):  # else inside of an integer layer
            self._count(func, args, result)
        return result

    def _count(self, func: Any, args: tuple[Any, ...], result: Tensor) -> None:
        if func is F.linear:
            weight = args[1]
            self._product(weight, 2.0 * result.numel() * weight.shape[1])
        elif func in (F.conv2d, torch.conv2d):
            weight = args[1]
            self._product(weight, 2.0 * result.numel() * weight[0].numel())
        elif func is torch.baddbmm:
            weight = args[2]
            self._product(weight, 2.0 * result.numel() * weight.shape[1])
        elif func is F.scaled_dot_product_attention:
            query, key = args[0], args[1]
            operations = 2.0 * key.shape[-2] * (query.numel() + result.numel())
            self.work.add(_kind(query), operations, 0.0)

    def _product(self, weight: Tensor, operations: float) -> None:
        self.work.add(_kind(weight), operations, weight.numel() * weight.element_size())


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix('torch.')


def count_work(network: torch.nn.Module, call: Callable[[], object]) -> Work:
    """What a call of a network's modules does, but for what it does the first time only."""
    call()
    work = Work()
    counter = _Counter(work)

    def before(layer: torch.nn.Module, args: tuple[Any, ...]) -> None:
        counter.depth += 1

    def after(layer: Any, args: tuple[Any, ...], result: Tensor) -> None:
        counter.depth -= 1
        stored = sum(buffer.numel() * buffer.element_size() for buffer in layer.buffers())
        work.add(INT8, 2.0 * result.numel() * layer.in_features, stored)

    handles = []
    for layer in network.modules():
        if isinstance(layer, QuantizedLinear):
            handles += [
                layer.register_forward_pre_hook(before), layer.register_forward_hook(after)
            ]
    try:
        with counter:
            call()
    finally:
        for handle in handles:
            handle.remove()
    return work


def measure_ceilings(device: torch.device, *, seconds: float) -> Ceilings:
    """What this device does at best.

    Args:
        seconds: how long each is warmed up.
    """
    gpu = device.type == 'cuda'
    seen: dict[str, float] = {}

    def measure(name: str, amount: float, call: Callable[[], object]) -> float:
        warm(call, device, seconds)
        seen[name] = 1e3 * amount / Spread.of(device_times(call, device, 20 if gpu else 5)).p50
        return seen[name]

    operations = {
        kind: max(
            measure(f'{name} {side}', 2.0 * side**3, call)
            for side in ((4096, 8192) if gpu else (1024,))
            for name, call in _products(kind, side, device).items()
        )
        for kind in KINDS
    }
    size = 2**29 if gpu else 2**26  # larger than any cache
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    bandwidth = max(
        measure('copy', 2.0 * size, lambda: target.copy_(source)),
        measure('read', 1.0 * size, source.sum),
    )
    return Ceilings(operations, bandwidth, seen)


def _products(kind: str, side: int, device: torch.device) -> dict[str, Callable[[], object]]:
    """Large square products: name to a call. Random factors: zeros would take less power."""
    generator = torch.Generator(device).manual_seed(0)
    if kind != INT8:
        a, b = (
            torch.randn(side, side, device=device, generator=generator).to(getattr(torch, kind))
            for _ in range(2)
        )
        return {f'{kind} linear': lambda: F.linear(a, b)}
    a, b = (
        torch.randint(-127, 128, (side, side), device=device, generator=generator).to(torch.int8)
        for _ in range(2)
    )
    calls: dict[str, Callable[[], object]] = {'int8 torch._int_mm': lambda: torch._int_mm(a, b.t())}
    if device.type == 'cuda' and triton_int8.unavailable(device) is None:
        scale = torch.full((side,), 1e-3, device=device)
        calls['int8 triton'] = lambda: triton_int8.scaled_matmul(
            a, scale, b, scale, None, torch.bfloat16
        )
    return calls
