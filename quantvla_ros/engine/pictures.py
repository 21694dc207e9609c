# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Camera pictures on their way to the GPU as bytes, and fitted to the network's there.

Knows bytes and fits (`models.fitting`); knows nothing of architectures or cameras. A picture of
640 x 480 is 0.9 MB as bytes, and nothing but these cross. What follows is gathers, products and
sums of int32 or float32, one rounding each, never a matrix product: there is nothing that TF32
could shorten, and a GPU gives the bits that a CPU gives. None of it depends on what is in a
picture, so it can be captured in a graph; none of it is compiled.

Against the CPU path (`processor.inputs`): equal to the bit where the reference works in integers
(openpi's pi0.5, lerobot's GR00T); within 0.001 of 1/255 where it works in float (lerobot's pi0.5,
SmolVLA); within one level of 255 for Isaac-GR00T, which cuts fractions off float sums whose last
bit is another on each CPU. `test_engine_pictures.py` holds all of it to that.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quantvla_ros.engine.graph import Captured
from quantvla_ros.errors import ObservationError
from quantvla_ros.models.architecture import Processor
from quantvla_ros.models.fitting import Fit, Taps
from quantvla_ros.observation.types import Observation

Size = tuple[int, int]  # height and width

_COLUMNS, _ROWS = 2, 1  # dimensions of [views, rows, columns, 3]


def picture_sizes(slots: Sequence[str], images: Mapping[str, np.ndarray]) -> dict[str, Size]:
    """Height and width of an observation's pictures, in the network's order of slots."""
    found = ((slot, images[slot].shape) for slot in slots if slot in images)
    return {slot: (shape[0], shape[1]) for slot, shape in found}


class PictureReader:
    """An observation to a network's inputs, as a processor's `inputs`, pictures fitted on a device.

    A contract names no sizes: a camera's is that of its first picture, and from then on another is
    an error, for a new one takes memory and a graph, which have no place on the control path. What
    is needed can be had earlier by `prepare`. Pictures of the network's own size, as a warm-up
    makes them, are always taken and settle nothing. Not thread-safe.
    """

    def __init__(
        self, processor: Processor, device: torch.device, *, fewest: int | None = None
    ) -> None:
        """`fewest`: with some cameras' first pictures, make ready for so few of them too.

        A camera that falls out while the arm moves then takes no time.
        """
        self._processor, self._device, self._fewest = processor, device, fewest
        self._settled: dict[str, Size] = {}
        self._made: dict[tuple[tuple[str, Size], ...], _Prepared] = {}
        self._places: dict[int, Tensor] = {}

    def __call__(self, observation: Observation) -> Any:
        """Inputs on the host but for the pictures, which the current stream puts on the device.

        The pictures are in their `place`, where the next ones will be.

        Raises:
            ObservationError: as `inputs`; a picture of another size than its camera's first.
        """
        slots = self._processor.views(observation)
        made = self.prepare(picture_sizes(slots, observation.images))
        made.path.take(observation.images)
        made.run()
        # While the pictures are on their way.
        rest = self._processor.inputs_without_pictures(observation)
        return self._processor.with_pictures(rest, made.pictures)

    def place(self, views: int) -> Tensor:
        """Where so many pictures are put, always: [views, 3, image, image] float32."""
        if views not in self._places:
            side = self._processor.image
            self._places[views] = torch.zeros((views, 3, side, side), device=self._device)
        return self._places[views]

    def prepare(self, sizes: Mapping[str, Size]) -> _Prepared:
        """Make ready for pictures of these sizes, all that an observation will hold.

        Args:
            sizes: height and width by slot, in the network's order, as of `picture_sizes`.
        Raises:
            ObservationError: a camera has another size already.
        """
        key = tuple(sizes.items())
        if key not in self._made:
            side = self._processor.image
            if any(size != (side, side) for size in sizes.values()):
                for slot, size in sizes.items():
                    _unchanged(slot, self._settled.get(slot, size), size)
                self._settled.update(sizes)
            fewest = len(key) if self._fewest is None else min(self._fewest, len(key))
            for count in range(fewest, len(key) + 1):
                for some in combinations(key, count):
                    if some not in self._made:
                        self._made[some] = self._make(dict(some))
        return self._made[key]

    def _make(self, sizes: Mapping[str, Size]) -> _Prepared:
        processor = self._processor
        path = PicturePath(processor.picture_fit, sizes, processor.image, self._device)
        return _Prepared(path, self.place(len(sizes)))


class _Prepared:
    """A path, and the pictures that it fills, in a graph where there is a GPU."""

    def __init__(self, path: PicturePath, pictures: Tensor) -> None:
        self.path, self.pictures = path, pictures
        self.run = Captured(lambda: path.fit(pictures), pictures.device)


class PicturePath:
    """The way of the pictures of some cameras, of one size each, to a network's.

    Everything is made here, once; `take` and `fit` compile nothing. Not thread-safe: what `fit`
    does must have been waited for before the next pictures are taken.

    Attributes:
        sizes: height and width by slot, in the network's order.
        image: side of the network's pictures.
    """

    def __init__(
        self,
        fit: Callable[[int, int], Fit],
        sizes: Mapping[str, Size],
        image: int,
        device: torch.device,
    ) -> None:
        """Make it.

        Args:
            fit: `picture_fit` of the architecture's processor.
            sizes: height and width by slot, in the network's order: those of the first observation,
                for a contract names none.
            image: side of the network's pictures.
        """
        self.sizes, self.image = dict(sizes), image
        self._runs: list[_Run] = []
        # Views in a row that are of one size are fitted together.
        for size, slots in groupby(self.sizes, self.sizes.__getitem__):
            self._runs.append(_Run(tuple(slots), size, fit(*size), device))

    def load(self, images: Mapping[str, np.ndarray], out: Tensor) -> None:
        """`take`, then `fit`."""
        self.take(images)
        self.fit(out)

    def take(self, images: Mapping[str, np.ndarray]) -> None:
        """Copy an observation's pictures, for `fit` to send to the device.

        Args:
            images: [H, W, 3] uint8 RGB by slot.
        Raises:
            ObservationError: a picture is missing, or of another size than this was made for; then
                none is taken.
        """
        for slot, size in self.sizes.items():
            _check(slot, size, images.get(slot))
        for run in self._runs:
            run.take(images)

    @torch.no_grad()
    def fit(self, out: Tensor) -> None:
        """Send what was taken last, and fit it there; can be captured in a graph.

        Args:
            out: [views, 3, image, image] float32 on the device, contiguous; all of it is written.
        """
        first = 0
        for run in self._runs:
            last = first + len(run.slots)
            run.fit(out[first:last])
            first = last


class _Run:
    """Pictures of one size, which are the network's views in a row."""

    def __init__(
        self, slots: tuple[str, ...], size: Size, fit: Fit, device: torch.device
    ) -> None:
        self.slots = slots
        shape = (len(slots), *size, 3)
        self._bytes = torch.zeros(shape, dtype=torch.uint8, device=device)
        self._host = self._bytes
        if device.type == 'cuda':
            self._host = torch.zeros(shape, dtype=torch.uint8, pin_memory=True)
        self._array = self._host.numpy()
        top, left, rows, columns = fit.window
        self._window = self._bytes[:, top : top + rows, left : left + columns]
        self._exact = fit.exact
        self._columns = None if fit.columns is None else _Pass(fit.columns, _COLUMNS, device)
        self._rows = None if fit.rows is None else _Pass(fit.rows, _ROWS, device)
        self._levels = None if fit.levels is None else fit.levels.to(device)
        self._base = None if fit.base is None else fit.base.to(device)
        # A number of the host would be turned into its inverse, and the division into a product.
        self._full = torch.tensor(255.0, device=device)

    def take(self, images: Mapping[str, np.ndarray]) -> None:
        for place, slot in zip(self._array, self.slots, strict=True):
            np.copyto(place, images[slot])

    def fit(self, out: Tensor) -> None:
        if self._host is not self._bytes:
            self._bytes.copy_(self._host, non_blocking=True)
        if self._exact:
            self._finish_bytes(self._integers(), out)
            return
        x = self._floats()
        if self._levels is not None:
            self._finish_bytes((x * 255.0).int(), out)
        else:
            assert self._base is not None
            torch.add(self._base, x.permute(0, 3, 1, 2), alpha=2, out=out)

    def _integers(self) -> Tensor:
        """[views, image, image, 3] int32 or uint8: bytes."""
        x = self._window
        for one in (self._columns, self._rows):
            if one is not None:
                x = one.integers(x)
        return x

    def _floats(self) -> Tensor:
        """[views, image, image, 3] float32 in [0, 1]."""
        x: Tensor = self._window
        for one in (self._columns, self._rows):
            if one is not None:
                x = one.floats(x, self._full)
        return x / self._full if x.dtype == torch.uint8 else x

    def _finish_bytes(self, x: Tensor, out: Tensor) -> None:
        assert self._levels is not None
        places = x.permute(0, 3, 1, 2).contiguous().view(-1)
        torch.index_select(self._levels, 0, places.int(), out=out.view(-1))


class _Pass:
    """A resize along one dimension, on the device."""

    def __init__(self, taps: Taps, dim: int, device: torch.device) -> None:
        self._dim, self._bits = dim, taps.bits
        self._shape = tuple(taps.index.shape)
        self._index = taps.index.flatten().to(device)
        beyond = (1,) * (3 - dim)
        self._weight = taps.weight.reshape(*self._shape, *beyond).to(device)
        self._may_overshoot = bool((taps.weight < 0).any())

    def integers(self, x: Tensor) -> Tensor:
        """Bytes, of whatever type, to bytes as int32."""
        products = self._gather(x) * self._weight
        total = products.sum(self._dim, dtype=torch.int32)
        total.add_(1 << (self._bits - 1)).bitwise_right_shift_(self._bits)
        return total.clamp_(0, 255) if self._may_overshoot else total

    def floats(self, x: Tensor, full: Tensor) -> Tensor:
        """Float32 of [0, 1], or bytes that become so, to float32 of [0, 1]."""
        gathered = self._gather(x)
        if gathered.dtype == torch.uint8:
            gathered = gathered / full
        # One sum after the other: how a sum over a dimension is ordered is up to the device.
        first, *others = gathered.mul(self._weight).unbind(self._dim)
        for other in others:
            first.add_(other)
        return first

    def _gather(self, x: Tensor) -> Tensor:
        """The taps of each result: the dimension becomes [taps, size]."""
        return x.index_select(self._dim, self._index).unflatten(self._dim, self._shape)


def _check(slot: str, size: Size, picture: np.ndarray | None) -> None:
    if picture is None:
        raise ObservationError(
            f'{slot}: expected a picture of {size[1]} x {size[0]}, found none; make the camera '
            f'required in the contract'
        )
    if picture.dtype != np.uint8:
        raise ObservationError(f'{slot}: expected a picture of bytes, found {picture.dtype}')
    if picture.shape[2:] != (3,):
        raise ObservationError(
            f'{slot}: expected a picture of rows, columns and 3 colours, found {picture.shape}'
        )
    _unchanged(slot, size, picture.shape[:2])


def _unchanged(slot: str, expected: Size, found: tuple[int, ...]) -> None:
    if found != expected:
        (height, width), (rows, columns) = expected, found
        raise ObservationError(
            f'{slot}: expected pictures of {width} x {height}, for which the policy was prepared, '
            f'found one of {columns} x {rows}; let the camera keep its size, or configure the '
            f'policy again'
        )
