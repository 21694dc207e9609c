# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a policy computes on its way from noise to a chunk: for studies, not for robots.

Knows what runs a policy; knows nothing of any one architecture.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from quantvla_ros.engine.policy import Policy
from quantvla_ros.observation.types import Observation


@dataclass(frozen=True)
class Trace:
    """One inference.

    Attributes:
        actions: [chunk, action] float32 in the robot's units, as `Policy.infer` gives them.
        states: [steps + 1, chunk, action] float32, normalised actions: the noise, and what each
            Euler step made of it; only the dimensions that the robot has.
    """

    actions: np.ndarray
    states: np.ndarray


@torch.no_grad()
def trace(policy: Policy, observation: Observation, *, seed: int) -> Trace:
    """Infer as `Policy.infer` does and keep the states between the steps.

    Raises:
        ObservationError: the observation does not fit the policy.
    """
    states, raw = policy.runner.states(observation, seed)
    actions = policy.processor.actions(raw, observation.state)
    kept = torch.cat([*states, raw])[:, :, : actions.shape[-1]]
    return Trace(actions, kept.float().cpu().numpy())
