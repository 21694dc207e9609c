# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Small random GR00T N1.5 networks in every format, inputs, and what a network makes of them."""
import functools

import groot_samples
import torch
from engine_samples import recipe

from quantvla_ros.engine.groot import GrootForward
from quantvla_ros.models import export, groot_export
from quantvla_ros.models.architectures import architecture_of, build_network
from quantvla_ros.models.groot_n15 import GrootConfig, GrootInputs, GrootN15
from quantvla_ros.models.network import act
from quantvla_ros.quantization.formats import replace_layer, scale_steps
from quantvla_ros.quantization.quantize import quantize_linear

ROBOT = 24
CONSTANTS = ('count', 'order', '_euler', '_cos', '_sin', '_first')  # of a forward pass


@functools.cache
def network(kind: str) -> GrootN15:
    """Of 'float' or a recipe of `engine_samples`; shared, not to be changed."""
    return _quantized(groot_samples.tiny_network(), kind)


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
    return _quantized(model.eval().requires_grad_(False), kind)


def _quantized(model: GrootN15, kind: str) -> GrootN15:
    if kind == 'float':
        return model
    chosen, places = recipe(kind), model.linear_places()
    for name in chosen.layout.select(model):
        layout = chosen.layer_format(places[name])
        steps = scale_steps(places[name], layout, model.denoising_steps)
        linear, step = model.get_submodule(name), model.denoising_step
        layer, _ = quantize_linear(linear, layout, chosen.weights, step, steps=steps)
        replace_layer(model, name, layer)
        if layer.input_scale is not None:
            # They differ by step and are alike for the layers that read one tensor.
            readers = name.rpartition('.')[0] if '.to_' in name or 'proj' in name else name
            if linear.in_features == model.config.language.width and '.to_' in name:
                readers = 'features'
            generator = torch.Generator().manual_seed(sum(readers.encode()))
            size = layer.input_scale.shape
            layer.input_scale = torch.rand(size, generator=generator) * 0.02 + 0.01
    return model


def narrowed(model: GrootN15) -> GrootN15:
    """A network whose weights are bfloat16, but for those that `load_model` leaves."""
    model.to(torch.bfloat16)
    wide = architecture_of(groot_samples.tiny_config()).float32_modules
    for name, module in model.named_modules():
        if name.startswith(wide):
            module.float()
    return model


def spoil(forward: GrootForward) -> None:
    """Leave nothing in a forward pass that it must not read."""
    for name, tensor in vars(forward).items():
        if isinstance(tensor, torch.Tensor) and name not in CONSTANTS:
            tensor.fill_(torch.nan)
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
