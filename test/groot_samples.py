# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A tiny GR00T N1.5 network with random weights, and inputs for it."""
import torch

from quantvla_ros.models import export, groot_export
from quantvla_ros.models.architectures import build_network
from quantvla_ros.models.groot_n15 import GrootInputs

# vis [width, depth, heads, mlp], llm [width, layers of the whole model, heads, kv_heads, head_dim,
# mlp]; pictures of 2 x 2 patches.
EAGLE = {
    'vis': [24, 2, 2, 40],
    'llm': [32, 5, 4, 2, 16, 48],
    'vocab': 64,
    'image': 28,
    'image_token_index': 7,
}
PICTURES, TOKENS_PER_PICTURE = 2, 4


def tiny_config():
    return groot_export.hub_config(
        eagle=EAGLE, layers=3, features=(2, 16, 2), dit=(2, 12, 4), hidden=20, future_tokens=5
    )


def tiny_network(seed=0, dtype=torch.float32):
    config = tiny_config()
    network = build_network(config)
    network.load_state_dict(dict(export.random_weights(config, seed)))
    return network.to(dtype).eval().requires_grad_(False)


def tiny_inputs(seed=0, batch=1, words=9, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.rand(batch * PICTURES, 3, 28, 28, generator=generator, dtype=dtype)
    text = torch.randint(8, 64, (batch, words), generator=generator)
    places = torch.full((batch, PICTURES * TOKENS_PER_PICTURE), EAGLE['image_token_index'])
    ids = torch.cat((text[:, :2], places, text[:, 2:]), dim=1)
    state = torch.randn(batch, 1, 64, generator=generator, dtype=dtype)
    robot = torch.randint(0, 32, (batch,), generator=generator)
    return GrootInputs(pictures * 2 - 1, ids, torch.ones_like(ids), state, robot)


def tiny_noise(seed=0, batch=1, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1000 + seed)
    return torch.randn(batch, 16, 32, generator=generator, dtype=dtype)


def act(network, inputs, noise):
    """Actions [B, 16, 32]."""
    return network.sample_actions(
        inputs.pixel_values,
        inputs.input_ids,
        inputs.attention_mask,
        inputs.state,
        inputs.embodiment_id,
        noise,
    )
