# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Text to token ids, from files next to the checkpoint; nothing is ever downloaded.

Three kinds of file: `tokenizer.json` of the tokenizers library, a sentencepiece model, and Qwen2's
`vocab.json`, which stands for itself and the files beside it. Knows text; knows nothing of
networks. Qwen2's way of splitting text is that of transformers' Qwen2Tokenizer.
"""
from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from quantvla_ros.errors import CheckpointError
from quantvla_ros.models.data_config import FILE as DATA_CONFIG
from quantvla_ros.models.data_config import DataConfig

PALIGEMMA = 'google/paligemma-3b-pt-224'
PALIGEMMA_FILES = ('tokenizer.json', 'tokenizer.model', 'paligemma_tokenizer.model')
SMOLVLM_FILES = ('tokenizer.json',)
QWEN_FILES = ('tokenizer.json', 'vocab.json')
STATE_BINS = 256

_EDGES = np.linspace(-1, 1, STATE_BINS + 1)[:-1]

# Texts whose ids are kept: a command stays for many inferences, and GR00T's prompt is 500 tokens.
_KEPT = 64
_VOCABULARY, _MERGES = 'vocab.json', 'merges.txt'
_SETTINGS, _ADDED = 'tokenizer_config.json', 'added_tokens.json'
# How Qwen2 cuts text before its merges: contractions, words with the mark before them, single
# digits, marks, ends of lines, blanks.
_QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r'|\s*[\r\n]+|\s+(?!\S)|\s+'
)


class Tokenizer(Protocol):
    """Text to ids."""

    @property
    def size(self) -> int:
        """One more than the largest id of the vocabulary, without tokens added to it later.

        Added ones may lie beyond a network's embedding, where its prompts do not use them:
        PaliGemma's `<image>` does in pi0.5. Those that are used are asked for by `token_id`.
        """
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of a text, and of the token that begins it where there is one; none that ends it."""
        ...

    def token_id(self, token: str) -> int | None:
        """The id of one token by its own text, as '<|im_start|>'; None: there is no such token."""
        ...

    @property
    def special(self) -> tuple[str, ...]:
        """Tokens that mean something else than their text, wherever a text holds them.

        A command that holds one would change the prompt's structure.
        """
        ...


class JsonTokenizer:
    """One of the tokenizers library."""

    def __init__(self, backend: Any, begin: str | None, path: Path) -> None:
        # A file may carry the settings of its last use; prompts are padded by their processors.
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._begin = None if begin is None else _begin_id(backend.token_to_id(begin), begin, path)
        self._ids = _kept(self._encode)
        added = backend.get_added_tokens_decoder()
        self.special = tuple(added[n].content for n in sorted(added) if added[n].special)
        plain = backend.get_vocab(with_added_tokens=False).values()
        self.size = max((number for number in plain if number not in added), default=-1) + 1

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""
        return list(self._ids(text))

    def _encode(self, text: str) -> list[int]:
        if self._begin is None:
            return self._backend.encode(text).ids
        return [self._begin, *self._backend.encode(text, add_special_tokens=False).ids]

    def token_id(self, token: str) -> int | None:
        """The id of one token."""
        return self._backend.token_to_id(token)


class SentencePieceTokenizer:
    """A model of sentencepiece."""

    def __init__(self, path: Path, begin: str | None) -> None:
        from sentencepiece import SentencePieceProcessor

        try:
            self._backend = SentencePieceProcessor(model_file=str(path))
        except (OSError, RuntimeError) as error:
            raise CheckpointError(
                f'{path}: expected a sentencepiece model, found {_line(error)}; fetch it again'
            ) from None
        self.size = int(self._backend.vocab_size())
        # The library itself never finds control symbols in a text.
        self.special: tuple[str, ...] = ()
        if begin is not None:
            first = _begin_id(self.token_id(begin), begin, path)
        else:
            first = self._backend.bos_id()  # -1: the model has none
        self._first = [first] if first >= 0 else []
        self._ids = _kept(self._encode)

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""
        return list(self._ids(text))

    def _encode(self, text: str) -> list[int]:
        return [*self._first, *self._backend.encode(text)]

    def token_id(self, token: str) -> int | None:
        """The id of one token."""
        found = self._backend.piece_to_id(token)
        return None if self._backend.id_to_piece(found) != token else found


def find_tokenizer(
    directory: str | Path,
    data: DataConfig | None = None,
    files: Sequence[str] = PALIGEMMA_FILES,
    repository: str = PALIGEMMA,
    hint: str = '',
) -> Path:
    """The tokenizer file of a checkpoint: the one that the data config names, or one beside it.

    Args:
        directory: of the checkpoint or artifact.
        data: what the user says.
        files: names that the architecture's tokenizer may have, the preferred one first.
        repository: of the hub, where they are found.
        hint: what else one has to know to get it, as 'ask for access there first'.
    Raises:
        CheckpointError: none there; one line that says what to put where.
    """
    directory = Path(directory)
    if data is not None and data.tokenizer is not None:
        path = data.find(data.tokenizer)
        if not path.is_file():
            raise CheckpointError(
                f'{data.source}: tokenizer: expected a file, found none at {path}; put '
                f'{" or ".join(_with_others(files))} of the hub repository {repository} there and '
                f'name it{_also(hint)}'
            )
        return path
    for name in files:
        if (directory / name).is_file():
            return directory / name
    raise CheckpointError(
        f'{directory}: expected a tokenizer, found none of {", ".join(files)}; put '
        f'{" or ".join(_with_others(files))} of the hub repository {repository} there, or name '
        f'it in {DATA_CONFIG} (tokenizer: PATH){_also(hint)}'
    )


def tokenizer_files(path: Path) -> tuple[Path, ...]:
    """Every file that `load_tokenizer` reads for this one; they belong together in one place."""
    if path.name != _VOCABULARY:
        return (path,)
    beside = (path.with_name(name) for name in (_SETTINGS, _ADDED))
    return (path, path.with_name(_MERGES), *(file for file in beside if file.is_file()))


def load_tokenizer(path: Path, begin: str | None = None) -> Tokenizer:
    """A tokenizer by the kind of its file.

    Args:
        path: `vocab.json` of Qwen2 with merges.txt beside it, another .json file of the tokenizers
            library, or a sentencepiece model.
        begin: the token that every text begins with, once, whatever the file's own rule; None: by
            the file's own rule, for sentencepiece its beginning token where it has one.
    Raises:
        CheckpointError: a file is missing or damaged, or knows no such token.
    """
    path = Path(path)
    if path.name == _VOCABULARY:
        return JsonTokenizer(_qwen_backend(path), begin, path)
    if path.suffix != '.json':
        return SentencePieceTokenizer(path, begin)
    from tokenizers import Tokenizer as Backend

    try:
        backend = Backend.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise CheckpointError(
            f'{path}: expected a tokenizer.json, found {_line(error)}; fetch it again'
        ) from None
    return JsonTokenizer(backend, begin, path)


def _qwen_backend(path: Path) -> Any:
    """Qwen2's byte-level BPE of vocab.json, merges.txt and the tokens added to it."""
    from tokenizers import Regex, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import BPE

    merges = path.with_name(_MERGES)
    if not merges.is_file():
        raise CheckpointError(
            f'{merges}: expected the merges of {path.name}, found no such file; put it there from '
            f'the same hub repository'
        )
    added = _added_tokens(path)
    try:
        backend = Backend(BPE.from_file(str(path), str(merges)))
    except Exception as error:  # the library raises bare Exception
        raise CheckpointError(
            f'{path}: expected a vocabulary, and its merges in {merges.name}, found '
            f'{_line(error)}; fetch both again'
        ) from None
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(_QWEN_SPLIT), behavior='isolated'),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    # The library numbers them by itself, onwards from the vocabulary.
    for token, _ in added:
        (backend.add_special_tokens if token.special else backend.add_tokens)([token])
    for token, number in added:
        found = backend.token_to_id(token.content)
        if found != number:
            raise CheckpointError(
                f'{path}: expected {token.content!r} as token {number}, as the files beside it '
                f'say, found {found}; they are of different tokenizers, fetch them again'
            )
    return backend


def _added_tokens(path: Path) -> list[tuple[Any, int]]:
    """Tokens beyond vocab.json with their ids, in the order of these."""
    from tokenizers import AddedToken

    settings, names = path.with_name(_SETTINGS), path.with_name(_ADDED)
    added: dict[int, Any] = {}
    if not settings.is_file() and not names.is_file():
        raise CheckpointError(
            f'{path.parent}: expected {_SETTINGS} or {_ADDED} with the tokens added to '
            f'{path.name}, found neither; put them there from the same hub repository'
        )
    if names.is_file():
        for content, number in _read_object(names).items():
            if not isinstance(number, int) or not content:
                raise CheckpointError(f'{names}: {content!r}: expected an id, found {number!r}')
            added[number] = AddedToken(content, normalized=False, special=True)
    if settings.is_file():
        held = _read_object(settings)
        kind = held.get('tokenizer_class', 'Qwen2Tokenizer')
        if kind not in ('Qwen2Tokenizer', 'Qwen2TokenizerFast'):
            raise CheckpointError(
                f'{settings}: tokenizer_class: expected Qwen2Tokenizer, found {kind!r}; pass a '
                f'tokenizer.json, which says itself how it splits text'
            )
        try:
            for number, entry in held.get('added_tokens_decoder', {}).items():
                flags = ('single_word', 'lstrip', 'rstrip', 'normalized', 'special')
                added[int(number)] = AddedToken(
                    entry['content'], **{flag: bool(entry.get(flag, False)) for flag in flags}
                )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f'{settings}: added_tokens_decoder: expected tokens by id, found '
                f'{_line(error)}; fetch it again'
            ) from None
    return [(added[number], number) for number in sorted(added)]


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    # ValueError: no JSON, or not UTF-8; RecursionError: nested without end.
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f'{path}: expected JSON, found {_line(error)}; fetch it again'
        ) from None
    if not isinstance(content, dict):
        raise CheckpointError(
            f'{path}: expected a JSON object, found {type(content).__name__}; fetch it again'
        )
    return content


def _kept(encode: Callable[[str], list[int]]) -> Callable[[str], tuple[int, ...]]:
    """The same, of the texts asked for last without encoding them again."""
    return lru_cache(maxsize=_KEPT)(lambda text: tuple(encode(text)))


def _begin_id(found: int | None, begin: str, path: Path) -> int:
    if found is None:
        raise CheckpointError(
            f'{path}: expected a tokenizer with the token {begin!r}, which prompts begin with, '
            f'found none; it belongs to another model'
        )
    return found


def _with_others(files: Sequence[str]) -> list[str]:
    """The names, each with those that it needs beside it."""
    others = f' (with {_MERGES}, {_SETTINGS}, {_ADDED})'
    return [name + others if name == _VOCABULARY else name for name in files]


def _also(hint: str) -> str:
    return f'; {hint}' if hint else ''


def _line(error: BaseException, limit: int = 200) -> str:
    """An error of a library as part of one line."""
    text = ' '.join(str(error).split())
    return text if len(text) <= limit else text[:limit] + '...'


def pi05_prompt(task: str, state: np.ndarray | None) -> str:
    r"""The prompt pi0.5 was trained with.

    Args:
        task: the command.
        state: [D] normalised state, or None for checkpoints whose prompt holds none.
    Returns:
        For example 'Task: pick up the bowl, State: 128 0 255;\nAction: '. Values below -1 print
        -1 and above 1 print 255, as in training.
    """
    text = task.strip().replace('_', ' ').replace('\n', ' ')
    if state is None:
        return text + '\n'
    bins = _EDGES.searchsorted(state, 'right') - 1
    return f'Task: {text}, State: {" ".join(map(str, bins.tolist()))};\nAction: '
