# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Attacks with tensors whose type and shape fit: numbers that cannot or must not be computed with.

Every hash is forged; what is left is the check of the numbers themselves.
"""
import pytest
import torch
from artifact_samples import EIGHT, LAYER, actions, forge_tensor, refused
from safetensors.torch import load_file

from quantvla_ros.quantization.artifact import load_artifact
from quantvla_ros.quantization.manifest import WEIGHTS

NAN, INFINITY = float('nan'), float('inf')


def put(value, index=1):
    def change(tensor):
        tensor.view(-1)[index] = value
        return tensor
    return change


@pytest.mark.parametrize('layer', [LAYER, EIGHT])
@pytest.mark.parametrize('name', ['weight_scale', 'input_scale'])
@pytest.mark.parametrize(
    ('value', 'message'),
    [(NAN, 'finite'), (INFINITY, 'finite'), (-INFINITY, 'finite'), (0.0, 'positive'),
     (-0.0, 'positive'), (-1e-3, 'positive')],
)
def test_a_scale_that_is_no_scale_is_refused(artifact, layer, name, value, message):
    forge_tensor(artifact, f'{layer}.{name}', put(value))
    refused(artifact, f'{layer}.{name}.*{message}')


@pytest.mark.parametrize('name', ['weight_scale', 'input_scale'])
def test_a_scale_that_overflows_is_refused(artifact, name):
    # 3e38 is finite; its product with any sum is not
    forge_tensor(artifact, f'{LAYER}.{name}', put(3e38))
    refused(artifact, f'{name}: expected positive scales')


def test_a_subnormal_input_scale_is_refused(artifact):
    # its reciprocal, by which a row is multiplied, is infinite
    forge_tensor(artifact, LAYER + '.input_scale', put(1e-40))
    refused(artifact, 'input_scale: expected positive scales')


@pytest.mark.parametrize('value', [0, 16, 128, 255])
def test_a_group_multiplier_out_of_range_is_refused(artifact, value):
    # beyond 15 the int8 numbers that a kernel makes of the nibbles would wrap
    forge_tensor(artifact, LAYER + '.group_scale', put(value, -1))
    refused(artifact, f'{LAYER}.group_scale: expected 1 to 15, found')


@pytest.mark.parametrize(
    'change', [put(-1), put(32), put(2**31 - 1), put(-(2**31)), lambda p: p * 0, lambda p: p + 1,
               lambda p: p // 2]
)
def test_a_permutation_that_is_none_is_refused(artifact, change):
    # out of range, a kernel would read another tensor's memory
    forge_tensor(artifact, LAYER + '.permutation', change)
    refused(artifact, f'{LAYER}.permutation: expected each input once')


ROTATIONS = [
    (put(NAN), 'finite'),
    (put(INFINITY), 'finite'),
    (lambda r: r * 2, 'orthogonal'),
    (lambda r: r * 0, 'orthogonal'),
    (lambda r: r * 0 + 1, 'orthogonal'),
    (lambda r: torch.cat([r[:1] * 1.5, r[1:]]), 'orthogonal'),
    (lambda r: r.roll(1, 1).tril(), 'orthogonal'),
    (put(60000.0), 'orthogonal'),
]


@pytest.mark.parametrize(('change', 'message'), ROTATIONS, ids=range(len(ROTATIONS)))
def test_a_rotation_that_is_none_is_refused(artifact, change, message):
    forge_tensor(artifact, LAYER + '.rotation', change)
    refused(artifact, f'{LAYER}.rotation.*{message}')


@pytest.mark.parametrize('value', [NAN, INFINITY])
def test_an_output_rotation_that_is_not_finite_is_refused(artifact, value):
    forge_tensor(artifact, LAYER + '.output_rotation', put(value))
    refused(artifact, f'{LAYER}.output_rotation.*finite')


@pytest.mark.parametrize(
    'change', [lambda r: r * 0, lambda r: r * 0 + 1, put(60000.0), lambda r: r.tril()]
)
def test_an_output_rotation_that_mixes_what_it_must_not_is_refused(artifact, change):
    # its rows may carry corrections, so their lengths vary; their directions are orthogonal
    forge_tensor(artifact, LAYER + '.output_rotation', change)
    refused(artifact, f'{LAYER}.output_rotation: expected orthogonal')


WRONG = [
    (LAYER + '.weight_packed', lambda t: t[:, :-1], 'expected'),
    (LAYER + '.weight_packed', lambda t: torch.cat([t, t[:, :1]], 1), 'expected'),
    (LAYER + '.weight_packed', lambda t: t[:-1], 'expected'),
    (LAYER + '.weight_packed', lambda t: t.t(), 'expected'),
    (LAYER + '.weight_packed', lambda t: t.view(torch.int8), 'torch.uint8'),
    (LAYER + '.weight_packed', lambda t: t.int(), 'torch.uint8'),
    (LAYER + '.group_scale', lambda t: t[:, :1], 'expected'),
    (LAYER + '.group_scale', lambda t: t.float(), 'torch.uint8'),
    (LAYER + '.group_scale', lambda t: t.repeat(1, 2), 'expected'),
    (LAYER + '.weight_scale', lambda t: t.half(), 'torch.float32'),
    (LAYER + '.weight_scale', lambda t: t.double(), 'torch.float32'),
    (LAYER + '.weight_scale', lambda t: t[:1], 'expected'),
    (LAYER + '.weight_scale', lambda t: t[:, None], 'expected'),
    (LAYER + '.input_scale', lambda t: t[:2], 'expected'),
    (LAYER + '.input_scale', lambda t: torch.cat([t, t]), 'expected'),
    (LAYER + '.permutation', lambda t: t.long(), 'torch.int32'),
    (LAYER + '.permutation', lambda t: t[:-1], 'expected'),
    (LAYER + '.rotation', lambda t: t.float(), 'torch.float16'),
    (LAYER + '.rotation', lambda t: t.bfloat16(), 'torch.float16'),
    (LAYER + '.rotation', lambda t: t[:1], 'expected'),
    (LAYER + '.rotation', lambda t: t[:, :8, :8], 'expected'),
    (EIGHT + '.weight_q', lambda t: t[:, :32].view(torch.uint8), 'expected'),
    ('action_out_proj.weight', lambda t: t.to(torch.int8), 'floating point'),
    ('action_out_proj.weight', lambda t: t[:1], 'expected'),
]


@pytest.mark.parametrize(('name', 'change', 'message'), WRONG, ids=range(len(WRONG)))
def test_a_tensor_of_another_shape_or_type_is_refused(artifact, name, change, message):
    forge_tensor(artifact, name, change)
    refused(artifact, f'{name}: .*{message}')


@pytest.mark.parametrize('value', [NAN, INFINITY])
@pytest.mark.parametrize('kind', ['action_out_proj.weight', 'bias', 'embed', 'layernorm'])
def test_a_float_tensor_that_is_not_finite_is_refused(artifact, original, kind, value):
    name = next(key for key in load_file(original / WEIGHTS) if kind in key)
    forge_tensor(artifact, name, put(value))
    refused(artifact, f'{name}.*finite')


def test_a_flipped_bit_in_any_tensor_is_noticed(artifact):
    data = (artifact / WEIGHTS).read_bytes()
    for place in (-1, -100, -5000, -100_000):
        changed = bytearray(data)
        changed[place] ^= 0x10
        (artifact / WEIGHTS).write_bytes(changed)
        refused(artifact, 'SHA-256')


def test_changing_a_loaded_file_does_not_change_the_policy(artifact, checkpoint):
    # A running policy must not follow a file that is being replaced.
    model, _ = load_artifact(artifact)
    before = actions(model, checkpoint)
    with (artifact / WEIGHTS).open('r+b') as file:
        file.seek(0)
        file.write(b'\0' * (artifact / WEIGHTS).stat().st_size)
    assert torch.equal(actions(model, checkpoint), before)
