# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Markup that cannot forget to escape: plain strings are text, only `tag` makes markup.

Knows HTML and pictures; knows nothing of what a page says.
"""
from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable
from typing import Union

import cv2
import numpy as np

_VOID = frozenset({'br', 'img', 'meta', 'hr', 'wbr'})
_LONE = re.compile(r'[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]')
_QUALITY = 82  # JPEG


class Html(str):
    """Markup that is already escaped. Whatever is made of it by str's own means is text again."""

    __slots__ = ()


Child = Union[str, 'Html', None, Iterable['Child']]


def tag(name: str, /, *children: Child, **attributes: object) -> Html:
    """One element.

    Args:
        children: text (escaped), markup, None (nothing), or any nesting of these.
        attributes: `class_` is class, `aria_label` is aria-label; None or False: not there; True:
            there without a value.
    """
    words = ''.join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Html(f'<{name}{words}>')
    return Html(f'<{name}{words}>{join(children)}</{name}>')


def join(*children: Child) -> Html:
    """Text and markup one after the other."""
    return Html(''.join(_parts(children)))


def _parts(children: Iterable[Child]) -> Iterable[str]:
    for child in children:
        if child is None:
            continue
        if isinstance(child, Html):
            yield str(child)
        elif isinstance(child, str):
            yield escape(child)
        else:
            yield from _parts(child)


def escape(text: str) -> str:
    """Text for any place in a page; what no page may hold becomes the replacement character."""
    return html.escape(_LONE.sub('\ufffd', text), quote=True)


def _attribute(key: str, value: object) -> str:
    if value is None or value is False:
        return ''
    name = key.rstrip('_').replace('_', '-')
    return f' {name}' if value is True else f' {name}="{escape(str(value))}"'


def picture(image: np.ndarray, description: str, side: int) -> Html:
    """A picture inside the page.

    Args:
        image: [H, W, 3] uint8 RGB.
        description: for those who do not see it.
        side: px; the longer side is made no longer than this.
    """
    height, width = image.shape[:2]
    shrink = min(1.0, side / max(height, width))
    if shrink < 1.0:
        size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    colours = np.ascontiguousarray(image[..., ::-1])
    _, encoded = cv2.imencode('.jpg', colours, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    content = base64.b64encode(encoded.tobytes()).decode('ascii')
    return tag(
        'img',
        src=f'data:image/jpeg;base64,{content}',
        alt=description,
        width=image.shape[1],
        height=image.shape[0],
    )
