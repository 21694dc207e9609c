# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Small random SmolVLA networks in every format, inputs, and what a network makes of them."""
import functools

import engine_samples
import smolvla_samples
import torch

from quantvla_ros.engine.smolvla import SmolVLAForward
from quantvla_ros.models.network import act
from quantvla_ros.models.smolvla import SmolVLA, SmolVLAInputs


@functools.cache
def network(kind: str) -> SmolVLA:
    """Of 'float' or a recipe of `engine_samples`; shared, not to be changed."""
    return engine_samples.quantized(smolvla_samples.tiny_network(), kind, _readers)


def _readers(name: str, linear: torch.nn.Linear) -> str:
    readers = name.rpartition('.')[0] if name.endswith(('q_proj', 'up_proj')) else name
    return readers.removesuffix('.k_proj').removesuffix('.v_proj')


def narrowed(model: SmolVLA) -> SmolVLA:
    """As `engine_samples.narrowed`."""
    return engine_samples.narrowed(model, smolvla_samples.tiny_config())


def spoil(forward: SmolVLAForward) -> None:
    """As `engine_samples.spoil`; positions too."""
    kept = ('_nothing', '_scale', '_euler', '_cos_table', '_sin_table', '_largest')
    engine_samples.spoil(forward, kept)
    forward._places.fill_(-1)


def inputs(views: int, tokens: int, seed: int = 0):
    """Pictures, the prompt's ids, state and noise, as `SmolVLAForward.set_inputs` takes them."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(views, 3, 32, 32, generator=generator) * 2 - 1
    ids = torch.randint(0, smolvla_samples.SIZES['vocab'], (tokens,), generator=generator)
    state = torch.randn(1, smolvla_samples.STATE, generator=generator)
    noise = torch.randn(smolvla_samples.CHUNK, smolvla_samples.ACTION, generator=generator)
    return list(images), ids, state, noise


@torch.no_grad()
def expected(model: SmolVLA, images, ids, state, noise):
    """The network's own actions and first velocity; an absent camera and padding come along."""
    tokens = torch.cat((ids, torch.zeros(3, dtype=torch.int64)))[None]
    pictures = [image[None] for image in (*images, torch.zeros_like(images[0]))]
    present = [torch.tensor([index < len(images)]) for index in range(len(pictures))]
    real = torch.arange(tokens.shape[1])[None] < len(ids)
    given = SmolVLAInputs(pictures, present, tokens, real, state)
    velocities: list[torch.Tensor] = []
    actions = act(model, given, noise[None], lambda _, x, velocity: velocities.append(velocity))
    return actions[0], velocities[0][0]
