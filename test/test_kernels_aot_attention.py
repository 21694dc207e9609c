# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What `tune` tries for attentions, compiled ahead of time for each GPU, without one.

Of each candidate: that it fits the shared memory it says, and the registers. With QUANTVLA_AOT=all
every candidate of every network for every GPU, which takes long; by default some of one attention.
"""
import importlib.util
import os
from dataclasses import replace
from importlib.metadata import version

import pytest
import torch
from kernel_compilation import BF16, EVERYTHING, SHARED, Recorder, resources
from test_kernels_aot_fused import FEW, PROCESSORS, check

from quantvla_ros.engine.attentions import attentions
from quantvla_ros.engine.products import PUBLIC, Workload
from quantvla_ros.kernels.attention_tiles import (
    EXCLUDED,
    Attention,
    AttentionTile,
    candidates,
    exclusion,
    head_parts,
)

if importlib.util.find_spec('triton') is None:
    pytest.skip('triton is not installed', allow_module_level=True)
if os.environ.get('TRITON_INTERPRET'):
    pytest.skip('kernels are interpreted here', allow_module_level=True)

ATTENTIONS = {
    f'{model} {one.name}': one.attention
    for model, make in PUBLIC.items()
    for one in attentions(make(), Workload(3, 48))
}
# By default one attention for each GPU, so that each comes once.
CASES = [
    (87, 'pi05 attention expert'),
    (89, 'smolvla attention expert to all'),
    (90, 'pi05 attention backbone'),
    (110, 'gr00t_n1_5 attention backbone'),
    (120, 'pi05 attention vision'),
]
if EVERYTHING:
    CASES = [(chip, name) for chip in sorted(SHARED) for name in ATTENTIONS]


def launched(monkeypatch, shape, tile):
    """The launches of an attention with a tile."""
    from quantvla_ros.kernels import triton_attention

    recorders = []
    for name, as_on_gpu in (('attention_kernel', {'UPCAST': False}), ('join_kernel', {})):
        recorders.append(Recorder(getattr(triton_attention, name), **as_on_gpu))
        monkeypatch.setattr(triton_attention, name, recorders[-1])

    def rows(count, heads):
        sizes = (shape.segments * count, heads, shape.size)
        return torch.empty(sizes, dtype=getattr(torch, shape.kind))

    options = {'segment': shape.queries}
    if shape.segments == 1:
        count = torch.empty(1, dtype=torch.int32)
        options = {'count': count, 'causal': shape.causal}
    keys = rows(shape.keys, shape.kv_heads)
    triton_attention.attention(
        rows(shape.queries, shape.heads), keys, keys, scale=0.1, tile=tile, **options
    )
    monkeypatch.undo()
    return [launch for recorder in recorders for launch in recorder.launches]


def tried(shape, capability):
    return candidates(
        shape, processors=PROCESSORS[capability], shared=SHARED[capability],
        capability=divmod(capability, 10),
    )  # fmt: skip


@pytest.mark.parametrize(('capability', 'name'), CASES)
def test_what_is_tried_compiles_and_fits(monkeypatch, capability, name):
    shape = ATTENTIONS[name]
    # Those of different splits are one kernel, unless its last program joins them.
    kernels = {
        replace(tile, splits=2 if tile.after else tile.splits): tile
        for tile in tried(shape, capability)
    }
    for tile in list(kernels.values())[:: 1 if EVERYTHING else 4]:
        launch, *join = launched(monkeypatch, shape, tile)
        compiled = check(launch, capability, BF16)
        said = tile.shared(sum(head_parts(shape.size)), 2)
        assert compiled.metadata.shared <= said <= SHARED[capability], tile
        assert ('cp.async.bulk.tensor' in compiled.asm['ptx']) == tile.described, tile
        for one in join:
            check(one, capability)


# Three products of TF32 keep more of what they multiply in the shared memory than one does.
@pytest.mark.parametrize(
    ('capability', 'name'),
    [(chip, name) for chip in sorted(SHARED) for name in ATTENTIONS]
    if EVERYTHING else
    [(90, 'smolvla attention vision'), (90, 'gr00t_n1_5 attention backbone')],
)  # fmt: skip
def test_what_is_chosen_for_float32_fits(monkeypatch, capability, name):
    shape = replace(ATTENTIONS[name], kind='float32')
    tile = tried(shape, capability)[0]
    launch, *_ = launched(monkeypatch, shape, tile)
    said = tile.shared(sum(head_parts(shape.size)), 4)
    compiled = launch.compiled_for(capability)
    assert compiled.metadata.shared <= said <= SHARED[capability], tile


@pytest.mark.parametrize('capability', sorted(SHARED))
@pytest.mark.parametrize('name', ATTENTIONS)
def test_few_tiles_are_tried_and_none_is_excluded(capability, name):
    shape = ATTENTIONS[name]
    tiles = tried(shape, capability)
    assert 2 <= len(tiles) <= 24 and len(set(tiles)) == len(tiles)
    for tile in tiles:
        assert tile.shared(sum(head_parts(shape.size)), 2) <= SHARED[capability]
        blocks = -(-shape.keys // tile.keys)
        assert -(-blocks // tile.splits) * (tile.splits - 1) < blocks  # no split is empty
        assert not (tile.described and capability < 90)
    for tile in tiles[1:]:  # the first is the rule's, whatever it is
        assert exclusion(tile, shape, divmod(capability, 10)) is None


def test_on_a_gpu_a_launch_takes_the_tile_of_the_table(monkeypatch):
    from quantvla_ros.kernels import triton_attention

    asked, kept = [], AttentionTile(32, 32, 3, 4, 2, True)
    gpu, shape = object(), ATTENTIONS['pi05 attention expert']
    monkeypatch.setattr(triton_attention, 'gpu_of', lambda device: gpu)
    monkeypatch.setattr(
        triton_attention, 'best_attention_tile', lambda *known: asked.append(known) or kept
    )
    triton_attention._tile_on.cache_clear()
    assert triton_attention._tile_on(shape, torch.device('cuda')) == kept
    assert asked == [(shape, gpu)]
    triton_attention._tile_on.cache_clear()


@pytest.mark.parametrize('name', ATTENTIONS)
def test_a_launch_is_looked_up_as_what_tune_measures(monkeypatch, name):
    from quantvla_ros.kernels import triton_attention

    asked, shape = [], ATTENTIONS[name]
    monkeypatch.setattr(
        triton_attention, '_tile_on',
        lambda found, device: asked.append(found) or AttentionTile(16, 32, 1, 4, 1),
    )  # fmt: skip
    launched(monkeypatch, shape, None)
    assert asked == [shape]


@pytest.mark.skipif(
    tuple(map(int, version('triton').split('.')[:2])) < (3, 9),
    reason='what spills differs by compiler; the exclusions are those of Triton 3.9',
)
@pytest.mark.parametrize('one', EXCLUDED, ids=lambda one: one.name)
def test_an_excluded_tile_does_not_fit_into_the_registers(monkeypatch, one):
    """An exclusion that is no longer true costs speed: then it should go."""
    prefix = Attention('bfloat16', 816, 816, 8, 1, 256)
    shape, capability, tile = {
        'more than 160 sums and logits a thread': (
            prefix, 90, AttentionTile(64, 128, 1, 4, 1)
        ),
        'splits of 144 sums and logits a thread joined by the last program': (
            prefix, 90, AttentionTile(64, 32, 9, 4, 2)
        ),
        '160 sums and logits a thread and no split, without wgmma': (
            prefix, 87, AttentionTile(64, 64, 1, 4, 2)
        ),
        '256 keys a block, without wgmma': (
            ATTENTIONS['smolvla attention vision'], 87, AttentionTile(64, 256, 1, 8, 2)
        ),
        '32 rows a warp, without wgmma': (
            ATTENTIONS['pi05 attention vision'], 120, AttentionTile(128, 64, 1, 4, 2)
        ),
    }[one.name]  # fmt: skip
    assert exclusion(tile, shape, divmod(capability, 10)) is one
    launch, *_ = launched(monkeypatch, shape, tile)
    _, spilled = resources(launch.compiled_for(capability))
    assert spilled > FEW
