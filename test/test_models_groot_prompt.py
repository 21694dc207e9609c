# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""GR00T's prompt is written exactly, and becomes the ids that its tokenizer was trained with."""
import json

import pytest

from quantvla_ros.errors import CheckpointError
from quantvla_ros.models.groot_prompt import CONTEXT, Prompt, find_template
from quantvla_ros.models.tokenizer import load_tokenizer

# As in the hub's processor repositories of the Qwen family, with Eagle's marks.
HUB_TEMPLATE = (
    '{% set image_count = namespace(value=0) %}{% for message in messages %}'
    "{% if loop.first and message['role'] != 'system' %}"
    '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}'
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    '{% set image_count.value = image_count.value + 1 %}<image-{{ image_count.value }}>'
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}"
    '<|im_end|>\n{% endif %}{% endfor %}'
    '{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}'
)


def prompt(pictures=1, tokens=2, **options):
    return Prompt.from_template(pictures, tokens, **{'as_list': True, **options})


def template(tmp_path, text, name='chat_template.json'):
    path = tmp_path / name
    path.write_text(json.dumps({'chat_template': text}) if name.endswith('json') else text)
    return path


def test_the_prompt_is_a_chat_of_one_turn_with_the_pictures_first():
    assert prompt(2).text('pick up the pear') == (
        '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n'
        '<|im_start|>user\n'
        '<image 1><img><IMG_CONTEXT><IMG_CONTEXT></img>'
        '<image 2><img><IMG_CONTEXT><IMG_CONTEXT></img>'
        "['pick up the pear']<|im_end|>\n"
        '<|im_start|>assistant\n'
    )


@pytest.mark.parametrize(
    ('options', 'written'),
    [
        ({}, '["it\'s there"]'),  # Python's own spelling, quotes and all
        ({'as_list': False}, "it's there"),
        ({'as_list': False, 'simplified': True}, 'its there'),
    ],
)
def test_the_command_stands_as_the_checkpoint_saw_it(options, written):
    assert f'</img>{written}<|im_end|>' in prompt(**options).text("it's there")


def test_every_picture_has_the_tokens_that_its_features_take():
    assert prompt(3, 256).text('go').count(CONTEXT) == 3 * 256


@pytest.mark.parametrize('name', ['chat_template.json', 'chat_template.jinja'])
def test_the_hubs_template_beside_the_tokenizer_writes_the_same_chat(tmp_path, name):
    path = template(tmp_path, HUB_TEMPLATE, name)
    assert find_template(tmp_path / 'vocab.json') == path
    assert prompt(2, template=path).text('go') == prompt(2).text('go')


def test_a_template_that_writes_otherwise_is_followed(tmp_path):
    other = HUB_TEMPLATE.replace('assistant.<|im_end|>', 'assistant.\n<|im_end|>')
    path = template(tmp_path, other)
    assert prompt(template=path).text('go').startswith(
        '<|im_start|>system\nYou are a helpful assistant.\n<|im_end|>\n'
    )


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (HUB_TEMPLATE.replace('<image-', '<picture-'), 'writes <image-1> to <image-1>'),
        ('{{ messages[0]', 'one that fails'),
        ('{{ messages.__class__.__mro__[1].__subclasses__() }}', 'chat_template.json: expected'),
        ('{{ 1 / messages }}', 'one that fails'),
    ],
)
def test_a_template_of_another_model_or_a_broken_one_is_an_error(tmp_path, text, message):
    with pytest.raises(CheckpointError, match=message):
        prompt(template=template(tmp_path, text))


def test_a_file_without_a_template_is_an_error(tmp_path):
    path = tmp_path / 'chat_template.json'
    path.write_text('{}')
    with pytest.raises(CheckpointError, match='expected a chat template, found KeyError'):
        prompt(template=path)


def test_the_prompt_becomes_ids_by_qwens_own_files(tmp_path):
    """A vocabulary of bytes and two merges, with the prompt's tokens added as on the hub."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    words = [*letters, 'go', 'Ġgo']
    (tmp_path / 'vocab.json').write_text(json.dumps({word: n for n, word in enumerate(words)}))
    (tmp_path / 'merges.txt').write_text('#version: 0.2\ng o\nĠ go\n')
    special = ['<|im_start|>', '<|im_end|>', CONTEXT, '<img>', '</img>']
    added = {token: len(words) + n for n, token in enumerate(special)}
    (tmp_path / 'added_tokens.json').write_text(json.dumps(added))
    tokenizer = load_tokenizer(tmp_path / 'vocab.json')
    ids = tokenizer.encode(prompt(1, 4, as_list=False).text('go go'))
    assert ids.count(added[CONTEXT]) == 4
    start = ids.index(added[CONTEXT])
    assert ids[start - 1] == added['<img>'] and ids[start + 4] == added['</img>']
    assert ids[start + 5 : start + 8] == [
        words.index('go'), words.index('Ġgo'), added['<|im_end|>']
    ]
    # '<image 1>' is text like any other: no token of its own
    assert ids[start - 10 : start - 1] == [
        words.index(letter) for letter in '<imageĠ1>'
    ]
    assert ids[0] == added['<|im_start|>']
