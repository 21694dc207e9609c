# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Real-time chunking inside the flow: the chunk is drawn, while it is integrated, to an older one.

At each step the flow's own estimate of where it ends, A, is replaced by a mixture with the older
chunk P, row by row: A' = (1 - w) A + w P. As a velocity,

    v' = v + w (P - A) / (1 - tau),        tau in [0, 1) from noise to actions,

so a row of weight 1 ends at P exactly, one of weight 0 as without. This takes no gradient: the
published form (Black, Galliker and Levine, arXiv 2506.07339, equations 2 to 4) carries P - A
through the denoiser's transposed Jacobian, which integers do not have and a captured forward has
not kept; docs/control.md compares the two. The soft weights are the published ones
(`control.rtc`).

The operations depend on the shape alone and read two static buffers, so they can be captured in a
graph: with weights 0 the result is, bit for bit, that of no guidance. Knows tensors; knows nothing
of robots, normalisation or any one network.
"""
from __future__ import annotations

import torch
from torch import Tensor


class Guide:
    """What a chunk is drawn to, in the network's normalised action space.

    Args:
        shape: (chunk, action_dim) of the network.

    Attributes:
        previous: [chunk, action_dim] float32; a buffer, finite everywhere.
        weights: [chunk, action_dim] float32 in [0, 1]; a buffer. Numbers of an action that the
            robot has not (the padding) have weight 0.
    """

    def __init__(self, shape: tuple[int, int], device: torch.device | str = 'cpu') -> None:
        self.previous = torch.zeros(shape, device=device)
        self.weights = torch.zeros(shape, device=device)

    def set(self, previous: Tensor, weights: Tensor) -> None:
        """Copy into the buffers.

        Args:
            previous: [chunk, robot's action] float32.
            weights: [chunk, robot's action] float32.
        """
        width = previous.shape[1]
        self.clear()
        self.previous[:, :width].copy_(previous)
        self.weights[:, :width].copy_(weights)

    def clear(self) -> None:
        """Draw to nothing."""
        self.previous.zero_()
        self.weights.zero_()

    def applied(self, step: int, steps: int, before: Tensor, after: Tensor) -> Tensor:
        """What an Euler step becomes.

        The step says where the flow would end if it went on so: A = x + (steps - step) * (x' - x).

        Args:
            step, steps: which of how many, from 0.
            before, after: [..., chunk, action_dim] the noisy actions x, and x' one step on.
        """
        left = steps - step
        ends = torch.lerp(before, after, float(left))
        return after + (self.previous - ends) * (self.weights / left)
