# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How a policy is to be quantized: the settings of a recipe file, as they act.

Knows what a setting may be and which layer it means; knows nothing of YAML (see `recipe_file`), of
models or of how a setting is carried out.
"""
from __future__ import annotations

import itertools
from dataclasses import dataclass

from quantvla_ros.models.roles import Part, Place, Role
from quantvla_ros.quantization.layout import Layout

ROUNDINGS = ('nearest', 'gptq')
DYNAMIC, PER_TENSOR, PER_STEP = 'dynamic_per_token', 'static_per_tensor', 'static_per_step'
ACTIVATION_SCALES = (DYNAMIC, PER_TENSOR, PER_STEP)
INPUT_ROTATIONS = ('none', 'hadamard', 'pca', 'pca_hadamard')
OUTPUT_ROTATIONS = ('none', 'pca')
TEMPERATURE_METHODS = ('std_ratio', 'least_squares')
BALANCE_METHODS = ('rms_ratio', 'least_squares')
ORDERS = ('parallel', 'sequential')
TRAJECTORIES = ('own', 'float')

_STAGES = {
    Role.BACKBONE_ATTENTION: 'backbone',
    Role.BACKBONE_MLP: 'backbone',
    Role.HEAD_ATTENTION: 'head',
    Role.HEAD_MLP: 'head',
    Role.VISION: 'vision',
    Role.PROJECTOR: 'projector',
}
# What `weights.eight_bits` may name, as 'backbone.down'.
LAYER_KINDS = tuple(
    f'{stage}.{part.value}'
    for stage, part in itertools.product(dict.fromkeys(_STAGES.values()), Part)
)


@dataclass(frozen=True)
class Weights:
    """How weights become integers.

    Attributes:
        bits: 8 or 4.
        group: columns that share a scale within an output channel; 0: the whole channel.
        rounding: 'nearest', or 'gptq' (arXiv 2210.17323).
        damping: what GPTQ adds to the diagonal of the inputs' second moments, relative to its mean.
        match_float: aim at what the float layer gives on the float policy's inputs, so that a layer
            makes up for the error of those before it.
        scale_grid: candidates for a scale, as fractions of the one that clips nothing.
        eight_bits: kinds of layers that stay at 8 bits, as 'backbone.down'.
    """

    bits: int
    group: int
    rounding: str
    damping: float
    match_float: bool
    scale_grid: tuple[float, ...]
    eight_bits: tuple[str, ...]


@dataclass(frozen=True)
class Activations:
    """How activations become integers, symmetric.

    Attributes:
        bits: 8, or 4 for study.
        scale: one of ACTIVATION_SCALES.
        percentile: of |x| that a static scale still holds; dynamic scales hold all.
    """

    bits: int
    scale: str
    percentile: float


@dataclass(frozen=True)
class Rotation:
    """Orthogonal maps that spread outliers before rounding.

    Attributes:
        input: applied to what a layer reads, undone in its weight; one of INPUT_ROTATIONS.
        block: channels that are mixed with each other.
        permute: deal strong and weak input channels evenly to the blocks first (zigzag).
        output: applied to the weight's rows, undone after the product; one of OUTPUT_ROTATIONS.
    """

    input: str
    block: int
    permute: bool
    output: str


@dataclass(frozen=True)
class Smoothing:
    """Scales per channel, moved from activations into weights and folded away.

    Attributes:
        strength: 0 levels the weights' channels, 1 the activations'.
    """

    enabled: bool
    strength: float


@dataclass(frozen=True)
class Correction:
    """What both corrections share.

    Attributes:
        method: how the scalar is estimated.
        log_clip: bound on the scalar's |logarithm|.
        dead_band: a scalar whose |logarithm| is below this is left out.
        shrinkage: the scalar's logarithm is multiplied by this.
    """

    enabled: bool
    method: str
    log_clip: float
    dead_band: float
    shrinkage: float


@dataclass(frozen=True)
class Temperature(Correction):
    """Attention temperature matching; `method` one of TEMPERATURE_METHODS."""


@dataclass(frozen=True)
class Balance(Correction):
    """Output head balancing; `method` one of BALANCE_METHODS.

    Attributes:
        mlp: also the outputs of the head's MLPs.
        interface: also what the head reads of the backbone.
    """

    mlp: bool
    interface: bool


@dataclass(frozen=True)
class Estimation:
    """How the corrections are estimated.

    Attributes:
        order: 'parallel' (one pass, the head uncorrected) or 'sequential' (layer by layer, each
            with those before it corrected).
        sweeps: how often, on top of what is folded already.
        trajectory: whose noisy actions the quantized head sees: its 'own', or the 'float' policy's.
    """

    order: str
    sweeps: int
    trajectory: str


@dataclass(frozen=True)
class Sampling:
    """How many observations calibration takes.

    Attributes:
        samples: for the statistics.
        minimum: fewer are refused.
        held_out: further ones, for the reported error only.
    """

    samples: int
    minimum: int
    held_out: int


@dataclass(frozen=True)
class LayerFormat:
    """What one quantized layer stores and how it runs, up to its sizes."""

    weight_bits: int
    group: int
    activation_bits: int
    activation_scale: str
    rotation: str
    block: int
    permute: bool
    output_rotation: bool


@dataclass(frozen=True)
class Recipe:
    """A checked recipe.

    Attributes:
        name: of the file, without its suffix.
        text: the file itself; it goes into the artifact.
    """

    name: str
    text: str
    layout: Layout
    weights: Weights
    activations: Activations
    rotation: Rotation
    smoothing: Smoothing
    temperature: Temperature
    balance: Balance
    estimation: Estimation
    sampling: Sampling

    @property
    def precision(self) -> str:
        """Bits of weights and activations, as 'w4a8'."""
        return f'w{self.weights.bits}a{self.activations.bits}'

    def layer_format(self, place: Place) -> LayerFormat:
        """How a layer of this place is stored."""
        eight = f'{_STAGES.get(place.role)}.{place.part.value}' in self.weights.eight_bits
        bits = 8 if eight else self.weights.bits
        return LayerFormat(
            weight_bits=bits,
            group=self.weights.group if bits == 4 else 0,
            activation_bits=self.activations.bits,
            activation_scale=self.activations.scale,
            rotation=self.rotation.input,
            block=self.rotation.block,
            permute=self.rotation.permute,
            output_rotation=self.rotation.output != 'none',
        )
