# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A tiny SmolVLA: network with random weights, inputs for it, checkpoint directory."""
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

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
    'vocab': 300,
}
CAMERAS, TOKENS_PER_PICTURE, CHUNK, ACTION, STATE = 2, 4, 6, 8, 8
STATE_FILE = 'policy_preprocessor_step_5_normalizer_processor.safetensors'
ACTION_FILE = 'policy_postprocessor_step_0_unnormalizer_processor.safetensors'


def tiny_config(**changes):
    return {
        'type': 'smolvla',
        'chunk_size': CHUNK,
        'max_state_dim': STATE,
        'max_action_dim': ACTION,
        'num_steps': 3,
        'num_vlm_layers': 4,
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
    ids = torch.randint(0, SIZES['vocab'], (batch, words + padding), generator=generator)
    real = torch.arange(words + padding)[None].expand(batch, -1) < words
    present = torch.ones(batch, dtype=torch.bool)
    state = torch.randn(batch, STATE, generator=generator)
    return SmolVLAInputs(list(pictures), [present] * CAMERAS, ids, real, state)


def tiny_noise(seed=0, batch=1):
    return torch.randn(batch, CHUNK, ACTION, generator=torch.Generator().manual_seed(1000 + seed))


def preprocessor(features, norm_map, tokens=48, rename=None):
    """The steps as lerobot writes them for SmolVLA."""
    tokenizer = {
        'max_length': tokens,
        'task_key': 'task',
        'padding_side': 'right',
        'padding': 'longest',
        'truncation': True,
        'tokenizer_name': 'HuggingFaceTB/SmolVLM2-500M-Video-Instruct',
    }
    normalizer = {'eps': 1e-8, 'features': features, 'norm_map': norm_map}
    return [
        {'registry_name': 'rename_observations_processor', 'config': {'rename_map': rename or {}}},
        {'registry_name': 'to_batch_processor', 'config': {}},
        {'registry_name': 'smolvla_new_line_processor', 'config': {}},
        {'registry_name': 'tokenizer_processor', 'config': tokenizer},
        {
            'registry_name': 'device_processor',
            'config': {'device': 'cuda', 'float_dtype': None},
        },
        {
            'registry_name': 'normalizer_processor',
            'config': normalizer,
            'state_file': STATE_FILE,
        },
    ]


def write_steps(directory: Path, before, features, norm_map):
    settings = {'eps': 1e-8, 'features': features, 'norm_map': norm_map}
    after = [
        {
            'registry_name': 'unnormalizer_processor',
            'config': settings,
            'state_file': ACTION_FILE,
        },
        {'registry_name': 'device_processor', 'config': {'device': 'cpu', 'float_dtype': None}},
    ]
    for name, steps in (('preprocessor', before), ('postprocessor', after)):
        content = {'name': f'policy_{name}', 'steps': steps}
        (directory / f'policy_{name}.json').write_text(json.dumps(content))


def write_tokenizer(path: Path):
    """Bytes as tokens, and one that stands for a picture."""
    special = {'<image>': 299}
    export.byte_tokenizer(['push the red cube'], special, 290).save(str(path))


def write_checkpoint(
    directory: Path,
    slots=('observation.images.top', 'observation.images.wrist'),
    state=6,
    action=6,
    dtype=torch.float32,
    rename=None,
    **changes,
) -> Path:
    """A complete directory as lerobot saves one."""
    directory.mkdir(parents=True, exist_ok=True)
    config = tiny_config(
        input_features={
            'observation.state': {'type': 'STATE', 'shape': [state]},
            **{slot: {'type': 'VISUAL', 'shape': [3, 48, 64]} for slot in slots},
        },
        output_features={'action': {'type': 'ACTION', 'shape': [action]}},
        n_action_steps=4,
        tokenizer_max_length=48,
        **changes,
    )
    export.write_checkpoint(directory, config, export.random_weights(config, 0), dtype)
    write_tokenizer(directory / 'tokenizer.json')
    features = {**config['input_features'], **config['output_features']}
    norm_map = {'VISUAL': 'IDENTITY', 'STATE': 'MEAN_STD', 'ACTION': 'MEAN_STD'}
    write_steps(directory, preprocessor(features, norm_map, rename=rename), features, norm_map)
    arrays = {
        'observation.state.mean': np.linspace(-1, 1, state, dtype=np.float32),
        'observation.state.std': np.linspace(0.5, 2, state, dtype=np.float32),
        'action.mean': np.linspace(1, 2, action, dtype=np.float32),
        'action.std': np.linspace(0.1, 0.3, action, dtype=np.float32),
    }
    for name in (STATE_FILE, ACTION_FILE):
        save_file(arrays, directory / name)
    return directory
