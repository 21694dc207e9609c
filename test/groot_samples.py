# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A tiny GR00T N1.5 network with random weights, inputs for it, and directories that hold it."""
import json

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from quantvla_ros.models import export, groot_export
from quantvla_ros.models.architectures import build_network
from quantvla_ros.models.groot_n15 import GrootInputs
from quantvla_ros.observation.types import Observation

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


SLOTS = ('observation.images.front', 'observation.images.wrist')
STATE_NAMES = ('arm_0', 'arm_1', 'arm_2', 'hand_0')
# Sizes for pictures of 2 x 2 patches and a tokenizer of 600 ids.
RUNNABLE = EAGLE | {'vocab': 600, 'image_token_index': 590}


def runnable_config():
    """Of a tiny network that a processor can feed."""
    return groot_export.hub_config(
        eagle=RUNNABLE, layers=3, features=(2, 16, 2), dit=(2, 12, 4), hidden=20, future_tokens=5
    )


def numbers(count, seed=0):
    """Statistics of [50, count] made-up numbers."""
    return export.statistics(np.random.default_rng(seed).uniform(-1, 1, (50, count)))


def features():
    return export.Features(
        SLOTS, numbers(4), numbers(4, 1), STATE_NAMES, state_names=STATE_NAMES, control_period=0.05
    )


def write_nvidia(directory, words=('pick', 'place'), dtype=torch.float32, seed=0):
    """A checkpoint in NVIDIA's layout, with a data config."""
    config = runnable_config()
    weights = export.random_weights(config, seed)
    groot_export.write_checkpoint(directory, config, weights, features(), words, dtype=dtype)
    return directory


def write_lerobot(directory, **pack):
    """The same weights as lerobot 0.5 stores them, with its processor files; no data config."""
    write_nvidia(directory)
    (directory / 'data_config.yaml').unlink()
    (directory / 'experiment_cfg' / 'metadata.json').unlink()
    path = directory / 'model.safetensors'
    save_file({f'_groot_model.{n}': t for n, t in load_file(path).items()}, path)
    config = json.loads((directory / 'config.json').read_text())
    del config['model_type']
    visual = {'type': 'VISUAL', 'shape': [3, 224, 224]}
    config |= {
        'type': 'groot',
        'n_action_steps': 50,
        'base_model_path': 'nvidia/GR00T-N1.5-3B',
        'tokenizer_assets_repo': 'lerobot/eagle2hg-processor-groot-n1p5',
        # not in the order of the names
        'input_features': dict.fromkeys(reversed(SLOTS), visual)
        | {'observation.state': {'type': 'STATE', 'shape': [4]}},
        'output_features': {'action': {'type': 'ACTION', 'shape': [4]}},
    }
    (directory / 'config.json').write_text(json.dumps(config))
    settings = {
        'state_horizon': 1,
        'action_horizon': 16,
        'max_state_dim': 64,
        'max_action_dim': 32,
        'language_key': 'task',
        'formalize_language': False,
        'embodiment_tag': 'so100',
        'embodiment_mapping': {'new_embodiment': 31, 'gr1': 24, 'so100': 2},
        'normalize_min_max': True,
        **pack,
    }
    tensors = {
        f'{vector}.{name}': torch.tensor(value, dtype=torch.float32)
        for vector, values in (('observation.state', numbers(4)), ('action', numbers(4, 1)))
        for name, value in values.items()
    }
    steps = [
        {'registry_name': 'rename_observations_processor', 'config': {'rename_map': {}}},
        {'registry_name': 'to_batch_processor', 'config': {}},
        {
            'registry_name': 'groot_pack_inputs_v3',
            'config': settings,
            'state_file': 'policy_preprocessor_step_2_groot_pack_inputs_v3.safetensors',
        },
        {'registry_name': 'groot_eagle_encode_v3', 'config': {}},
        {'registry_name': 'groot_eagle_collate_v3', 'config': {}},
        {'registry_name': 'device_processor', 'config': {'device': 'cpu'}},
    ]
    after = [
        {
            'registry_name': 'groot_action_unpack_unnormalize_v1',
            'config': {'env_action_dim': 4, 'normalize_min_max': True},
            'state_file': 'policy_postprocessor_step_0_groot_action_unpack.safetensors',
        },
        {'registry_name': 'device_processor', 'config': {'device': 'cpu'}},
    ]
    for name, listed in (('policy_preprocessor', steps), ('policy_postprocessor', after)):
        (directory / f'{name}.json').write_text(json.dumps({'name': name, 'steps': listed}))
        for step in listed:
            if 'state_file' in step:
                save_file(tensors, directory / step['state_file'])
    return directory


def observation(instruction='pick', side=64, seed=0):
    generator = np.random.default_rng(seed)
    return Observation(
        stamp=0,
        images={s: generator.integers(0, 256, (side, side, 3), dtype=np.uint8) for s in SLOTS},
        state=generator.uniform(-1, 1, 4).astype(np.float32),
        instruction=instruction,
    )
