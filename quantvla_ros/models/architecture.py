# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What one architecture adds to the runtime: how its checkpoints are read, and what surrounds it.

Knows of a network that it can be built and of a processor that it makes inputs; each architecture
describes itself in a module `<name>_checkpoint` and is listed in `architectures`.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from quantvla_ros.models.data_config import DataConfig
from quantvla_ros.models.fitting import Fit
from quantvla_ros.observation.types import Observation


class Processor(Protocol):
    """What surrounds a network: observation to network inputs, network output to actions."""

    @property
    def slots(self) -> tuple[str, ...]:
        """Image features in the network's order."""
        ...

    @property
    def image(self) -> int:
        """Side of the network's pictures."""
        ...

    @property
    def state_size(self) -> int:
        """Numbers of the robot's state, not of the network's padded vector."""
        ...

    @property
    def action_size(self) -> int:
        """Numbers of the robot's action."""
        ...

    @property
    def state_names(self) -> tuple[str, ...] | None:
        """One for each number of the state; None where nothing says."""
        ...

    @property
    def action_names(self) -> tuple[str, ...] | None:
        """One for each number of the action; None where nothing says."""
        ...

    @property
    def control_period(self) -> float | None:
        """Seconds between two actions of a chunk; None where nothing says."""
        ...

    @property
    def execute_steps(self) -> int | None:
        """Actions to run of a chunk before the next; None: all."""
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that it was read from, the data config apart.

        With config.json they make it again, from a directory that holds copies of them under their
        own names.
        """
        ...

    @property
    def tokenizer_file(self) -> Path:
        """The one of the files that holds the tokenizer."""
        ...

    def inputs(self, observation: Observation, device: torch.device | str = 'cpu') -> Any:
        """Network inputs of one observation, batch size 1.

        Raises:
            ObservationError: it does not fit the policy.
        """
        ...

    def views(self, observation: Observation) -> tuple[str, ...]:
        """Slots of the pictures that the network gets of an observation, in its order.

        Raises:
            ObservationError: one that it cannot do without is missing.
        """
        ...

    def inputs_without_pictures(
        self, observation: Observation, device: torch.device | str = 'cpu'
    ) -> Any:
        """As `inputs`, of the same type, without pictures and without asking for any.

        Raises:
            ObservationError: the state or the command does not fit the policy.
        """
        ...

    def with_pictures(self, inputs: Any, pictures: Tensor) -> Any:
        """Inputs without pictures, and [views, 3, image, image] pictures, as `inputs` has them.

        The pictures may be on another device than the rest.
        """
        ...

    def picture_fit(self, height: int, width: int) -> Fit:
        """How `inputs` makes the network's pictures of such of one size, written out."""
        ...

    def actions(self, raw: Tensor, state: np.ndarray) -> np.ndarray:
        """Network output to actions.

        Args:
            raw: [1, chunk, >= action_size], normalised.
            state: [state_size] of the observation, in the robot's units: relative actions start
                there.
        Returns:
            [chunk, action_size] float32 in the robot's units.
        """
        ...

    def normalized(self, actions: np.ndarray, state: np.ndarray) -> np.ndarray:
        """Actions as the network would have given them: the inverse of `actions`.

        Args:
            actions: [chunk, action_size] in the robot's units.
            state: [state_size] of the observation that relative ones are to start from.
        Returns:
            [chunk, action_size] float32; what has no range in the data has no scale and may be
            large.
        """
        ...

    def example_state(self) -> np.ndarray:
        """[state_size] a state in the middle of the data, for warming up."""
        ...


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    Attributes:
        kind: its name in manifests and commands, and in config.json.
        title: its name for people.
        build: a hub config to a network on the current default device, weights not loaded.
        canonical_key: a checkpoint's key as the module tree spells it; None: nothing uses it.
        hub_key: the reverse, as the hub spells it.
        tied: keys of output layers that are stored in place of an embedding or beside it, and the
            embedding's.
        float32_modules: how the keys begin of what stays in float32 in every precision: tiny
            modules that touch the integrated actions or the time.
        processor: (directory, config, what the user says of the data) to its processor.
        aliases: other names that config.json may give it.
        untyped: whether a config.json that names no model is one of it.
    """

    kind: str
    title: str
    build: Callable[[Mapping[str, Any]], nn.Module]
    canonical_key: Callable[[str], str | None]
    hub_key: Callable[[str], str]
    tied: Mapping[str, str]
    float32_modules: tuple[str, ...]
    processor: Callable[[Path, Mapping[str, Any], DataConfig | None], Processor]
    aliases: tuple[str, ...] = ()
    untyped: Callable[[Mapping[str, Any]], bool] = lambda config: False
