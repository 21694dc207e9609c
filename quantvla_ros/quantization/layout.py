# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Which linear layers are quantized, chosen by their role, with the reason for each that is not.

Knows roles; knows nothing of names, of how a layer is quantized, or of any one model.
Source: QuantVLA (arXiv 2602.20309), table 1: on pi0.5 at 4 bits, quantizing the backbone and the
action head's MLP costs 2 points of success, the head's attention as well 21.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from quantvla_ros.errors import CalibrationError
from quantvla_ros.models.roles import Place, Role

_VISION = 'few weights against the backbone, and int8 here changed actions most in public reports'
_CONDITION = 'computed once per step from the time alone: no speed to gain, all layers depend on it'
_INPUT_OUTPUT = 'tiny, and the integrated actions pass through it at every step'
_FEATURES = 'few weights, and every layer of the head reads what they give'
_HEAD_ATTENTION = 'its error grows over the denoising steps; the corrections are folded into it'
_HEAD = 'not part of this layout'


class HasPlaces(Protocol):
    """A model that says what each of its linear layers is for."""

    def linear_places(self) -> dict[str, Place]:
        """Place by module path."""


@dataclass(frozen=True)
class Layout:
    """A choice of layers.

    Attributes:
        roles: quantized.
        kept: every other role, and why it stays float.
    """

    name: str
    roles: frozenset[Role]
    kept: Mapping[Role, str]

    def __post_init__(self) -> None:
        assert self.roles.isdisjoint(self.kept) and self.roles | set(self.kept) == set(Role)

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
