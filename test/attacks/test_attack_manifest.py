# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Attacks with the manifest: no JSON, another meaning, forged numbers, a recipe that lies."""
import json

import pytest
import yaml
from artifact_samples import EIGHT, LAYER, forge, recipe, refused

from quantvla_ros.quantization.manifest import MANIFEST, content_id

HEAD = '{"format": "quantvla_ros artifact", "version": '


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', 'expected JSON'),
        ('{"format": ', 'expected JSON'),
        ('[' * 100_000, 'expected JSON'),
        ('{"a":' * 100_000, 'expected JSON'),
        ('\xff\xfe', 'expected JSON|something else'),
        ('[1, 2]', 'something else'),
        ('null', 'something else'),
        (HEAD + '99}', 'version [0-9]+, found 99'),
        (HEAD + 'NaN}', 'not JSON'),
        (HEAD + '-Infinity}', 'not JSON'),
        (HEAD + '"2"}', 'version'),
        (HEAD + '1e400}', 'version|JSON'),
        (HEAD + '2}', 'lacking'),
        (HEAD + '9' * 5000 + '}', 'version|JSON'),
        (HEAD + '2, "version": 2}', 'JSON'),
    ],
    ids=range(15),
)
def test_a_manifest_that_is_none_is_refused(artifact, text, message):
    (artifact / MANIFEST).write_text(text, encoding='latin-1')
    refused(artifact, message)


def test_a_manifest_of_absurd_size_is_not_read(artifact, monkeypatch):
    monkeypatch.setattr('quantvla_ros.quantization.manifest.LARGEST_MANIFEST', 1000)
    refused(artifact, 'at most 1000 bytes')


def test_an_edited_manifest_is_noticed(artifact):
    text = (artifact / MANIFEST).read_text()
    changed = text.replace('"control_period": 0.05', '"control_period": 0.5')
    assert changed != text
    (artifact / MANIFEST).write_text(changed)
    refused(artifact, 'the manifest was changed')


def test_a_key_given_twice_is_refused(artifact):
    # Readers differ in which of the two they take: what one has checked, another would use.
    text = (artifact / MANIFEST).read_text()
    changed = text.replace('"control_period": 0.05', '"control_period": 5, "control_period": 0.05')
    assert changed != text
    (artifact / MANIFEST).write_text(changed)
    refused(artifact, 'twice|second time')


def huge(value):
    return lambda c: c['tensors'][LAYER + '.weight_packed'].update(shape=value)


WRONG = [
    (lambda c: c.update(extra=1), 'nothing lacking, extra unknown'),
    (lambda c: c['contract'].pop('slots'), r'contract: slots lacking'),
    (lambda c: c['contract'].update(control_period='fast'), 'control_period: expected a finite'),
    (lambda c: c['contract'].update(control_period=True), 'control_period: expected a finite'),
    (lambda c: c['contract'].update(slots='overhead'), 'contract.slots: expected a list'),
    (lambda c: c['contract'].update(slots=[None]), r'contract.slots\[0\]: expected text'),
    (lambda c: c['tensors'].update(x=3), 'tensors.x: expected an object'),
    (lambda c: c['bytes'].update(float=-1), 'bytes.float: expected a whole number'),
    (lambda c: c['bytes'].update(float=True), 'bytes.float: expected a whole number'),
    (lambda c: c['bytes'].update(float=1.5), 'bytes.float: expected a whole number'),
    (lambda c: c['corrections'].update(beta=[[1.0]]), r'corrections.beta\[0\]: expected a finite'),
    (lambda c: c['files']['config.json'].update(sha256='0'), 'SHA-256'),
    (lambda c: c['files']['config.json'].update(sha256='A' * 64), 'SHA-256'),
    (lambda c: c['files']['config.json'].update(bytes=2**63), 'config.json: expected 9223372036'),
    (lambda c: c.update(precision='w2a2'), 'w2a2'),
    (lambda c: c.update(precision='w8a8'), 'w8a8'),
    (lambda c: c['model'].update(type='other'), 'expected pi05'),
    (lambda c: c['model'].update(chunk_size=5), 'chunks of 4'),
    (lambda c: c['layout'].update(name='none'), 'layout'),
    (lambda c: c['layout'].update(name='language'), 'layout'),
    (lambda c: c['layout']['layers'].pop(), 'layers'),
    (lambda c: c['layout']['layers'].append('x'), 'layers'),
    (lambda c: c['layout']['layers'].reverse(), 'other names'),
    (lambda c: c['layout']['layers'].__setitem__(0, c['layout']['layers'][1]), 'other names'),
    (lambda c: c['tensors'].pop(LAYER + '.weight_packed'), '1 missing'),
    (lambda c: c['tensors'].update(more=c['tensors'][LAYER + '.weight_packed']), '1 unknown'),
    (lambda c: c['tensors'].update({'../x': c['tensors'][LAYER + '.weight_scale']}), '1 unknown'),
    (lambda c: c['tensors'][LAYER + '.weight_packed'].update(dtype='F32'), 'torch.uint8'),
    (lambda c: c['tensors'][LAYER + '.weight_packed'].update(dtype='I8'), 'torch.uint8'),
    (lambda c: c['tensors'][EIGHT + '.weight_q'].update(dtype='U8'), 'torch.int8'),
    (lambda c: c['tensors'][EIGHT + '.weight_q'].update(shape=[32, 65]), r'expected \[32, 64\]'),
    (lambda c: c['tensors'][LAYER + '.weight_scale'].update(dtype='BF16'), 'torch.float32'),
    (lambda c: c['tensors'][LAYER + '.permutation'].update(dtype='F32'), 'torch.int32'),
    (lambda c: c['tensors'][LAYER + '.rotation'].update(dtype='F32'), 'torch.float16'),
    (lambda c: c['tensors'][LAYER + '.input_scale'].update(shape=[]), r'expected \[3\]'),
    (lambda c: c['tensors']['action_in_proj.weight'].update(dtype='I8'), 'floating point'),
    (lambda c: c['tensors']['action_in_proj.weight'].update(dtype='U8'), 'floating point'),
    (lambda c: c['tensors']['action_in_proj.weight'].update(dtype='Q'), 'floating point'),
    (huge([64, 17]), r'expected \[64, 16\]'),
    (huge([64, 15]), r'expected \[64, 16\]'),
    (huge([64, 32]), r'expected \[64, 16\]'),
    (huge([1024]), r'expected \[64, 16\]'),
    (huge([64, 16, 1]), r'expected \[64, 16\]'),
    (huge([2**63, 2**63]), r'expected \[64, 16\]'),
    (huge([64, -16]), 'whole number, not negative'),
    (huge([64, 16.0]), 'whole number'),
    (huge([64, '16']), 'whole number'),
    (huge([True, 16]), 'whole number'),
]


@pytest.mark.parametrize(('edit', 'message'), WRONG, ids=range(len(WRONG)))
def test_a_well_forged_manifest_that_does_not_fit_is_refused(artifact, edit, message):
    forge(artifact, edit)
    refused(artifact, message)


def test_deep_nesting_inside_a_valid_manifest_is_refused(artifact):
    text = (artifact / MANIFEST).read_text()
    deep = '[' * 900 + ']' * 900  # JSON takes it; what walks it afterwards must as well
    (artifact / MANIFEST).write_text(
        text.replace('"control_period": 0.05', f'"control_period": {deep}'))
    refused(artifact, 'control_period|JSON')


def relabelled(change):
    """An edit that changes the recipe's text, and name and precision to match."""
    def edit(content):
        settings = yaml.safe_load(content['recipe']['text'])
        change(settings)
        content['recipe']['text'] = yaml.safe_dump(settings)
        bits = settings['weights']['bits'], settings['activations']['bits']
        content['precision'] = f'w{bits[0]}a{bits[1]}'
        content['layout']['name'] = settings['layout']
    return edit


LIES = [
    (lambda s: s['weights'].update(bits=8, group=0), 'unknown'),
    (lambda s: s['weights'].update(group=0), 'unknown'),
    (lambda s: s['weights'].update(group=32), 'group_scale'),
    (lambda s: s['weights'].update(eight_bits=[]), 'unknown'),
    (lambda s: s['weights'].update(eight_bits=['head.up', 'backbone.down', 'head.down']),
     'unknown'),
    (lambda s: s['activations'].update(scale='dynamic_per_token'), 'unknown'),
    (lambda s: s['activations'].update(scale='static_per_tensor'), 'input_scale'),
    (lambda s: s['rotation'].update(permute=False), 'unknown'),
    (lambda s: s['rotation'].update(input='hadamard'), 'unknown'),
    (lambda s: s['rotation'].update(input='none'), 'unknown'),
    (lambda s: s['rotation'].update(output='none'), 'unknown'),
    (lambda s: s['rotation'].update(block=32), 'rotation'),
    (lambda s: s.update(layout='full'), 'layout'),
    (lambda s: s.update(layout='language'), 'layout'),
]


@pytest.mark.parametrize(('change', 'message'), LIES, ids=range(len(LIES)))
def test_a_recipe_that_disagrees_with_the_tensors_is_refused(artifact, change, message):
    forge(artifact, relabelled(change))
    refused(artifact, message)


BOMB = 'a: &a [x, x]\n' + '\n'.join(
    f'{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]' for i in range(24))

TEXTS = [
    '',
    'null',
    '[1]',
    '{' * 1000,
    '[' * 100_000,
    'a: 1\n' * 10_000,
    '\x00',
    '!!python/object/apply:os.system [true]',
    'recipe: !!python/name:os.system',
    BOMB,
    'recipe: &a [*a]',
    '%YAML 9.9\n---\nrecipe: 2',
    'recipe: 2\n---\nrecipe: 2',
    'recipe: 99999999999999999999999999999999',
    'recipe: .nan',
    '\ud800',
]


@pytest.mark.parametrize('text', TEXTS, ids=range(len(TEXTS)))
def test_a_recipe_that_is_none_is_refused(artifact, text):
    forge(artifact, lambda content: content['recipe'].update(text=text))
    refused(artifact, 'recipe|JSON')


@pytest.mark.parametrize('name', ['w8a8', 'w4a8', 'paper-w4a8', 'paper-w4a4'])
def test_another_recipes_text_is_refused(artifact, name):
    other = recipe(name)

    def edit(content):
        content['recipe'].update(name=name, text=other.text)
        content.update(precision=other.precision)

    forge(artifact, edit)
    refused(artifact, 'tensors')


@pytest.mark.parametrize('name', ['../../x', 'a\nb', '\x1b[2J', 'x' * 100_000])
def test_a_recipe_name_does_no_harm_in_a_message(artifact, name):
    def edit(content):
        content['recipe'].update(name=name, text='')

    forge(artifact, edit)
    refused(artifact, 'recipe')


def test_non_utf8_bytes_in_a_manifest_are_refused(artifact):
    data = (artifact / MANIFEST).read_bytes()
    for bad in (b'\xff', b'\xc3', b'\xed\xa0\x80'):
        (artifact / MANIFEST).write_bytes(data.replace(b'tabletop', b'table' + bad, 1))
        refused(artifact, 'expected JSON')


def test_the_id_is_of_the_content_not_of_its_spelling(original):
    content = json.loads((original / MANIFEST).read_text())
    assert content_id(dict(reversed(content.items()))) == content['artifact_id']
