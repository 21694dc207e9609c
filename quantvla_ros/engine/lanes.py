# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Layers that run beside those of another stack, where one kernel at a time leaves the GPU idle.

They run in a lane: a stream that parts from the current one and comes back to it, in a graph's
capture, of which it becomes a branch, and outside. On a CPU there are no streams: the same calls
run in the order in which they are made, so what the lane waits for must be called before it.

Knows streams, events and threads; knows nothing of what runs in them.

What to keep to, as torch's allocator gives freed memory to the stream that it was made in, at once:
what is made in the lane is used there only, what is made outside within that time outside only.
What they give each other lies in buffers that outlive both.

Kernels in the lane and beside it begin when all that they follow has ended, and so does the first
one behind them. So a dependence on another stream is always a full one, never half of a
programmatic launch, and behind the lane the end of one kernel is the end of all before, as
`kernels.triton_start` has it.
"""
from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import torch

from quantvla_ros.kernels.counters import lane_counters
from quantvla_ros.kernels.gpu import one_after_the_other

# How many layers apart the stacks meet where nobody says. A meeting is a fork in the graph, which
# costs each time; without enough of them the lane lies behind the other stack, not beside it.
BESIDE = 3
PRIORITY = -1  # of kernels in a lane, before those of all other streams; a graph's nodes keep it
_thread = threading.local()
_Result = TypeVar('_Result')
Told = Callable[[int], None]  # told of a layer


class Streams(Protocol):
    """The streams of a device, for a thread."""

    def current(self) -> Any:
        """The stream that work goes to."""

    def lane(self) -> Any:
        """The lane's; of this thread, always the same one."""

    def use(self, stream: Any) -> contextlib.AbstractContextManager[Any]:
        """Within, work goes to the stream."""
        ...

    def record(self, stream: Any) -> Any:
        """An event behind all that the stream was given."""

    def wait(self, stream: Any, event: Any) -> None:
        """What the stream is given from now on comes after the event."""


class Lane:
    """`with Lane(device) as lane`: it parts there, and has come back at the end."""

    def __init__(self, device: torch.device) -> None:
        self._streams = streams_of(device)
        self._waiting = contextlib.ExitStack()

    def __enter__(self) -> Lane:
        streams = self._streams
        self._origin, self._stream = streams.current(), streams.lane()
        streams.wait(self._stream, streams.record(self._origin))
        self._waiting.enter_context(one_after_the_other())
        return self

    @contextlib.contextmanager
    def within(self) -> Iterator[None]:
        """Within, work goes to the lane, behind what was called before it parted."""
        with self._streams.use(self._stream), lane_counters():
            yield

    def mark(self) -> Any:
        """What was called until now, in the lane or outside, where it is called; for `after`."""
        return self._streams.record(self._streams.current())

    def after(self, mark: Any) -> None:
        """What is called from now on, where it is called, comes after a mark of the other side."""
        self._streams.wait(self._streams.current(), mark)

    def __exit__(self, *raised: object) -> None:
        # After a fault too: a capture whose streams do not come together hides what was raised.
        with self._waiting:
            self._streams.wait(self._origin, self._streams.record(self._stream))


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
        with Lane(device) as lane:

            def written(layer: int) -> None:
                if layer in self.meetings:
                    marks[layer] = lane.mark()

            def needed(layer: int) -> None:
                meeting = min(m for m in self.meetings if m >= layer)
                if meeting in marks:  # else it is behind that already
                    lane.after(marks.pop(meeting))

            first(written)
            with lane.within():
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

    def lane(self) -> torch.cuda.Stream:
        # Kept, so that graphs share the lane's memory; of the thread, as another one may capture.
        held: dict[torch.device, torch.cuda.Stream] = _thread.__dict__.setdefault('lanes', {})
        if self._device not in held:
            held[self._device] = torch.cuda.Stream(self._device, priority=PRIORITY)
        return held[self._device]

    def use(self, stream: torch.cuda.Stream) -> contextlib.AbstractContextManager[Any]:
        return torch.cuda.stream(stream)

    def record(self, stream: torch.cuda.Stream) -> torch.cuda.Event:
        return stream.record_event()

    def wait(self, stream: torch.cuda.Stream, event: torch.cuda.Event) -> None:
        stream.wait_event(event)


class _None:
    def current(self) -> None:
        return None

    def lane(self) -> None:
        return None

    def use(self, stream: None) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()

    def record(self, stream: None) -> None:
        return None

    def wait(self, stream: None, event: None) -> None:
        return None
