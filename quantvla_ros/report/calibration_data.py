# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a calibration found, as the report needs it.

Knows plain numbers, words and pictures; knows nothing of tensors, recipes or how it is shown. A
relative error is ||found - float||_2 / ||float||_2, as a fraction (0.05 is five percent). What was
not measured is None; what is not finite is shown as such, never left out in silence.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Header:
    """What was made, of what, with what.

    Attributes:
        robot, model, recipe, layout, precision: names, as 'tabletop', 'pi05', 'w4a8', 'paper'.
        artifact_id: short hash.
        recipe_text: the recipe file, to be read.
        date: ISO 8601.
        seed: of sampling and noise.
        versions: of the programs, by name.
        float_bytes, quantized_bytes: of all weights, before and after.
        samples, held_out: observations for the statistics and for the reported error.
        linear_layers: linear layers of the network, quantized or not; None: not counted.
        kept: names of the linear layers that stay float, by reason.
    """

    robot: str
    artifact_id: str
    recipe: str
    recipe_text: str
    precision: str
    layout: str
    model: str
    date: str
    seed: int
    versions: Mapping[str, str]
    float_bytes: int
    quantized_bytes: int
    samples: int
    held_out: int
    linear_layers: int | None = None
    kept: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """A relative error before and after a step."""

    before: float
    after: float


@dataclass(frozen=True)
class LayerResult:
    """One quantized layer, in order of use.

    Attributes:
        name: module path.
        role, part: values of models.roles.Role and Part, as 'MLP of the language backbone', 'down'.
        bits: of its weight.
        shape: (outputs, inputs).
        error: relative error of its output on calibration inputs, weights simply rounded to the
            same number of bits (before) and as they are stored (after); activations not rounded.
        input_max, input_rms: of its inputs, over all tokens and channels.
        outlier_ratio: the largest channel's maximum over the median channel's.
    """

    name: str
    role: str
    part: str
    bits: int
    shape: tuple[int, int]
    error: Change | None = None
    input_max: float | None = None
    input_rms: float | None = None
    outlier_ratio: float | None = None


@dataclass(frozen=True)
class HeadResult:
    """One layer of the action head and its corrections, first to last.

    Attributes:
        kind: 'self', 'cross' or '' where there is only one kind.
        alpha: factor of the attention logits of each head.
        beta: factor of the attention's output.
        beta_mlp: factor of the MLP's output; None where it is not corrected.
        logits, output, mlp: relative errors without and with the corrections.
    """

    alpha: tuple[float, ...]
    beta: float
    beta_mlp: float | None = None
    kind: str = ''
    logits: Change | None = None
    output: Change | None = None
    mlp: Change | None = None


@dataclass(frozen=True)
class Action:
    """One dimension of the action, in the contract's words.

    Attributes:
        bounds: what the robot's limits allow; None where there are none.
    """

    name: str
    unit: str
    bounds: tuple[float, float] | None = None


@dataclass(frozen=True)
class FrameResult:
    """One held-out observation and the chunks for it.

    Attributes:
        pictures: [H, W, 3] uint8 RGB by the camera's name.
        episode: '' where it is not known.
        time: s since the episode's (or bag's) beginning; None: not known.
        teacher, student: [steps, actions] of the float and of the quantized policy, in the units
            of the actions, with the same noise.
        error: relative error of this chunk in normalised actions.
    """

    pictures: Mapping[str, np.ndarray]
    instruction: str
    episode: str
    time: float | None
    teacher: np.ndarray
    student: np.ndarray
    error: float


@dataclass(frozen=True)
class Chunks:
    """Some held-out observations, the worst first.

    Attributes:
        period: s between two actions.
    """

    actions: tuple[Action, ...]
    period: float
    frames: tuple[FrameResult, ...]


@dataclass(frozen=True)
class MemoryRow:
    """One part of the policy; the rows add up to the whole.

    Attributes:
        in_paper: whether papers count it: the linear layers of backbone and action head.
    """

    part: str
    float_bytes: int
    quantized_bytes: int
    note: str = ''
    in_paper: bool = False


@dataclass(frozen=True)
class Group:
    """Observations of one kind: how many there were, and how many were used."""

    name: str
    found: int
    used: int


@dataclass(frozen=True)
class EpisodeGroup:
    """Observations of one episode under one instruction."""

    episode: str
    instruction: str
    found: int
    used: int


@dataclass(frozen=True)
class LeftOut:
    """Messages or observations that could not be used."""

    topic: str
    reason: str
    count: int


@dataclass(frozen=True)
class Coverage:
    """What the data covers.

    Attributes:
        bags: hash by name.
        episodes, phases: what was found and used.
        left_out: what could not be used.
        warnings: whole sentences.
    """

    episodes: tuple[EpisodeGroup, ...]
    phases: tuple[Group, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    warnings: tuple[str, ...] = ()
    bags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ChunkError:
    """Difference of the action chunks from float's on held-out observations.

    Attributes:
        rms, largest: in normalised actions (about -1 to 1).
        relative: a fraction.
    """

    rms: float
    largest: float
    relative: float


@dataclass(frozen=True)
class HeldOut:
    """The error that counts: of whole chunks on observations that calibration has not seen.

    Attributes:
        uncorrected, corrected: without and with alpha and beta.
        steps, steps_uncorrected: relative error of the actions after each denoising step.
    """

    corrected: ChunkError
    uncorrected: ChunkError | None = None
    steps: tuple[float, ...] = ()
    steps_uncorrected: tuple[float, ...] = ()


@dataclass(frozen=True)
class CalibrationData:
    """Everything on the page. An empty part is left out of it.

    Attributes:
        interface: factors at the points where the head reads the backbone, by name.
        limit: largest |log| that a factor may have; None: unknown.
    """

    header: Header
    layers: tuple[LayerResult, ...]
    head: tuple[HeadResult, ...]
    held_out: HeldOut
    chunks: Chunks
    memory: tuple[MemoryRow, ...]
    coverage: Coverage
    interface: Mapping[str, float] = field(default_factory=dict)
    limit: float | None = None
