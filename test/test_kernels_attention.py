# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The GPU's attention against the definition in float64: interpreted, and on a GPU if there is one.

Of the tiles that serve a shape: that they fit, and that no split is empty.
"""
import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from quantvla_ros.kernels.attention_tiles import (
    MOST_SPLITS,
    AttentionTile,
    choose_attention_tile,
    head_parts,
)

# Triton decides at import whether to interpret, hence a process of its own.
COMMON = '''
import itertools
import math
import sys
import torch
from quantvla_ros.errors import BackendError
from quantvla_ros.kernels import fused_reference, triton_attention
from quantvla_ros.kernels.attention_tiles import Attention, AttentionTile, fitted

seed = torch.seed() % 2**31
print('seed', seed)
torch.manual_seed(seed)
torch.set_default_device(sys.argv[1])

def inputs(rows, total, heads, kv_heads, size, dtype, spread=1.0):
    # as parts of one product: rows further apart than they are long, NaN between them
    def tensor(count, heads):
        wide = torch.full((count, heads * size + 16), float('nan'), dtype=dtype)
        wide[:, : heads * size] = (torch.randn(count, heads * size) * spread).to(dtype)
        return wide[:, : heads * size].unflatten(1, (heads, size))
    return tensor(rows, heads), tensor(total, kv_heads), tensor(total, kv_heads)

def check(q, k, v, tile=None, **options):
    out = torch.full((q.shape[0], q.shape[1] * q.shape[2]), float('nan'), dtype=q.dtype)
    found = triton_attention.attention(q, k, v, tile=tile, out=out, **options)
    assert found is out
    exact = fused_reference.attention(q.double(), k.double(), v.double(), **options)
    relative = 2e-5 if q.dtype == torch.float32 else 2e-2
    bound = relative * v[: exact.shape[0] + 10**6].double().nan_to_num().abs().max()
    error = (out.double() - exact).abs().max()
    case = (list(q.shape), list(k.shape), q.dtype, tile, options)
    assert error <= bound, (case, error, bound)
    return out
'''

PREFIX = '''
# rows, keys, heads, key heads, size of a head: those of the networks, lengths that no block divides
shapes = [
    (1, 1, 1, 1, 64), (7, 7, 4, 1, 256), (33, 33, 2, 2, 72), (50, 50, 4, 2, 128),
    (18, 40, 3, 1, 96), (21, 21, 6, 2, 64), (9, 70, 2, 2, 48), (5, 12, 2, 1, 10),
    (3, 37, 2, 1, 200),
]
for number, (rows, total, heads, kv_heads, size) in enumerate(shapes):
    for dtype in (torch.float32, torch.bfloat16):
        q, k, v = inputs(rows, total, heads, kv_heads, size, dtype)
        check(q, k, v, scale=size**-0.5)
        tile = AttentionTile((16, 32, 64)[number % 3], (32, 16)[number % 2], 1, 4, 2)
        if sys.argv[1] == 'cuda':  # as deep as this GPU can have it; None: the chosen one
            kind = str(dtype).removeprefix('torch.')
            shape = Attention(kind, rows, total, heads, kv_heads, size)
            tile = fitted(tile, shape, shared=triton_attention._gpu(q.device)[1])
        check(q, k, v, tile, scale=size**-0.5, causal=True)
        check(q, k, v, tile, scale=size**-0.5, own=min(rows, total))
# pictures of several cameras
whole, two = AttentionTile(16, 16, 1, 4, 2), AttentionTile(16, 16, 2, 4, 2)
for tile in (None, whole, two, AttentionTile(16, 16, 2, 4, 2, after=True)):
    q, k, v = inputs(3 * 25, 3 * 25, 2, 2, 72, torch.float32)
    check(q, k, v, tile, scale=0.1, segment=25)
# blocks that every row sees come first, fetched in either way; splits may have none
for number, (rows, total, heads, kv_heads, size) in enumerate(
    [(50, 50, 4, 2, 64), (40, 70, 2, 1, 16), (33, 65, 3, 1, 72), (5, 31, 2, 1, 128)]
):
    dtype = (torch.float32, torch.bfloat16)[number % 2]
    for splits in (1, 3):
        for described in (False, True):
            tile = AttentionTile(32, 16, splits, 4, 2, splits > 1, True, described)
            q, k, v = inputs(rows, total, heads, kv_heads, size, dtype)
            check(q, k, v, tile, scale=size**-0.5)
            check(q, k, v, tile, scale=size**-0.5, causal=True)
            check(q, k, v, tile, scale=size**-0.5, own=min(rows, total))
            k[total - 9 :], v[total - 9 :] = float('nan'), float('nan')
            count = torch.full((1,), total - 9, dtype=torch.int32)
            check(q, k, v, tile, scale=size**-0.5, count=count)
            if rows == 50:
                q, k, v = inputs(3 * rows, 3 * rows, heads, heads, size, dtype)
                check(q, k, v, tile, scale=size**-0.5, segment=rows)
# logits so large that a softmax is one key, and a sum without its largest would overflow
q, k, v = inputs(20, 45, 2, 1, 64, torch.float32, spread=40.0)
# Whole numbers, and powers of two: float32 holds such logits exactly, so near ones stay as near.
q, k, scale = q.round(), k.round(), math.log(2.0)
check(q, k, v, AttentionTile(16, 16, 1, 4, 2), scale=scale)
check(q, k, v, AttentionTile(16, 16, 3, 4, 2), scale=scale)
check(-q.abs(), k.abs(), v, AttentionTile(16, 16, 3, 4, 2), scale=scale)
print('done')
'''

FEW_QUERIES = '''
# few queries of many heads on a prefix and on themselves
shapes = [(1, 5, 8, 1, 64), (4, 70, 8, 1, 256), (33, 65, 2, 2, 48), (11, 43, 3, 1, 72)]
for number, (rows, total, heads, kv_heads, size) in enumerate(shapes):
    for splits in ((2, 3), (3, 7), (2, 3), (3, 5))[number]:
        tile = AttentionTile(16, 16, splits, 4, 2)
        dtype = torch.bfloat16 if splits == 3 else torch.float32
        q, k, v = inputs(rows, total, heads, kv_heads, size, dtype)
        check(q, k, v, tile, scale=size**-0.5, causal=splits == 3)
        # a number of keys, here and on the device; what lies beyond is not a number
        valid = max(1, total * 2 // 3)
        k[valid:], v[valid:] = float('nan'), float('nan')
        known = triton_attention.attention(q, k, v, count=valid, scale=0.1, tile=tile)
        for shape in ((), (1,)):
            count = torch.full(shape, valid, dtype=torch.int32)
            y = check(q, k, v, tile, scale=0.1, count=count)
            check(q, k, v, tile, scale=0.1, count=count, own=min(rows, valid))
            torch.testing.assert_close(y, known, rtol=2e-2, atol=2e-2)
        check(q, k, v, AttentionTile(16, 16, 1, 4, 2), scale=0.1, count=count)
        after = AttentionTile(16, 16, splits, 4, 2, after=True)
        y = check(q, k, v, after, scale=0.1, count=count)
        torch.testing.assert_close(y, known, rtol=2e-2, atol=2e-2)
        # more than there are must not read past the end
        past = torch.full((), 10**6, dtype=torch.int32)
        k, v = k[:valid], v[:valid]
        beyond = triton_attention.attention(q, k, v, count=past, scale=0.1, tile=tile)
        assert torch.equal(beyond, triton_attention.attention(q, k, v, scale=0.1, tile=tile))
        assert (triton_attention._counters(q.device) == 0).all()
print('done')
'''

FAULTS = '''
for splits, after, whole, described in (
    (1, False, False, False), (3, False, False, False), (3, True, False, False),
    (1, False, True, False), (3, False, True, True),
):
    tile = AttentionTile(16, 16, splits, 4, 2, after, whole, described)
    q, k, v = inputs(6, 40, 4, 2, 64, torch.float32)
    clean = triton_attention.attention(q, k, v, scale=0.1, tile=tile).unflatten(1, (4, 64))
    for poison in (float('nan'), float('inf')):
        # a query: its own row and head; a key: all that read it; a value: its column
        bad = q.clone(); bad[2, 1, 5] = poison
        y = triton_attention.attention(bad, k, v, scale=0.1, tile=tile).unflatten(1, (4, 64))
        assert y[2, 1].isnan().all()
        y[2, 1] = clean[2, 1]
        assert torch.equal(y, clean)
        bad = k.clone(); bad[39, 1, 5] = float('nan')
        y = triton_attention.attention(q, bad, v, scale=0.1, tile=tile).unflatten(1, (4, 64))
        assert y[:, 2:].isnan().all() and torch.equal(y[:, :2], clean[:, :2])
        bad = v.clone(); bad[0, 0, 7] = poison
        y = triton_attention.attention(q, k, bad, scale=0.1, tile=tile).unflatten(1, (4, 64))
        assert not torch.isfinite(y[:, :2, 7]).any() and torch.equal(y[:, 2:], clean[:, 2:])
    none = torch.zeros((), dtype=torch.int32)
    assert triton_attention.attention(q, k, v, scale=0.1, tile=tile, count=none).isnan().all()

def refused(message, *arguments, **options):
    try:
        triton_attention.attention(*arguments, **{'scale': 1.0, **options})
    except BackendError as error:
        assert message in str(error), error
    else:
        raise AssertionError(message)

refused('kv_heads, D]', q[:, :3], k, v)
refused('kv_heads, D]', q, k, v[:-1])
refused('kv_heads, D]', *inputs(2, 3, 1, 1, 300, torch.float32))
refused('found 0 and 40', q[:0], k, v)
refused('side by side', q, k.transpose(0, 1).contiguous().transpose(0, 1), v)
refused('as the queries', q, k.bfloat16(), v.bfloat16())
refused('int32', q, k, v, count=torch.tensor(3))
refused('count 1 to 40', q, k, v, count=41)
refused('count 1 to 40', q, k, v, count=0)
refused('segments of 6', q, k, v, segment=6)
refused('above 0', q, k, v, scale=-0.5)
refused('found both', q, k, v, own=6, causal=True)
refused('contiguous', q, k, v, out=torch.empty(6, 255))
print('done')
'''


@pytest.mark.skipif(importlib.util.find_spec('triton') is None, reason='triton is not installed')
@pytest.mark.parametrize(
    'program', [PREFIX, FEW_QUERIES, FAULTS], ids=['prefix', 'few_queries', 'faults']
)
@pytest.mark.parametrize('device', ['cpu', 'cuda'])
def test_attention_gives_what_the_definition_says(program, device):
    environment = {**os.environ, 'TRITON_INTERPRET': '1', 'OMP_NUM_THREADS': '1'}
    if device == 'cuda':
        if not torch.cuda.is_available():
            pytest.skip('no GPU here')
        del environment['TRITON_INTERPRET']
    result = subprocess.run(
        [sys.executable, '-c', COMMON + program, device],
        env=environment,
        capture_output=True,
        text=True,
    )
    if 'only 0-dimensional arrays can be converted' in result.stderr:
        pytest.skip('this Triton (3.6) cannot interpret a loop with this NumPy (2.4)')
    assert result.returncode == 0 and 'done' in result.stdout, result.stdout + result.stderr


@pytest.mark.parametrize('size', range(1, 257))
def test_two_parts_hold_a_head(size):
    wide, rest = head_parts(size)
    assert wide + rest >= size and (rest == 0 or rest < wide < size)
    for part in (wide, rest):
        assert part == 0 or (part >= 16 and part & (part - 1) == 0)


# multiprocessors and shared memory of Hopper, Orin, Blackwell desktops
@pytest.mark.parametrize(
    ('processors', 'shared'), [(132, 227 * 1024), (16, 163 * 1024), (170, 99 * 1024)]
)
@pytest.mark.parametrize('element', [2, 4])
@pytest.mark.parametrize('size', [48, 64, 72, 96, 128, 256])
def test_a_tile_fits_and_no_split_is_empty(processors, shared, element, size):
    for rows in (1, 10, 80, 400, 6528):
        for keys in (1, 49, 168, 542, 866):
            for groups in (1, 8, 48):
                tile = choose_attention_tile(
                    rows, keys, groups, size, element, processors=processors, shared=shared
                )
                assert isinstance(tile, AttentionTile)
                assert tile.shared(sum(head_parts(size)), element) <= shared
                blocks = -(-keys // tile.keys)
                each = -(-blocks // tile.splits)
                assert 1 <= tile.splits <= MOST_SPLITS and each * (tile.splits - 1) < blocks


def test_few_queries_are_split_and_many_are_not():
    hopper = {'processors': 132, 'shared': 227 * 1024}
    assert choose_attention_tile(400, 866, 1, 256, 2, **hopper).splits > 1  # pi0.5's expert
    assert choose_attention_tile(6528, 816, 1, 256, 2, **hopper).splits == 1  # its prefix
