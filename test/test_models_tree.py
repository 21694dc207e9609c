# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Moving what networks work on between devices; the meta device stands for another one."""
from collections import namedtuple
from dataclasses import dataclass, field

import torch
from matching_samples import context
from torch import Tensor

from quantvla_ros.models.tree import to_device

Named = namedtuple('Named', 'x note')


@dataclass(frozen=True)
class Inner:
    pair: tuple[Tensor, ...]
    note: str
    made: int = field(init=False, default=3)


@dataclass(frozen=True)
class Outer:
    inner: Inner
    table: dict[str, list[Tensor]]
    absent: None = None


def tree():
    return Outer(Inner((torch.ones(2), torch.zeros(3)), 'text'), {'a': [torch.ones(1)]})


def test_every_tensor_moves_and_everything_else_stays():
    moved = to_device(tree(), 'meta')
    tensors = [*moved.inner.pair, *moved.table['a']]
    assert [t.device.type for t in tensors] == ['meta'] * 3
    assert [tuple(t.shape) for t in tensors] == [(2,), (3,), (1,)]
    assert isinstance(moved, Outer) and isinstance(moved.inner.pair, tuple)
    assert (moved.inner.note, moved.inner.made, moved.absent) == ('text', 3, None)


def test_the_tree_itself_stays_where_it_is():
    original = tree()
    to_device(original, 'meta')
    assert original.inner.pair[0].device.type == 'cpu'


def test_named_tuples_keep_their_names():
    moved = to_device(Named(torch.ones(1), 'text'), 'meta')
    assert isinstance(moved, Named)
    assert moved.x.device.type == 'meta' and moved.note == 'text'


def test_a_network_context_moves():
    moved = to_device(context(depth=2, seed=0), 'meta')
    assert {t.device.type for t in (*moved.keys, *moved.values, moved.valid)} == {'meta'}
