# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Quantizing a network in the order in which its layers run, each on what the quantized ones before
it give.

Knows networks, recipes and batches; knows nothing of bags, files or corrections (see `matching`).
Beside the model itself, the device holds one batch (all of them, where there is room), a float copy
of the block in work (of the whole head, for the head) and the second moments of one tensor.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from quantvla_ros.models.network import Flow, Network
from quantvla_ros.models.roles import Place, Role
from quantvla_ros.models.tree import to_device
from quantvla_ros.quantization.balance import OutputMoments
from quantvla_ros.quantization.correction import bounded, scale_outputs
from quantvla_ros.quantization.formats import BACKBONE, HEAD, VISION, replace_layer, scale_steps
from quantvla_ros.quantization.gather import Gatherer, Run, gather, reading_order
from quantvla_ros.quantization.quantize import Basis, Inputs, Quality, is_static, quantize_linear
from quantvla_ros.quantization.recipe import PER_STEP, LayerFormat, Recipe
from quantvla_ros.quantization.samples import Batch, FloatRun

_LARGEST = {8: 127, 4: 7}

Done = Callable[[], None]  # called after each layer


@dataclass(frozen=True)
class LayerRecord:
    """One quantized layer: what it is, what it reads, how well it was quantized.

    Attributes:
        shape: (outputs, inputs).
        quality: relative errors of its outputs.
        input_largest: maximum of |x|; input_rms: its root mean square.
        outlier: largest maximum of an input channel over the channels' median one.
            All None where nothing reads the layer.
    """

    name: str
    place: Place
    format: LayerFormat
    shape: tuple[int, int]
    quality: Quality
    input_largest: float | None
    input_rms: float | None
    outlier: float | None


class Quantizer:
    """Replaces the layers of a recipe's layout in a network, stage by stage.

    Attributes:
        records: of the layers replaced so far, by path.
        interface: scalars folded into what the head reads of the backbone, by path.
        notes: a sentence for each scalar that could not be estimated.
    """

    def __init__(
        self, model: Any, recipe: Recipe, device: torch.device, done: Done = lambda: None
    ) -> None:
        """The model is a Network and an nn.Module."""
        self.model, self.recipe, self.device, self.done = model, recipe, device, done
        self.records: dict[str, LayerRecord] = {}
        self.interface: dict[str, float] = {}
        self.notes: list[str] = []
        self._places: dict[str, Place] = model.linear_places()
        self.names = recipe.layout.select(model)

    @torch.no_grad()
    def vision(self, batches: Sequence[Batch], runs: Sequence[FloatRun]) -> list[Tensor]:
        """Quantize what the layout has of vision tower and projector, all at once.

        Returns:
            The embeddings of the batches.
        """
        names = self._of(VISION)
        if not names:
            return [run.embedding for run in runs]
        model = self.model

        def embed(batch: Batch) -> Callable[[], object]:
            return lambda: model.embed(to_device(batch.inputs, self.device))

        groups = reading_order(model, names, embed(batches[0]))
        gatherers = [self._gatherer(group, cross=False) for group in groups]
        gather(gatherers, model, (Run(0, embed(batch)) for batch in batches))
        for gatherer in gatherers:
            self._replace(gatherer)
        self._rest(names)
        return [
            self._home(model.embed(to_device(batch.inputs, self.device))[0], run)
            for batch, run in zip(batches, runs, strict=True)
        ]

    @torch.no_grad()
    def backbone(
        self,
        embeddings: Sequence[Tensor],
        runs: Sequence[FloatRun],
    ) -> list[Any]:
        """Quantize the backbone block by block.

        Args:
            embeddings: of the quantized policy; runs: of the float one.
        Returns:
            The contexts that the quantized backbone makes.
        """
        stack, names = self.model.backbone, self._of(BACKBONE)
        states = [
            self._home(stack.start(*to_device((x, run.valid), self.device)), run)
            for x, run in zip(embeddings, runs, strict=True)
        ]
        floats = [
            self._home(stack.start(*to_device((run.embedding, run.valid), self.device)), run)
            for run in runs
        ]
        points = [p.projection for p in self.model.interface() if p.side == 'output']
        balanced = self.recipe.balance.enabled and self.recipe.balance.interface and points
        cross = self._cross
        for index in range(len(stack.layers)):
            block = stack.layers[index]
            prefix = next(n for n, m in self.model.named_modules() if m is block) + '.'
            mine = [name for name in names if name.startswith(prefix)]
            twin = deepcopy(block) if cross or balanced else None
            groups = reading_order(
                self.model, mine, partial(self._step, index, block, states[0])
            )
            for together in self._passes(groups):
                gatherers = [self._gatherer(group, cross=cross) for group in together]
                gather(
                    gatherers,
                    self.model,
                    (
                        Run(
                            0,
                            partial(self._step, index, block, state),
                            None if twin is None or not cross
                            else partial(self._step, index, twin, reference),
                        )
                        for state, reference in zip(states, floats, strict=True)
                    ),
                    teacher=twin,
                    teacher_prefix=prefix,
                    until=together[-1][0],
                )
                for gatherer in gatherers:
                    self._replace(gatherer)
            self._rest(mine)
            for point in points if balanced else ():
                if point.startswith(prefix):
                    self._balance(point, index, block, twin, prefix, states, floats)
            for number, state in enumerate(states):
                states[number] = self._home(self._step(index, block, state), runs[number])
            if twin is not None:
                for number, state in enumerate(floats):
                    floats[number] = self._home(self._step(index, twin, state), runs[number])
        return [
            self._home(stack.finish(to_device(state, self.device)), run)
            for state, run in zip(states, runs, strict=True)
        ]

    @torch.no_grad()
    def head(
        self,
        batches: Sequence[Batch],
        runs: Sequence[FloatRun],
        contexts: Sequence[Any],
        teacher: Any,
    ) -> None:
        """Quantize the action head, layer by layer, on the float policy's noisy actions.

        Args:
            contexts: of the quantized backbone; teacher: the network with its head in float.
        """
        names = self._of(HEAD)
        if not names:
            return
        model, cross = self.model, self._cross

        def one_by_one() -> Iterator[Run]:
            for batch, run, context in zip(batches, runs, contexts, strict=True):
                inputs, path, own, reference = to_device(
                    (batch.inputs, run.path, context, run.context if cross else None), self.device
                )
                student = _HeadRun(model, own, inputs)
                other = _HeadRun(teacher, reference, inputs) if cross else None
                for step in range(model.denoising_steps):
                    yield Run(
                        step,
                        partial(student, step, path[step]),
                        partial(other, step, path[step]) if other is not None else None,
                    )

        first = next(one_by_one())
        for together in self._passes(reading_order(model, names, first.student)):
            gatherers = [self._gatherer(group, cross=cross) for group in together]
            gather(gatherers, model, one_by_one(), teacher=teacher, until=together[-1][0])
            for gatherer in gatherers:
                self._replace(gatherer)
        self._rest(names)

    def _passes(self, groups: Sequence[list[str]]) -> list[list[list[str]]]:
        """Layers to gather for in one pass; all of them, where no weight depends on its inputs."""
        weights = self.recipe.weights
        if weights.rounding == 'nearest' and not weights.match_float:
            return [list(groups)] if groups else []
        return [[group] for group in groups]

    @property
    def _cross(self) -> bool:
        return self.recipe.weights.match_float

    def _of(self, roles: Sequence[Role]) -> list[str]:
        return [name for name in self.names if self._places[name].role in roles]

    def _home(self, state: Any, run: FloatRun) -> Any:
        """To where the float runs are kept."""
        return to_device(state, run.path.device)

    def _step(self, index: int, block: nn.Module, state: Any) -> Any:
        """One block (the network's own or a float copy in its place) on a state."""
        layers = self.model.backbone.layers
        kept = layers[index]
        layers[index] = block
        try:
            return self.model.backbone.step(index, to_device(state, self.device))
        finally:
            layers[index] = kept

    def _balance(
        self,
        point: str,
        index: int,
        block: nn.Module,
        twin: nn.Module | None,
        prefix: str,
        states: Sequence[Any],
        floats: Sequence[Any],
    ) -> None:
        """Scale one output of a quantized block that the head reads to the float one's energy."""
        assert twin is not None
        moments = OutputMoments()
        for state, reference in zip(states, floats, strict=True):
            outputs = [
                _output_of(module, partial(self._step, index, whole, start))
                for module, whole, start in (
                    (twin.get_submodule(point.removeprefix(prefix)), twin, reference),
                    (self.model.get_submodule(point), block, state),
                )
            ]
            moments.add(*outputs)
        settings = self.recipe.balance
        measured = moments.scalar(settings.method, point, self.notes)
        factor = bounded(measured, settings)
        layer = self.model.get_submodule(point)
        scale_outputs(layer, factor.expand(layer.out_features))
        self.interface[point] = float(factor)

    def _gatherer(self, names: Sequence[str], *, cross: bool) -> Gatherer:
        bases = {}
        settings = self.recipe.activations
        for name in names:
            layout = self.recipe.layer_format(self._places[name])
            if is_static(layout):
                weight = self.model.get_submodule(name).weight.detach().float()
                bases[name] = Basis.of(weight, layout).inputs
        return Gatherer(
            names,
            cross=cross,
            bases=bases,
            percentile=settings.percentile,
            levels=_LARGEST[settings.bits],
            per_step=settings.scale == PER_STEP,
        )

    def _replace(self, gatherer: Gatherer) -> None:
        for name in gatherer.names:
            self._quantize(name, gatherer.inputs(name))

    def _rest(self, names: Sequence[str]) -> None:
        """Layers that nothing ran: pi0.5's last block is read for its keys and values alone."""
        for name in names:
            if name not in self.records:
                self._quantize(name, None)

    def _quantize(self, name: str, inputs: Inputs | None) -> None:
        place, linear = self._places[name], self.model.get_submodule(name)
        layout = self.recipe.layer_format(place)
        layer, quality = quantize_linear(
            linear,
            layout,
            self.recipe.weights,
            self.model.denoising_step,
            inputs=inputs,
            steps=scale_steps(place, layout, self.model.denoising_steps),
        )
        replace_layer(self.model, name, layer)
        self.records[name] = _record(name, place, layout, linear, quality, inputs)
        self.done()


def _output_of(module: nn.Module, run: Callable[[], object]) -> Tensor:
    """What a module gives while something runs."""
    seen: list[Tensor] = []
    handle = module.register_forward_hook(lambda _, inputs, output: seen.append(output.detach()))
    try:
        run()
    finally:
        handle.remove()
    return seen[-1]


class _HeadRun:
    """One network's head on one batch, a step at a time; its flow is made at the first."""

    def __init__(self, network: Network, context: Any, inputs: Any) -> None:
        self._network, self._context, self._inputs = network, context, inputs
        self._flow: Flow | None = None

    def __call__(self, step: int, x: Tensor) -> Tensor:
        if self._flow is None:
            self._flow = self._network.flow(self._context, self._inputs)
        return self._flow.velocity(step, x)


def _record(
    name: str,
    place: Place,
    layout: LayerFormat,
    linear: nn.Linear,
    quality: Quality,
    inputs: Inputs | None,
) -> LayerRecord:
    largest = rms = outlier = None
    if inputs is not None:
        largest = float(inputs.largest.max())
        rms = float(inputs.moments.diagonal().mean().sqrt())
        outlier = largest / max(float(inputs.largest.median()), 1e-30)
    shape = (linear.out_features, linear.in_features)
    return LayerRecord(name, place, layout, shape, quality, largest, rms, outlier)
