# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What surrounds pi0.5: observation to prompt and pictures, network output to actions.

Reads lerobot's directories (processor files) and openpi's converted ones (norm_stats.json) alike;
knows nothing of robots or ROS. What neither records is a switch of the data config.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quantvla_ros.errors import CheckpointError, ObservationError
from quantvla_ros.models.arrays import as_tensor, id_row
from quantvla_ros.models.data_config import FILE as DATA_CONFIG
from quantvla_ros.models.data_config import DataConfig
from quantvla_ros.models.features import camera_slots, with_names
from quantvla_ros.models.fitting import Fit
from quantvla_ros.models.images import (
    antialiased_fit,
    padded_fit,
    resize_with_pad,
    resize_with_pad_antialiased,
    to_bytes,
    to_tensor,
)
from quantvla_ros.models.lerobot_steps import (
    NORMALIZE,
    TOKENIZE,
    read_lerobot_steps,
)
from quantvla_ros.models.normalization import Normalizer
from quantvla_ros.models.openpi_files import CAMERAS, MAX_TOKENS, is_openpi, read_openpi_files
from quantvla_ros.models.pi05 import ModelInputs, PI05Config
from quantvla_ros.models.relative_actions import add_state, without_state
from quantvla_ros.models.sizes import whole_number
from quantvla_ros.models.tokenizer import (
    PALIGEMMA,
    PALIGEMMA_FILES,
    Tokenizer,
    find_tokenizer,
    load_tokenizer,
    pi05_prompt,
    tokenizer_files,
)
from quantvla_ros.observation.types import Observation

PROMPT_STEP = 'pi05_prepare_state_tokenizer_processor_step'
_BEGIN = '<bos>'

_RESIZES = {
    'lerobot': lambda picture, size, device: resize_with_pad(to_tensor(picture, device), size),
    'lerobot_0_4': lambda picture, size, device: resize_with_pad(
        to_tensor(picture, device), size, bar=-1.0
    ),
    'openpi': lambda picture, size, device: resize_with_pad_antialiased(
        to_bytes(picture, device), size
    ),
}
_FITS: Mapping[str, Callable[[int, int, int], Fit]] = {
    'lerobot': padded_fit,
    'lerobot_0_4': partial(padded_fit, bar=-1.0),
    'openpi': antialiased_fit,
}


@dataclass(frozen=True)
class PI05Processor:
    """Observation to network inputs, network output to actions.

    Attributes:
        slots: image features in the network's order, as the data (and so the contract) name them.
        image: side of the network's pictures.
        state, action: normalisation; their sizes are the robot's.
        relative: per number of the action, whether the state is added to it; None: to none.
        prompt_state: 'raw', 'pad32' (zeros after the state, as lerobot 0.4 had it) or 'none'.
        padded_state: numbers of a padded state.
        resize: 'lerobot', 'lerobot_0_4' or 'openpi'.
        max_tokens: longer prompts are an error.
        files, tokenizer_file: what it was read from.
        state_names, action_names: None where the files do not say.
    """

    slots: tuple[str, ...]
    image: int
    state: Normalizer
    action: Normalizer
    tokenizer: Tokenizer
    max_tokens: int
    files: tuple[Path, ...]
    tokenizer_file: Path
    relative: tuple[bool, ...] | None = None
    prompt_state: str = 'raw'
    padded_state: int = 32
    resize: str = 'lerobot'
    state_names: tuple[str, ...] | None = None
    action_names: tuple[str, ...] | None = None
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

    @classmethod
    def from_directory(
        cls,
        directory: str | Path,
        config: Mapping[str, Any],
        data: DataConfig | None = None,
        *,
        network: PI05Config,
    ) -> PI05Processor:
        """Read what surrounds the network of a checkpoint or artifact.

        Args:
            config: its config.json.
            data: what the user says of the training data.
            network: its sizes.
        Raises:
            CheckpointError: a file or statistic is missing, or a step is unknown.
        """
        directory = Path(directory)
        found = (_openpi if is_openpi(config) else _lerobot)(directory, config, data)
        for name in ('state', 'action'):
            names = with_names(found.get(f'{name}_names'), found[name].size, name, data)
            found[f'{name}_names'] = names
        if found['action'].size > network.action_dim:
            raise CheckpointError(
                f'{directory}: action: expected statistics of at most {network.action_dim} '
                f'numbers, as the network gives, found {found["action"].size}'
            )
        # A file may name another one; a path of the machine of training says nothing here.
        named = found.pop('tokenizer_name', None)
        repository = named if named and named.count('/') == 1 else PALIGEMMA
        tokenizer_file = find_tokenizer(
            directory, data, PALIGEMMA_FILES, repository, 'accept its terms there first'
        )
        tokenizer = load_tokenizer(tokenizer_file, _BEGIN)
        if tokenizer.size > network.vocabulary:
            raise CheckpointError(
                f'{tokenizer_file}: expected at most {network.vocabulary} ids, as the network has, '
                f'found {tokenizer.size}; it belongs to another model'
            )
        return cls(
            **{
                **found,
                'image': network.vision.image,
                'tokenizer': tokenizer,
                'tokenizer_file': tokenizer_file,
                'files': (*found['files'], *tokenizer_files(tokenizer_file)),
                'padded_state': whole_number(config, 'max_state_dim', 32, 1, 2**16),
                'control_period': None if data is None else data.control_period,
                'execute_steps': (data and data.execute_steps)
                or whole_number(config, 'n_action_steps', network.chunk, 1, network.chunk),
            }
        )

    def inputs(self, observation: Observation, device: torch.device | str = 'cpu') -> ModelInputs:
        """One observation as the network wants it.

        Absent cameras are left out. The references put a masked picture in their place: its tokens
        are attended to by nothing and advance no position, so they change shapes and nothing else.

        Raises:
            ObservationError: no camera at all, a state of another size, or too long a command.
        """
        images = [
            _RESIZES[self.resize](observation.images[slot], self.image, device)
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
    ) -> ModelInputs:
        """As `inputs`, but for the pictures, which are left out."""
        ids = id_row(self.tokens(observation))
        mask = np.ones(ids.shape, np.bool_)
        return ModelInputs([], [], as_tensor(ids, device), as_tensor(mask, device))

    def with_pictures(self, inputs: ModelInputs, pictures: Tensor) -> ModelInputs:
        """Inputs without pictures, and [views, 3, image, image] pictures, as `inputs` has them."""
        return _with(inputs, list(pictures.unsqueeze(1).unbind()))

    def picture_fit(self, height: int, width: int) -> Fit:
        """How `inputs` fits pictures of one size."""
        return _FITS[self.resize](height, width, self.image)

    def tokens(self, observation: Observation) -> list[int]:
        """Token ids of the prompt."""
        state = np.asarray(observation.state)
        if state.shape != (self.state.size,):
            raise ObservationError(
                f'state: expected {self.state.size} numbers, found shape {state.shape}; '
                f'the contract\'s joints and state parts must be those of the training data'
            )
        if self.prompt_state == 'none':
            # openpi encodes the end of the line by itself: it never merges with the command.
            text = pi05_prompt(observation.instruction, None).removesuffix('\n')
            begin = len(self.tokenizer.encode(''))
            ids = self.tokenizer.encode(text) + self.tokenizer.encode('\n')[begin:]
        else:
            normal = self.state.normalize(state)
            if self.prompt_state == 'pad32':
                normal = np.pad(normal, (0, max(0, self.padded_state - normal.size)))
            ids = self.tokenizer.encode(pi05_prompt(observation.instruction, normal))
        if len(ids) > self.max_tokens:
            raise ObservationError(
                f'the prompt has {len(ids)} tokens, the policy takes {self.max_tokens}; '
                f'shorten the command'
            )
        return ids

    def example_state(self) -> np.ndarray:
        """[D] a state in the middle of the data."""
        return self.state.restore(np.zeros(self.state.size, np.float32))

    def actions(self, raw: Tensor, state: np.ndarray) -> np.ndarray:
        """[1, chunk, >= D] network output to [chunk, D] float32 in the robot's units."""
        numbers = raw.float().cpu().numpy()[0, :, : self.action.size]
        return add_state(self.action.restore(numbers), state, self.relative)

    def normalized(self, actions: np.ndarray, state: np.ndarray) -> np.ndarray:
        """[chunk, D] in the robot's units to [chunk, D] float32 as the network gives them."""
        own = without_state(actions, state, self.relative)
        return np.asarray(self.action.normalize(own), np.float32)


def _with(inputs: ModelInputs, images: list[Tensor]) -> ModelInputs:
    present = inputs.token_mask.new_ones(1)
    masks = [present] * len(images)
    return ModelInputs(images, masks, inputs.tokens, inputs.token_mask)


def _lerobot(
    directory: Path, config: Mapping[str, Any], data: DataConfig | None
) -> dict[str, Any]:
    """What lerobot's processor files say, and the switches beside them."""
    steps = read_lerobot_steps(
        directory, config, data, own=(PROMPT_STEP,), order=(NORMALIZE, PROMPT_STEP, TOKENIZE)
    )
    if steps.own[PROMPT_STEP].get('include_state_in_prompt') is False:
        raise CheckpointError(
            f'{steps.files[0]}: {PROMPT_STEP}: include_state_in_prompt is off, as with '
            f'proprioceptive memory, which is not supported'
        )
    if data is not None and data.relative_actions:
        raise CheckpointError(
            f'{data.source}: relative_actions: expected it for directories of openpi only, found '
            f'one of lerobot, whose own files say which actions are relative; remove it'
        )
    return {
        'slots': camera_slots(directory, config, steps.rename, data),
        'state': steps.state,
        'action': steps.action,
        'relative': steps.relative,
        'prompt_state': _prompt_state(data, ('raw', 'pad32')) or 'raw',
        'resize': (data and data.resize) or 'lerobot',
        'max_tokens': steps.max_tokens
        or whole_number(config, 'tokenizer_max_length', MAX_TOKENS, 1, 2**16),
        'action_names': steps.action_names,
        'tokenizer_name': steps.tokenizer_name,
        'files': steps.files,
    }


def _openpi(
    directory: Path, config: Mapping[str, Any], data: DataConfig | None
) -> dict[str, Any]:
    """What openpi's directory says, and what its training config said in code."""
    found = read_openpi_files(directory, config, data)
    prompt_state = _prompt_state(data, ('raw', 'none'))
    if prompt_state is None:
        # A wrong guess moves every token after the command, and nothing tells.
        raise CheckpointError(
            f'{directory}: expected {DATA_CONFIG} with prompt_state, found none: no file of openpi '
            f'records whether the state stands in the prompt. Write raw where it does (pi05_base, '
            f'pi05_droid), none for configs with discrete_state_input=False (pi05_libero); '
            f'config/data holds some to copy'
        )
    return {
        'slots': (data.cameras if data is not None else ()) or CAMERAS,
        'state': found.state,
        'action': found.action,
        'relative': found.relative,
        'prompt_state': prompt_state,
        'resize': (data and data.resize) or 'openpi',
        'max_tokens': MAX_TOKENS,
        'files': found.files,
    }


def _prompt_state(data: DataConfig | None, possible: Sequence[str]) -> str | None:
    said = None if data is None else data.prompt_state
    if said is not None and said not in possible:
        assert data is not None
        raise CheckpointError(
            f'{data.source}: prompt_state: expected {" or ".join(possible)} for this kind of '
            f'directory, found {said!r}; none of its checkpoints was trained so'
        )
    return said
