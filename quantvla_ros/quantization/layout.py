# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Which linear layers are quantized, chosen by their role, with the reason for each that is not.

Knows roles; knows nothing of names, of how a layer is quantized, or of any one model.
Source: QuantVLA (arXiv 2602.20309), table 1: on pi0.5 at 4 bits, quantizing the backbone and the
action head's MLP costs 2 points of success, the head's attention as well 21.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from quantvla_ros.errors import CalibrationError
from quantvla_ros.models.roles import Place, Role

_VISION = 'int8 here changed actions most in public reports; it runs once for an observation'
_CONDITION = 'computed once from the time alone: no speed to gain, and all layers depend on it'
_INPUT_OUTPUT = 'tiny, and the integrated actions pass through it at every step'
_FEATURES = 'every layer of the head reads what it gives, and no correction comes after it'
_HEAD_ATTENTION = 'its error grows over the denoising steps; the corrections are folded into it'
_HEAD = 'not part of this layout'
_NOT_LINEAR = 'no linear layer: a table, a convolution, or weights chosen by embodiment'


class HasPlaces(Protocol):
    """A module tree that says what each of its linear layers is for."""

    def linear_places(self) -> dict[str, Place]:
        """Place by module path."""

    def named_modules(self) -> Iterable[tuple[str, nn.Module]]:
        """All modules by path."""


@dataclass(frozen=True)
class Layout:
    """A choice of layers.

    Attributes:
        roles: quantized.
        reasons: every other role, and why it stays float.
    """

    name: str
    roles: frozenset[Role]
    reasons: Mapping[Role, str]

    def __post_init__(self) -> None:
        assert self.roles.isdisjoint(self.reasons) and self.roles | set(self.reasons) == set(Role)

    def select(self, model: HasPlaces) -> tuple[str, ...]:
        """Module paths of the layers to quantize, in the model's order.

        Raises:
            CalibrationError: the model has no such layer.
        """
        places = model.linear_places()
        names = tuple(name for name, place in places.items() if place.role in self.roles)
        if not names:
            wanted = ', '.join(sorted(role.value for role in self.roles))
            raise CalibrationError(
                f'layout {self.name}: expected a model with layers for {wanted}, found none; '
                f'choose another layout in the recipe'
            )
        return names

    def kept(self, model: HasPlaces) -> dict[str, tuple[str, ...]]:
        """What stays float, by reason: module paths, in the model's order.

        Every module with a weight of two dimensions and more is here or in `select`; vectors
        (norms, biases) are not worth a word. What a reason does not apply to is left out.
        """
        found: dict[str, list[str]] = {}
        places = model.linear_places()
        for name, module in model.named_modules():
            if name in places:
                reason = self.reasons.get(places[name].role)
            elif any(weight.ndim > 1 for weight in module.parameters(recurse=False)):
                reason = _NOT_LINEAR
            else:
                continue
            if reason is not None:
                found.setdefault(reason, []).append(name)
        return {reason: tuple(names) for reason, names in found.items()}


_OUTSIDE = {
    Role.VISION: _VISION,
    Role.PROJECTOR: _VISION,
    Role.FEATURES: _FEATURES,
    Role.HEAD_CONDITION: _CONDITION,
    Role.HEAD_INPUT_OUTPUT: _INPUT_OUTPUT,
}
_BACKBONE = {Role.BACKBONE_ATTENTION, Role.BACKBONE_MLP}

LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(
            'paper',  # QuantVLA's selective layout
            frozenset(_BACKBONE | {Role.HEAD_MLP}),
            {**_OUTSIDE, Role.HEAD_ATTENTION: _HEAD_ATTENTION},
        ),
        Layout(
            'language',  # the backbone alone
            frozenset(_BACKBONE),
            {**_OUTSIDE, Role.HEAD_ATTENTION: _HEAD_ATTENTION, Role.HEAD_MLP: _HEAD},
        ),
        Layout(
            'full',  # the paper's counter-example, for comparison
            frozenset(_BACKBONE | {Role.HEAD_MLP, Role.HEAD_ATTENTION}),
            _OUTSIDE,
        ),
        Layout(
            'extended',  # the selective layout and what sees: for the smallest memory
            frozenset(_BACKBONE | {Role.HEAD_MLP, Role.VISION, Role.PROJECTOR}),
            {
                Role.FEATURES: _FEATURES,
                Role.HEAD_ATTENTION: _HEAD_ATTENTION,
                Role.HEAD_CONDITION: _CONDITION,
                Role.HEAD_INPUT_OUTPUT: _INPUT_OUTPUT,
            },
        ),
    )
}
