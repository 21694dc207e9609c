# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What surrounds SmolVLA: its prompt, its pictures, the state that it is given.

Knows what lerobot does around the network, read from the checkpoint's own files; knows nothing of
robots or ROS.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from quantvla_ros.errors import CheckpointError, ObservationError
from quantvla_ros.models.arrays import as_tensor, kept_rows
from quantvla_ros.models.data_config import DataConfig
from quantvla_ros.models.features import camera_slots, with_names
from quantvla_ros.models.fitting import Fit
from quantvla_ros.models.images import fitted_size, float_fit, to_tensor
from quantvla_ros.models.lerobot_steps import (
    TOKENIZE,
    LerobotSteps,
    read_lerobot_steps,
)
from quantvla_ros.models.sizes import whole_number
from quantvla_ros.models.smolvla import SmolVLAConfig, SmolVLAInputs
from quantvla_ros.models.tokenizer import (
    SMOLVLM_FILES,
    Tokenizer,
    find_tokenizer,
    load_tokenizer,
    tokenizer_files,
)
from quantvla_ros.observation.types import Observation

VLM = 'HuggingFaceTB/SmolVLM2-500M-Video-Instruct'  # whose tokenizer it is
NEW_LINE = 'smolvla_new_line_processor'
MAX_TOKENS = 48


@dataclass(frozen=True)
class SmolVLAProcessor:
    """Observation to network inputs, network output to actions.

    Attributes:
        sizes: of the network.
        slots: image features in the network's order.
        steps: normalisation, and what else the processor files say.
        max_tokens: longer prompts are an error.
        files, tokenizer_file: what it was read from.
        state_names, action_names: None where nothing says.
    """

    sizes: SmolVLAConfig
    slots: tuple[str, ...]
    steps: LerobotSteps
    tokenizer: Tokenizer
    max_tokens: int
    files: tuple[Path, ...]
    tokenizer_file: Path
    state_names: tuple[str, ...] | None = None
    action_names: tuple[str, ...] | None = None
    control_period: float | None = None
    execute_steps: int | None = None

    @property
    def image(self) -> int:
        """Side of the network's pictures."""
        return self.sizes.vision.image

    @property
    def state_size(self) -> int:
        """Numbers of the robot's state."""
        return self.steps.state.size

    @property
    def action_size(self) -> int:
        """Numbers of an action."""
        return self.steps.action.size

    @classmethod
    def from_directory(
        cls,
        directory: str | Path,
        config: Mapping[str, Any],
        data: DataConfig | None = None,
        *,
        sizes: SmolVLAConfig,
    ) -> SmolVLAProcessor:
        """Read the processor files of a checkpoint or artifact.

        Args:
            data: what the user says of the training data.
            sizes: of the network.
        Raises:
            CheckpointError: a file or statistic is missing, or a step is unknown.
        """
        directory = Path(directory)
        steps = read_lerobot_steps(
            directory, config, data, own=(NEW_LINE,), order=(NEW_LINE, TOKENIZE)
        )
        file = find_tokenizer(directory, data, SMOLVLM_FILES, VLM)
        tokenizer = load_tokenizer(file)
        if tokenizer.size > sizes.vocabulary:
            raise CheckpointError(
                f'{file}: expected a tokenizer of at most {sizes.vocabulary} ids, as the network '
                f'has, found {tokenizer.size}; put {SMOLVLM_FILES[0]} of the hub repository {VLM} '
                f'there'
            )
        return cls(
            sizes=sizes,
            slots=camera_slots(directory, config, steps.rename, data),
            steps=steps,
            tokenizer=tokenizer,
            max_tokens=steps.max_tokens
            or whole_number(config, 'tokenizer_max_length', MAX_TOKENS, 1, 2**16),
            files=(*steps.files, *tokenizer_files(file)),
            tokenizer_file=file,
            state_names=with_names(None, steps.state.size, 'state', data),
            action_names=with_names(steps.action_names, steps.action.size, 'action', data),
            control_period=None if data is None else data.control_period,
            execute_steps=(data and data.execute_steps)
            or whole_number(config, 'n_action_steps', sizes.chunk, 1, sizes.chunk),
        )

    def inputs(self, observation: Observation, device: torch.device | str = 'cpu') -> SmolVLAInputs:
        """One observation as the network wants it; a camera without a picture is left out.

        Raises:
            ObservationError: no camera at all, a state of another size, or a command that cannot be
                a prompt.
        """
        images = [
            fit(to_tensor(observation.images[slot], device), self.image)
            for slot in self.views(observation)
        ]
        return _with(self.inputs_without_pictures(observation, device), images)

    def views(self, observation: Observation) -> tuple[str, ...]:
        """Slots of the pictures that the network gets, in its order.

        Raises:
            ObservationError: there are none.
        """
        found = tuple(slot for slot in self.slots if slot in observation.images)
        if not found:
            raise ObservationError(
                f'expected pictures for {", ".join(self.slots)}, found '
                f'{", ".join(observation.images) or "none"}; check the contract\'s camera slots'
            )
        return found

    def inputs_without_pictures(
        self, observation: Observation, device: torch.device | str = 'cpu'
    ) -> SmolVLAInputs:
        """As `inputs`, but for the pictures, which are left out."""
        ids = self._ids(observation.instruction)
        mask = np.ones(ids.shape, np.bool_)
        return SmolVLAInputs(
            [],
            [],
            as_tensor(ids, device),
            as_tensor(mask, device),
            self.state(observation.state, device),
        )

    def with_pictures(self, inputs: SmolVLAInputs, pictures: Tensor) -> SmolVLAInputs:
        """Inputs without pictures, and [views, 3, image, image] pictures, as `inputs` has them."""
        return _with(inputs, list(pictures.unsqueeze(1).unbind()))

    def picture_fit(self, height: int, width: int) -> Fit:
        """How `inputs` fits pictures of one size: `fit`, written out."""
        rows, columns = fitted_size(height, width, self.image)
        top, left = self.image - rows, self.image - columns
        return float_fit(height, width, self.image, top, left)

    def tokens(self, instruction: str) -> list[int]:
        """Token ids of the prompt: the command and the end of a line."""
        special = [token for token in self.tokenizer.special if token in instruction]
        if special:
            raise ObservationError(
                f'the command holds {special[0]!r}, which means something else to the policy; '
                f'leave it out'
            )
        ids = self.tokenizer.encode(prompt(instruction))
        if len(ids) > self.max_tokens:
            raise ObservationError(
                f'the prompt has {len(ids)} tokens, the policy takes {self.max_tokens}; '
                f'shorten the command'
            )
        return ids

    @cached_property
    def _ids(self) -> Callable[[str], np.ndarray]:
        """Command to `tokens`, [1, T]."""
        return kept_rows(self.tokens)

    def state(self, state: np.ndarray, device: torch.device | str = 'cpu') -> Tensor:
        """[D] state in the robot's units to [1, state_dim] as the network takes it."""
        if np.shape(state) != (self.state_size,):
            raise ObservationError(
                f'state: expected {self.state_size} numbers, found shape {np.shape(state)}; '
                f'the contract\'s joints and state parts must be those of the training data'
            )
        padded = np.zeros((1, self.sizes.state_dim), np.float32)
        padded[0, : self.state_size] = self.steps.state.normalize(state)
        return as_tensor(padded, device)

    def example_state(self) -> np.ndarray:
        """[D] a state in the middle of the data."""
        return self.steps.state.restore(np.zeros(self.state_size, np.float32))

    def actions(self, raw: Tensor, state: np.ndarray) -> np.ndarray:
        """[1, chunk, >= D] network output to [chunk, D] float32 in the robot's units."""
        return self.steps.actions(raw.float().cpu().numpy()[0], state)

    def normalized(self, actions: np.ndarray, state: np.ndarray) -> np.ndarray:
        """[chunk, D] in the robot's units to [chunk, D] float32 as the network gives them."""
        return self.steps.normalized(actions, state)


def _with(inputs: SmolVLAInputs, images: list[Tensor]) -> SmolVLAInputs:
    present = inputs.token_mask.new_ones(1)
    masks = [present] * len(images)
    return SmolVLAInputs(images, masks, inputs.tokens, inputs.token_mask, inputs.state)


def prompt(instruction: str) -> str:
    """The prompt that SmolVLA was trained with."""
    return instruction if instruction.endswith('\n') else instruction + '\n'


def fit(image: Tensor, size: int) -> Tensor:
    """Fit a picture into a square, keeping its shape, with black above and left of it.

    Args:
        image: [B, 3, H, W] float32 in [0, 1].
    Returns:
        [B, 3, size, size] float32 in [-1, 1].
    """
    height, width = image.shape[-2:]
    if (height, width) != (size, size):
        fitted = fitted_size(height, width, size)
        image = F.interpolate(image, size=fitted, mode='bilinear', align_corners=False)
        image = F.pad(image, (size - fitted[1], 0, size - fitted[0], 0))
    return image * 2.0 - 1.0
