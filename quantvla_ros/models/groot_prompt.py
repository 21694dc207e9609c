# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""GR00T N1.5's prompt: a chat of one turn, pictures first, in Eagle's spelling.

Knows text; knows nothing of token ids or pictures. Where the chat template of the hub's processor
repository lies beside the tokenizer, the chat is written by it; otherwise as `_chat` does, which is
what public descriptions of that file say. The picture marks are those of Eagle's processor
(processing_eagle2_5_vl.py in Isaac-GR00T).
"""
from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from quantvla_ros.errors import CheckpointError

CONTEXT, BEGIN, END = '<IMG_CONTEXT>', '<img>', '</img>'
TEMPLATES = ('chat_template.json', 'chat_template.jinja')
_PICTURE = re.compile(r'<image-(\d+)>')


@dataclass(frozen=True)
class Prompt:
    """How a command becomes the prompt's text.

    Attributes:
        pictures: how many the policy sees.
        tokens: context tokens of each picture.
        as_list: the command stands as a Python list of one, `['pick up the cup']`: so both
            references write it when they serve.
        simplified: lower case, letters, digits and blanks alone (lerobot's formalize_language).
        before, after: text about the command; made by `from_template`.
    """

    pictures: int
    tokens: int
    as_list: bool
    simplified: bool
    before: str
    after: str

    @classmethod
    def from_template(
        cls, pictures: int, tokens: int, *, as_list: bool, simplified: bool = False,
        template: Path | None = None,
    ) -> Prompt:
        """The prompt by a chat template.

        Args:
            template: the file; None: the chat that is known here.
        Raises:
            CheckpointError: the file holds none, or one that does not write such a chat.
        """
        mark = '\x00'
        chat = _chat(pictures, mark) if template is None else _render(template, pictures, mark)
        found = [int(number) for number in _PICTURE.findall(chat)]
        if found != list(range(1, pictures + 1)) or chat.count(mark) != 1:
            raise CheckpointError(
                f'{template}: expected a chat template that writes <image-1> to '
                f'<image-{pictures}> and then the command, found it to write {chat!r}; fetch it '
                f'again, or remove it to use the one known here'
            )
        context = f'{BEGIN}{CONTEXT * tokens}{END}'
        before, after = _PICTURE.sub(rf'<image \1>{context}', chat).split(mark)
        return cls(pictures, tokens, as_list, simplified, before, after)

    def text(self, instruction: str) -> str:
        """The whole prompt."""
        if self.simplified:
            kept = (c for c in instruction.lower() if c.isalnum() or c.isspace())
            instruction = ''.join(kept)
        return self.before + (str([instruction]) if self.as_list else instruction) + self.after


def find_template(tokenizer: Path) -> Path | None:
    """The chat template beside a tokenizer; None where there is none."""
    files = (tokenizer.with_name(name) for name in TEMPLATES)
    return next((file for file in files if file.is_file()), None)


def _chat(pictures: int, command: str) -> str:
    """The chat as the template is said to write it."""
    marks = ''.join(f'<image-{number + 1}>' for number in range(pictures))
    return (
        '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n'
        f'<|im_start|>user\n{marks}{command}<|im_end|>\n'
        '<|im_start|>assistant\n'
    )


def _render(path: Path, pictures: int, command: str) -> str:
    """The chat as the template in a file writes it, rendered as transformers does."""
    # Comes with torch. A template is a program: here it runs without access to anything.
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    try:
        source = path.read_text(encoding='utf-8')
        if path.suffix == '.json':
            source = json.loads(source)['chat_template']
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f'{path}: expected a chat template, found {error!r}; fetch it again'
        ) from None
    content = [{'type': 'image', 'image': ''} for _ in range(pictures)]
    content.append({'type': 'text', 'text': command})
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    try:
        return environment.from_string(source).render(
            messages=[{'role': 'user', 'content': content}], add_generation_prompt=True
        )
    except (TemplateError, TypeError) as error:
        raise CheckpointError(
            f'{path}: expected a chat template, found one that fails ({error}); fetch it again, '
            f'or remove it to use the one known here'
        ) from None
