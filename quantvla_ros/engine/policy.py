# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A policy ready to run: observation in, chunk of actions out.

Knows the processor, what runs the network (see `runners`, `engine`), and which of those to take;
knows nothing of ROS, robots or controllers.
"""
from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from quantvla_ros.control.rtc import Guidance
from quantvla_ros.engine.engine import (
    Engine,
    PackedNetwork,
    own_embeddings,
    shapes_for,
)
from quantvla_ros.engine.engines import ENGINES
from quantvla_ros.engine.graph import Shape
from quantvla_ros.engine.memory import shortage
from quantvla_ros.engine.pictures import PictureReader
from quantvla_ros.engine.runners import Guided, Plain, Runner, draw_noise
from quantvla_ros.engine.running import PLAIN, Running
from quantvla_ros.engine.sources import (
    PRECISIONS,
    PolicyInfo,
    Source,
    open_source,
    stored_bytes,
)
from quantvla_ros.engine.tuning import tiles_in_use
from quantvla_ros.engine.ways import AUTO, Way, device_named, unavailable, ways, without_device
from quantvla_ros.errors import BackendError, ObservationError
from quantvla_ros.models.architecture import Processor
from quantvla_ros.observation.types import Observation

__all__ = ['PRECISIONS', 'Policy', 'PolicyInfo', 'check_device', 'load_policy', 'stored_bytes']

_HOST = torch.device('cpu')
# Normalised actions beyond this are no actions.
_LARGE = 20.0


class Policy:
    """A network with its processor on one device.

    Not thread-safe: one thread infers.

    Attributes:
        info: what it is.
        running: how it runs.
        device: where it runs.
        processor: what surrounds the network.
        runner: what runs the network.
    """

    def __init__(
        self,
        runner: Runner,
        processor: Processor,
        info: PolicyInfo,
        running: Running,
        device: torch.device,
    ) -> None:
        self.runner, self.processor, self.info = runner, processor, info
        self.running, self.device = running, device
        self._is_guided = False

    @torch.no_grad()
    def infer(
        self,
        observation: Observation,
        *,
        seed: int | None = None,
        guidance: Guidance | None = None,
    ) -> np.ndarray:
        """Actions for the near future.

        Args:
            observation: pictures by slot, state in the policy's order and units, the command.
            seed: of the flow's initial noise. The same seed and observation give the same chunk;
                None draws a fresh one.
            guidance: what the chunk is to begin like; best after `prepare_guided`.
        Returns:
            [chunk, action] float32 in the robot's units; row i is meant for one control period
            times (i + 1) after the observation. May hold NaN if the network does: the caller's
            guard decides.
        Raises:
            ObservationError: the observation does not fit the policy, or its pictures and prompt
                not what the engine was prepared for.
        """
        if guidance is None:
            raw = self.runner.act(observation, seed)
        else:
            raw = self._guided(observation, seed, guidance)
        return self.processor.actions(raw, observation.state)

    def prepare_guided(self) -> None:
        """Make sure that chunks can be drawn to older ones, before the first one is.

        Raises:
            BackendError: what runs the network cannot.
        """
        if not isinstance(self.runner, Guided):
            raise BackendError(
                f'schedule rtc: expected a policy whose flow can be guided, found one that runs on '
                f'the engine {self.running.engine}; choose engine plain, or schedule async'
            )
        self.runner.prepare_guided()
        self._is_guided = True

    def _guided(
        self, observation: Observation, seed: int | None, guidance: Guidance
    ) -> torch.Tensor:
        if not self._is_guided:
            self.prepare_guided()
        assert isinstance(self.runner, Guided)
        # Relative to the state of the new observation, as its own actions will be.
        previous = self.processor.normalized(guidance.actions, observation.state)
        # What has no range in the data has no scale: rounding would become a huge number.
        weights = np.where(np.abs(previous) < _LARGE, guidance.weights[:, np.newaxis], 0.0)
        return self.runner.act_guided(
            observation, seed, torch.from_numpy(np.clip(previous, -_LARGE, _LARGE)),
            torch.from_numpy(weights.astype(np.float32)),
        )

    @torch.no_grad()
    def infer_many(
        self, observations: Sequence[Observation], seeds: Sequence[int]
    ) -> np.ndarray:
        """As `infer` for many observations at once; for simulation, where throughput counts.

        The plain network takes them in batches, equal to `infer` up to rounding.

        Returns:
            [observations, chunk, action] float32.
        """
        found = self.runner.act_many(observations, seeds)
        return np.stack([
            self.processor.actions(raw, observation.state)
            for raw, observation in zip(found, observations, strict=True)
        ])

    def noise(self, seed: int | None) -> torch.Tensor:
        """[1, chunk, action_dim] standard normal on the device, as `infer` starts from."""
        return draw_noise(torch.empty(1, *self.runner.noise_shape), seed).to(self.device)

    def warm_up(self, runs: int = 2) -> None:
        """Run on made-up inputs, so that the first real inference is as fast as the rest.

        Raises:
            BackendError: the engine computes no numbers, or others from the same inputs.
            ObservationError: it was prepared for prompts that are too short for any command.
        """
        self.runner.check()
        for views in self.runner.views:
            observation = _example(self.processor, views)
            for _ in range(runs):
                self.infer(observation, seed=0)


def load_policy(
    path: str | Path,
    *,
    device: str | torch.device = 'cpu',
    precision: str | None = None,
    engine: str = AUTO,
    views: Sequence[int] | None = None,
    lengths: Sequence[int] | None = None,
    allow_fallback: bool = False,
) -> Policy:
    """Load a quantized artifact or a float checkpoint.

    Args:
        path: an artifact directory (`calibrate` writes one) or a checkpoint directory.
        device: 'cpu', 'cuda' or 'cuda:N'.
        precision: None for the natural one (an artifact's own; float32 on the CPU and bfloat16 on
            a GPU for a checkpoint), or one of them by name.
        engine: 'graph': the engine's kernels in CUDA graphs (on a CPU their definitions, for
            tests); 'plain': PyTorch's operations; 'auto': graph on a GPU, plain on a CPU.
        views: numbers of pictures to prepare an engine for; None: as many as the policy knows
            cameras. Those that it does not take are left out.
        lengths: of prompts to prepare an engine for, in tokens; None: some, up to the policy's
            longest.
        allow_fallback: where that does not run here, take what comes next best, and say so in
            `Policy.running.fallback`: the plain network there, or on the CPU.
    Raises:
        CheckpointError, ArtifactError: the directory is incomplete, damaged or of another model.
        BackendError: that device, engine or precision is not available here.
    """
    choice = ways(engine, device_named(device))
    missing = without_device(choice[0].device)
    if missing is not None and not allow_fallback:
        raise BackendError(missing)
    source = open_source(Path(path), precision)
    first: str | None = None
    for way in choice:
        reason = unavailable(way, source.kind, source.quantized)
        if reason is None:
            try:
                return _start(source, way, views, lengths, _fallback(choice[0], first, way))
            except _not_here() as error:
                reason = shortage(error, way.device) or str(error)
        if not allow_fallback:
            raise BackendError(f'{path}: {way}: {reason}; {_instead(source, choice[1:])}')
        first = first or reason
        gc.collect()  # what was loaded until it failed
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
    raise BackendError(f'{path}: {first}; nothing else runs it here either')


def check_device(device: str | torch.device) -> torch.device:
    """The device by its name, made sure of.

    Raises:
        BackendError: not a device, or not available here.
    """
    found = device_named(device)
    missing = without_device(found)
    if missing is not None:
        raise BackendError(missing)
    return found


def _start(
    source: Source,
    way: Way,
    views: Sequence[int] | None,
    lengths: Sequence[int] | None,
    fallback: str | None,
) -> Policy:
    """A policy run in one way."""
    running = Running(way.engine, str(way.device), fallback)
    started = time.perf_counter()
    if way.engine == PLAIN:
        network, _, info = source.network(way.device, way.device)
        running = replace(running, seconds={'load': time.perf_counter() - started})
        runner: Runner = Plain(network, source.processor, way.device)
        return Policy(runner, source.processor, info, running, way.device)
    packed, info, seconds = _packed(source, way.device)
    shapes = shapes_for(
        _possible(source.processor, views),
        lengths or ENGINES[source.kind].lengths(source.processor),
    )
    begun = time.perf_counter()
    made = make_engine(packed, shapes, source.processor)
    running = replace(
        running,
        tiles=tiles_in_use(way.device),
        prepared=made.prepared,
        seconds={**seconds, 'capture': time.perf_counter() - begun},
    )
    return Policy(made, source.processor, info, running, way.device)


def _possible(processor: Processor, views: Sequence[int] | None) -> list[int]:
    """Those numbers of pictures that the policy takes: not all do without a camera."""
    every = len(processor.slots)
    found = []
    for count in views or ():
        try:
            if count <= every and processor.views(_example(processor, count)):
                found.append(count)
        except ObservationError:
            continue
    return found or [every]


def _example(processor: Processor, views: int) -> Observation:
    """A made-up observation with the first so many cameras."""
    generator = np.random.default_rng(0)
    side = processor.image
    picture = generator.integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Observation(
        stamp=0,
        images=dict.fromkeys(processor.slots[:views], picture),
        state=processor.example_state(),
        instruction='warm up',
    )


def make_engine(packed: PackedNetwork, shapes: Sequence[Shape], processor: Processor) -> Engine:
    """An engine that reads an observation's inputs on the host, but fits its pictures on a GPU.

    Raises:
        BackendError: see `Engine`.
    """
    if packed.device.type != 'cuda':
        return Engine(packed, shapes, lambda observation: processor.inputs(observation, _HOST))
    fewest = min(shape.views for shape in shapes)
    reader = PictureReader(processor, packed.device, fewest=fewest)
    return Engine(packed, shapes, reader, reader.place)


def _packed(
    source: Source, device: torch.device
) -> tuple[PackedNetwork, PolicyInfo, dict[str, float]]:
    """A network's weights on the device; the network itself is never there, and gone afterwards."""
    begun = time.perf_counter()
    mapped = device.type != 'cpu'  # there the packed weights are the network's own
    network, dtype, info = source.network(_HOST, device, mapped=mapped)
    if mapped:
        own_embeddings(network)  # type: ignore[arg-type]
    loaded = time.perf_counter()
    packed = PackedNetwork(ENGINES[source.kind].of(source.processor), network, device, dtype)
    del network
    gc.collect()
    return packed, info, {'load': loaded - begun, 'pack': time.perf_counter() - loaded}


def _not_here() -> tuple[type[Exception], ...]:
    """What says that a kernel or the memory of this device is not enough; all else is a fault."""
    kinds: list[type[Exception]] = [BackendError, torch.OutOfMemoryError]
    try:
        from triton.errors import TritonError
    except ImportError:
        return tuple(kinds)
    return (*kinds, TritonError)


def _fallback(asked: Way, reason: str | None, way: Way) -> str | None:
    return None if reason is None else f'{way} instead of {asked}: {reason}'


def _instead(source: Source, others: Sequence[Way]) -> str:
    """What could be asked for in place of something that does not run."""
    able = [str(w) for w in others if unavailable(w, source.kind, source.quantized) is None]
    if not able:
        return 'nothing else is available here'
    return f'available here: {", ".join(able)}; ask for that, or allow a fallback (allow_fallback)'
