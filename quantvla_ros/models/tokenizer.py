# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Prompts to token ids, from files next to the checkpoint; nothing is ever downloaded.

Knows text; knows nothing of networks.
"""
from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from quantvla_ros.errors import CheckpointError

FILES = ('tokenizer.json', 'tokenizer.model', 'paligemma_tokenizer.model')
STATE_BINS = 256


class Tokenizer(Protocol):
    """Text to ids; begins with the beginning-of-sequence token where the vocabulary has one."""

    @property
    def size(self) -> int:
        """Number of ids."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""


class JsonTokenizer:
    """A `tokenizer.json` of the tokenizers library."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer as Backend

        try:
            self._backend = Backend.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise CheckpointError(
                f'{path}: not a tokenizer.json ({error}); fetch it again'
            ) from error

    @property
    def size(self) -> int:
        """Number of ids."""
        return self._backend.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Ids of a text; the file's own post-processor adds the beginning token."""
        return list(self._backend.encode(text).ids)


class SentencePieceTokenizer:
    """A `tokenizer.model` of sentencepiece, with the beginning token in front."""

    def __init__(self, path: Path) -> None:
        from sentencepiece import SentencePieceProcessor

        try:
            self._backend = SentencePieceProcessor(model_file=str(path))
        except (OSError, RuntimeError) as error:
            raise CheckpointError(
                f'{path}: not a sentencepiece model ({error}); fetch it again'
            ) from error

    @property
    def size(self) -> int:
        """Number of ids."""
        return self._backend.vocab_size()

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""
        return list(self._backend.encode(text, add_bos=True))


def find_tokenizer(directory: Path, name: str = 'google/paligemma-3b-pt-224') -> Path:
    """The tokenizer file of a checkpoint directory.

    Raises:
        CheckpointError: none there.
    """
    for file in FILES:
        if (directory / file).exists():
            return directory / file
    raise CheckpointError(
        f'{directory}: expected one of {", ".join(FILES)}, found none; '
        f'put tokenizer.json of the hub repository {name} there'
    )


def load_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer by the kind of its file."""
    return JsonTokenizer(path) if path.suffix == '.json' else SentencePieceTokenizer(path)


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
    edges = np.linspace(-1, 1, STATE_BINS + 1)[:-1]
    bins = np.digitize(state, edges) - 1
    return f'Task: {text}, State: {" ".join(str(b) for b in bins)};\nAction: '
