# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What surrounds GR00T N1.5: the chat prompt, its pictures, states and actions by parts.

NVIDIA's directories do not say which parts of the data they were trained on, so a data config must
(config/data holds those of public robots); lerobot's do in their processor files, and a data config
may say otherwise. Knows what each means; knows nothing of ROS.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quantvla_ros.errors import CheckpointError, ObservationError
from quantvla_ros.models.arrays import as_tensor, kept_rows
from quantvla_ros.models.data_config import FILE, DataConfig, VectorPart
from quantvla_ros.models.fitting import Fit
from quantvla_ros.models.groot_images import (
    isaac_fit,
    isaac_picture,
    lerobot_fit,
    lerobot_picture,
)
from quantvla_ros.models.groot_lerobot import LerobotSetup, read_setup
from quantvla_ros.models.groot_n15 import GrootConfig, GrootInputs
from quantvla_ros.models.groot_parts import Vector
from quantvla_ros.models.groot_prompt import CONTEXT, Prompt, find_template
from quantvla_ros.models.groot_statistics import (
    Statistics,
    find_statistics_file,
    read_statistics,
    tensors_statistics,
)
from quantvla_ros.models.statistics import ACTION, STATE
from quantvla_ros.models.tokenizer import (
    QWEN_FILES,
    Tokenizer,
    find_tokenizer,
    load_tokenizer,
    tokenizer_files,
)
from quantvla_ros.observation.types import Observation

REPOSITORY = 'lerobot/eagle2hg-processor-groot-n1p5'

# Rows of the weights by embodiment, as in Isaac-GR00T (gr00t/data/embodiment_tags.py) and, the last
# two, lerobot. Forks count differently: a data config's embodiment_id goes first.
EMBODIMENTS = {
    'new_embodiment': 31,
    'gr1': 24,
    'oxe_droid': 17,
    'agibot_genie1': 26,
    'so100': 2,
    'unitree_g1': 3,
}


@dataclass(frozen=True)
class GrootProcessor:
    """Observation to network inputs, network output to actions.

    Attributes:
        slots: image features in the network's order; all are needed, for none can be masked.
        image: side of the network's pictures.
        state, action: the robot's numbers, by parts.
        embodiment_id: row of the weights.
        prompt: a command to the prompt's text.
        resize: 'isaac' or 'lerobot'; crop: share of the sides that isaac's keeps, None: all.
        files, tokenizer_file: what it was read from.
    """

    slots: tuple[str, ...]
    image: int
    state: Vector
    action: Vector
    embodiment_id: int
    prompt: Prompt
    tokenizer: Tokenizer
    resize: str
    crop: float | None
    files: tuple[Path, ...]
    tokenizer_file: Path
    control_period: float | None = None
    execute_steps: int | None = None

    @property
    def state_size(self) -> int:
        """Numbers of the robot's state."""
        return self.state.size

    @property
    def action_size(self) -> int:
        """Numbers of an action."""
        return self.action.size

    @property
    def state_names(self) -> tuple[str, ...] | None:
        """One for each number of the state; None where nothing says."""
        return self.state.names

    @property
    def action_names(self) -> tuple[str, ...] | None:
        """One for each number of the action; None where nothing says."""
        return self.action.names

    @classmethod
    def from_directory(
        cls,
        directory: str | Path,
        config: Mapping[str, Any],
        data: DataConfig | None = None,
        *,
        sizes: GrootConfig,
    ) -> GrootProcessor:
        """Read what surrounds the network of a checkpoint or artifact.

        Args:
            config: the directory's config.json.
            data: what the user says of the training data.
            sizes: of the network.
        Raises:
            CheckpointError: a file, a statistic or a part's description is missing or does not fit.
        """
        directory = Path(directory)
        setup = read_setup(directory)
        data = _described(directory, config, setup, data)
        statistics, read = _statistics(directory, setup, data)
        state = statistics.vector('state', data.state, sizes.state_dim)
        action = statistics.vector('action', data.action, sizes.action_dim)
        _no_angles(action)
        if setup is not None and setup.action_size not in (None, action.size):
            raise CheckpointError(
                f'{setup.files[1]}: env_action_dim: expected the {action.size} numbers that '
                f'{statistics.source} has of an action, found {setup.action_size}; {_SAY}'
            )
        file = find_tokenizer(directory, data, QWEN_FILES, REPOSITORY)
        template = find_template(file)
        prompt = Prompt.from_template(
            len(data.cameras),
            sizes.vision.tokens,
            as_list=data.instruction != 'plain',
            simplified=setup is not None and setup.simplified,
            template=template,
        )
        return cls(
            slots=data.cameras,
            image=sizes.vision.image,
            state=state,
            action=action,
            embodiment_id=_embodiment(directory, data, sizes.embodiments),
            prompt=prompt,
            tokenizer=_tokenizer(file, sizes, prompt),
            resize=data.resize or 'isaac',
            crop=data.crop,
            files=(*read, *tokenizer_files(file), *([template] if template else [])),
            tokenizer_file=file,
            control_period=data.control_period,
            execute_steps=data.execute_steps,
        )

    def inputs(self, observation: Observation, device: torch.device | str = 'cpu') -> GrootInputs:
        """One observation as the network wants it.

        Raises:
            ObservationError: a picture is missing, the state has another size, or the command
                holds a token of the prompt's own.
        """
        views = self.views(observation)
        rest = self.inputs_without_pictures(observation, device)
        pictures = torch.stack([self.picture(observation.images[slot]) for slot in views])
        return self.with_pictures(rest, pictures.to(device))

    def views(self, observation: Observation) -> tuple[str, ...]:
        """Slots of the pictures that the network gets, in its order: all.

        Raises:
            ObservationError: a picture is missing.
        """
        lacking = [slot for slot in self.slots if slot not in observation.images]
        if lacking:
            raise ObservationError(
                f'expected pictures for {", ".join(self.slots)}, found none for '
                f'{", ".join(lacking)}; GR00T N1.5 needs every camera: make them required in the '
                f'contract'
            )
        return self.slots

    def inputs_without_pictures(
        self, observation: Observation, device: torch.device | str = 'cpu'
    ) -> GrootInputs:
        """As `inputs`, but for the pictures: `pixel_values` is [0, 3, image, image]."""
        state = np.asarray(observation.state)
        if state.shape != (self.state.size,):
            raise ObservationError(
                f'state: expected {self.state.size} numbers, found shape {state.shape}; '
                f'the contract\'s joints and state parts must be those of the training data'
            )
        ids = self._ids(observation.instruction)
        return GrootInputs(
            as_tensor(np.zeros((0, 3, self.image, self.image), np.float32), device),
            as_tensor(ids, device),
            as_tensor(np.ones(ids.shape, np.bool_), device),
            as_tensor(self.state.normalize(state).reshape(1, 1, -1), device),
            as_tensor(np.array([self.embodiment_id], np.int64), device),
        )

    def with_pictures(self, inputs: GrootInputs, pictures: Tensor) -> GrootInputs:
        """Inputs without pictures, and [views, 3, image, image] pictures, as `inputs` has them."""
        return replace(inputs, pixel_values=pictures)

    def picture_fit(self, height: int, width: int) -> Fit:
        """How `picture` fits pictures of one size."""
        if self.resize == 'lerobot':
            return lerobot_fit(height, width, self.image)
        return isaac_fit(height, width, self.image, self.crop)

    def tokens(self, instruction: str) -> list[int]:
        """Token ids of the prompt.

        Raises:
            ObservationError: the command holds a token that means something else than its text.
        """
        held = [token for token in self.tokenizer.special if token in instruction]
        if held:
            raise ObservationError(
                f'instruction: expected plain words, found {", ".join(held)}, which the prompt '
                f'uses for itself; leave it out'
            )
        return self.tokenizer.encode(self.prompt.text(instruction))

    @cached_property
    def _ids(self) -> Callable[[str], np.ndarray]:
        """Command to `tokens`, [1, T]."""
        return kept_rows(self.tokens)

    def picture(self, picture: np.ndarray) -> Tensor:
        """[H, W, 3] uint8 to [3, image, image] float32 in [-1, 1]."""
        if self.resize == 'lerobot':
            return lerobot_picture(picture, self.image)
        return isaac_picture(picture, self.image, self.crop)

    def example_state(self) -> np.ndarray:
        """[state_size] a state in the middle of the data."""
        return self.state.middle()

    def actions(self, raw: Tensor, state: np.ndarray) -> np.ndarray:
        """[1, chunk, >= action_size] network output to [chunk, action_size] in robot units."""
        return self.action.restore(raw.float().cpu().numpy()[0])

    def normalized(self, actions: np.ndarray, state: np.ndarray) -> np.ndarray:
        """[chunk, action_size] in robot units to [chunk, action_size] as the network gives them."""
        return self.action.normalize(actions)[:, : self.action_size]


_SAY = f'describe the data in {FILE} (docs/checkpoints.md), config/data holds some to copy'


def _described(
    directory: Path, config: Mapping[str, Any], setup: LerobotSetup | None, data: DataConfig | None
) -> DataConfig:
    """What the user says of the data, what is left open taken from lerobot's files."""
    if data is None:
        data = DataConfig(directory / FILE, 'gr00t_n1_5')
    if setup is not None:
        data = replace(
            data,
            cameras=data.cameras or _cameras(config, setup.rename),
            state=data.state or (VectorPart(STATE, 'min_max'),),
            action=data.action or (VectorPart(ACTION, 'min_max'),),
            resize=data.resize or 'lerobot',
            embodiment=data.embodiment or setup.tag,
            embodiment_id=(
                setup.embodiment_id
                if data.embodiment_id is None and data.embodiment in (None, setup.tag)
                else data.embodiment_id
            ),
        )
    for name in ('cameras', 'state', 'action'):
        if not getattr(data, name):
            raise CheckpointError(
                f'{directory}: expected to be told the {name} that it was trained on, found '
                f'nothing that says so; {_SAY}'
            )
    if data.crop is not None and data.resize == 'lerobot':
        raise CheckpointError(
            f'{data.source}: crop: expected none with resize lerobot, found {data.crop}; '
            f'remove it, or say resize: isaac'
        )
    return data


def _cameras(config: Mapping[str, Any], rename: Mapping[str, str]) -> tuple[str, ...]:
    """Slots as the data names them, in the order of lerobot: that of the network's names."""
    features = config.get('input_features') or {}
    back = {new: old for old, new in rename.items()}
    found = sorted(name for name, kind in features.items() if kind.get('type') == 'VISUAL')
    return tuple(back.get(name, name) for name in found)


def _statistics(
    directory: Path, setup: LerobotSetup | None, data: DataConfig
) -> tuple[Statistics, tuple[Path, ...]]:
    """The statistics, and all files that were read so far."""
    own = () if setup is None else setup.files
    if data.statistics is None and setup is not None:
        if setup.state is None or setup.action is None:
            raise CheckpointError(
                f'{directory}: expected statistics of the training data, found processor files '
                f'without (no state_file); name a file that has them in {FILE} (statistics: PATH)'
            )
        return tensors_statistics(setup.state, setup.action), own
    path = find_statistics_file(directory, data)
    return read_statistics(path, data.embodiment), (*own, path)


def _no_angles(action: Vector) -> None:
    for part in action.parts:
        if part.mode == 'sin_cos':
            raise CheckpointError(
                f'action {part.key!r}: expected a mode that can be undone, found sin_cos, which is '
                f'for states; correct it'
            )


def _embodiment(directory: Path, data: DataConfig, rows: int) -> int:
    number = data.embodiment_id
    if number is None:
        number = EMBODIMENTS.get(data.embodiment or '')
    if number is None or not 0 <= number < rows:
        raise CheckpointError(
            f'{directory}: expected an embodiment of {", ".join(EMBODIMENTS)}, or the row of its '
            f'weights from 0 to {rows - 1}, found {data.embodiment!r} and {number}; say it in '
            f'{FILE} (embodiment: NAME, embodiment_id: NUMBER)'
        )
    return number


def _tokenizer(file: Path, sizes: GrootConfig, prompt: Prompt) -> Tokenizer:
    tokenizer = load_tokenizer(file)
    found = tokenizer.token_id(CONTEXT)
    if found != sizes.image_token:
        raise CheckpointError(
            f'{file}: expected {CONTEXT} as token {sizes.image_token}, as the network has it, '
            f'found {found}; take the tokenizer of {REPOSITORY}'
        )
    ids = tokenizer.encode(prompt.text('go'))
    largest = max(tokenizer.size - 1, *ids)
    if largest >= sizes.vocabulary:
        raise CheckpointError(
            f'{file}: expected ids below the {sizes.vocabulary} of the network, found {largest}; '
            f'take the tokenizer of {REPOSITORY}'
        )
    if ids.count(found) != prompt.pictures * prompt.tokens:
        raise CheckpointError(
            f'{file}: expected {CONTEXT} to stay one token of its own, found {ids.count(found)} in '
            f'a prompt that holds {prompt.pictures * prompt.tokens}; take the tokenizer of '
            f'{REPOSITORY}'
        )
    return tokenizer
