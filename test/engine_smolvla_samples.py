# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Small random SmolVLA networks in every format, inputs, and what a network makes of them."""
import functools

import smolvla_samples
import torch
from engine_samples import recipe

from quantvla_ros.models.architectures import architecture_of
from quantvla_ros.models.network import act
from quantvla_ros.models.smolvla import SmolVLA, SmolVLAInputs
from quantvla_ros.quantization.formats import replace_layer, scale_steps
from quantvla_ros.quantization.quantize import quantize_linear


@functools.cache
def network(kind: str) -> SmolVLA:
    """Of 'float' or a recipe of `engine_samples`; shared, not to be changed."""
    model = smolvla_samples.tiny_network()
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
            readers = name.rpartition('.')[0] if name.endswith(('q_proj', 'up_proj')) else name
            readers = readers.removesuffix('.k_proj').removesuffix('.v_proj')
            generator = torch.Generator().manual_seed(sum(readers.encode()))
            size = layer.input_scale.shape
            layer.input_scale = torch.rand(size, generator=generator) * 0.02 + 0.01
    return model


def narrowed(model: SmolVLA) -> SmolVLA:
    """A network whose weights are bfloat16, but for those that `load_model` leaves."""
    model.to(torch.bfloat16)
    wide = architecture_of(smolvla_samples.tiny_config()).float32_modules
    for name, module in model.named_modules():
        if name.startswith(wide):
            module.float()
    return model


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
