# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Moving what a network works on between host and device, whatever it is made of.

Knows tensors in tuples, lists, dicts and dataclasses; knows nothing of what they mean.
"""
from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar('T')


def to_device(tree: T, device: torch.device | str) -> T:
    """The same tree with its tensors on a device; anything that is no container stays as it is.

    Args:
        tree: a tensor, or tuples (named ones too), lists, dicts and dataclasses of such.
        device: where to.
    """
    if isinstance(tree, Tensor):
        return tree.to(device)  # type: ignore[return-value]
    if isinstance(tree, dict):
        return type(tree)((key, to_device(value, device)) for key, value in tree.items())  # type: ignore[call-arg]
    if isinstance(tree, tuple) and hasattr(tree, '_fields'):
        return type(tree)(*(to_device(item, device) for item in tree))  # type: ignore[return-value]
    if isinstance(tree, (list, tuple)):
        return type(tree)(to_device(item, device) for item in tree)  # type: ignore[call-arg]
    if is_dataclass(tree) and not isinstance(tree, type):
        moved = {
            field.name: to_device(getattr(tree, field.name), device)
            for field in fields(tree)
            if field.init
        }
        return replace(tree, **moved)  # type: ignore[return-value]
    return tree
