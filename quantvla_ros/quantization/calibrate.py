# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A float policy to a quantized and corrected one, in place, from a set of observations.

Knows the network, its processor, a recipe and observations; knows nothing of bags, ROS or files.
The float policy runs first and is then turned into the quantized one layer by layer, so that two
whole models are never held; both see the same observations, noise and denoising steps.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quantvla_ros.errors import CalibrationError
from quantvla_ros.models.pi05 import PI05
from quantvla_ros.models.processor import Processor
from quantvla_ros.observation.types import Observation
from quantvla_ros.quantization.balance import balance, fold_balance
from quantvla_ros.quantization.capture import HeadStatistics, observe_heads
from quantvla_ros.quantization.recipe import Recipe
from quantvla_ros.quantization.schemes import SCHEMES, swap
from quantvla_ros.quantization.temperature import fold_temperature, temperature

# called with (what is going on, done, total); by stage, in the order of STAGES
Progress = Callable[[str, int, int], None]
STAGES = ('float policy', 'quantizing', 'quantized policy', 'corrected policy')

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
    def between(cls, teacher: Sequence[Tensor], student: Sequence[Tensor]) -> ChunkError:
        """Compare chunks [chunk, action] pair by pair."""
        float_chunks, chunks = torch.stack(list(teacher)).double(), torch.stack(list(student))
        difference = chunks.double() - float_chunks
        return cls(
            rms=float(difference.square().mean().sqrt()),
            largest=float(difference.abs().max()),
            relative=float(difference.norm() / float_chunks.norm()),
        )


@dataclass(frozen=True)
class Calibration:
    """What calibration found.

    Attributes:
        layers: module paths of the quantized layers.
        alpha: [layers of the head][heads], 1.0 where nothing is corrected.
        beta: [layers of the head].
        uncorrected, corrected: error without and with alpha and beta.
    """

    layers: tuple[str, ...]
    alpha: tuple[tuple[float, ...], ...]
    beta: tuple[float, ...]
    uncorrected: ChunkError
    corrected: ChunkError

    def errors(self) -> dict[str, Any]:
        """Both errors as plain numbers."""
        return {'uncorrected': asdict(self.uncorrected), 'corrected': asdict(self.corrected)}


def calibrate(
    model: PI05,
    processor: Processor,
    recipe: Recipe,
    observations: Sequence[Observation],
    held_out: Sequence[Observation],
    *,
    dtypes: Mapping[str, torch.dtype],
    seed: int,
    progress: Progress = lambda what, done, total: None,
) -> Calibration:
    """Quantize a policy in place.

    Args:
        model: the float policy; quantized and corrected afterwards.
        processor: of the same checkpoint.
        observations: for the statistics.
        held_out: others, for the reported error.
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
    names = recipe.layout.select(model)
    run = _Runs(model, processor, seed, progress)

    teacher, teacher_chunks = run(STAGES[0], observations, held_out)
    done = 0
    make = SCHEMES[recipe.scheme].from_linear

    def replace(linear: nn.Linear) -> nn.Module:
        nonlocal done
        done += 1
        progress(STAGES[1], done, len(names))
        return make(linear, recipe.scale_grid)

    swap(model, names, replace)
    student, student_chunks = run(STAGES[2], observations, held_out)
    alpha, beta = _corrections(recipe, teacher, student)
    _fold(model, alpha, beta, dtypes)
    _, corrected_chunks = run(STAGES[3], (), held_out)
    return Calibration(
        layers=names,
        alpha=tuple(tuple(row) for row in alpha.tolist()),
        beta=tuple(beta.tolist()),
        uncorrected=ChunkError.between(teacher_chunks, student_chunks),
        corrected=ChunkError.between(teacher_chunks, corrected_chunks),
    )


def _attentions(model):
    return [layer.attention for layer in model.head_layers()]


class _Runs:
    """Runs of the policy as it is at the moment, always with the same noise per observation."""

    def __init__(
        self, model: PI05, processor: Processor, seed: int, progress: Progress
    ) -> None:
        self.model, self.processor, self.seed, self.progress = model, processor, seed, progress

    def __call__(
        self, stage: str, observations: Sequence[Observation], held_out: Sequence[Observation]
    ) -> tuple[HeadStatistics, list[Tensor]]:
        """Statistics over `observations` and chunks of `held_out`."""
        total = len(observations) + len(held_out)
        with observe_heads(_attentions(self.model)) as statistics:
            for index, observation in enumerate(observations):
                self._chunk(observation, index)
                self.progress(stage, index + 1, total)
        chunks = []
        for index, observation in enumerate(held_out):
            chunks.append(self._chunk(observation, _HELD_OUT + index))
            self.progress(stage, len(observations) + index + 1, total)
        return statistics, chunks

    def _chunk(self, observation: Observation, number: int) -> Tensor:
        """[chunk, action] normalised actions of one observation, on the CPU."""
        config = self.model.config
        device = self.model.action_in_proj.weight.device
        inputs = self.processor.inputs(observation, device)
        generator = torch.Generator().manual_seed((self.seed << 32) + number)
        noise = torch.randn(1, config.chunk, config.action_dim, generator=generator).to(device)
        raw = self.model.sample_actions(
            inputs.images, inputs.image_masks, inputs.tokens, inputs.token_mask, noise
        )
        chunk = raw[0, :, : self.processor.action.size].float().cpu()
        if not torch.isfinite(chunk).all():
            raise CalibrationError(
                f'at {observation.stamp} ns ({observation.instruction!r}): expected finite '
                f'actions, found NaN or infinity; the checkpoint is damaged'
            )
        return chunk


def _corrections(
    recipe: Recipe, teacher: HeadStatistics, student: HeadStatistics
) -> tuple[Tensor, Tensor]:
    """Alpha [layers, heads] and beta [layers]; ones for a correction that is off."""
    alpha = torch.ones_like(teacher.spread())
    beta = torch.ones_like(teacher.energy())
    if recipe.temperature.enabled:
        settings = recipe.temperature
        alpha = temperature(
            teacher.spread(),
            student.spread(),
            log_clip=settings.log_clip,
            dead_band=settings.dead_band,
        )
    if recipe.balance.enabled:
        settings = recipe.balance
        beta = balance(
            teacher.energy(),
            student.energy(),
            log_clip=settings.log_clip,
            dead_band=settings.dead_band,
        )
    return alpha, beta


@torch.no_grad()
def _fold(
    model: PI05, alpha: Tensor, beta: Tensor, dtypes: Mapping[str, torch.dtype]
) -> None:
    """Fold both corrections into the head's attention, rounded as they will be stored."""
    for layer, attention in enumerate(_attentions(model)):
        fold_temperature(attention, alpha[layer])
        fold_balance(attention, beta[layer])
    folded = {id(p) for a in _attentions(model) for p in a.parameters()}
    for name, parameter in model.named_parameters():
        if id(parameter) in folded and name in dtypes:
            parameter.copy_(parameter.to(dtypes[name]))
