# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Moving, comparing and joining what a network works on, whatever it is made of.

Knows tensors in tuples, lists, dicts and dataclasses; knows nothing of what they mean.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

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


def tensors(tree: Any) -> list[Tensor]:
    """The tensors in a tuple, list or dataclass of such, in order."""
    if isinstance(tree, Tensor):
        return [tree]
    if is_dataclass(tree) and not isinstance(tree, type):
        return [t for field in fields(tree) for t in tensors(getattr(tree, field.name))]
    return [tensor for item in tree for tensor in tensors(item)]


def alike(trees: Sequence[Any]) -> list[list[int]]:
    """Places of the trees that can be joined: those of the same shapes and dtypes together."""
    groups: dict[Any, list[int]] = {}
    for place, tree in enumerate(trees):
        shapes = tuple((tuple(t.shape), t.dtype) for t in tensors(tree))
        groups.setdefault(shapes, []).append(place)
    return list(groups.values())


def join(trees: Sequence[T]) -> T:
    """Batches of one to one batch, tensor by tensor."""
    first: Any = trees[0]
    if isinstance(first, Tensor):
        return torch.cat(list(trees))  # type: ignore[arg-type,return-value]
    if is_dataclass(first):
        joined = {f.name: join([getattr(one, f.name) for one in trees]) for f in fields(first)}
        return replace(first, **joined)  # type: ignore[type-var,return-value]
    return type(first)(join(items) for items in zip(*trees, strict=True))  # type: ignore[call-overload]
