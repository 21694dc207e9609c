# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Expert frames of the tabletop, made by worker processes while training goes on.

Workers write into shared memory-mapped arrays; the trainer copies what has become ready to its
device. Prompts are tokenized by the very code that runs on the robot.
"""
from __future__ import annotations

import multiprocessing as mp
import queue
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from quantvla_ros.models.architectures import load_processor
from quantvla_ros.models.checkpoint import read_config
from quantvla_ros.observation.types import Observation
from quantvla_ros.sim.tabletop.episodes import record_episode

CAMERAS = ('overhead', 'wrist')
MAX_TOKENS = 40


@dataclass(frozen=True)
class Layout:
    """Names, shapes and dtypes of the frame arrays.

    Attributes:
        capacity: frames.
        image: side of the stored pictures.
        horizon: rows of an action chunk.
        every: keep each n-th control period; neighbours tell little new.
    """

    capacity: int
    image: int
    horizon: int
    joints: int = 5
    every: int = 2

    def fields(self) -> dict[str, tuple[tuple[int, ...], type]]:
        """Shape behind the frame axis and dtype, by name."""
        picture = (self.image, self.image, 3)
        return {
            'overhead': (picture, np.uint8),
            'wrist': (picture, np.uint8),
            'tokens': ((MAX_TOKENS,), np.int16),  # 0 is padding
            'actions': ((self.horizon, self.joints), np.float32),
        }


def open_arrays(directory: Path, layout: Layout, mode: str) -> dict[str, np.ndarray]:
    """The shared arrays, created with mode 'w+' and opened with 'r+'."""
    return {
        name: np.memmap(directory / name, dtype, mode, shape=(layout.capacity, *shape))
        for name, (shape, dtype) in layout.fields().items()
    }


def _work(
    directory: Path, checkpoint: Path, layout: Layout, counters: tuple, done: mp.Queue
) -> None:
    """Record episodes until the arrays are full."""
    torch.set_num_threads(1)
    processor = load_processor(checkpoint, read_config(checkpoint))
    arrays = open_arrays(directory, layout, 'r+')
    next_seed, next_frame = counters
    while next_frame.value < layout.capacity:
        with next_seed.get_lock():
            seed = next_seed.value
            next_seed.value += 1
        episode = record_episode(seed, layout.horizon, every=layout.every, halve=True)
        count = len(episode['joints'])
        tokens = np.zeros((count, MAX_TOKENS), np.int16)
        for row, (joints, words) in enumerate(
            zip(episode['joints'], episode['instruction'], strict=True)
        ):
            ids = processor.tokens(Observation(0, {}, joints, str(words)))
            tokens[row, : len(ids)] = ids
        with next_frame.get_lock():
            start = next_frame.value
            next_frame.value += count
        count = min(count, layout.capacity - start)
        if count <= 0:
            break
        arrays['tokens'][start : start + count] = tokens[:count]
        for name in ('overhead', 'wrist', 'actions'):
            arrays[name][start : start + count] = episode[name][:count]
        done.put((start, count))
    done.put(None)


class FrameStore:
    """Frames on the training device, growing while workers record.

    Attributes:
        ready: frames that may be drawn.
    """

    def __init__(
        self,
        layout: Layout,
        checkpoint: Path,
        *,
        workers: int,
        first_seed: int,
        device: torch.device,
    ) -> None:
        self.layout, self.device, self.ready = layout, device, 0
        self._folder = tempfile.TemporaryDirectory()
        directory = Path(self._folder.name)
        self._host = open_arrays(directory, layout, 'w+')
        context = mp.get_context('spawn')
        self._done: mp.Queue = context.Queue()
        # Kept: a spawned child looks these up by name when it starts.
        self._counters = (context.Value('q', first_seed), context.Value('q', 0))
        self._workers = [
            context.Process(
                target=_work,
                args=(directory, checkpoint, layout, self._counters, self._done),
                daemon=True,
            )
            for _ in range(workers)
        ]
        for worker in self._workers:
            worker.start()
        self._frames = {
            name: torch.empty((layout.capacity, *shape), dtype=_torch(dtype), device=device)
            for name, (shape, dtype) in layout.fields().items()
        }

    def collect(self, *, wait: bool = False) -> None:
        """Take over what the workers have finished; with `wait`, at least one episode."""
        while self.ready < self.layout.capacity and (wait or not self._done.empty()):
            try:
                item = self._done.get(timeout=60)
            except queue.Empty:
                raise RuntimeError('no frames for 60 s: have the workers ended?') from None
            if item is None:
                continue
            start, count = item
            for name, frames in self._frames.items():
                source = torch.from_numpy(self._host[name][start : start + count])
                frames[self.ready : self.ready + count].copy_(source)
            self.ready += count
            wait = False

    def batch(self, indices: torch.Tensor) -> dict[str, torch.Tensor]:
        """Frames by index, all on the device."""
        return {name: frames[indices] for name, frames in self._frames.items()}

    def close(self) -> None:
        """End the workers and free the shared arrays."""
        for worker in self._workers:
            worker.terminate()
            worker.join()
        self._host.clear()
        self._folder.cleanup()


def sample_actions_and_states(
    episodes: int, horizon: int, workers: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Joints [N, D] and chunks [N, horizon, D] of some episodes, for the statistics."""
    with mp.get_context('spawn').Pool(workers) as pool:
        jobs = [(10_000_000 + index, horizon) for index in range(episodes)]
        yield from pool.imap_unordered(_numbers, jobs)


def _numbers(job: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    episode = record_episode(*job, every=2, image_size=28)  # the pictures are not used
    return episode['joints'], episode['actions']


def _torch(dtype: type) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype)).dtype
