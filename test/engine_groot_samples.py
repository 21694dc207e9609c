# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Small random GR00T N1.5 networks in every format, inputs, and what a network makes of them."""
import functools

import engine_samples
import groot_samples
import torch

from quantvla_ros.engine.groot import GrootForward
from quantvla_ros.models import export, groot_export
from quantvla_ros.models.architectures import build_network
from quantvla_ros.models.groot_n15 import GrootConfig, GrootInputs, GrootN15
from quantvla_ros.models.network import act

ROBOT = 24


@functools.cache
def network(kind: str) -> GrootN15:
    """Of 'float' or a recipe of `engine_samples`; shared, not to be changed."""
    return engine_samples.quantized(groot_samples.tiny_network(), kind, _readers)


def wide_network(kind: str) -> GrootN15:
    """Of the public widths, with a layer or two of everything."""
    eagle = {
        'vis': [1152, 1, 16, 4304],
        'llm': [2048, 1, 16, 8, 128, 6144],
        'vocab': 64,
        'image': 224,
        'image_token_index': 7,
    }
    config = groot_export.hub_config(
        eagle=eagle, layers=1, features=(32, 64, 1), dit=(32, 48, 2), hidden=1024, future_tokens=32
    )
    model = build_network(config)
    model.load_state_dict(dict(export.random_weights(config, 0)))
    return engine_samples.quantized(model.eval().requires_grad_(False), kind, _readers)


def _readers(name: str, linear: torch.nn.Linear) -> str:
    reads_features = linear.in_features == network('float').config.language.width
    if reads_features and '.to_' in name:
        return 'features'
    return name.rpartition('.')[0] if '.to_' in name or 'proj' in name else name


def narrowed(model: GrootN15) -> GrootN15:
    """As `engine_samples.narrowed`."""
    return engine_samples.narrowed(model, groot_samples.tiny_config())


def spoil(forward: GrootForward) -> None:
    """As `engine_samples.spoil`."""
    engine_samples.spoil(forward, ('_euler', '_cos', '_sin', '_first'))
    for tensor in (*forward._context, forward._first[0], forward._first[-len(forward.noise) :]):
        tensor.fill_(torch.nan)


def inputs(views: int, words: int, seed: int = 0, config: GrootConfig | None = None):
    """Pictures, the prompt's ids, state and noise, as `GrootForward.set_inputs` takes them."""
    vision = network('float').config.vision if config is None else config.vision
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(views, 3, vision.image, vision.image, generator=generator) * 2 - 1
    text = torch.randint(8, 64, (words,), generator=generator)
    # Pictures apart from each other, the last one at the end if there are few words.
    picture = torch.full((vision.tokens,), 7)
    parts = [piece for number in range(views) for piece in (text[number : number + 1], picture)]
    ids = torch.cat((*parts, text[views:]))
    state = torch.randn(1, 64, generator=generator)
    return list(images), ids, state, torch.randn(16, 32, generator=generator)


@torch.no_grad()
def expected(model: GrootN15, images, ids, state, noise, robot: int = ROBOT):
    """The network's own actions and first velocity."""
    given = GrootInputs(
        torch.stack(images), ids[None], torch.ones_like(ids)[None], state[None],
        torch.tensor([robot]),
    )  # fmt: skip
    velocities: list[torch.Tensor] = []
    actions = act(model, given, noise[None], lambda _, x, velocity: velocities.append(velocity))
    return actions[0], velocities[0][0]
