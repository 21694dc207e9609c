# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The full-size networks are the public checkpoints', and layouts choose the layers they should."""
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from quantvla_ros.errors import CalibrationError
from quantvla_ros.models.architectures import ARCHITECTURES, build_network
from quantvla_ros.models.roles import Part, Role
from quantvla_ros.quantization.layout import LAYOUTS

KEYS = Path(__file__).resolve().parents[2] / 'shared' / 'reference' / 'models_keys.txt'
needs_keys = pytest.mark.skipif(not KEYS.exists(), reason='list of public keys not at hand')

SECTIONS = {'pi05': '== pi05', 'gr00t_n1_5': '== GR00T N1.5', 'smolvla': '== SmolVLA'}
QKVO = tuple(f'self_attn.{p}_proj' for p in 'qkvo')
GATED = tuple(f'mlp.{p}_proj' for p in ('gate', 'up', 'down'))
DIT_ATTENTION = ('attn1.to_q', 'attn1.to_k', 'attn1.to_v', 'attn1.to_out.0')


def layers(prefix, depth, parts):
    return {f'{prefix}.{layer}.{part}' for layer in range(depth) for part in parts}


GEMMA = 'paligemma_with_expert.paligemma.model.language_model.layers'
EXPERT = 'paligemma_with_expert.gemma_expert.model.layers'
QWEN = 'backbone.eagle_model.language_model.model.layers'
DIT = 'action_head.model.transformer_blocks'
SMOL = 'vlm_with_expert.vlm.model'
SMOL_EXPERT = 'vlm_with_expert.lm_expert.layers'
LANGUAGE = {
    'pi05': layers(GEMMA, 18, QKVO + GATED),
    'gr00t_n1_5': layers(QWEN, 12, QKVO + GATED),
    'smolvla': layers(f'{SMOL}.text_model.layers', 16, QKVO + GATED),
}
HEAD_MLP = {
    'pi05': layers(EXPERT, 18, GATED),
    'gr00t_n1_5': layers(DIT, 16, ('ff.net.0.proj', 'ff.net.2')),
    'smolvla': layers(SMOL_EXPERT, 16, GATED),
}
HEAD_ATTENTION = {
    'pi05': layers(EXPERT, 18, QKVO),
    'gr00t_n1_5': layers(DIT, 16, DIT_ATTENTION),
    'smolvla': layers(SMOL_EXPERT, 16, QKVO),
}
VISION = {  # path, layers
    'pi05': ('paligemma_with_expert.paligemma.model.vision_tower.vision_model', 27),
    'gr00t_n1_5': ('backbone.eagle_model.vision_model.vision_model', 27),
    'smolvla': (f'{SMOL}.vision_model', 12),
}
PROJECTOR = {
    'pi05': 'paligemma_with_expert.paligemma.model.multi_modal_projector.linear',
    'gr00t_n1_5': 'backbone.eagle_model.mlp1.0',
    'smolvla': f'{SMOL}.connector.modality_projection.proj',
}
VISION_PARTS = ('q_proj', 'k_proj', 'v_proj', 'out_proj')


@pytest.fixture(scope='module', params=sorted(SECTIONS))
def kind(request):
    return request.param


@pytest.fixture(scope='module')
def full_size(kind):
    with torch.device('meta'):
        return build_network({'type': kind})


def expected_layers(layout, kind):
    language, mlp, attention = LANGUAGE[kind], HEAD_MLP[kind], HEAD_ATTENTION[kind]
    parts = (*(f'self_attn.{p}' for p in VISION_PARTS), 'mlp.fc1', 'mlp.fc2')
    tower, depth = VISION[kind]
    sees = layers(f'{tower}.encoder.layers', depth, parts) | {PROJECTOR[kind]}
    return {
        'paper': language | mlp,
        'language': language,
        'full': language | mlp | attention,
        'extended': language | mlp | sees,
    }[layout]


COUNTS = {  # of the paper's table 1 and its code; extended: + 6 a layer and the projector
    'pi05': {'paper': 180, 'language': 126, 'full': 252, 'extended': 180 + 163},
    'gr00t_n1_5': {'paper': 116, 'language': 84, 'full': 180, 'extended': 116 + 163},
    'smolvla': {'paper': 160, 'language': 112, 'full': 224, 'extended': 160 + 73},
}


@pytest.mark.parametrize('layout', sorted(LAYOUTS))
def test_a_layout_is_these_layers_of_the_full_network_and_no_others(layout, kind, full_size):
    names = LAYOUTS[layout].select(full_size)
    assert len(names) == COUNTS[kind][layout]
    assert set(names) == expected_layers(layout, kind)
    assert all(isinstance(full_size.get_submodule(name), nn.Linear) for name in names)


def public_shapes(kind):
    """Shapes by key of a public checkpoint, with the list's shorthands written out."""
    shapes, ours = {}, False
    for line in KEYS.read_text().splitlines():
        if line.startswith('== '):
            ours = line.startswith(SECTIONS[kind])
        found = re.match(r'  (\S+)\s+\[([\d, ]+)\](?:\s+i=(\d+)\.\.(\d+) \(x(\d+)\))?', line)
        if not ours or found is None:
            continue
        name, shape, first, last, times = found.groups()
        # to_out.{i} and net.{i} are one layer each; the range is that of the blocks
        name = name.replace('to_out.{i}', 'to_out.0').replace('net.{i}.proj', 'net.0.proj')
        name = name.replace('net.{i}', 'net.2')
        stride = 1
        if first is not None:
            stride = (int(last) - int(first)) // max(int(times) - 1, 1) or 1
        for i in range(int(first or 0), int(last or 0) + 1, stride):
            key = name.replace('{i}', str(i))
            shapes.setdefault(key, tuple(int(n) for n in shape.split(',')))
    return shapes


@needs_keys
def test_the_full_network_has_every_tensor_of_the_public_checkpoint_and_no_other(kind, full_size):
    public, architecture = {}, ARCHITECTURES[kind]
    for name, shape in public_shapes(kind).items():
        key = architecture.canonical_key(name)
        if key is not None:
            public[architecture.tied.get(key, key)] = shape
    ours = {name: tuple(tensor.shape) for name, tensor in full_size.state_dict().items()}
    assert ours == public
    assert len(ours) == {'pi05': 811, 'gr00t_n1_5': 887, 'smolvla': 499}[kind]


@needs_keys
def test_the_list_of_public_keys_was_read_to_the_end(kind):
    shapes = public_shapes(kind)
    assert len(shapes) == {'pi05': 813, 'gr00t_n1_5': 899, 'smolvla': 500}[kind]
    elements = sum(torch.Size(shape).numel() for shape in shapes.values())
    billions = {'pi05': 4.143, 'gr00t_n1_5': 2.724, 'smolvla': 0.450}[kind]
    assert elements / 1e9 == pytest.approx(billions, abs=5e-4)


def test_every_linear_layer_has_a_place_and_every_part_its_name(kind, full_size):
    linears = {n for n, m in full_size.named_modules() if isinstance(m, nn.Linear)}
    places = full_size.linear_places()
    assert set(places) == linears
    for name in expected_layers('full', kind):
        assert places[name].part != Part.OTHER, name
    outputs = {n for n in LANGUAGE[kind] if places[n].part == Part.OUTPUT}
    assert outputs == {n for n in LANGUAGE[kind] if n.endswith('o_proj')}


@pytest.mark.parametrize('layout', sorted(LAYOUTS))
def test_what_a_layout_does_not_quantize_is_named_with_the_reason(layout, full_size):
    chosen = LAYOUTS[layout]
    kept = [name for names in chosen.kept(full_size).values() for name in names]
    matrices = {
        name.rpartition('.')[0]
        for name, parameter in full_size.named_parameters()
        if parameter.ndim > 1
    }
    assert sorted([*kept, *chosen.select(full_size)]) == sorted(matrices)
    assert all(len(reason) > 20 for reason in chosen.kept(full_size))


def test_the_parts_around_the_action_head_stay_float_for_their_own_reasons(kind, full_size):
    kept = LAYOUTS['extended'].kept(full_size)
    reason_of = {name: reason for reason, names in kept.items() for name in names}
    reasons = LAYOUTS['extended'].reasons
    expected = {
        'pi05': {
            f'{EXPERT}.3.input_layernorm.dense': Role.HEAD_CONDITION,
            'time_mlp_out': Role.HEAD_CONDITION,
            'action_in_proj': Role.HEAD_INPUT_OUTPUT,
            'action_out_proj': Role.HEAD_INPUT_OUTPUT,
        },
        'gr00t_n1_5': {
            f'{DIT}.3.norm1.linear': Role.HEAD_CONDITION,
            'action_head.model.proj_out_1': Role.HEAD_CONDITION,
            'action_head.model.timestep_encoder.timestep_embedder.linear_1': Role.HEAD_CONDITION,
            'action_head.model.proj_out_2': Role.HEAD_INPUT_OUTPUT,
            'action_head.vl_self_attention.transformer_blocks.0.ff.net.2': Role.FEATURES,
        },
        'smolvla': {
            f'{SMOL_EXPERT}.3.self_attn.k_proj': Role.HEAD_ATTENTION,
            'state_proj': Role.HEAD_INPUT_OUTPUT,
            'action_in_proj': Role.HEAD_INPUT_OUTPUT,
            'action_time_mlp_in': Role.HEAD_INPUT_OUTPUT,
            'action_out_proj': Role.HEAD_INPUT_OUTPUT,
        },
    }[kind]
    assert {name: reason_of[name] for name in expected} == {
        name: reasons[role] for name, role in expected.items()
    }
    tables = {
        'pi05': {'paligemma_with_expert.paligemma.model.language_model.embed_tokens'},
        'gr00t_n1_5': {
            'action_head.state_encoder.layer1',
            'action_head.action_encoder.W2',
            'action_head.action_decoder.layer2',
            'action_head.future_tokens',
        },
        'smolvla': {f'{SMOL}.text_model.embed_tokens'},
    }[kind]
    assert all(reason_of[name].startswith('no linear layer') for name in tables)


def test_every_layout_gives_a_reason_for_each_role_it_leaves_out():
    for layout in LAYOUTS.values():
        assert set(layout.reasons) == set(Role) - layout.roles


def test_a_network_without_such_layers_is_refused():
    class Bare(nn.Module):
        def linear_places(self):
            return {}

    with pytest.raises(CalibrationError, match='choose another layout'):
        LAYOUTS['paper'].select(Bare())
