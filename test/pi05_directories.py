# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Small pi0.5 directories as lerobot 0.4 to 0.6 and openpi's converter write them."""
import json
from pathlib import Path

import numpy as np
import torch
import yaml
from quantization_samples import SIZES, write_checkpoint
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file

from quantvla_ros.models.architectures import load_processor
from quantvla_ros.models.checkpoint import read_config
from quantvla_ros.models.data_config import FILE
from quantvla_ros.observation.types import Observation

PRE, POST = 'policy_preprocessor.json', 'policy_postprocessor.json'
RELATIVE = {'0.5': 'delta_actions_processor', '0.6': 'relative_actions_processor'}
LM_HEAD = 'model.paligemma_with_expert.paligemma.lm_head.weight'
EMBEDDING = 'model.paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight'


def edit(path: Path, change) -> None:
    """Change a JSON file in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def step(content, name: str) -> dict:
    """A step of a processor file."""
    return next(one for one in content['steps'] if one.get('registry_name') == name)


def change_step(directory: Path, file: str, name: str, **settings) -> None:
    """Change settings of one step."""
    edit(directory / file, lambda content: step(content, name)['config'].update(settings))


def lerobot(directory: Path, version: str = '0.6', dtype=torch.bfloat16, **relative) -> Path:
    """A complete checkpoint for the tabletop contract; from 0.5 on with the relative steps.

    `relative`: settings of those.
    """
    write_checkpoint(directory, dtype)
    if version == '0.4':
        return directory
    settings = {'enabled': False, 'exclude_joints': ['gripper'], 'action_names': None, **relative}

    def before(content):
        content['steps'].insert(2, {'registry_name': RELATIVE[version], 'config': settings})
        normalizer = step(content, 'normalizer_processor')
        name = normalizer['state_file'].replace('step_2', 'step_3')
        (directory / normalizer['state_file']).rename(directory / name)
        normalizer['state_file'] = name

    def after(content):
        content['steps'] += [
            {
                'registry_name': 'absolute_actions_processor',
                'config': {'enabled': settings['enabled']},
            },
            {'registry_name': 'device_processor', 'config': {'device': 'cpu', 'float_dtype': None}},
        ]

    edit(directory / PRE, before)
    edit(directory / POST, after)
    return directory


def statistics(directory: Path) -> dict[str, dict[str, list[float]]]:
    """Those of a lerobot checkpoint, as its data set's stats.json has them."""
    found: dict[str, dict[str, list[float]]] = {}
    (file,) = directory.glob('policy_preprocessor_step_*.safetensors')
    for key, value in load_arrays(file).items():
        feature, _, name = key.rpartition('.')
        found.setdefault(feature, {})[name] = value.tolist()
    return found


def change_statistics(directory: Path, change, files: str = 'policy_*.safetensors') -> None:
    """Change the arrays of the statistics' files."""
    for file in directory.glob(files):
        arrays = load_arrays(file)
        change(arrays)
        save_arrays({k: np.ascontiguousarray(v) for k, v in arrays.items()}, file)


def openpi(directory: Path, dtype=torch.bfloat16, asset: str = 'maker/robot', **data) -> Path:
    """What openpi's converter writes of the same weights, with a data config of `data`."""
    source = lerobot(directory.with_name(f'{directory.name}_lerobot'), '0.4', dtype)
    directory.mkdir()
    weights = {
        name.removeprefix('model.'): tensor
        for name, tensor in load_file(source / 'model.safetensors').items()
    }
    # The expert's output layer is part of the reference's module, and so of its files.
    weights['paligemma_with_expert.gemma_expert.lm_head.weight'] = torch.zeros(8, 4)
    save_file(weights, directory / 'model.safetensors', metadata={'format': 'pt'})
    config = {
        'action_dim': 8,
        'action_horizon': 4,
        'paligemma_variant': 'gemma_2b',
        'action_expert_variant': 'gemma_300m',
        'precision': 'bfloat16',
        # Reduced for the test.
        '_sizes': SIZES,
        'image_resolution': [28, 28],
        'num_inference_steps': 3,
    }
    (directory / 'config.json').write_text(json.dumps(config))
    (directory / 'tokenizer.json').write_bytes((source / 'tokenizer.json').read_bytes())
    found = statistics(source)
    names = {'mean', 'std', 'q01', 'q99'}
    norm_stats = {
        'state': {k: v for k, v in found['observation.state'].items() if k in names},
        'actions': {k: v for k, v in found['action'].items() if k in names},
    }
    assets = directory / 'assets' / asset
    assets.mkdir(parents=True)
    (assets / 'norm_stats.json').write_text(json.dumps({'norm_stats': norm_stats}))
    if data:
        data_config(directory, **data)
    return directory


def data_config(directory: Path, **settings) -> None:
    """Put a data config there."""
    content = {'data_config': 1, 'model': 'pi05', **settings}
    (directory / FILE).write_text(yaml.safe_dump(content))


def processor(directory: Path):
    """The directory's processor."""
    return load_processor(directory, read_config(directory))


def observation(found, state=None, size: int = 28, instruction: str = 'touch the red cube'):
    """An observation of every slot, of the state in the middle of the data."""
    generator = np.random.default_rng(1)
    return Observation(
        stamp=1,
        images={
            slot: generator.integers(0, 256, (size, size, 3), dtype=np.uint8)
            for slot in found.slots
        },
        state=found.example_state() if state is None else np.asarray(state, np.float32),
        instruction=instruction,
    )
