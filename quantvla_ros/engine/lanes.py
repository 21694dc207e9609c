# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Lanes: work of one forward pass that runs side by side, where one kernel leaves the GPU idle.

A lane is a stream that parts from the current one and comes back to it, in a graph's capture, of
which it becomes a branch, and outside. On a CPU there are no streams: the same calls run in
the order in which they are made, so whatever a lane waits for must be called before it.

Knows streams, events and threads; knows nothing of what runs in them.

What to keep to, as torch's allocator gives freed memory to the stream that it was made in, at once:
what is made within a lane is used in that lane only. What lanes give each other lies in buffers
that outlive them.

Kernels in lanes begin when all that they follow has ended, and so does the first one behind them.
So a dependence on another stream is always a full one, never half of a programmatic launch, and
behind the lanes the end of one kernel is the end of all before, as `kernels.triton_start` has it.
"""
from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import torch

from quantvla_ros.kernels.counters import counters_of_lane
from quantvla_ros.kernels.gpu import one_after_the_other

BESIDE = 1  # for `Beside.every` where nobody says
PRIORITY = -1  # of kernels in lanes, before those of all other streams; a graph's nodes keep it
_thread = threading.local()
_Result = TypeVar('_Result')
Told = Callable[[int], None]  # told of a layer


class Streams(Protocol):
    """The streams of a device, for a thread."""

    def current(self) -> Any:
        """The stream that work goes to."""

    def of_lane(self, lane: int) -> Any:
        """Of this thread, always the same one."""

    def use(self, stream: Any) -> contextlib.AbstractContextManager[Any]:
        """Within, work goes to the stream."""
        ...

    def record(self, stream: Any) -> Any:
        """An event behind all that the stream was given."""

    def wait(self, stream: Any, event: Any) -> None:
        """What the stream is given from now on comes after the event."""


class Lanes:
    """`with Lanes(device) as lanes`: the lanes part there, and have come together at its end."""

    def __init__(self, device: torch.device) -> None:
        self._streams = streams_of(device)
        self._used: dict[int, Any] = {}
        self._within = contextlib.ExitStack()

    def __enter__(self) -> Lanes:
        streams = self._streams
        self._origin = streams.current()
        self._start = streams.record(self._origin)
        self._within.enter_context(one_after_the_other())
        return self

    @contextlib.contextmanager
    def lane(self, number: int) -> Iterator[None]:
        """Within, work goes to a lane: 1, 2, ...; outside it goes on where it was.

        A lane begins behind what was called before the lanes parted.
        """
        streams = self._streams
        if number not in self._used:
            self._used[number] = streams.of_lane(number)
            streams.wait(self._used[number], self._start)
        with streams.use(self._used[number]), counters_of_lane(number):
            yield

    def mark(self) -> Any:
        """What was called until now, in the lane it is called in; for `after`."""
        return self._streams.record(self._streams.current())

    def after(self, mark: Any) -> None:
        """What the lane it is called in does from now on comes after a mark of another one."""
        self._streams.wait(self._streams.current(), mark)

    def __exit__(self, *raised: object) -> None:
        # After a fault too: a capture whose streams do not come together hides what was raised.
        with self._within:
            for stream in self._used.values():
                self._streams.wait(self._origin, self._streams.record(stream))


class Beside:
    """Layers that run beside those of another stack, each behind the other's layer of its number.

    Attributes:
        meetings: layers of the other stack behind which these go on.
    """

    def __init__(self, layers: int, every: int | None = None) -> None:
        """Of so many layers each.

        Args:
            every: how many layers apart they meet; 0: they do not run beside each other, None: as
                BESIDE says.
        """
        every = BESIDE if every is None else every
        # The last one is short, keys and values only, so they meet right before it too: what is
        # left behind it is a layer, however seldom they meet.
        before = range(layers - 2, -1, -every) if every else ()
        self.meetings = frozenset((layers - 1, *before)) if every else frozenset[int]()

    def run(
        self, device: torch.device, first: Callable[[Told], object],
        second: Callable[[Told], _Result],
    ) -> _Result:
        """Both, or one behind the other.

        Args:
            first: the other stack; tells of each layer once what that leaves is written.
            second: these; tells of each layer before that is read.
        Returns:
            What `second` returns.
        """
        if not self.meetings:
            first(_nobody)
            return second(_nobody)
        marks: dict[int, Any] = {}
        with Lanes(device) as lanes:

            def written(layer: int) -> None:
                if layer in self.meetings:
                    marks[layer] = lanes.mark()

            def needed(layer: int) -> None:
                meeting = min(m for m in self.meetings if m >= layer)
                if meeting in marks:  # else it is behind that already
                    lanes.after(marks.pop(meeting))

            first(written)
            with lanes.lane(1):
                return second(needed)


def _nobody(layer: int) -> None:
    """Is told where nothing waits."""


def streams_of(device: torch.device) -> Streams:
    """Those of a GPU; of anything else: none, whose calls do nothing."""
    return _Cuda(device) if device.type == 'cuda' else _None()


class _Cuda:
    def __init__(self, device: torch.device) -> None:
        self._device = device

    def current(self) -> torch.cuda.Stream:
        return torch.cuda.current_stream(self._device)

    def of_lane(self, lane: int) -> torch.cuda.Stream:
        # Kept, so that graphs share the lane's memory; of the thread, as another one may capture.
        held = _thread.__dict__.setdefault('streams', {})
        key = (self._device, lane, PRIORITY)
        if key not in held:
            held[key] = torch.cuda.Stream(self._device, priority=PRIORITY)
        return held[key]

    def use(self, stream: torch.cuda.Stream) -> contextlib.AbstractContextManager[Any]:
        return torch.cuda.stream(stream)

    def record(self, stream: torch.cuda.Stream) -> torch.cuda.Event:
        return stream.record_event()

    def wait(self, stream: torch.cuda.Stream, event: torch.cuda.Event) -> None:
        stream.wait_event(event)


class _None:
    def current(self) -> None:
        return None

    def of_lane(self, lane: int) -> None:
        return None

    def use(self, stream: None) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()

    def record(self, stream: None) -> None:
        return None

    def wait(self, stream: None, event: None) -> None:
        return None
