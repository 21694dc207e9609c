# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Tokenizers of every kind of file, made small here, and clear words where one is missing."""
import json

import pytest
import sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from quantvla_ros.errors import CheckpointError
from quantvla_ros.models.data_config import load_data_config
from quantvla_ros.models.tokenizer import (
    PALIGEMMA,
    PALIGEMMA_FILES,
    QWEN_FILES,
    find_tokenizer,
    load_tokenizer,
    tokenizer_files,
)

TEXT = [
    'Task: pick up the black bowl, State: 128 0 255;\nAction: ',
    'put the red cube into the green box',
    "it's the robot's 2nd cup, isn't it",
] * 4


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """One of each kind, trained on a few lines."""
    directory = tmp_path_factory.mktemp('trained')
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT), model_prefix=str(directory / 'pieces'), vocab_size=46,
        pad_id=0, eos_id=1, bos_id=2, unk_id=3, byte_fallback=False, add_dummy_prefix=False,
        remove_extra_whitespaces=False, user_defined_symbols=['\n'],
        normalization_rule_name='identity', minloglevel=2,
    )
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    )
    bpe.model.save(str(directory))
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens(['<bos>', '<eos>', AddedToken('<image>', normalized=False)])
    bpe.save(str(directory / 'tokenizer.json'))
    return directory


@pytest.fixture
def qwen(trained, tmp_path):
    """A directory of Qwen2's files, as the hub has them."""
    vocabulary = json.loads((trained / 'vocab.json').read_text())
    first = len(vocabulary) + 1
    # Qwen2 leaves a mark before a word with it, so its merges may join the two.
    (tmp_path / 'vocab.json').write_text(json.dumps({**vocabulary, '(c': first - 1}))
    (tmp_path / 'merges.txt').write_text((trained / 'merges.txt').read_text() + '( c\n')
    flags = {'single_word': False, 'lstrip': False, 'rstrip': False, 'normalized': False}
    tokens = ['<|endoftext|>', '<|im_start|>', '<|im_end|>', '<img>']
    (tmp_path / 'tokenizer_config.json').write_text(json.dumps({
        'tokenizer_class': 'Qwen2Tokenizer',
        'added_tokens_decoder': {
            str(first + i): {'content': token, 'special': True, **flags}
            for i, token in enumerate(tokens)
        },
    }))
    (tmp_path / 'added_tokens.json').write_text(json.dumps({'<|im_end|>': first + 2}))
    return tmp_path


def settings(directory, edit):
    path = directory / 'tokenizer_config.json'
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def refused(call, *parts):
    with pytest.raises(CheckpointError) as error:
        call()
    text = str(error.value)
    assert '\n' not in text and len(text) < 800
    for part in parts:
        assert part in text, text


def test_a_sentencepiece_prompt_begins_with_its_beginning_token_and_has_no_end(trained):
    library = sentencepiece.SentencePieceProcessor(model_file=str(trained / 'pieces.model'))
    ours = load_tokenizer(trained / 'pieces.model')
    assert ours.encode(TEXT[0]) == [library.bos_id(), *library.encode(TEXT[0])]
    assert ours.encode(TEXT[0])[-1] != library.eos_id()
    assert library.decode(ours.encode(TEXT[0])[1:]) == TEXT[0]  # the blank at the end counts
    assert ours.size == 46
    assert ours.token_id('<s>') == 2 and ours.token_id('no such piece') is None
    assert ours.token_id('<unk>') == 3


def test_a_tokenizer_json_begins_with_the_asked_token_once_whatever_its_own_rule(trained, tmp_path):
    plain = load_tokenizer(trained / 'tokenizer.json').encode(TEXT[0])
    backend = Tokenizer.from_file(str(trained / 'tokenizer.json'))
    begin, end = backend.token_to_id('<bos>'), backend.token_to_id('<eos>')
    assert load_tokenizer(trained / 'tokenizer.json', '<bos>').encode(TEXT[0]) == [begin, *plain]
    backend.post_processor = processors.TemplateProcessing(
        single='<bos> $A <eos>', special_tokens=[('<bos>', begin), ('<eos>', end)]
    )
    backend.save(str(tmp_path / 'tokenizer.json'))
    assert load_tokenizer(tmp_path / 'tokenizer.json').encode(TEXT[0]) == [begin, *plain, end]
    assert load_tokenizer(tmp_path / 'tokenizer.json', '<bos>').encode(TEXT[0]) == [begin, *plain]
    refused(lambda: load_tokenizer(tmp_path / 'tokenizer.json', '<s>'), "'<s>'", 'another model')
    refused(lambda: load_tokenizer(trained / 'pieces.model', '<bos>'), "'<bos>'", 'another model')
    assert load_tokenizer(trained / 'pieces.model', '<s>').encode('cup')[0] == 2


class Counting:
    """A library's tokenizer that counts what it encodes."""

    def __init__(self, backend):
        self._backend, self.texts = backend, []

    def encode(self, text, **settings):
        self.texts.append(text)
        return self._backend.encode(text, **settings)


@pytest.mark.parametrize(('name', 'begin'), [
    ('tokenizer.json', None), ('tokenizer.json', '<bos>'), ('pieces.model', None),
])
def test_a_prompt_that_stays_is_encoded_once(trained, name, begin):
    # GR00T's is 500 tokens, of which a new picture changes none.
    ours = load_tokenizer(trained / name, begin)
    expected = {text: load_tokenizer(trained / name, begin).encode(text) for text in set(TEXT)}
    counting = ours._backend = Counting(ours._backend)
    for text in TEXT:
        ids = ours.encode(text)
        assert ids == expected[text]
        ids.append(0)  # the caller's own
    assert sorted(counting.texts) == sorted(expected)
    for number in range(1000):  # a state that moves: the memory of it stays small
        ours.encode(str(number))
    assert ours._ids.cache_info().currsize < 100


def test_lengths_left_in_a_file_by_its_last_use_do_not_cut_or_pad(trained, tmp_path):
    backend = Tokenizer.from_file(str(trained / 'tokenizer.json'))
    backend.enable_truncation(3)
    backend.enable_padding(length=500)
    backend.save(str(tmp_path / 'tokenizer.json'))
    expected = load_tokenizer(trained / 'tokenizer.json').encode(TEXT[1])
    assert load_tokenizer(tmp_path / 'tokenizer.json').encode(TEXT[1]) == expected
    assert 3 < len(expected) < 500


def test_added_tokens_do_not_count_as_vocabulary(trained, tmp_path):
    # PaliGemma's <image> is one beyond pi0.5's embedding, and no prompt holds it.
    ours = load_tokenizer(trained / 'tokenizer.json')
    vocabulary = json.loads((trained / 'vocab.json').read_text())
    assert ours.size == len(vocabulary)
    assert ours.token_id('<image>') == len(vocabulary) + 2
    assert ours.special == ('<bos>', '<eos>', '<image>')
    # Nor where a file lists them in both places.
    content = json.loads((trained / 'tokenizer.json').read_text())
    content['model']['vocab']['<image>'] = len(vocabulary) + 2
    (tmp_path / 'tokenizer.json').write_text(json.dumps(content))
    assert load_tokenizer(tmp_path / 'tokenizer.json').size == len(vocabulary)


def test_qwen_files_split_text_as_qwen2_does(qwen):
    ours = load_tokenizer(qwen / 'vocab.json')
    vocabulary = json.loads((qwen / 'vocab.json').read_text())
    text = {number: piece for piece, number in vocabulary.items()}
    prompt = '<|im_start|>user\n<img>It\'S 128  cups</img>,\n\nok<|im_end|>\n'
    ids = ours.encode(prompt)
    first = len(vocabulary)
    assert ids[0] == first + 1 == ours.token_id('<|im_start|>')
    assert ids[-2] == first + 2 and ids.count(first + 3) == 1
    # '</img>' is not among the added tokens here: it stays text.
    byte = {'\n': 'Ċ', ' ': 'Ġ'}
    pieces = ''.join(text[i] if i in text else ours.special[i - first] for i in ids)
    assert pieces == ''.join(byte.get(letter, letter) for letter in prompt)
    # Digits are single, also where the trained merges join them.
    assert '12' in vocabulary and [text[i] for i in ours.encode('128')] == ['1', '2', '8']
    assert ours.size == first and len(ours.special) == 4
    assert ours.encode('(c') == [vocabulary['(c']]
    assert ours.encode('e\u0301') == ours.encode('\u00e9')  # NFC


def test_qwen_needs_every_file_that_it_is_made_of(qwen):
    files = tokenizer_files(qwen / 'vocab.json')
    assert {file.name for file in files} == {
        'vocab.json', 'merges.txt', 'tokenizer_config.json', 'added_tokens.json'
    }
    expected = load_tokenizer(qwen / 'vocab.json').encode('<|im_start|>it\'s')
    (qwen / 'added_tokens.json').unlink()
    assert load_tokenizer(qwen / 'vocab.json').encode('<|im_start|>it\'s') == expected
    (qwen / 'tokenizer_config.json').unlink()
    refused(
        lambda: load_tokenizer(qwen / 'vocab.json'),
        str(qwen), 'tokenizer_config.json or added_tokens.json', 'same hub repository',
    )
    first = len(json.loads((qwen / 'vocab.json').read_text()))
    (qwen / 'added_tokens.json').write_text(json.dumps({'<|im_start|>': first}))
    assert load_tokenizer(qwen / 'vocab.json').encode('<|im_start|>')[0] == first
    (qwen / 'merges.txt').unlink()
    refused(lambda: load_tokenizer(qwen / 'vocab.json'), 'merges.txt', 'same hub repository')


def test_added_tokens_of_another_vocabulary_are_refused(qwen):
    def shift(content):
        entries = content['added_tokens_decoder']
        content['added_tokens_decoder'] = {str(int(n) + 7): e for n, e in entries.items()}

    settings(qwen, shift)
    (qwen / 'added_tokens.json').unlink()
    refused(lambda: load_tokenizer(qwen / 'vocab.json'), 'different tokenizers')


def test_files_of_another_tokenizer_class_are_refused(qwen):
    settings(qwen, lambda content: content.update(tokenizer_class='GPT2Tokenizer'))
    refused(lambda: load_tokenizer(qwen / 'vocab.json'), 'GPT2Tokenizer', 'tokenizer.json')


@pytest.mark.parametrize('name', ['tokenizer_config.json', 'added_tokens.json'])
@pytest.mark.parametrize('text', ['', '[]', '{', '\udcff', '[' * 100_000])
def test_damaged_files_beside_a_vocabulary_are_named(qwen, name, text):
    (qwen / name).write_text(text, errors='surrogateescape')
    refused(lambda: load_tokenizer(qwen / 'vocab.json'), str(qwen / name), 'fetch it again')


@pytest.mark.parametrize('entries', [{'x': {'content': 'a'}}, {'1': {}}, {'1': 3}, [1]])
def test_damaged_added_tokens_are_named(qwen, entries):
    settings(qwen, lambda content: content.update(added_tokens_decoder=entries))
    refused(lambda: load_tokenizer(qwen / 'vocab.json'), 'added_tokens_decoder')


@pytest.mark.parametrize('name', ['tokenizer.json', 'tokenizer.model', 'vocab.json', 'merges.txt'])
def test_a_damaged_file_is_named(qwen, name):
    (qwen / name).write_text('{"a": ')
    path = qwen / ('vocab.json' if name == 'merges.txt' else name)
    refused(lambda: load_tokenizer(path), str(path), 'again')


def test_a_missing_tokenizer_says_which_file_from_where_and_where_to(tmp_path):
    refused(
        lambda: find_tokenizer(tmp_path, None, PALIGEMMA_FILES, PALIGEMMA, 'ask for access first'),
        str(tmp_path), 'tokenizer.json', PALIGEMMA, 'data_config.yaml', 'ask for access first',
    )
    refused(
        lambda: find_tokenizer(tmp_path, None, QWEN_FILES, 'lerobot/some-processor'),
        'vocab.json (with merges.txt, tokenizer_config.json, added_tokens.json)',
        'lerobot/some-processor',
    )
    (tmp_path / 'tokenizer.json').mkdir()
    refused(lambda: find_tokenizer(tmp_path), 'found none of tokenizer.json')


def test_the_first_known_name_wins_and_the_data_config_before_all(tmp_path):
    for name in ('tokenizer.model', 'paligemma_tokenizer.model'):
        (tmp_path / name).touch()
    assert find_tokenizer(tmp_path) == tmp_path / 'tokenizer.model'
    (tmp_path / 'tokenizer.json').touch()
    assert find_tokenizer(tmp_path) == tmp_path / 'tokenizer.json'
    config = tmp_path / 'data_config.yaml'
    config.write_text('data_config: 1\nmodel: pi05\ntokenizer: ../elsewhere/my.model\n')
    data = load_data_config(config)
    refused(lambda: find_tokenizer(tmp_path, data), str(config), 'my.model', PALIGEMMA)
    (tmp_path.parent / 'elsewhere').mkdir(exist_ok=True)
    (tmp_path.parent / 'elsewhere' / 'my.model').touch()
    found = find_tokenizer(tmp_path, data)
    assert found.samefile(tmp_path.parent / 'elsewhere' / 'my.model')
    assert tokenizer_files(found) == (found,)
