# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The action head of a quantized policy matched to the float one's: estimating and folding.

Knows two networks and samples for both; knows nothing of bags, ROS, files or recipes. Teacher and
student run in lockstep from the same noise, so that they differ by quantization alone. Sums only:
on the device lie one sample, the teacher's logits of one denoising step, and float64 sums.
Source: QuantVLA (arXiv 2602.20309), sections 3 and 4, is order 'parallel', trajectory 'own', one
sweep; the rest is ours, docs/quantization.md says why.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from quantvla_ros.errors import CalibrationError
from quantvla_ros.models.network import Flow, HeadLayer, Network
from quantvla_ros.models.tree import to_device
from quantvla_ros.quantization.balance import OutputMoments
from quantvla_ros.quantization.capture import watch_inputs, watch_layers
from quantvla_ros.quantization.correction import Fold, bounded
from quantvla_ros.quantization.lockstep import (
    LayerErrors,
    LayerMoments,
    Lockstep,
    Reached,
    Stop,
)
from quantvla_ros.quantization.recipe import Balance, Estimation, Temperature
from quantvla_ros.quantization.temperature import head_factors, refuse_query_norm

# called with (done, total), in layers of the head run on a sample; an equal share of the time each
Progress = Callable[[int, int], None]
N = TypeVar('N', bound=nn.Module)


@dataclass(frozen=True)
class HeadSample:
    """What both heads start from; tensors on the host.

    Attributes:
        teacher_context, student_context: what the float and the quantized backbone made of the
            same observation.
        inputs: as `Network.flow` takes them.
        noise: [B, chunk, action] float32.
    """

    teacher_context: Any
    student_context: Any
    inputs: Any
    noise: Tensor


@dataclass(frozen=True)
class Corrections:
    """What was folded into the student, and what it brought.

    Attributes:
        alpha: [layers][heads].
        beta: [layers].
        beta_mlp: [layers]; None where MLPs are not balanced.
        interface: by path of the projection; empty where it is not balanced.
        before, after: by layer, without and with all of them.
        notes: a sentence for each scalar that could not be estimated.
    """

    alpha: tuple[tuple[float, ...], ...]
    beta: tuple[float, ...]
    beta_mlp: tuple[float, ...] | None
    interface: Mapping[str, float]
    before: tuple[LayerErrors, ...]
    after: tuple[LayerErrors, ...]
    notes: tuple[str, ...] = ()


def copy_head(model: N) -> N:
    """A copy of a network for use as the teacher: its head is its own, the encoders are shared.

    To be taken while the head is float. What happens to the encoders afterwards happens to the
    copy's too, so contexts come from elsewhere.
    """
    shared = {id(encoder): encoder for encoder in model.encoders()}  # type: ignore[operator]
    return deepcopy(model, shared)


@torch.no_grad()
def match_head(
    student: Network,
    teacher: Network,
    samples: Sequence[HeadSample],
    *,
    temperature: Temperature,
    balance: Balance,
    estimation: Estimation,
    device: torch.device | str,
    dtypes: Mapping[str, torch.dtype] | None = None,
    progress: Progress = lambda done, total: None,
) -> Corrections:
    """Estimate alpha and beta and fold them into the student, in place.

    Cost, in passes of both heads over the samples, for a head of L layers: 'parallel' `sweeps` + 1.
    'sequential' stops each pass at the layer in question: with alpha, beta and MLPs about 3/2 L for
    each sweep, plus `sweeps` + 1. The interface: less than one.

    Args:
        student: quantized and uncorrected; corrected afterwards.
        teacher: its head as it was in float, see `copy_head`.
        samples: any number, at least one.
        temperature, balance, estimation: of a recipe. With the interface balanced too, that comes
            first, and all else is measured with it.
        device: where both networks are.
        dtypes: by name of a tensor of the student, the dtype in which it will be stored; folded
            weights are rounded to it, so that what is measured is what will be loaded.
        progress: called after each part of a pass.
    Raises:
        CalibrationError: nothing to estimate from, settings that do not exist, a policy that
            returns NaN, or a head whose attention a temperature cannot reach.
    """
    return _Matching(
        student, teacher, samples, temperature, balance, estimation, device, dtypes, progress
    ).run()


class _Matching:
    """One run of `match_head`; arguments as there."""

    def __init__(
        self,
        student: Network,
        teacher: Network,
        samples: Sequence[HeadSample],
        temperature: Temperature,
        balance: Balance,
        estimation: Estimation,
        device: torch.device | str,
        dtypes: Mapping[str, torch.dtype] | None,
        progress: Progress,
    ) -> None:
        if not samples:
            raise CalibrationError('corrections: expected samples to estimate from, found none')
        for name, value, known in (
            ('order', estimation.order, ('parallel', 'sequential')),
            ('trajectory', estimation.trajectory, ('own', 'float')),
        ):
            if value not in known:
                raise CalibrationError(
                    f'estimation.{name}: expected one of {", ".join(known)}, found {value!r}'
                )
        self.student, self.teacher, self.samples = student, teacher, samples
        self.temperature, self.balance, self.estimation = temperature, balance, estimation
        self.device, self.progress = device, progress
        self.layers = student.head_layers()
        self.teacher_layers = teacher.head_layers()
        if temperature.enabled:
            for layer in self.layers:
                refuse_query_norm(layer.attention)
        self._notes: list[str] = []
        stored = self._stored = _stored(student, dtypes or {})
        self._queries = [Fold(layer.attention.query_projection, stored) for layer in self.layers]
        self._outputs = [Fold(layer.attention.output_projection, stored) for layer in self.layers]
        self._mlps = [Fold(layer.mlp.output_projection, stored) for layer in self.layers]
        self.alpha = [torch.ones(_heads(layer), dtype=torch.float64) for layer in self.layers]
        self.beta = [torch.ones((), dtype=torch.float64) for _ in self.layers]
        self.beta_mlp = [torch.ones((), dtype=torch.float64) for _ in self.layers]
        # by sample and step, the noisy actions (teacher's, student's) at which partial passes run
        self._trajectories: list[list[tuple[Tensor, Tensor]]] = []
        self._done, self._total = 0, self._work()

    def run(self) -> Corrections:
        """Measure, fold, measure again."""
        moments = self._pass()
        before = after = tuple(layer.errors() for layer in moments)
        interface = self._interface() if self.balance.enabled and self.balance.interface else {}
        if interface:
            moments = self._pass()
        if self.temperature.enabled or self.balance.enabled:
            for _ in range(self.estimation.sweeps):
                if self.estimation.order == 'sequential':
                    self._sequential()
                else:
                    self._parallel(moments)
                moments = self._pass()
            after = tuple(layer.errors() for layer in moments)
        self.progress(self._total, self._total)
        return Corrections(
            alpha=tuple(tuple(alpha.tolist()) for alpha in self.alpha),
            beta=tuple(float(beta) for beta in self.beta),
            beta_mlp=tuple(float(b) for b in self.beta_mlp) if self._balances_mlp else None,
            interface=interface,
            before=before,
            after=after,
            notes=tuple(dict.fromkeys(self._notes)),
        )

    @property
    def _balances_mlp(self) -> bool:
        return self.balance.enabled and self.balance.mlp

    def _parallel(self, moments: Sequence[LayerMoments]) -> None:
        """Every correction from one pass, measured without the others."""
        for index, layer in enumerate(moments):
            self._fold_alpha(index, layer)
            self._fold_beta(index, layer)
            self._fold_beta_mlp(index, layer)

    def _sequential(self) -> None:
        """Layer by layer: attention's queries, its output, the MLP's; each measured on its own."""
        for index in range(len(self.layers)):
            moments = None
            if self.temperature.enabled:
                moments = self._partial_pass(Stop(index))
                if self._fold_alpha(index, moments):
                    moments = None  # the output has changed with it
            if self.balance.enabled:
                if moments is None:
                    moments = self._partial_pass(Stop(index))
                self._fold_beta(index, moments)
            if self._balances_mlp:
                self._fold_beta_mlp(index, self._partial_pass(Stop(index, mlp=True)))

    def _fold_alpha(self, index: int, moments: LayerMoments) -> bool:
        """Fold a layer's alpha; whether it has changed anything."""
        if not self.temperature.enabled:
            return False
        what = f'temperature, layer {index}, head'
        measured = moments.logits.scalar(self.temperature.method, what, self._notes)
        alpha = bounded(measured, self.temperature, self.alpha[index])
        if torch.equal(alpha, self.alpha[index]):
            return False
        self.alpha[index] = alpha
        self._queries[index].set(head_factors(self.layers[index].attention, alpha))
        return True

    def _fold_beta(self, index: int, moments: LayerMoments) -> None:
        if self.balance.enabled:
            what = f'balance, attention of layer {index}'
            measured = moments.attention.scalar(self.balance.method, what, self._notes)
            self.beta[index] = bounded(measured, self.balance, self.beta[index])
            self._outputs[index].set(self.beta[index])

    def _fold_beta_mlp(self, index: int, moments: LayerMoments) -> None:
        if self._balances_mlp:
            what = f'balance, MLP of layer {index}'
            measured = moments.mlp.scalar(self.balance.method, what, self._notes)
            self.beta_mlp[index] = bounded(measured, self.balance, self.beta_mlp[index])
            self._mlps[index].set(self.beta_mlp[index])

    def _interface(self) -> dict[str, float]:
        """Scalars on what the head reads of the backbone, folded into the layers it reads through.

        What it reads does not change over the denoising steps: one step of each sample is enough,
        which includes the making of the flow, where a network may prepare keys and values.
        """
        paths = [point.projection for point in self.student.interface() if point.side == 'input']
        readers = {path: _module(self.student).get_submodule(path) for path in paths}
        teachers = {path: _module(self.teacher).get_submodule(path) for path in paths}
        layer_of = {path: _layer_of(readers[path], self.layers) for path in paths}
        moments = {path: OutputMoments() for path in paths}
        masks: dict[int | None, Tensor | None] = {}

        def remember(index: int, logits: Tensor, valid: Tensor | None, output: Tensor) -> None:
            masks[index] = None if valid is None else valid.any(2).any(1)

        if not paths:
            return {}
        with (
            watch_inputs(teachers) as teacher_reads,
            watch_inputs(readers) as student_reads,
            watch_layers(self.layers, remember, lambda index, output: None),
        ):
            for sample in self.samples:
                noise = to_device(sample.noise, self.device)
                for flow in self._flows(sample):
                    flow.velocity(0, noise)
                for path in paths:
                    moments[path].add(
                        teacher_reads[path], student_reads[path], masks.get(layer_of[path])
                    )
                self._advance(1)
        found = {}
        for path in paths:
            measured = moments[path].scalar(
                self.balance.method, f'balance, input of {path}', self._notes
            )
            scalar = bounded(measured, self.balance)
            Fold(readers[path], self._stored, bias=False).set(scalar)
            found[path] = float(scalar)
        return found

    def _flows(self, sample: HeadSample) -> tuple[Flow, Flow]:
        """Teacher's and student's head on a sample."""
        inputs = to_device(sample.inputs, self.device)
        return (
            self.teacher.flow(to_device(sample.teacher_context, self.device), inputs),
            self.student.flow(to_device(sample.student_context, self.device), inputs),
        )

    @contextmanager
    def _lockstep(self, stop: Stop | None) -> Iterator[list[LayerMoments]]:
        moments = [LayerMoments() for _ in self.layers]
        step = Lockstep(moments, stop)
        with (
            watch_layers(self.teacher_layers, step.teacher_attention, step.teacher_mlp),
            watch_layers(self.layers, step.student_attention, step.student_mlp),
        ):
            yield moments

    def _pass(self) -> list[LayerMoments]:
        """Every sample through every layer and step of both heads."""
        keep = self.estimation.order == 'sequential'
        self._trajectories = []
        with self._lockstep(None) as moments:
            for sample in self.samples:
                teacher, student = self._flows(sample)
                x = own = to_device(sample.noise, self.device).float()
                trajectory = []
                for step in range(teacher.steps):
                    if keep:
                        trajectory.append((x.cpu(), own.cpu()))
                    velocity = teacher.velocity(step, x)
                    own_velocity = student.velocity(step, own)
                    x = teacher.advance(x, velocity)
                    own = student.advance(own, own_velocity)
                    if self.estimation.trajectory == 'float':
                        own = x
                self._trajectories.append(trajectory)
                self._advance(len(self.layers))
        return moments

    def _partial_pass(self, stop: Stop) -> LayerMoments:
        """Every sample and step as far as `stop`, at the actions of the last whole pass."""
        with self._lockstep(stop) as moments:
            for sample, trajectory in zip(self.samples, self._trajectories, strict=True):
                flows = self._flows(sample)
                for step, places in enumerate(trajectory):
                    for flow, x in zip(flows, places, strict=True):
                        with suppress(Reached):
                            flow.velocity(step, to_device(x, self.device))
                self._advance(stop.layer + 1)
        return moments[stop.layer]

    def _work(self) -> int:
        """An upper bound of the layers that will be run on samples."""
        depth, work = len(self.layers), len(self.layers)
        if self.balance.enabled and self.balance.interface:
            work += 1 + depth
        if self.temperature.enabled or self.balance.enabled:
            partial = self.temperature.enabled + self.balance.enabled + self._balances_mlp
            sequential = self.estimation.order == 'sequential'
            sweep = depth + sequential * partial * depth * (depth + 1) // 2
            work += self.estimation.sweeps * sweep
        return work * len(self.samples)

    def _advance(self, layers: int) -> None:
        self._done += layers
        self.progress(min(self._done, self._total), self._total)


def _module(network: Network) -> nn.Module:
    return cast(nn.Module, network)


def _heads(layer: HeadLayer) -> int:
    return layer.attention.num_heads


def _layer_of(module: nn.Module, layers: Sequence[HeadLayer]) -> int | None:
    """The layer whose attention holds a module."""
    for index, layer in enumerate(layers):
        if any(part is module for part in cast(nn.Module, layer.attention).modules()):
            return index
    return None


def _stored(network: Network, dtypes: Mapping[str, torch.dtype]) -> dict[int, torch.dtype]:
    """By `id` of a tensor, the dtype in which it will be stored."""
    module = _module(network)
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {id(tensors[name]): dtype for name, dtype in dtypes.items() if name in tensors}
