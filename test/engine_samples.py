# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Small random pi0.5 networks in every format, inputs, and what a network itself makes of them."""
import functools
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import quantization_samples
import torch
import yaml

from quantvla_ros.models import load_model
from quantvla_ros.models.architectures import architecture_of
from quantvla_ros.models.checkpoint import read_config
from quantvla_ros.models.network import act
from quantvla_ros.models.pi05 import PI05, ModelInputs
from quantvla_ros.quantization.formats import replace_layer, scale_steps
from quantvla_ros.quantization.quantize import quantize_linear
from quantvla_ros.quantization.recipe_file import load_recipe, parse_recipe

CHUNK, ACTION = 4, 8

# Recipes beside the shipped ones: a shipped one, and what is different.
RECIPES = {
    # everything that a layer can hold; no two layers read the same integers
    'everything': ('w4a8', {
        'layout': 'full',
        'weights': {'group': 64, 'eight_bits': ['backbone.down', 'head.down']},
        'activations': {'scale': 'static_per_step'},
        'rotation': {'input': 'pca_hadamard', 'block': 16, 'permute': True, 'output': 'pca'},
    }),
    # static scales by step and layers that read the same integers
    'static': ('w8a8', {
        'layout': 'full',
        'activations': {'scale': 'static_per_step'},
        'rotation': {'input': 'hadamard', 'block': 16},
    }),
    # rotations and an order of their own in each layer, outputs as they are
    'apart': ('w4a8', {'rotation': {'input': 'pca', 'block': 16, 'permute': True}}),
    'extended': ('w8a8', {'layout': 'extended'}),  # what sees, too
}
QUANTIZED = ('w8a8', 'w4a8', 'paper-w4a8', 'paper-w4a4', *RECIPES)


def recipe(kind: str):
    """A shipped recipe or one of RECIPES by name."""
    if kind not in RECIPES:
        return load_recipe(kind)
    base, changes = RECIPES[kind]
    path = quantization_samples.ROOT / 'config' / 'recipes' / f'{base}.yaml'
    content = yaml.safe_load(path.read_text())
    for part, change in changes.items():
        content[part] = change if isinstance(change, str) else {**content[part], **change}
    return parse_recipe(yaml.safe_dump(content), name=kind)


@functools.cache
def checkpoint() -> Path:
    directory = Path(tempfile.mkdtemp())
    return quantization_samples.write_checkpoint(directory, torch.float32)


@functools.cache
def network(kind: str) -> PI05:
    """Of 'float' or a recipe; shared, not to be changed."""
    return quantized(load_model(checkpoint()), kind, _readers)


def quantized(model, kind: str, readers):
    """A network with the layers of a recipe in integers; 'float': as it is.

    Args:
        readers: (path, layer) to a name that is the same for all layers that read one tensor.
            Static scales differ by step and by this name.
    """
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
            generator = torch.Generator().manual_seed(sum(readers(name, linear).encode()))
            size = layer.input_scale.shape
            layer.input_scale = torch.rand(size, generator=generator) * 0.02 + 0.01
    return model


def _readers(name: str, linear: torch.nn.Linear) -> str:
    readers = name.rpartition('.')[0] if name.endswith(('q_proj', 'k_proj', 'v_proj')) else name
    return readers.replace('gate_proj', 'up_proj')


def narrowed(model, config: Mapping[str, Any] | None = None):
    """A network whose weights are bfloat16, but for those that `load_model` leaves.

    Args:
        config: config.json of its architecture; None: of these samples.
    """
    model.to(torch.bfloat16)
    wide = architecture_of(read_config(checkpoint()) if config is None else config).float32_modules
    for name, module in model.named_modules():
        if name.startswith(wide):
            module.float()
    return model


def spoil(forward, kept: Collection[str] = ('_euler', '_cos', '_sin', '_largest')) -> None:
    """Leave no number in a forward pass that it must not read.

    Args:
        kept: names of what no inference writes.
    """
    for name, tensor in vars(forward).items():
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and name not in kept:
            tensor.fill_(torch.nan)


def inputs(views: int, tokens: int, seed: int = 0):
    """Pictures, the prompt's ids and noise, as `PI05Forward.set_inputs` takes them."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(views, 3, 28, 28, generator=generator) * 2 - 1
    ids = torch.randint(0, 1000, (tokens,), generator=generator)
    return list(images), ids, torch.randn(CHUNK, ACTION, generator=generator)


@torch.no_grad()
def expected(model: PI05, images, ids, noise):
    """The network's own actions and first velocity; an absent camera and padding come along."""
    tokens = torch.cat((ids, torch.zeros(3, dtype=torch.int64)))[None]
    pictures = [image[None] for image in (*images, torch.zeros_like(images[0]))]
    present = [torch.tensor([index < len(images)]) for index in range(len(pictures))]
    given = ModelInputs(pictures, present, tokens, torch.arange(tokens.shape[1])[None] < len(ids))
    velocities: list[torch.Tensor] = []
    actions = act(model, given, noise[None], lambda _, x, velocity: velocities.append(velocity))
    return actions[0], velocities[0][0]


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Error in units of what is wanted, over all numbers."""
    return float((found - wanted).norm() / wanted.norm())
