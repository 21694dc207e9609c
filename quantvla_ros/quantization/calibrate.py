# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A float policy to a quantized and corrected one, in place, from a set of observations.

Knows the network, its processor, a recipe and observations; knows nothing of bags, ROS or files.
The float policy runs first and is then turned into the quantized one layer by layer, so that two
whole models are never held; both see the same observations, noise and denoising steps.
"""
from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from quantvla_ros.errors import CalibrationError
from quantvla_ros.models.tree import to_device
from quantvla_ros.observation.types import Observation
from quantvla_ros.quantization.gather import watch
from quantvla_ros.quantization.layerwise import LayerRecord, Quantizer
from quantvla_ros.quantization.matching import Corrections, HeadSample, copy_head, match_head
from quantvla_ros.quantization.recipe import Recipe
from quantvla_ros.quantization.samples import (
    Batch,
    FloatRun,
    Processor,
    encode,
    make_batches,
    run_float,
    run_head,
)
from quantvla_ros.quantization.smoothing import equalize, shifted_tensors

# called with (what is going on, done, total); by stage, in the order of STAGES
Progress = Callable[[str, int, int], None]
STAGES = ('float policy', 'quantizing', 'matching', 'held-out observations')

_HELD_OUT = 1 << 31  # numbers of held-out observations begin here: their noise is their own


@dataclass(frozen=True)
class ChunkError:
    """How far quantized action chunks are from the float policy's, on held-out observations.

    Attributes:
        rms, largest: of the difference, in normalised actions (about -1 to 1).
        relative: 2-norm of the difference over that of the float chunks.
    """

    rms: float
    largest: float
    relative: float

    @classmethod
    def between(cls, teacher: Tensor, student: Tensor) -> ChunkError:
        """Compare chunks [samples, chunk, action]."""
        difference = student.double() - teacher.double()
        return cls(
            rms=float(difference.square().mean().sqrt()),
            largest=float(difference.abs().max()),
            relative=float(difference.norm() / teacher.double().norm()),
        )


@dataclass(frozen=True)
class Calibration:
    """What calibration found.

    Attributes:
        layers: the quantized layers, in the order of use.
        corrections: alpha, beta and what they changed.
        interface: scalars on what the head reads of the backbone, by path; empty: not balanced.
        notes: a sentence for each scalar that could not be estimated.
        float32_tensors: names of tensors that 16 bits would spoil.
        uncorrected, corrected: error without and with alpha and beta.
        step_errors: relative error of the noisy actions before each denoising step but the first,
            and of the chunk; corrected, each policy on its own path.
        float_chunks, chunks: [held out, chunk, action] normalised, of the float and of the
            quantized and corrected policy.
    """

    layers: tuple[LayerRecord, ...]
    corrections: Corrections
    interface: Mapping[str, float]
    notes: tuple[str, ...]
    float32_tensors: tuple[str, ...]
    uncorrected: ChunkError
    corrected: ChunkError
    step_errors: tuple[float, ...]
    float_chunks: Tensor
    chunks: Tensor

    def errors(self) -> dict[str, Any]:
        """Both errors as plain numbers."""
        return {'uncorrected': asdict(self.uncorrected), 'corrected': asdict(self.corrected)}


@torch.no_grad()
def calibrate(
    model: Any,
    processor: Processor,
    recipe: Recipe,
    observations: Sequence[Observation],
    held_out: Sequence[Observation],
    *,
    action_size: int,
    device: torch.device,
    dtypes: Mapping[str, torch.dtype],
    seed: int,
    progress: Progress = lambda what, done, total: None,
) -> Calibration:
    """Quantize a policy in place.

    Args:
        model: the float policy (a Network and nn.Module); quantized and corrected afterwards.
        processor: of the same checkpoint.
        observations: for the statistics.
        held_out: others, for the reported error.
        action_size: numbers of an action that the robot has; the rest is padding.
        device: where the model is.
        dtypes: how each float tensor will be stored; folded weights are rounded to it, so that the
            error reported is that of the artifact.
        seed: of the noise; below 2**31.
        progress: called after each step of a stage.
    Raises:
        CalibrationError: too few observations, a damaged weight, or a policy that returns NaN.
    """
    if len(observations) < recipe.sampling.minimum:
        raise CalibrationError(
            f'expected at least {recipe.sampling.minimum} observations (recipe {recipe.name}), '
            f'found {len(observations)}; record more or longer episodes'
        )
    if not held_out:
        raise CalibrationError('expected held-out observations for the reported error, found none')
    batches = make_batches(model, processor, observations, seed=seed)
    check_batches = make_batches(model, processor, held_out, seed=seed, first=_HELD_OUT)

    step = _Count(progress, STAGES[0], len(observations) + len(held_out))
    quantized_names = set(recipe.layout.select(model))
    maxima: dict[str, Tensor] = {}
    readers = {name for point in model.equalizations() for name in point.readers}
    with watch(model, readers if recipe.smoothing.enabled else (), _Maxima(maxima)):
        runs = run_float(model, batches, device, step.add)
    check_runs = run_float(model, check_batches, device, step.add)
    shifted: tuple[str, ...] = ()
    if recipe.smoothing.enabled:
        scales = equalize(model, maxima, recipe.smoothing.strength, quantized_names)
        shifted = shifted_tensors(model, scales)
        _round_as_stored(model, dtypes, quantized_names, shifted)

    count = _Count(progress, STAGES[1], len(quantized_names))
    quantizer = Quantizer(model, recipe, device, lambda: count.add(1))
    embeddings = quantizer.vision(batches, runs)
    teacher = copy_head(model)
    contexts = quantizer.backbone(embeddings, runs)
    quantizer.head(batches, runs, contexts, teacher)

    check = _Check(model, check_batches, check_runs, action_size, device)
    uncorrected = check()[:, -1]
    corrections = match_head(
        model,
        teacher,
        [
            HeadSample(run.context, context, batch.inputs, batch.noise)
            for batch, run, context in zip(batches, runs, contexts, strict=True)
        ],
        temperature=recipe.temperature,
        balance=recipe.balance,
        estimation=recipe.estimation,
        device=device,
        dtypes=dtypes,
        progress=lambda done, total: progress(STAGES[2], done, total),
    )
    corrected = check()
    progress(STAGES[3], 1, 1)
    reference = check.reference
    return Calibration(
        layers=tuple(quantizer.records[name] for name in quantizer.names),
        corrections=corrections,
        interface={**quantizer.interface, **corrections.interface},
        notes=(*quantizer.notes, *corrections.notes),
        float32_tensors=shifted,
        uncorrected=ChunkError.between(reference[:, -1], uncorrected),
        corrected=ChunkError.between(reference[:, -1], corrected[:, -1]),
        step_errors=tuple(
            ChunkError.between(reference[:, index], corrected[:, index]).relative
            for index in range(1, reference.shape[1])
        ),
        float_chunks=reference[:, -1],
        chunks=corrected[:, -1],
    )


def _round_as_stored(
    model: Any,
    dtypes: Mapping[str, torch.dtype],
    quantized: Collection[str],
    float32_tensors: Collection[str],
) -> None:
    """Round what smoothing has changed and will be stored in float."""
    for name, parameter in model.named_parameters():
        dtype = torch.float32 if name in float32_tensors else dtypes.get(name)
        if dtype is not None and name.rpartition('.')[0] not in quantized:
            parameter.copy_(parameter.to(dtype))


class _Maxima:
    """The largest |x| by channel of what layers read."""

    def __init__(self, maxima: dict[str, Tensor]) -> None:
        self._maxima = maxima

    def __call__(self, name: str, x: Tensor) -> None:
        largest = x.float().abs().flatten(0, -2).amax(0)
        before = self._maxima.get(name)
        self._maxima[name] = largest if before is None else torch.maximum(before, largest)


class _Count:
    """Progress of one stage, added up."""

    def __init__(self, progress: Progress, stage: str, total: int) -> None:
        self._progress, self._stage, self._total, self._done = progress, stage, total, 0

    def add(self, done: int) -> None:
        self._done += done
        self._progress(self._stage, self._done, self._total)


class _Check:
    """The held-out observations through the policy as it is at the moment.

    Attributes:
        reference: [samples, steps + 1, chunk, action] the float policy's noisy actions and chunks.
    """

    def __init__(
        self,
        model: Any,
        batches: Sequence[Batch],
        runs: Sequence[FloatRun],
        action_size: int,
        device: torch.device,
    ) -> None:
        self._model, self._batches, self._device = model, batches, device
        self._size = action_size
        self.reference = self._in_order([run.path for run in runs])

    def __call__(self) -> Tensor:
        """As `reference`, of the quantized policy."""
        paths = []
        for batch in self._batches:
            inputs = to_device(batch.inputs, self._device)
            context = encode(self._model, *self._model.embed(inputs))
            paths.append(run_head(self._model, context, inputs, batch.noise.to(self._device)))
        return self._in_order(paths)

    def _in_order(self, paths: Sequence[Tensor]) -> Tensor:
        numbers = torch.tensor([n for batch in self._batches for n in batch.numbers])
        rows = torch.cat([path.transpose(0, 1).cpu() for path in paths])
        return rows[numbers.argsort()][..., : self._size].float()
