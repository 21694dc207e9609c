# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Small artifacts in every format, and ways to forge one, for the artifact tests and attacks."""
import hashlib
import json
import re
import struct
from pathlib import Path

import torch
import yaml
from quantization_samples import ROOT, calibration_account, contract, observations
from safetensors.torch import load_file, save_file

from quantvla_ros.errors import ArtifactError
from quantvla_ros.models import load_model
from quantvla_ros.models.architectures import load_processor
from quantvla_ros.models.checkpoint import read_config
from quantvla_ros.quantization.artifact import load_artifact, write_artifact
from quantvla_ros.quantization.formats import replace_layer, scale_steps
from quantvla_ros.quantization.manifest import MANIFEST, WEIGHTS, content_id
from quantvla_ros.quantization.quantize import quantize_linear
from quantvla_ros.quantization.recipe_file import load_recipe, parse_recipe
from quantvla_ros.quantization.stored import tensor_hash

HEAD = 'paligemma_with_expert.gemma_expert.model.layers.1.mlp.'
LAYER = HEAD + 'up_proj'  # 4 bits in the 'full' format
EIGHT = HEAD + 'down_proj'  # 8 bits in every format

# A recipe with everything that a layer can hold, so that each kind of tensor can be attacked.
_FULL = {
    'weights': {'bits': 4, 'group': 16, 'eight_bits': ['backbone.down', 'head.down']},
    'activations': {'bits': 8, 'scale': 'static_per_step'},
    'rotation': {'input': 'pca_hadamard', 'block': 16, 'permute': True, 'output': 'pca'},
}


def recipe(kind: str = 'full'):
    """'full', or the name of a shipped recipe."""
    if kind != 'full':
        return load_recipe(kind)
    content = yaml.safe_load((ROOT / 'config' / 'recipes' / 'w4a8.yaml').read_text())
    for part, changes in _FULL.items():
        content[part].update(changes)
    return parse_recipe(yaml.safe_dump(content), name='full')


def quantized(checkpoint: Path, kind: str = 'full'):
    """The checkpoint's network with quantized layers; nothing is calibrated."""
    model, chosen = load_model(checkpoint), recipe(kind)
    places = model.linear_places()
    for name in chosen.layout.select(model):
        layout = chosen.layer_format(places[name])
        steps = scale_steps(places[name], layout, model.denoising_steps)
        linear = model.get_submodule(name)
        layer, _ = quantize_linear(
            linear, layout, chosen.weights, model.denoising_step, steps=steps)
        replace_layer(model, name, layer)
    return model


def write(out: Path, checkpoint: Path, model=None, kind: str = 'full'):
    return write_artifact(
        out,
        model or quantized(checkpoint, kind),
        checkpoint=checkpoint,
        recipe=recipe(kind),
        contract=contract(),
        corrections={
            'alpha': [[1.0, 1.1, 1.0, 1.0]] * 2,
            'beta': [1.0, 0.9],
            'beta_mlp': [],
            'interface': {},
            'notes': [],
        },
        calibration=calibration_account(),
    )


def actions(model, directory: Path):
    """[1, chunk, action] of one observation; `directory` holds config and processor."""
    processor = load_processor(directory, read_config(directory))
    inputs = processor.inputs(observations(1, seed=5)[0])
    noise = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0))
    return model.sample_actions(
        inputs.images, inputs.image_masks, inputs.tokens, inputs.token_mask, noise
    )


def refused(artifact: Path, message: str) -> None:
    """Loading fails with an ArtifactError of one line that says `message`."""
    try:
        load_artifact(artifact)
    except ArtifactError as error:
        text = str(error)
    else:
        raise AssertionError('loaded')
    assert '\n' not in text and len(text) < 2000
    assert re.search(message, text), text


# Forging: what somebody does who knows how the hashes are made.


def forge(artifact: Path, edit) -> None:
    """Change the manifest, and its id with it."""
    content = json.loads((artifact / MANIFEST).read_text())
    edit(content)
    content['artifact_id'] = content_id(content)
    (artifact / MANIFEST).write_text(json.dumps(content))


def forge_file(artifact: Path, name: str, data: bytes) -> None:
    """Change a file and its hash alike."""
    (artifact / name).write_bytes(data)
    entry = {'bytes': len(data), 'sha256': hashlib.sha256(data).hexdigest()}
    forge(artifact, lambda content: content['files'].update({name: entry}))


def forge_tensor(artifact: Path, name: str, change) -> None:
    """Change a tensor (its numbers, type or shape), with header, hash and manifest alike."""
    tensors = load_file(artifact / WEIGHTS)
    tensors[name] = change(tensors[name].clone()).contiguous()
    save_file(tensors, artifact / WEIGHTS, metadata={'format': 'pt'})
    names = {torch.float32: 'F32', torch.float16: 'F16', torch.bfloat16: 'BF16',
             torch.float64: 'F64', torch.int8: 'I8', torch.uint8: 'U8', torch.int16: 'I16',
             torch.int32: 'I32', torch.int64: 'I64', torch.bool: 'BOOL'}
    entry = {
        'dtype': names[tensors[name].dtype],
        'shape': list(tensors[name].shape),
        'sha256': tensor_hash(tensors[name]),
    }
    forge(artifact, lambda content: content['tensors'].update({name: entry}))


def rewrite_header(artifact: Path, edit) -> None:
    """Another header over the same data; `edit` changes it or returns its text."""
    data = (artifact / WEIGHTS).read_bytes()
    length = struct.unpack('<Q', data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    text = edit(header)
    text = json.dumps(header) if text is None else text
    text = text if isinstance(text, bytes) else text.encode()
    (artifact / WEIGHTS).write_bytes(struct.pack('<Q', len(text)) + text + data[8 + length :])
