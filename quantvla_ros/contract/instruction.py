# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What counts as a language command: one normal form, or a refusal with its reason.

Knows text; knows nothing of messages, tokenizers or prompts. The contract's default and every
command that arrives go through here, so that equal commands give equal prompts.
"""
from __future__ import annotations

import unicodedata

from quantvla_ros.errors import ObservationError

# Format characters that carry meaning between letters (Persian, Indic scripts); the others, such
# as bidirectional overrides and byte-order marks, only make two equal-looking commands differ.
_JOINERS = '\u200c\u200d'


def clean_instruction(text: str, max_length: int) -> str:
    """Normal form of a command: NFC, no control characters, no blanks at the ends.

    Args:
        text: as it arrived. Tabs and line breaks become blanks.
        max_length: characters that the result may have.

    Raises:
        ObservationError: nothing is left, or the result is too long.
    """
    kept = []
    for character in unicodedata.normalize('NFC', text):
        category = unicodedata.category(character)
        if character in '\t\n\v\f\r\x85' or category in ('Zl', 'Zp'):
            kept.append(' ')
        elif category not in ('Cc', 'Cf', 'Cs') or character in _JOINERS:
            kept.append(character)
    # Once more: what was removed may have stood between a letter and its accent.
    clean = unicodedata.normalize('NFC', ''.join(kept)).strip()
    if not clean:
        raise ObservationError(
            f'instruction: expected words, found {shorten(text)}; send what the robot shall do'
        )
    if len(clean) > max_length:
        raise ObservationError(
            f'instruction: expected at most {max_length} characters, found {len(clean)} '
            f'({shorten(clean)}); say it shorter or raise language.max_length in the contract'
        )
    return clean


def shorten(text: str, length: int = 40) -> str:
    """Quoted text for one line of a message, cut where it is long."""
    return repr(text if len(text) <= length else text[:length] + '...')
