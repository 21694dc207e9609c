# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Measured tiles: kept in files, found again, and never the reason that a policy does not start."""
from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from quantvla_ros.errors import BackendError
from quantvla_ros.kernels import tile_table
from quantvla_ros.kernels.attention_tiles import (
    Attention,
    AttentionTile,
    choose_attention_tile,
)
from quantvla_ros.kernels.gemm_tiles import (
    GemmTile,
    Product,
    choose_gemm_tile,
    exclusion,
)
from quantvla_ros.kernels.tile_table import (
    Gpu,
    Measured,
    best_attention_tile,
    best_tile,
    load_table,
    read_table,
    save_table,
    table_path,
    user_directory,
)

GPU = Gpu('NVIDIA Test 64GB HBM3', (9, 0), 132, 227 * 1024)
PRODUCT = Product('int8', 816, 2560, 2048)
ATTENTION = Attention('bfloat16', 50, 866, 8, 1, 256)
WIDE = GemmTile(128, 256, 128, 8, 3)
NARROW = GemmTile(64, 64, 128, 4, 4, split=2, left=True)


@pytest.fixture
def places(tmp_path):
    (tmp_path / 'shipped').mkdir()
    return {'user': tmp_path / 'user', 'shipped': tmp_path / 'shipped'}


@pytest.fixture
def in_use(places, monkeypatch):
    """The same, as the places that a process reads once."""
    monkeypatch.setattr(tile_table, 'SHIPPED', places['shipped'])
    monkeypatch.setattr(tile_table, 'user_directory', lambda: places['user'])
    for cached in (tile_table._table_of, best_tile, best_attention_tile):
        cached.cache_clear()
    yield places
    for cached in (tile_table._table_of, best_tile, best_attention_tile):
        cached.cache_clear()


def save(directory, *entries, gpu=GPU):
    measured = [Measured(product, tile, 10.0) for product, tile in entries]
    return save_table(directory, gpu, measured, {'triton': '3.9.0'})


def test_what_was_measured_is_found_again(places):
    grouped = Product('int4', 50, 8192, 1024, pairs=True, group=128)
    save(places['user'], (PRODUCT, WIDE), (grouped, NARROW))
    table = load_table(GPU, **places)
    assert table.find(PRODUCT) == WIDE
    assert table.find(grouped) == NARROW


def test_measuring_again_replaces_a_product_and_keeps_the_others(places):
    other = replace(PRODUCT, outputs=2048)
    save(places['user'], (PRODUCT, WIDE), (other, WIDE))
    save(places['user'], (PRODUCT, NARROW))
    table = load_table(GPU, **places)
    assert table.find(PRODUCT) == NARROW
    assert table.find(other) == WIDE


def test_the_users_own_measurement_comes_before_the_shipped_one(places):
    save(places['shipped'], (PRODUCT, WIDE))
    assert load_table(GPU, **places).find(PRODUCT) == WIDE
    save(places['user'], (PRODUCT, NARROW))
    assert load_table(GPU, **places).find(PRODUCT) == NARROW


def test_an_exact_shipped_entry_comes_before_a_near_one_of_the_user(places):
    save(places['shipped'], (PRODUCT, WIDE))
    save(places['user'], (replace(PRODUCT, rows=560), NARROW))
    assert load_table(GPU, **places).find(PRODUCT) == WIDE


def test_a_product_that_was_not_measured_takes_the_tile_of_the_nearest(places):
    save(places['user'], (PRODUCT, WIDE), (replace(PRODUCT, rows=560), NARROW))
    table = load_table(GPU, **places)
    assert table.find(replace(PRODUCT, rows=800)) == WIDE
    assert table.find(replace(PRODUCT, rows=532)) == NARROW


@pytest.mark.parametrize(
    'unlike',
    [
        {'kind': 'bfloat16'},
        {'kind': 'int4'},
        {'pairs': True},
        {'pairs': True, 'heads': True},
        {'rows': 50},  # a tile for 816 rows would leave most of itself empty
        {'rows': 400, 'outputs': 5120},
    ],
)
def test_a_tile_of_an_unlike_product_is_not_taken(places, unlike):
    save(places['user'], (PRODUCT, WIDE))
    assert load_table(GPU, **places).find(replace(PRODUCT, **unlike)) is None


def test_groups_are_told_apart(places):
    grouped = Product('int4', 50, 1024, 4096, group=128)
    save(places['user'], (grouped, WIDE))
    assert load_table(GPU, **places).find(replace(grouped, group=0)) is None


def test_the_best_tile_is_the_measured_one_else_the_rules(in_use):
    save(in_use['user'], (PRODUCT, WIDE))
    unlike = replace(PRODUCT, rows=8)
    rule = choose_gemm_tile(unlike, processors=GPU.processors, shared=GPU.shared)
    assert best_tile(PRODUCT, GPU) == WIDE
    assert best_tile(unlike, GPU) == rule


def test_a_siblings_tile_is_cut_to_the_memory_that_is_there(in_use):
    save(in_use['shipped'], (PRODUCT, WIDE))
    small = replace(GPU, name='small', shared=99 * 1024)
    assert best_tile(PRODUCT, small) == replace(WIDE, stages=2)


def test_a_tile_that_is_excluded_on_this_gpu_gives_way_to_the_rules(in_use):
    heads = replace(PRODUCT, pairs=True, heads=True)
    older = replace(GPU, name='older', capability=(8, 7))
    save(in_use['user'], (heads, WIDE), gpu=older)
    assert exclusion(WIDE, heads, older.capability) is not None
    tile = best_tile(heads, older)
    assert exclusion(tile, heads, older.capability) is None


def test_without_any_file_nothing_is_found(places):
    table = load_table(GPU, **places)
    assert table.find(PRODUCT) is None
    assert table.untuned([PRODUCT, PRODUCT]) == [PRODUCT]


def test_a_gpu_without_a_table_takes_its_siblings(places):
    """An H100 PCIe is nearer to an H100 SXM than to a rule."""
    half = replace(GPU, name='half', processors=66)
    save(places['shipped'], (PRODUCT, NARROW), gpu=half)
    save(places['shipped'], (PRODUCT, WIDE), gpu=GPU)
    older = replace(GPU, name='older', capability=(8, 0), processors=114)
    save(places['shipped'], (PRODUCT, NARROW), gpu=older)
    sibling = replace(GPU, name='NVIDIA Test PCIe', processors=114)
    assert load_table(sibling, **places).find(PRODUCT) == WIDE
    assert load_table(replace(sibling, capability=(12, 0)), **places).find(PRODUCT) is None


def test_tiles_of_a_sibling_with_more_shared_memory_come_last(places):
    small = replace(GPU, name='small', shared=99 * 1024)
    save(places['shipped'], (PRODUCT, WIDE), gpu=GPU)
    save(places['shipped'], (PRODUCT, NARROW), gpu=replace(small, processors=66))
    assert load_table(replace(small, name='one'), **places).find(PRODUCT) == NARROW


def test_a_users_table_of_another_gpu_of_the_same_name_is_left_out(places, caplog):
    """A slice of a GPU bears its name, but has fewer multiprocessors."""
    save(places['user'], (PRODUCT, WIDE))
    assert load_table(replace(GPU, processors=16), **places).find(PRODUCT) is None
    assert 'tune' in caplog.text


def entry(**changed):
    value = {
        'kind': 'int8', 'rows': 1, 'outputs': 2, 'columns': 3, 'pairs': False, 'head': 0,
        'group': 0, 'heads': False, 'joined': False, 'microseconds': 1.0,
        'tile': {
            'rows': 16, 'outputs': 64, 'columns': 128, 'warps': 4, 'stages': 3, 'split': 1,
            'left': False,
        },
    }
    return {**value, **changed}


def content(*entries, **changed):
    head = {
        'format': 2, 'gpu': GPU.name, 'capability': [9, 0], 'processors': GPU.processors,
        'shared': GPU.shared, 'made_with': {},
    }
    return json.dumps({**head, 'attentions': [], **changed, 'entries': list(entries)})


def attention_entry(**changed):
    value = {
        'kind': 'bfloat16', 'queries': 50, 'keys': 866, 'heads': 8, 'kv_heads': 1, 'size': 256,
        'segments': 1, 'causal': False, 'microseconds': 5.0,
        'tile': {'rows': 64, 'keys': 64, 'splits': 7, 'warps': 4, 'stages': 3, 'after': True},
    }
    return {**value, **changed}


def attended(**changed):
    return content(attentions=[attention_entry(**changed)])


def attention_tile(**changed):
    return {**attention_entry()['tile'], **changed}


def tile(**changed):
    return {**entry()['tile'], **changed}


DAMAGED = {
    'empty': '',
    'cut off': content(entry())[:-30],
    'not text': b'\xff\xfe\x00',
    'deep': '[' * 100_000,
    'a list': '[]',
    'another format': content(entry(), format=3),
    'a format that is none': content(entry(), format=True),
    'a format without attentions': content(entry(), attentions=None),
    'no name': content(entry(), gpu=''),
    'a name that is none': content(entry(), gpu=7),
    'half a capability': content(entry(), capability=[9]),
    'nested capability': content(entry(), capability=[[9], 0]),
    'no processors': content(entry(), processors=0),
    'an entry that is none': content(7),
    'an unknown kind': content(entry(kind='fp8')),
    'a kind that is none': content(entry(kind=['int8'])),
    'a product of more': content(entry(luck=7)),
    'a kernel of before that is none': content(entry(measured=1)),
    'pairs that are none': content(entry(pairs=1)),
    'a head without heads': content(entry(head=64)),
    'heads without pairs': content(entry(heads=True)),
    'no rows': content(entry(rows=0)),
    'half a row': content(entry(rows=1.5)),
    'true rows': content(entry(rows=True)),
    'groups of int8': content(entry(group=128)),
    'no tile': content(entry(tile=None)),
    'a tile that lacks': content(entry(tile={'rows': 16})),
    'a tile of more': content(entry(tile=tile(luck=7))),
    'an odd tile': content(entry(tile=tile(columns=96))),
    'a vast tile': content(entry(tile=tile(rows=1 << 40))),
    'a side that is none': content(entry(tile=tile(left=1))),
    'no warps': content(entry(tile=tile(warps=0))),
    'no time': content(entry(microseconds=float('nan'))),
    'a time that is text': content(entry(microseconds='1')),
    'attentions that are none': content(attentions=7),
    'an attention that is none': content(attentions=[7]),
    'an attention of an unknown kind': attended(kind='int8'),
    'an attention of a kind that is none': attended(kind=['bfloat16']),
    'an attention of more': attended(luck=7),
    'an attention without keys': attended(keys=0),
    'heads that share no keys': attended(heads=3, kv_heads=2),
    'a vast head': attended(size=512),
    'half causal': attended(causal=0),
    'an attention without a tile': attended(tile=None),
    'an attention with a tile of products': attended(tile=entry()['tile']),
    'an attention with an odd tile': attended(tile=attention_tile(keys=48)),
    'an attention with a vast tile': attended(tile=attention_tile(rows=1 << 20)),
    'an attention without warps': attended(tile=attention_tile(warps=0)),
    'an attention of many splits': attended(tile=attention_tile(splits=17)),
    'an attention joined by a number': attended(tile=attention_tile(after=1)),
    'an attention without a time': attended(microseconds=None),
    'a vast number': content(entry()).replace('"rows": 1', '"rows": 1' + '0' * 9000),
    'a vast file': content(entry()) + ' ' * (5 << 20),
}


@pytest.mark.parametrize('name', DAMAGED)
def test_a_damaged_file_is_left_out_with_a_warning(places, caplog, name):
    data = DAMAGED[name]
    for place in places.values():
        place.mkdir(exist_ok=True)
        table_path(place, GPU).write_bytes(data if isinstance(data, bytes) else data.encode())
    table = load_table(GPU, **places)
    assert (table.own, table.shipped) == ({}, {})
    assert str(table_path(places['user'], GPU)) in caplog.text


def test_the_samples_of_damage_differ_from_a_sound_file_in_that_alone(tmp_path):
    path = table_path(tmp_path, GPU)
    path.write_text(content(entry(), attentions=[attention_entry()]), encoding='utf-8')
    assert read_table(path)[0] == GPU
    assert len(read_table(path)[1]) == 2


def test_a_table_from_before_attentions_had_tiles_is_read(places):
    places['user'].mkdir()
    old = {**json.loads(content(entry())), 'format': 1}
    del old['attentions']
    table_path(places['user'], GPU).write_text(json.dumps(old), encoding='utf-8')
    assert len(load_table(GPU, **places).own) == 1
    save(places['user'], (ATTENTION, AttentionTile(64, 64, 7, 4, 3, True)))
    table = load_table(GPU, **places)
    assert len(table.own) == 2
    assert table.find(ATTENTION) == AttentionTile(64, 64, 7, 4, 3, True)


def test_entries_of_a_kernel_that_is_no_more_are_passed_over(places, caplog):
    """Earlier versions said of each product whether that kernel ran it; now none says it."""
    places['user'].mkdir()
    kept, gone = entry(measured=False), entry(measured=True, rows=7)
    table_path(places['user'], GPU).write_text(content(kept, gone), encoding='utf-8')
    assert list(load_table(GPU, **places).own) == [Product('int8', 1, 2, 3)]
    assert not caplog.text
    path = save(places['user'], (PRODUCT, WIDE))
    assert len(read_table(path)[1]) == 2
    assert 'measured' not in path.read_text(encoding='utf-8')


def test_the_tile_of_an_attention_is_the_measured_one_a_near_one_or_the_rules(in_use):
    measured, shorter = AttentionTile(32, 64, 14, 4, 2, True), replace(ATTENTION, keys=582)
    save(in_use['user'], (ATTENTION, measured), (PRODUCT, WIDE))
    assert best_attention_tile(ATTENTION, GPU) == measured
    # 582 keys are 10 blocks: of 14 splits some would be empty.
    assert best_attention_tile(shorter, GPU) == replace(measured, splits=10)
    unlike = replace(ATTENTION, causal=True)
    rule = choose_attention_tile(
        400, 866, 1, 256, 2, processors=GPU.processors, shared=GPU.shared
    )
    assert best_attention_tile(unlike, GPU) == rule != measured


def test_a_siblings_tile_of_an_attention_is_cut_to_the_memory_that_is_there(in_use):
    save(in_use['shipped'], (ATTENTION, AttentionTile(64, 64, 7, 4, 2, True)))
    small = replace(GPU, name='small', shared=99 * 1024)
    assert best_attention_tile(ATTENTION, small) == AttentionTile(64, 64, 7, 4, 1, True)


def test_so_many_tiles_that_counters_lack_are_joined_by_a_kernel_of_its_own(in_use):
    wide = Attention('bfloat16', 1024, 1024, 12, 12, 64, 3)
    save(in_use['user'], (wide, AttentionTile(16, 64, 2, 4, 2)))
    assert not best_attention_tile(wide, GPU).after
    many = replace(wide, segments=6)
    assert best_attention_tile(many, GPU).after


def test_a_damaged_file_is_written_anew(places):
    places['user'].mkdir()
    table_path(places['user'], GPU).write_text('{', encoding='utf-8')
    save(places['user'], (PRODUCT, WIDE))
    assert load_table(GPU, **places).find(PRODUCT) == WIDE


def test_a_directory_in_the_files_place_is_left_out(places, caplog):
    table_path(places['user'], GPU).mkdir(parents=True)
    assert load_table(GPU, **places).find(PRODUCT) is None
    assert 'directory' in caplog.text


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(places, monkeypatch):
    path = save(places['user'], (PRODUCT, WIDE))
    before = path.read_bytes()

    def full(handle):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(BackendError, match='No space left'):
        save(places['user'], (PRODUCT, NARROW))
    assert path.read_bytes() == before
    assert [file.name for file in places['user'].iterdir()] == [path.name]


def test_a_place_that_cannot_be_written_is_a_users_error(tmp_path):
    (tmp_path / 'file').write_text('', encoding='utf-8')
    with pytest.raises(BackendError, match='cannot write there'):
        save(tmp_path / 'file' / 'below', (PRODUCT, WIDE))


def test_the_node_of_another_user_can_read_the_file(places):
    assert save(places['user'], (PRODUCT, WIDE)).stat().st_mode & 0o444 == 0o444


@pytest.mark.parametrize(
    ('environment', 'directory'),
    [
        ({'XDG_CACHE_HOME': '/cache', 'HOME': '/home/u'}, '/cache/quantvla_ros/tiles'),
        ({'HOME': '/home/u'}, '/home/u/.cache/quantvla_ros/tiles'),
        ({'XDG_CACHE_HOME': 'relative', 'HOME': '/home/u'}, '/home/u/.cache/quantvla_ros/tiles'),
        ({'XDG_CACHE_HOME': '', 'HOME': ''}, None),
        ({}, None),
    ],
)
def test_the_users_directory_is_where_xdg_says(environment, directory):
    assert user_directory(environment) == (None if directory is None else Path(directory))


def test_without_a_home_the_shipped_tiles_still_serve(places, monkeypatch):
    monkeypatch.delenv('HOME', raising=False)
    monkeypatch.delenv('XDG_CACHE_HOME', raising=False)
    save(places['shipped'], (PRODUCT, WIDE))
    assert load_table(GPU, shipped=places['shipped']).find(PRODUCT) == WIDE


def test_a_name_cannot_lead_out_of_the_directory(tmp_path):
    gpu = replace(GPU, name='../../NVIDIA (R) GPU/..')
    assert table_path(tmp_path, gpu) == tmp_path / 'nvidia_r_gpu.json'


def test_the_shipped_tables_are_sound():
    for path in tile_table.SHIPPED.glob('*.json'):
        gpu, entries = read_table(path)
        assert path == table_path(tile_table.SHIPPED, gpu)
        assert entries
