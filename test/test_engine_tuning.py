# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a user is told of the tiles in use: his own before the package's, and whose those are."""
from dataclasses import replace

import pytest
import torch

from quantvla_ros.engine.tuning import describe_tables, tiles_in_use
from quantvla_ros.kernels.gemm_tiles import GemmTile, Product
from quantvla_ros.kernels.tile_table import Gpu, Measured, save_table, table_path

GPU = Gpu('NVIDIA Test', (9, 0), 132, 227 * 1024)
SIBLING = replace(GPU, name='NVIDIA Test Lite', processors=100)
OTHER = Product('int8', 50, 1024, 1024)
ENTRIES = [
    Measured(product, GemmTile(64, 64, 128, 4, 4), 10.0)
    for product in (Product('int8', 816, 2560, 2048), OTHER)
]


@pytest.fixture
def places(tmp_path):
    (tmp_path / 'shipped').mkdir()
    return {'user': tmp_path / 'user', 'shipped': tmp_path / 'shipped'}


def test_without_a_table_all_is_by_rule_and_the_remedy_is_named(places):
    said = describe_tables(GPU, **places)
    assert said.startswith('none measured, all by rule') and 'tune' in said


def test_tables_of_this_gpu_are_told_from_a_siblings(places):
    save_table(places['shipped'], SIBLING, ENTRIES, {})
    assert '2 shipped for another GPU of its kind' in describe_tables(GPU, **places)
    save_table(places['shipped'], GPU, ENTRIES[:1], {})
    assert '1 shipped for this GPU' in describe_tables(GPU, **places)


def test_the_users_own_come_first_with_their_file(places):
    save_table(places['shipped'], GPU, ENTRIES, {})
    save_table(places['user'], GPU, ENTRIES[:1], {})
    said = describe_tables(GPU, **places)
    assert said.startswith(f'1 measured here ({table_path(places["user"], GPU)}), 2 shipped')


def test_a_damaged_table_is_as_none(places):
    table_path(places['shipped'], GPU).write_text('{')
    assert describe_tables(GPU, **places).startswith('none measured')


def test_a_cpu_has_no_tiles():
    assert tiles_in_use(torch.device('cpu')) == ''
