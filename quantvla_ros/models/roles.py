# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What each linear layer of a policy is for; quantization layouts choose by role, never by name.

Knows nothing of any one architecture: each model names the roles of its own layers.
"""
from __future__ import annotations

from enum import Enum


class Role(Enum):
    """The job of one linear layer."""

    VISION = 'vision tower'
    PROJECTOR = 'projection of image features to the backbone'
    BACKBONE_ATTENTION = 'attention projections of the language backbone'
    BACKBONE_MLP = 'MLP of the language backbone'
    HEAD_ATTENTION = 'attention projections of the action head'
    HEAD_MLP = 'MLP of the action head'
    HEAD_CONDITION = 'modulation and time conditioning of the action head'
    HEAD_INPUT_OUTPUT = 'projection of actions into and out of the action head'
