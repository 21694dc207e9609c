# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What layers read while a network runs: order of use, second moments, ranges.

Knows modules and hooks; knows nothing of architectures, recipes or what the statistics are for.
Sums only: the memory does not grow with the number of runs.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from quantvla_ros.errors import CalibrationError
from quantvla_ros.quantization.quantize import Inputs

_QUANTILE_LIMIT = 1 << 24  # elements that torch.quantile takes


class _Enough(Exception):
    """Raised where everything that was asked for has been read."""


@contextmanager
def watch(
    model: nn.Module, names: Iterable[str], see: Callable[[str, Tensor], None]
) -> Iterator[None]:
    """Call `see(name, input)` whenever one of the layers is about to run."""
    handles = []
    try:
        for name in names:
            module = model.get_submodule(name)
            handles.append(
                module.register_forward_pre_hook(
                    lambda _, args, name=name: see(name, args[0].detach())
                )
            )
        yield
    finally:
        for handle in handles:
            handle.remove()


def reading_order(
    model: nn.Module, names: Sequence[str], run: Callable[[], object]
) -> list[list[str]]:
    """Layers in the order in which they run, those that read one tensor together.

    Args:
        run: uses the layers, each at least once; layers that it never uses are left out.
    """
    groups: list[tuple[Tensor, list[str]]] = []
    known: set[str] = set()

    def see(name: str, x: Tensor) -> None:
        if name in known:
            return
        known.add(name)
        for tensor, group in groups:
            if tensor.data_ptr() == x.data_ptr() and tensor.shape == x.shape:
                group.append(name)
                return
        groups.append((x, [name]))  # holds the tensor, so that its address stays its own

    with watch(model, names, see):
        run()
    return [group for _, group in groups]


@dataclass
class _Sums:
    """What one tensor that layers read was like, over all runs."""

    moments: Tensor
    cross: Tensor | None
    largest: Tensor
    rows: int = 0
    step_sizes: dict[str, dict[int, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One run to gather from.

    Attributes:
        step: denoising step.
        student: runs the network that is watched.
        teacher: runs the float network on what it would have seen; None: not wanted.
    """

    step: int
    student: Callable[[], object]
    teacher: Callable[[], object] | None = None


class Gatherer:
    """Statistics of what a group of layers reads, all of them one tensor.

    Args:
        names: the layers of the group.
        bases: by layer with static scales, the map of its inputs.
        percentile, levels: of static scales: the percentile of |x| that becomes the largest of
            `levels` numbers; over runs the largest counts.
        per_step: a static scale for each denoising step instead of one for all.
        cross: whether moments against the float policy's inputs are wanted.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        cross: bool,
        bases: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
        percentile: float = 100.0,
        levels: int = 127,
        per_step: bool = False,
    ) -> None:
        self.names, self.cross, self._per_step = tuple(names), cross, per_step
        self._bases, self._percentile, self._levels = dict(bases or {}), percentile, levels
        self._sums: _Sums | None = None

    def add(self, x: Tensor, reference: Tensor | None, step: int) -> None:
        """One reading.

        Args:
            x: [..., K] as the quantized policy gives it; reference: as the float policy does.
            step: denoising step.
        Raises:
            CalibrationError: a NaN or an infinity.
        """
        exact = x.dtype == torch.bfloat16
        x = x.reshape(-1, x.shape[-1]).float()
        largest = x.abs().amax(0)
        if not torch.isfinite(largest).all():
            raise CalibrationError(
                f'{self.names[0]}: expected finite inputs, found NaN or infinity; the checkpoint '
                f'is damaged'
            )
        sums = self._sums
        if sums is None:
            width = x.shape[1]
            zeros = x.new_zeros(width, width)
            cross = x.new_zeros(width, width) if self.cross else None
            sums = self._sums = _Sums(zeros, cross, largest)
        with _fast_products(exact):
            sums.moments.addmm_(x.t(), x)
            if sums.cross is not None:
                assert reference is not None
                sums.cross.addmm_(reference.reshape(-1, x.shape[1]).float().t(), x)
        torch.maximum(sums.largest, largest, out=sums.largest)
        sums.rows += len(x)
        for name, basis in self._bases.items():
            size = _percentile(basis(x).abs(), self._percentile) / self._levels
            step = step if self._per_step else 0
            sizes = sums.step_sizes.setdefault(name, {})
            sizes[step] = max(sizes.get(step, 1e-30), size)

    def inputs(self, name: str) -> Inputs | None:
        """What a layer of the group read; None: nothing ran it."""
        sums = self._sums
        if sums is None:
            return None
        sizes = sums.step_sizes.get(name)
        return Inputs(
            moments=sums.moments / sums.rows,
            cross=None if sums.cross is None else sums.cross / sums.rows,
            largest=sums.largest,
            step_size=None if sizes is None else torch.tensor([sizes[k] for k in sorted(sizes)]),
        )


@contextmanager
def _fast_products(exact: bool) -> Iterator[None]:
    """Let float32 products run in TF32, where that loses nothing: bfloat16 inputs fit in it."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = before or exact
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _percentile(magnitudes: Tensor, percentile: float) -> float:
    flat = magnitudes.flatten()
    if percentile >= 100.0:
        return float(flat.max())
    stride = -(-flat.numel() // _QUANTILE_LIMIT)
    return float(torch.quantile(flat[::stride], percentile / 100.0))


def gather(
    gatherers: Sequence[Gatherer],
    student: nn.Module,
    runs: Iterable[Run],
    *,
    teacher: nn.Module | None = None,
    teacher_prefix: str = '',
    until: str | None = None,
) -> None:
    """Run and gather.

    Args:
        student: the network whose layers are watched, by path.
        teacher: the float network, or its part below `teacher_prefix`; wanted for cross moments.
        until: path of a layer; nothing after it is needed, so a run ends where it would begin.
    """
    first = {gatherer.names[0]: gatherer for gatherer in gatherers}
    inner = {name.removeprefix(teacher_prefix): name for name in first}
    reference: dict[str, Tensor] = {}
    step = 0

    def see_teacher(name: str, x: Tensor) -> None:
        reference[inner[name]] = x
        if inner[name] == until:
            raise _Enough

    def see_student(name: str, x: Tensor) -> None:
        first[name].add(x, reference.get(name), step)
        if name == until:
            raise _Enough

    for run in runs:
        step = run.step
        reference.clear()
        if run.teacher is not None and teacher is not None:
            with watch(teacher, inner, see_teacher):
                _until_enough(run.teacher)
        with watch(student, first, see_student):
            _until_enough(run.student)


def _until_enough(run: Callable[[], object]) -> None:
    with suppress(_Enough):
        run()
