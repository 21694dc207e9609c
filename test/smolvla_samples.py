# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A tiny SmolVLA network with random weights, and inputs for it."""
import torch

from quantvla_ros.models import export
from quantvla_ros.models.architectures import build_network
from quantvla_ros.models.smolvla import SmolVLAInputs

# vis [width, depth, heads, mlp, patch], txt [width, layers of the whole model, heads, kv_heads,
# head_dim, mlp]; pictures of 4 x 4 patches, 2 x 2 of which are a token.
SIZES = {
    'vis': [24, 2, 2, 40, 8],
    'txt': [32, 6, 4, 2, 16, 48],
    'img': 32,
    'scale': 2,
    'vocab': 64,
}
CAMERAS, TOKENS_PER_PICTURE = 2, 4


def tiny_config(layers=4, **changes):
    return {
        'type': 'smolvla',
        'chunk_size': 6,
        'max_state_dim': 8,
        'max_action_dim': 8,
        'num_steps': 3,
        'num_vlm_layers': layers,
        'attention_mode': 'cross_attn',
        'self_attn_every_n_layers': 2,
        'expert_width_multiplier': 0.75,
        '_sizes': SIZES,
        **changes,
    }


def tiny_network(seed=0, **changes):
    config = tiny_config(**changes)
    network = build_network(config)
    network.load_state_dict(dict(export.random_weights(config, seed)))
    return network.eval().requires_grad_(False)


def tiny_inputs(seed=0, batch=1, words=7, padding=0):
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.rand(CAMERAS, batch, 3, 32, 32, generator=generator) * 2 - 1
    ids = torch.randint(0, 64, (batch, words + padding), generator=generator)
    real = torch.arange(words + padding)[None].expand(batch, -1) < words
    present = torch.ones(batch, dtype=torch.bool)
    state = torch.randn(batch, 8, generator=generator)
    return SmolVLAInputs(list(pictures), [present] * CAMERAS, ids, real, state)


def tiny_noise(seed=0, batch=1):
    return torch.randn(batch, 6, 8, generator=torch.Generator().manual_seed(1000 + seed))
