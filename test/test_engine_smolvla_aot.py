# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Every kernel of SmolVLA's forward pass at its public widths, compiled ahead of time for a GPU."""
import dataclasses

import pytest
import torch
from kernel_compilation import chips
from test_kernels_aot_fused import check, on  # noqa: F401 (a fixture)

from quantvla_ros.engine.smolvla import SmolVLAForward, SmolVLAWeights
from quantvla_ros.kernels import fused
from quantvla_ros.models.smolvla import EXPERT, TEXT, VISION, SmolVLA, SmolVLAConfig
from quantvla_ros.quantization.formats import replace_layer
from quantvla_ros.quantization.quantize import quantize_linear
from quantvla_ros.quantization.recipe_file import load_recipe

CPU = torch.device('cpu')
# One layer of each sort: further ones start the same kernels again.
CONFIG = SmolVLAConfig(
    vision=dataclasses.replace(VISION, depth=1),
    text=dataclasses.replace(TEXT, depth=2),
    expert=dataclasses.replace(EXPERT, depth=2),
    vocabulary=8,
    steps=1,
)


def network(kind):
    model = SmolVLA(CONFIG).eval().requires_grad_(False)
    if kind != 'bf16':
        recipe, places = load_recipe(kind), model.linear_places()
        for name in recipe.layout.select(model):
            layout, linear = recipe.layer_format(places[name]), model.get_submodule(name)
            layer, _ = quantize_linear(linear, layout, recipe.weights, model.denoising_step)
            replace_layer(model, name, layer)
    return model


def kind_of(launch):
    """What decides the code of a launch, as far as one forward pass goes."""
    kinds = [
        value.dtype if isinstance(value, torch.Tensor) else value
        for name, value in sorted(launch.arguments.items())
        if name.isupper() or isinstance(value, torch.Tensor)
    ]
    return launch.kernel.__name__, str(kinds), str(sorted(launch.options.items()))


@pytest.mark.parametrize(
    ('capability', 'kind'),
    [
        *((chip, 'w8a8') for chip in chips(87)),
        *((chip, 'bf16') for chip in chips(90)),
    ],
)
def test_every_kernel_of_the_forward_pass_compiles(on, monkeypatch, capability, kind):  # noqa: F811
    launches = on(capability)
    # The launchers are asked for as on a GPU; what they would start is noted, not run.
    monkeypatch.setattr(fused, 'unavailable', lambda device: None)
    fused._implementation.cache_clear()
    try:
        weights = SmolVLAWeights(network(kind), CPU, torch.bfloat16)
        with torch.no_grad():
            SmolVLAForward(weights, views=3, prompt=48).run()
    finally:
        fused._implementation.cache_clear()
    found = {kind_of(launch): launch for launch in launches()}
    assert len(found) > 20
    for launch in found.values():
        check(launch, capability)
