# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The steps around a network, as the checkpoint's own files list them.

Knows `policy_preprocessor.json`, `policy_postprocessor.json` and what each step means; knows
nothing of robots or ROS. A step that is not known here is an error: skipping one silently is how
a policy that worked in training moves to the wrong place.
"""
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import Tensor

from quantvla_ros.errors import CheckpointError, ObservationError
from quantvla_ros.models.data_config import DataConfig
from quantvla_ros.models.images import resize_with_pad, to_tensor
from quantvla_ros.models.normalization import Mode, Normalizer
from quantvla_ros.models.pi05 import ModelInputs
from quantvla_ros.models.tokenizer import (
    PALIGEMMA,
    PALIGEMMA_FILES,
    Tokenizer,
    find_tokenizer,
    load_tokenizer,
    pi05_prompt,
)
from quantvla_ros.observation.types import Observation

PREPROCESSOR = 'policy_preprocessor.json'
POSTPROCESSOR = 'policy_postprocessor.json'
STATE, ACTION = 'observation.state', 'action'

# Steps that need nothing from us: batching and moving to a device are ours by construction, and
# the prompt is built in `inputs`.
_PASSIVE = ('to_batch_processor', 'device_processor', 'pi05_prepare_state_tokenizer_processor_step')
_RELATIVE = ('delta_actions_processor', 'relative_actions_processor', 'absolute_actions_processor')


@dataclass(frozen=True)
class PI05Processor:
    """Observation to network inputs, network output to actions.

    Attributes:
        slots: image features in the network's order.
        image: side of the network's pictures.
        state, action: normalisation; their sizes are the robot's.
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
        vocabulary: int,
    ) -> PI05Processor:
        """Read the processor files of a checkpoint or artifact.

        Args:
            data: what the user says of the training data.
            vocabulary: of the network.
        Raises:
            CheckpointError: a file or statistic is missing, or a step is unknown.
        """
        directory = Path(directory)
        before = _read_steps(directory / PREPROCESSOR)
        after = _read_steps(directory / POSTPROCESSOR)
        for place, steps in ((PREPROCESSOR, before), (POSTPROCESSOR, after)):
            _refuse_unknown(directory / place, steps)
        normalizer = _one(directory / PREPROCESSOR, before, 'normalizer_processor')
        restorer = _one(directory / POSTPROCESSOR, after, 'unnormalizer_processor')
        tokens = _one(directory / PREPROCESSOR, before, 'tokenizer_processor')['config']
        tokenizer_file = find_tokenizer(directory, data, PALIGEMMA_FILES, PALIGEMMA)
        tokenizer = load_tokenizer(tokenizer_file)
        if tokenizer.size > vocabulary:
            raise CheckpointError(
                f'{directory}: the tokenizer has {tokenizer.size} ids, the network {vocabulary}; '
                f'it belongs to another model'
            )
        slots = tuple(
            name
            for name, feature in config.get('input_features', {}).items()
            if feature['type'] == 'VISUAL'
        )
        if not slots:
            raise CheckpointError(
                f'{directory}/config.json: input_features: expected at least one VISUAL feature, '
                f'found none; a base checkpoint must be fine-tuned or its features filled in'
            )
        return cls(
            slots=slots,
            image=config['image_resolution'][0],
            state=_normalizer(directory, normalizer, STATE, 'STATE'),
            action=_normalizer(directory, restorer, ACTION, 'ACTION'),
            tokenizer=tokenizer,
            max_tokens=tokens.get('max_length', config.get('tokenizer_max_length', 200)),
            files=(
                directory / PREPROCESSOR,
                directory / POSTPROCESSOR,
                *(
                    directory / Path(step['state_file']).name
                    for step in (*before, *after)
                    if step.get('state_file')
                ),
                tokenizer_file,
            ),
            tokenizer_file=tokenizer_file,
            execute_steps=config.get('n_action_steps'),
            action_names=tuple(config.get('action_feature_names') or ()) or None,
        )

    def inputs(self, observation: Observation, device: torch.device | str = 'cpu') -> ModelInputs:
        """One observation as the network wants it.

        Raises:
            ObservationError: no camera at all, a state of another size, or too long a command.
        """
        images = [
            resize_with_pad(to_tensor(observation.images[slot], device), self.image)
            for slot in self.slots
            if slot in observation.images
        ]
        if not images:
            raise ObservationError(
                f'expected pictures for {", ".join(self.slots)}, found '
                f'{", ".join(observation.images) or "none"}; check the contract\'s camera slots'
            )
        tokens = torch.tensor([self.tokens(observation)], device=device)
        present = torch.ones(1, dtype=torch.bool, device=device)
        mask = torch.ones_like(tokens, dtype=torch.bool)
        return ModelInputs(images, [present] * len(images), tokens, mask)

    def tokens(self, observation: Observation) -> list[int]:
        """Token ids of the prompt."""
        state = np.asarray(observation.state)
        if state.shape != (self.state.size,):
            raise ObservationError(
                f'state: expected {self.state.size} numbers, found shape {state.shape}; '
                f'the contract\'s joints and state parts must be those of the training data'
            )
        ids = self.tokenizer.encode(
            pi05_prompt(observation.instruction, self.state.normalize(state))
        )
        if len(ids) > self.max_tokens:
            raise ObservationError(
                f'the prompt has {len(ids)} tokens, the policy takes {self.max_tokens}; '
                f'shorten the command'
            )
        return ids

    def batch(self, parts: Sequence[ModelInputs]) -> ModelInputs:
        """Inputs of observations with the same cameras as one batch, shorter prompts padded."""
        length = max(part.tokens.shape[1] for part in parts)
        pad = [(0, length - part.tokens.shape[1]) for part in parts]
        return ModelInputs(
            [torch.cat(images) for images in zip(*(part.images for part in parts), strict=True)],
            [torch.cat(masks) for masks in zip(*(part.image_masks for part in parts), strict=True)],
            torch.cat([F.pad(part.tokens, p) for part, p in zip(parts, pad, strict=True)]),
            torch.cat([F.pad(part.token_mask, p) for part, p in zip(parts, pad, strict=True)]),
        )

    def example_state(self) -> np.ndarray:
        """[D] a state in the middle of the data."""
        return self.state.restore(np.zeros(self.state.size, np.float32))

    def actions(self, raw: Tensor, state: np.ndarray) -> np.ndarray:
        """[1, chunk, >= D] network output to [chunk, D] float32 in the robot's units."""
        return self.action.restore(raw[0, :, : self.action.size].float().cpu().numpy())


def _read_steps(path: Path) -> list[dict[str, Any]]:
    try:
        steps = list(json.loads(path.read_text(encoding='utf-8'))['steps'])
        if not all(isinstance(s, dict) and isinstance(s.get('config', {}), dict) for s in steps):
            raise TypeError('steps: expected objects, each with an object as config')
        return steps
    except FileNotFoundError:
        raise CheckpointError(
            f'{path}: expected the processor file of the checkpoint, found none; '
            f'fetch the whole repository, not only the weights'
        ) from None
    # ValueError: no JSON, or not UTF-8; RecursionError: nested without end.
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise CheckpointError(f'{path}: not a processor file ({error}); fetch it again') from None


def _refuse_unknown(path: Path, steps: list[dict[str, Any]]) -> None:
    """Every step must be one whose meaning we carry out."""
    known = ('normalizer_processor', 'unnormalizer_processor', 'tokenizer_processor', *_PASSIVE)
    for step in steps:
        name, settings = step.get('registry_name'), step.get('config', {})
        if name in known:
            continue
        if name in _RELATIVE:
            if settings.get('enabled'):
                raise CheckpointError(
                    f'{path}: {name} is enabled; relative actions are not supported yet, '
                    f'use a checkpoint with absolute actions'
                )
        elif name == 'rename_observations_processor':
            # The contract's slots are the network's own feature names.
            continue
        else:
            raise CheckpointError(
                f'{path}: unknown step {name!r}; known are {sorted((*known, *_RELATIVE))}'
            )


def _one(path: Path, steps: list[dict[str, Any]], name: str) -> dict[str, Any]:
    found = [step for step in steps if step.get('registry_name') == name]
    if len(found) != 1:
        raise CheckpointError(f'{path}: expected one {name}, found {len(found)}')
    return found[0]


def _normalizer(directory: Path, step: dict[str, Any], feature: str, kind: str) -> Normalizer:
    settings = step['config']
    mode = settings.get('norm_map', {}).get(kind)
    if mode not in Mode.__members__:
        raise CheckpointError(
            f'{directory}: norm_map.{kind}: expected one of {list(Mode.__members__)}, '
            f'found {mode!r}'
        )
    name = step.get('state_file')
    if not name:
        raise CheckpointError(
            f'{directory}: {feature}: the checkpoint carries no statistics (no state_file); '
            f'pass a checkpoint fine-tuned on your data'
        )
    path = directory / Path(name).name
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f'{path}: expected the statistics of {feature}, found {error}; fetch it again'
        ) from None
    prefix = feature + '.'
    statistics = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    return Normalizer.from_statistics(feature, Mode[mode], statistics, settings.get('eps', 1e-8))
