# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What each linear layer of a policy is for; layouts and recipes choose by it, never by name.

Knows nothing of any one architecture: each model says it of its own layers.
"""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from torch import nn


class Role(Enum):
    """The job of one linear layer."""

    VISION = 'vision tower'
    PROJECTOR = 'projection of image features to the backbone'
    BACKBONE_ATTENTION = 'attention projections of the language backbone'
    BACKBONE_MLP = 'MLP of the language backbone'
    FEATURES = 'refinement of backbone features before the action head'
    HEAD_ATTENTION = 'attention projections of the action head'
    HEAD_MLP = 'MLP of the action head'
    HEAD_CONDITION = 'modulation and time conditioning of the action head'
    HEAD_INPUT_OUTPUT = 'projection of states and actions into and out of the action head'


class Part(Enum):
    """The place of one linear layer within its attention or MLP."""

    QUERY = 'query'
    KEY = 'key'
    VALUE = 'value'
    OUTPUT = 'output'
    GATE = 'gate'
    UP = 'up'
    DOWN = 'down'
    OTHER = 'other'


@dataclass(frozen=True)
class Place:
    """What one linear layer is for: its role, and its place within that."""

    role: Role
    part: Part = Part.OTHER


# By how a layer's path ends, in the public checkpoints of every architecture we read.
PARTS = {
    'q_proj': Part.QUERY,
    'k_proj': Part.KEY,
    'v_proj': Part.VALUE,
    'o_proj': Part.OUTPUT,
    'out_proj': Part.OUTPUT,
    'gate_proj': Part.GATE,
    'up_proj': Part.UP,
    'down_proj': Part.DOWN,
    'fc1': Part.UP,
    'fc2': Part.DOWN,
    'to_q': Part.QUERY,
    'to_k': Part.KEY,
    'to_v': Part.VALUE,
    'to_out.0': Part.OUTPUT,
    'net.0.proj': Part.UP,
    'net.2': Part.DOWN,
}


def find_places(
    model: nn.Module, rules: Iterable[tuple[str, str, Role]]
) -> dict[str, Place]:
    """The place of every linear layer (float or replaced), by module path, in the tree's order.

    Args:
        rules: (how the path begins, what else is in it, role), the first that fits counts; every
            linear layer needs one.
    """
    rules = tuple(rules)
    places = {}
    for name, module in model.named_modules():
        if not hasattr(module, 'in_features'):
            continue
        role = next(r for start, inner, r in rules if name.startswith(start) and inner in name)
        part = next((p for end, p in PARTS.items() if name.endswith('.' + end)), Part.OTHER)
        places[name] = Place(role, part)
    return places
