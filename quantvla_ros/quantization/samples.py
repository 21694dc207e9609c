# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Observations as a network sees them, in batches, and what the float policy makes of them.

Knows a network and a processor; knows nothing of recipes or of bags. What is kept of a run lies
where there is room: on the device, or on the host, so that only one batch is on the device.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from quantvla_ros.errors import CalibrationError
from quantvla_ros.models.network import Network, integrate
from quantvla_ros.models.noise import noise_seed
from quantvla_ros.models.tree import alike, join, tensors, to_device
from quantvla_ros.observation.types import Observation

_TOKENS = 8192  # of the backbone in one batch: bounds what a layer needs beside its weights
_LARGEST_BATCH = 16
_HOME_SHARE = 0.4  # of the device's free memory that may hold what is kept


class Processor(Protocol):
    """What surrounds a network; see models.processor."""

    def inputs(self, observation: Observation, device: torch.device | str = 'cpu') -> Any:
        """Network inputs of one observation, batch size 1."""
        ...


@dataclass(frozen=True)
class Batch:
    """Observations that run together: their prompts are equally long, so that nothing is padded.

    Attributes:
        numbers: places in the sample.
        inputs: as `Network.embed` takes them, on the host.
        noise: [B, chunk, action] float32, each row's own, by its place in the sample.
    """

    numbers: tuple[int, ...]
    inputs: Any
    noise: Tensor


@dataclass(frozen=True)
class FloatRun:
    """What the float policy made of a batch.

    Attributes:
        embedding, valid: [B, T, width] and [B, T].
        context: what its head read.
        path: [steps + 1, B, chunk, action] noisy actions before each step, and the chunk.
    """

    embedding: Tensor
    valid: Tensor
    context: Any
    path: Tensor


def make_batches(
    model: Network,
    processor: Processor,
    observations: Sequence[Observation],
    *,
    seed: int,
    first: int = 0,
) -> list[Batch]:
    """Group observations to batches.

    Args:
        seed: of the noise; a row's noise depends on it and on the row's number alone.
        first: number of the first observation.
    """
    inputs = [processor.inputs(observation) for observation in observations]
    chunk, action = model.noise_shape
    batches = []
    for numbers in alike(inputs):
        size = max(1, min(_LARGEST_BATCH, _TOKENS // max(_tokens(inputs[numbers[0]]), 1)))
        for start in range(0, len(numbers), size):
            chosen = numbers[start : start + size]
            noise = []
            for number in chosen:
                generator = torch.Generator().manual_seed(noise_seed(seed, first + number))
                noise.append(torch.randn(chunk, action, generator=generator))
            batches.append(
                Batch(tuple(chosen), join([inputs[n] for n in chosen]), torch.stack(noise))
            )
    return batches


@torch.no_grad()
def run_float(
    model: Network, batches: Sequence[Batch], device: torch.device, done: Callable[[int], None]
) -> list[FloatRun]:
    """Run the policy as it is; `done` is called with the observations of each batch."""
    runs: list[FloatRun] = []
    home = torch.device('cpu')
    for batch in batches:
        inputs = to_device(batch.inputs, device)
        embedding, valid = model.embed(inputs)
        context = encode(model, embedding, valid)
        path = run_head(model, context, inputs, batch.noise.to(device))
        run = FloatRun(embedding, valid, context, path)
        if not runs:
            home = home_for(run, len(batches), device)
        runs.append(to_device(run, home))
        done(len(batch.numbers))
    return runs


def home_for(run: FloatRun, batches: int, device: torch.device) -> torch.device:
    """Where what is kept of all batches should lie: on the device if that is a small part of it.

    Three times a run: the float policy's, the quantized one's, and what both are made of.
    """
    if device.type != 'cuda':
        return torch.device('cpu')
    size = sum(t.numel() * t.element_size() for t in tensors(run)) * batches * 3
    free, _ = torch.cuda.mem_get_info(device)
    return device if size < _HOME_SHARE * free else torch.device('cpu')


def encode(model: Network, embedding: Tensor, valid: Tensor) -> Any:
    """Embeddings through the whole backbone."""
    stack = model.backbone
    state = stack.start(embedding, valid)
    for index in range(len(stack.layers)):
        state = stack.step(index, state)
    return stack.finish(state)


@torch.no_grad()
def run_head(model: Network, context: Any, inputs: Any, noise: Tensor) -> Tensor:
    """[steps + 1, B, chunk, action]: noisy actions before each step, and the chunk.

    Raises:
        CalibrationError: the policy returns NaN or infinity.
    """
    path: list[Tensor] = []
    chunk = integrate(model.flow(context, inputs), noise, lambda step, x, v: path.append(x))
    if not torch.isfinite(chunk).all():
        raise CalibrationError(
            'the policy: expected finite actions, found NaN or infinity; the checkpoint is damaged'
        )
    return torch.stack([*path, chunk])


def _tokens(inputs: Any) -> int:
    """About how many tokens the backbone sees: 256 of each picture, and the prompt."""
    per_rank = {4: lambda t: 256 * t.shape[0], 2: lambda t: t.shape[-1]}
    return sum(per_rank[t.dim()](t) for t in tensors(inputs) if t.dim() in per_rank)
